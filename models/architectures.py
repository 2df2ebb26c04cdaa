"""ResNet-18, ResNet-50 (v1.5) and MobileNetV2 at full ImageNet size, with seeded random weights: to measure speed, not accuracy.

Weights are He-scaled. The statistics of the BatchNorm nodes are those of a forward pass over the bundled photographs and noise, so
that activations have the ranges that a trained network's have. The same name gives the same bytes on one machine (the statistics
are rounded, so that machines agree unless a rounding falls on an edge).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import onnx
import onnxruntime

from qcc.models.network import Array, Network

CLASSES = 1000
SIZE = 224
EPSILON = 1e-5
# Expansion, channels, blocks, stride of the first block.
MOBILENET_V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Writer(Network):
    """Writes convolutions with random weights, each followed by a BatchNorm.

    Without statistics it writes, in place of every BatchNorm, nodes that measure and normalize; what they measure are outputs.
    """

    def __init__(self, name: str, statistics: Mapping[str, Array] | None) -> None:
        super().__init__()
        self.random = np.random.default_rng(crc32(name.encode()))
        self.statistics = statistics
        self.measured: dict[str, tuple[int | str, ...]] = {}
        self.layers = 0

    def unit(self, value: str, inputs: int, outputs: int, kernel: int, stride: int = 1, group: int = 1, *, quiet: bool = False) -> str:
        """Convolution and BatchNorm; a `quiet` one is the last of a residual branch, which trained networks keep small."""
        name = f"layer{self.layers}"
        self.layers += 1
        fan_in = inputs // group * kernel * kernel
        weight = self.random.normal(0, np.sqrt(2 / fan_in), (outputs, inputs // group, kernel, kernel)).astype(np.float32)
        scale = self.random.uniform(*((0.2, 0.6) if quiet else (0.6, 1.4)), outputs).astype(np.float32)
        offset = self.random.normal(0, 0.2, outputs).astype(np.float32)
        value = self.conv(value, f"{name}.conv", weight, stride=stride, group=group)
        if self.statistics is None:
            return self._measure(value, name, scale, offset)
        measured = (self.statistics[f"{name}.{part}"] for part in ("mean", "variance"))
        return self.batch_norm(value, f"{name}.norm", (scale, offset, *measured), EPSILON)

    def _measure(self, value: str, name: str, scale: Array, offset: Array) -> str:
        axes = [0, 2, 3]
        mean = self.node("ReduceMean", value, axes=axes, keepdims=1)
        centred = self.node("Sub", value, mean)
        variance = self.node("ReduceMean", self.node("Mul", centred, centred), axes=axes, keepdims=1)
        for part, measured in (("mean", mean), ("variance", variance)):
            self.nodes.append(onnx.helper.make_node("Squeeze", [measured, self.constant("axes", np.array(axes))], [f"{name}.{part}"]))
            self.measured[f"{name}.{part}"] = (len(scale),)
        deviation = self.node("Sqrt", self.node("Add", variance, self.constant("epsilon", EPSILON)))
        normal = self.node("Div", centred, deviation)
        per_channel = (self.constant(f"{name}.{part}", array[:, None, None]) for part, array in (("scale", scale), ("offset", offset)))
        return self.node("Add", self.node("Mul", normal, next(per_channel)), next(per_channel))

    def head(self, value: str, channels: int) -> str:
        weight = self.random.normal(0, np.sqrt(1 / channels), (CLASSES, channels)).astype(np.float32)
        pooled = self.node("Flatten", self.node("GlobalAveragePool", value))
        return self.dense(pooled, "head", weight, np.zeros(CLASSES, np.float32))


def _resnet(net: Writer, blocks: tuple[int, ...], bottleneck: bool) -> str:
    value = net.max_pool(net.relu(net.unit("input", 3, 64, 7, 2)), 3, 2, 1)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        outputs = 4 * width if bottleneck else width
        for number in range(count):
            stride = 2 if stage and not number else 1
            branch = net.relu(net.unit(value, channels, width, 1 if bottleneck else 3, 1 if bottleneck else stride))
            if bottleneck:
                branch = net.relu(net.unit(branch, width, width, 3, stride))
            branch = net.unit(branch, width, outputs, 1 if bottleneck else 3, quiet=True)
            shortcut = net.unit(value, channels, outputs, 1, stride) if stride > 1 or channels != outputs else value
            value = net.relu(net.node("Add", branch, shortcut))
            channels = outputs
    return net.head(value, channels)


def _mobilenet_v2(net: Writer) -> str:
    value, channels = net.relu6(net.unit("input", 3, 32, 3, 2)), 32
    for expansion, outputs, blocks, first_stride in MOBILENET_V2_STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            width, start = channels * expansion, value
            if expansion > 1:
                value = net.relu6(net.unit(value, channels, width, 1))
            value = net.relu6(net.unit(value, width, width, 3, stride, width))
            adds = stride == 1 and channels == outputs
            value = net.unit(value, width, outputs, 1, quiet=adds)
            value = net.node("Add", value, start) if adds else value
            channels = outputs
    return net.head(net.relu6(net.unit(value, channels, 1280, 1)), 1280)


ARCHITECTURES: Mapping[str, Callable[[Writer], str]] = {
    "resnet18": lambda net: _resnet(net, (2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda net: _resnet(net, (3, 4, 6, 3), bottleneck=True),
    "mobilenet_v2": _mobilenet_v2,
}


def build(name: str) -> onnx.ModelProto:
    """The network of this name: input 1 x 3 x 224 x 224 (standardized), output `logits`, 1 x 1000; opset 17."""
    write = ARCHITECTURES[name]
    measuring = Writer(name, None)
    write(measuring)
    outputs = list(measuring.measured)
    samples = _samples()
    model = measuring.model(name, samples.shape, measuring.measured)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(outputs, {"input": samples})
    final = Writer(name, {output: _rounded(result) for output, result in zip(outputs, results, strict=True)})
    return final.logits(name, write(final), (1, 3, SIZE, SIZE), CLASSES)


def _samples() -> Array:
    """Four standardized images: three of the bundled photographs, enlarged, and noise; float32 [4, 3, 224, 224]."""
    with np.load(Path(__file__).parent / "photos8.npz") as arrays:
        photographs = arrays["images"][:6:2].astype(np.float32)
    rows = np.arange(SIZE) * photographs.shape[1] // SIZE
    enlarged = photographs[:, rows][:, :, rows].transpose(0, 3, 1, 2)
    standard = (enlarged - enlarged.mean()) / enlarged.std()
    noise = np.random.default_rng(1).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    return np.concatenate([standard, noise]).astype(np.float32)


def _rounded(numbers: Array) -> Array:
    """To three significant digits: differences in the last bits between machines disappear."""
    return np.array([float(f"{number:.3g}") for number in numbers], np.float32)
