"""Published image networks as ONNX, from the weights that their packages hold (`weights`); architecture and padding as published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from qcc.models.network import BATCH_NORM, Network
from qcc.models.weights import numpy_pickle, torch_state

LITE0_INPUT = (1, 3, 224, 224)
LITE0_EPSILON = 1e-3
# Kernel, stride of the first block, expansion, output channels, blocks.
LITE0_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
                (3, 1, 6, 320, 1))


def lenet5(content: bytes) -> onnx.ModelProto:
    """LeNet-5 for digits: input N x 1 x 28 x 28 in [0, 1], output N x 10."""
    state = torch_state(content)
    net, value = Network(), "input"
    for name in ("conv1", "conv2"):
        value = net.max_pool(net.relu(net.conv(value, name, state[f"{name}.weight"], state[f"{name}.bias"])), 2, 2)
    value = net.relu(net.dense(net.node("Flatten", value), "linear1", state["linear1.weight"], state["linear1.bias"]))
    value = net.dense(value, "linear2", state["linear2.weight"], state["linear2.bias"])
    return net.logits("lenet5_mnist", value, ("N", 1, 28, 28), 10)


def squeezenet(content: bytes) -> onnx.ModelProto:
    """SqueezeNet 1.1: input N x 3 x 227 x 227, BGR minus (104.006, 116.669, 122.679), output N x 1000."""
    arrays = numpy_pickle(content)
    net = Network()

    def conv(value: str, name: str) -> str:
        kernel, bias = (np.asarray(array, np.float32) for array in arrays[name])
        return net.relu(net.conv(value, name, kernel.transpose(3, 2, 0, 1), bias, stride=2 if name == "conv1" else 1))

    value = net.max_pool(conv("input", "conv1"), 3, 2)
    for fire in range(2, 10):
        squeezed = conv(value, f"fire{fire}/squeeze1x1")
        value = net.node("Concat", conv(squeezed, f"fire{fire}/expand1x1"), conv(squeezed, f"fire{fire}/expand3x3"), axis=1)
        if fire in (3, 5):
            value = net.max_pool(value, 3, 2)
    kernel, bias = (np.asarray(array, np.float32) for array in arrays["conv10"])
    value = net.conv(value, "conv10", kernel.transpose(3, 2, 0, 1), bias)
    value = net.node("ReduceMean", value, axes=[2, 3], keepdims=0)
    return net.logits("squeezenet1_1", value, ("N", 3, 227, 227), 1000)


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution of EfficientNet-Lite0 with the normalization after it."""

    name: str
    norm: str
    kernel: int = 1
    stride: int = 1
    group: int = 1
    activate: bool = True
    opens: bool = False      # its input is what a residual block may add at its end
    adds: bool = False       # adds the input of its block


def _lite0_layers() -> Iterator[Layer]:
    yield Layer("_conv_stem", "_bn0", 3, 2)
    inputs, block = 32, 0
    for kernel, first_stride, expansion, outputs, blocks in LITE0_STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            prefix, middle = f"_blocks.{block}.", inputs * expansion
            if expansion > 1:
                yield Layer(f"{prefix}_expand_conv", f"{prefix}_bn0", opens=True)
            yield Layer(f"{prefix}_depthwise_conv", f"{prefix}_bn1", kernel, stride, middle, opens=expansion == 1)
            yield Layer(f"{prefix}_project_conv", f"{prefix}_bn2", activate=False, adds=stride == 1 and inputs == outputs)
            inputs, block = outputs, block + 1
    yield Layer("_conv_head", "_bn1")


def _lite0(net: Network, convolve: Callable[[Layer, str, tuple[int, int]], str]) -> str:
    """The network up to its last activation; `convolve` writes a layer, given its input and the padding before and after."""
    value = start = "input"
    size = LITE0_INPUT[2]
    for layer in _lite0_layers():
        start = value if layer.opens else start
        total = max((-(-size // layer.stride) - 1) * layer.stride + layer.kernel - size, 0)
        size = -(-size // layer.stride)
        value = convolve(layer, value, (total // 2, total - total // 2))
        if layer.activate:
            value = net.relu6(value)
        if layer.adds:
            value = net.node("Add", value, start)
    return value


def efficientnet_lite0(content: bytes) -> onnx.ModelProto:
    """EfficientNet-Lite0 as a clean graph: BatchNorm folded into the convolutions, padding in their attributes.

    Input 1 x 3 x 224 x 224, RGB, (x - 127) / 128; output 1 x 1000.
    """
    state, net = torch_state(content), Network()

    def convolve(layer: Layer, value: str, padding: tuple[int, int]) -> str:
        before, after = padding
        scale = state[f"{layer.norm}.weight"] / np.sqrt(state[f"{layer.norm}.running_var"].astype(np.float64) + LITE0_EPSILON)
        weight = (state[f"{layer.name}.weight"] * scale[:, None, None, None]).astype(np.float32)
        bias = (state[f"{layer.norm}.bias"] - state[f"{layer.norm}.running_mean"] * scale).astype(np.float32)
        return net.conv(value, layer.name, weight, bias, stride=layer.stride, pads=(before, before, after, after), group=layer.group)

    mean = net.node("ReduceMean", _lite0(net, convolve), axes=[2, 3], keepdims=0)
    return net.logits("efficientnet_lite0", net.dense(mean, "_fc", state["_fc.weight"], state["_fc.bias"]), LITE0_INPUT, 1000)


def efficientnet_lite0_unfolded(content: bytes) -> onnx.ModelProto:
    """The same network as older exporters write it: BatchNorm nodes, and Pad nodes whose extents are computed by nodes."""
    state, net = torch_state(content), Network()

    def convolve(layer: Layer, value: str, padding: tuple[int, int]) -> str:
        if layer.kernel > 1:
            value = _computed_pad(net, value, *padding)
        value = net.conv(value, layer.name, state[f"{layer.name}.weight"], stride=layer.stride, pads=(0, 0, 0, 0), group=layer.group)
        return net.batch_norm(value, layer.norm, (state[f"{layer.norm}.{part}"] for part in BATCH_NORM), LITE0_EPSILON)

    value = net.node("Flatten", net.node("GlobalAveragePool", _lite0(net, convolve)))
    return net.logits("efficientnet_lite0_bn", net.dense(value, "_fc", state["_fc.weight"], state["_fc.bias"]), LITE0_INPUT, 1000)


def _computed_pad(net: Network, value: str, before: int, after: int) -> str:
    """A Pad whose amounts come, as torch's exporter computes them, from a list that is extended, reversed and transposed."""

    def integers(*numbers: int) -> str:
        return net.node("Constant", value=numpy_helper.from_array(np.array(numbers, np.int64)))

    given = integers(before, after, before, after)
    missing = net.node("Sub", net.node("Mul", integers(4), integers(2)), net.node("Shape", given))
    zeros = net.node("ConstantOfShape", missing, value=numpy_helper.from_array(np.array([0], np.int64)))
    extended = net.node("Concat", net.node("Cast", given, to=onnx.TensorProto.INT64), zeros, axis=0)
    pairs = net.node("Reshape", extended, integers(-1, 2))
    turned = net.node("Slice", pairs, integers(-1), integers(-(2**63) + 1), integers(0), integers(-1))
    amounts = net.node("Reshape", net.node("Transpose", turned, perm=[1, 0]), integers(-1))
    amounts = net.node("Cast", amounts, to=onnx.TensorProto.INT64)
    return net.node("Pad", value, amounts, net.constant("zero", 0.0), mode="constant")
