"""Writes FLOAT and QDQ graphs as ONNX models. Values with an encoding pass through a pair of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qcc.errors import PassError
from qcc.ir import Array, Encoding, Graph, Stage
from qcc.onnx.inputs import element_code
from qcc.onnx.operator import IR_VERSION, OPSET
from qcc.onnx.written import WRITERS, Writer
from qcc.ops import OnnxOperator


def export_model(graph: Graph, also: Iterable[str] = ()) -> onnx.ModelProto:
    """The graph as an ONNX model whose inputs and outputs are named as the graph's.

    Args:
        graph: a FLOAT or QDQ graph.
        also: values that become outputs, too, under names that `extra_output` gives.

    Raises:
        PassError: an INTEGER graph has no ONNX form.
    """
    if graph.stage is Stage.INTEGER:
        raise PassError(f"graph {graph.name!r} is an INTEGER graph; only FLOAT and QDQ graphs have an ONNX form")
    return _Exporter(graph).model(tuple(also))


def extra_output(value: str) -> str:
    """Name of the output of an exported model that carries an intermediate value."""
    return f"value:{value}"


class _Exporter:
    """One export. A value keeps its name unless another value is the output of that name."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.writer = Writer((*graph.types, *graph.outputs, *(extra_output(name) for name in graph.types)))
        other = {port for port, name in graph.outputs.items() if port != name}
        self.names = {name: self.writer.own(name, "value") if name in other else name for name in graph.types}
        self.names.update((name, name) for name in graph.inputs)

    def model(self, also: Sequence[str]) -> onnx.ModelProto:
        graph, writer = self.graph, self.writer
        for name in graph.inputs:
            self.encode(name, name)
        for name, array in graph.constants.items():
            self.write_constant(name, array)
        for node in graph.nodes:
            outputs = []
            for name in node.outputs:
                grid = graph.types[name].encoding is not None
                outputs.append(writer.own(name, "real") if grid else self.names[name])
            WRITERS[type(node.op)](writer, node.op, [self.names.get(n, "") for n in node.inputs], outputs, graph.input_types(node))
            for name, real in zip(node.outputs, outputs, strict=True):
                self.encode(name, real)
        ports = [*((port, name) for port, name in graph.outputs.items()), *((extra_output(name), name) for name in also)]
        for port, name in ports:
            if port != self.names[name]:
                writer.node("Identity", [self.names[name]], port)
        inputs = [helper.make_tensor_value_info(n, element_code(graph.types[n].dtype), graph.types[n].shape) for n in graph.inputs]
        results = [helper.make_tensor_value_info(p, element_code(graph.types[n].dtype), graph.types[n].shape) for p, n in ports]
        made = helper.make_graph(writer.nodes, graph.name, inputs, results, writer.tensors)
        opset = max([OPSET, *(node.op.opset for node in graph.nodes if isinstance(node.op, OnnxOperator))])
        return helper.make_model(made, producer_name="qcc", opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)

    def write_constant(self, name: str, array: Array) -> None:
        """A constant with an encoding is stored as integers and dequantized; integers that carry one are just numbers."""
        encoding = self.graph.types[name].encoding
        if encoding is None or array.dtype.kind != "f":
            self.writer.tensor(array, self.names[name])
            return
        integers = self.writer.tensor(encoding.quantize(array), self.writer.own(name, "integers"))
        parameters = self.parameters(name, encoding, encoding.dtype.numpy)
        self.writer.node("DequantizeLinear", [integers, *parameters], self.names[name], axis=encoding.axis or 0)

    def encode(self, name: str, real: str) -> None:
        """Round a value onto its grid, if it has one."""
        encoding = self.graph.types[name].encoding
        if encoding is None:
            return
        storage: np.dtype[np.integer[Any]] = encoding.dtype.numpy
        parameters = self.parameters(name, encoding, storage)
        if encoding.range != (np.iinfo(storage).min, np.iinfo(storage).max):
            real = self.writer.node("Clip", [real, *self.bounds(name, encoding)], self.writer.own(name, "within"))
        integers = self.writer.node("QuantizeLinear", [real, *parameters], self.writer.own(name, "integers"), axis=encoding.axis or 0)
        target = self.writer.own(name, "grid") if name in self.graph.inputs else self.names[name]
        self.names[name] = self.writer.node("DequantizeLinear", [integers, *parameters], target, axis=encoding.axis or 0)

    def parameters(self, name: str, encoding: Encoding, storage: np.dtype[Any]) -> tuple[str, str]:
        scale, zero = np.array(encoding.scale, np.float32), np.array(encoding.zero_point).astype(storage)
        if encoding.axis is None:
            scale, zero = scale.reshape(()), zero.reshape(())
        return self.writer.tensor(scale, self.writer.own(name, "scale")), self.writer.tensor(zero, self.writer.own(name, "zero_point"))

    def bounds(self, name: str, encoding: Encoding) -> tuple[str, str]:
        """The real numbers at the ends of a range that is narrower than its storage (6 bits in a byte, for example)."""
        if encoding.axis is not None:
            raise PassError(f"value %{name}: only encodings of a whole tensor can be narrower than their storage in ONNX")
        low, high = (np.float32((q - encoding.zero_point[0]) * encoding.scale[0]) for q in encoding.range)
        writer = self.writer
        return writer.tensor(np.array(low), writer.own(name, "low")), writer.tensor(np.array(high), writer.own(name, "high"))
