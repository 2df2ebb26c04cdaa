"""Convolutional networks as int8 models of ncnn: what its own converters make, of the few operators that ResNets and MobileNets have.

ncnn's wheel loads and runs models but has none of its tools. As `ncnn2int8` does, batch normalizations are folded, activations fused,
weights are bytes with a scale per channel, and a layer whose readers are all int8 writes bytes itself. Scales of activations are one
constant: which instructions run does not depend on them, and nothing else is to be learned from these models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]
MAGIC, BYTES = 7767517, 0x000D4B38      # of a text file, and before weights of 8 bits
SCALE = 127 / 4                         # of all activations
FUSED = {"Relu": (1, ()), "Clip": (3, (0.0, 6.0))}      # ncnn's numbers of activations, and their parameters

PROGRAM = """
import sys
import numpy, ncnn
net = ncnn.Net()
net.opt.num_threads = 1
assert net.load_param(sys.argv[1] + ".param") == 0 and net.load_model(sys.argv[1] + ".bin") == 0
for _ in range(int(sys.argv[2])):
    extractor = net.create_extractor()
    extractor.input("input", ncnn.Mat(numpy.zeros((3, 224, 224), numpy.float32)))
    status, found = extractor.extract("logits")
    assert status == 0 and numpy.array(found).size == 1000
"""


@dataclass
class _Model:
    """Layers and weights so far."""

    lines: list[tuple[str, str, list[str], str, str]] = field(default_factory=list)      # type, name, inputs, output, parameters
    weights: list[bytes] = field(default_factory=list)


def write(model: Path, path: Path) -> None:
    """PATH.param and PATH.bin for an ONNX model with an input `input` [1, 3, 224, 224].

    Raises:
        ValueError: an operator that is not known here.
    """
    graph = onnx.load(model).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    made, skipped = _Model(), set[str]()
    for node in graph.node:
        if node.output[0] in skipped:
            continue
        if node.op_type in ("Conv", "Gemm"):
            _linear(made, node, constants, readers, skipped)
        elif node.op_type in ("Add", "Relu", "MaxPool", "GlobalAveragePool", "Flatten"):
            kind, parameters = {"Add": ("BinaryOp", "0=0"), "Relu": ("ReLU", ""), "Flatten": ("Flatten", ""),
                                "MaxPool": ("Pooling", "0=0 1=3 2=2 3=1 5=1"), "GlobalAveragePool": ("Pooling", "0=1 4=1")}[node.op_type]
            made.lines.append((kind, node.name or node.output[0], list(node.input), node.output[0], parameters))
        else:
            raise ValueError(f"{model}: expected a ResNet or MobileNet, got operator {node.op_type}")
    path.with_suffix(".param").write_text(_text(made), encoding="ascii")
    path.with_suffix(".bin").write_bytes(b"".join(made.weights))


def _linear(
    made: _Model, node: onnx.NodeProto, constants: dict[str, Array], readers: dict[str, list[onnx.NodeProto]], skipped: set[str]
) -> None:
    """A convolution or product with the normalization and the activation behind it."""
    weights = constants[node.input[1]]
    channels = weights.shape[0]
    bias = constants[node.input[2]] if len(node.input) > 2 else np.zeros(channels, np.float32)
    output, activation = node.output[0], ""
    while len(readers.get(output, [])) == 1 and readers[output][0].op_type in ("BatchNormalization", *FUSED):
        following = readers[output][0]
        output = following.output[0]
        skipped.add(output)
        if following.op_type in FUSED:
            number, values = FUSED[following.op_type]
            activation = f" 9={number}" + (f" -23310={len(values)}," + ",".join(map(str, values)) if values else "")
            break
        gamma, beta, mean, variance = (constants[name] for name in following.input[1:])
        factor = gamma / np.sqrt(variance + 1e-5)
        weights, bias = weights * factor.reshape(-1, *[1] * (weights.ndim - 1)), (bias - mean) * factor + beta
    scales = 127 / np.maximum(np.abs(weights).reshape(channels, -1).max(1), 1e-9)
    rounded = np.rint(weights * scales.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.int8)
    writes_bytes = node.op_type == "Conv" and all(reader.op_type == "Conv" for reader in readers[output])
    content = [np.uint32(BYTES).tobytes(), rounded.tobytes() + bytes(-rounded.size % 4)]
    content += [array.astype(np.float32).tobytes() for array in (bias, scales, np.full(1 + writes_bytes, SCALE))]
    if node.op_type == "Gemm":
        kind, parameters = "InnerProduct", f"0={channels} 1=1 2={weights.size} 8=1"
    else:
        found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        kind = "Convolution" if found["group"] == 1 else "ConvolutionDepthWise"
        parameters = (f"0={channels} 1={weights.shape[3]} 2={found['dilations'][0]} 3={found['strides'][0]} 4={found['pads'][0]} 5=1 "
                      f"6={weights.size} 8={101 if writes_bytes else 1}" + ("" if found["group"] == 1 else f" 7={found['group']}"))
    made.lines.append((kind, node.output[0], [node.input[0]], output, parameters + activation))
    made.weights.append(b"".join(content))


def _text(made: _Model) -> str:
    """Of all layers, with the copies that ncnn wants of values that are read more than once."""
    lines, blobs, given = ["Input input 0 1 input 0=224 1=224 2=3"], {"input"}, dict[str, list[str]]()
    names = [inputs for _, _, inputs, _, _ in made.lines]
    uses = {name: sum(inputs.count(name) for inputs in names) for name in {name for inputs in names for name in inputs}}
    for kind, name, inputs, output, parameters in made.lines:
        own = [given[source].pop(0) if source in given else source for source in inputs]
        lines.append(f"{kind} {name} {len(own)} 1 {' '.join(own)} {output} {parameters}".rstrip())
        blobs.add(output)
        if uses.get(output, 0) > 1:
            given[output] = [f"{output}_{copy}" for copy in range(uses[output])]
            lines.append(f"Split {output}_split 1 {uses[output]} {output} {' '.join(given[output])}")
            blobs.update(given[output])
    return "\n".join([str(MAGIC), f"{len(lines)} {len(blobs)}", *lines, ""])
