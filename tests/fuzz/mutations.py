"""Broken models made from good ones: bytes flipped or cut, and every field of the protobuf message changed; the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

Random = np.random.Generator
NUMBERS = (-1, 0, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
REALS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-45, 3e38)
WORDS = ("", "Conv", "Gemm", "Relu", "Softmax", "Loop", "If", "NoSuchOperator", "Reshape", "Concat", "Cast", "SAME_UPPER", "x" * 300,
         "\u00e9\n%\"")
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "nowhere")
TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT8, TensorProto.BOOL,
         TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.UNDEFINED, 99)


def mutant(model: bytes, seed: int) -> bytes:
    """A broken version of a serialized model: one to three mutations, or bytes that are no model at all."""
    random = np.random.default_rng(seed)
    if random.random() < 0.25:
        return _pick(random, (flip_bytes, cut, splice))(model, random)
    message = onnx.ModelProto.FromString(model)
    for _ in range(int(random.integers(1, 4))):
        _pick(random, MUTATIONS)(message, random)
    return message.SerializeToString()


def _pick(random: Random, things: Sequence[Any]) -> Any:
    return things[int(random.integers(len(things)))] if len(things) else None


def flip_bytes(model: bytes, random: Random) -> bytes:
    content = bytearray(model)
    for place in random.integers(0, len(content), int(random.integers(1, 9))):
        content[place] ^= 1 << int(random.integers(8))
    return bytes(content)


def cut(model: bytes, random: Random) -> bytes:
    return model[:int(random.integers(len(model)))]


def splice(model: bytes, random: Random) -> bytes:
    """A piece of the file copied to another place."""
    start, place = random.integers(0, len(model), 2)
    return model[:place] + model[start:start + int(random.integers(1, 1000))] + model[place:]


def drop_node(model: onnx.ModelProto, random: Random) -> None:
    if model.graph.node:
        del model.graph.node[int(random.integers(len(model.graph.node)))]


def repeat_node(model: onnx.ModelProto, random: Random) -> None:
    if node := _pick(random, model.graph.node):
        model.graph.node.add().CopyFrom(node)


def shuffle_nodes(model: onnx.ModelProto, random: Random) -> None:
    nodes = list(model.graph.node)
    random.shuffle(nodes)  # type: ignore[arg-type]  # a list is a mutable sequence
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def rewire_input(model: onnx.ModelProto, random: Random) -> None:
    """Another value, a later one (a cycle), a missing one, or none."""
    nodes = [node for node in model.graph.node if node.input]
    if node := _pick(random, nodes):
        values = [name for other in nodes for name in other.output] + ["no such value", ""]
        node.input[int(random.integers(len(node.input)))] = _pick(random, values)


def change_arity(model: onnx.ModelProto, random: Random) -> None:
    if node := _pick(random, model.graph.node):
        if random.random() < 0.5 and node.input:
            del node.input[int(random.integers(len(node.input)))]
        elif random.random() < 0.5:
            node.input.append(_pick(random, [*node.input, "", "no such value"]))
        else:
            node.output.append(_pick(random, [*node.output, "", "one more"]))


def change_operator(model: onnx.ModelProto, random: Random) -> None:
    if node := _pick(random, model.graph.node):
        if random.random() < 0.3:
            node.domain = _pick(random, DOMAINS)
        else:
            node.op_type = _pick(random, [*WORDS, *{other.op_type for other in model.graph.node}])


def change_attribute(model: onnx.ModelProto, random: Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    if attribute := _pick(random, attributes):
        if attribute.ints and random.random() < 0.7:
            attribute.ints[int(random.integers(len(attribute.ints)))] = _pick(random, NUMBERS)
        elif attribute.ints and random.random() < 0.5:
            del attribute.ints[int(random.integers(len(attribute.ints)))]
        elif attribute.HasField("i"):
            attribute.i = _pick(random, NUMBERS)
        elif attribute.HasField("f"):
            attribute.f = _pick(random, REALS)
        elif attribute.HasField("s"):
            attribute.s = _pick(random, WORDS).encode()
        else:
            attribute.type = int(random.integers(0, 15))


def drop_or_rename_attribute(model: onnx.ModelProto, random: Random) -> None:
    if node := _pick(random, [node for node in model.graph.node if node.attribute]):
        place = int(random.integers(len(node.attribute)))
        if random.random() < 0.5:
            del node.attribute[place]
        else:
            node.attribute[place].name = _pick(random, WORDS)


def change_tensor(model: onnx.ModelProto, random: Random) -> None:
    """Extents, element type, bytes, or a value that is not finite, of an initializer."""
    tensor = _pick(random, model.graph.initializer)
    if tensor is None:
        return
    choice = int(random.integers(6))
    if choice == 0 and tensor.dims:
        tensor.dims[int(random.integers(len(tensor.dims)))] = _pick(random, NUMBERS)
    elif choice == 1:
        tensor.data_type = _pick(random, TYPES)
    elif choice == 2:
        tensor.raw_data = tensor.raw_data[:len(tensor.raw_data) // 2]
    elif choice == 3 and tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data) >= 4:
        tensor.raw_data = np.float32(_pick(random, REALS)).tobytes() + tensor.raw_data[4:]
    elif choice == 4:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", _pick(random, ("weights.bin", "/etc/passwd", "../secret", ""))
    elif tensor.dims:
        del tensor.dims[0]


def drop_tensor(model: onnx.ModelProto, random: Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[int(random.integers(len(model.graph.initializer)))]


def zero_tensor(model: onnx.ModelProto, random: Random) -> None:
    """All weights of a layer zero: ranges without extent."""
    if tensor := _pick(random, [t for t in model.graph.initializer if t.raw_data]):
        tensor.raw_data = bytes(len(tensor.raw_data))


def change_port(model: onnx.ModelProto, random: Random) -> None:
    """Element type, extents, symbols or names of inputs and outputs."""
    port = _pick(random, [*model.graph.input, *model.graph.output])
    if port is None:
        return
    dims = port.type.tensor_type.shape.dim
    choice = int(random.integers(5))
    if choice == 0:
        port.type.tensor_type.elem_type = _pick(random, TYPES)
    elif choice == 1 and dims:
        _pick(random, dims).dim_value = _pick(random, NUMBERS)
    elif choice == 2 and dims:
        _pick(random, dims).dim_param = _pick(random, WORDS)
    elif choice == 3 and dims:
        del dims[int(random.integers(len(dims)))]
    else:
        port.name = _pick(random, [*WORDS, *(other.name for other in model.graph.output)])


def drop_port(model: onnx.ModelProto, random: Random) -> None:
    ports = _pick(random, (model.graph.input, model.graph.output))
    if ports:
        del ports[int(random.integers(len(ports)))]


def change_opset(model: onnx.ModelProto, random: Random) -> None:
    if entry := _pick(random, model.opset_import):
        entry.version = _pick(random, (-1, 0, 1, 6, 7, 9, 12, 18, 99, 2**40))
        entry.domain = _pick(random, ("", "", *DOMAINS))


MUTATIONS: tuple[Callable[[onnx.ModelProto, Random], None], ...] = (
    drop_node, repeat_node, shuffle_nodes, rewire_input, rewire_input, change_arity, change_operator, change_operator, change_attribute,
    change_attribute, change_attribute, drop_or_rename_attribute, change_tensor, change_tensor, change_tensor, drop_tensor, zero_tensor,
    change_port, change_port, drop_port, change_opset,
)
