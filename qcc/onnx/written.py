"""How each float operator is written in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qcc.ir import Array, Op, TensorType
from qcc.onnx.operator import make_node
from qcc.onnx.pointwise import BINARY, FUNCTIONS
from qcc.ops import (
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Convolution,
    Function,
    Gather,
    Interpolate,
    MatMul,
    MaxPool,
    OnnxOperator,
    Pad,
    PRelu,
    ReduceMean,
    Reshape,
    Slice,
    Transpose,
)


class Writer:
    """ONNX nodes and tensors in the making. `taken` are the names that mean something to the caller."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._taken = set(taken)

    def own(self, value: str, part: str) -> str:
        """A name for something that only helps to compute a value."""
        wanted = name = f"{value}/{part}"
        for number in count(1):
            if name not in self._taken:
                break
            name = f"{wanted}.{number}"
        self._taken.add(name)
        return name

    def node(self, type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(type, list(inputs), [output], **attributes))
        return output

    def tensor(self, array: Array, name: str) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def integers(self, values: Sequence[int], name: str) -> str:
        return self.tensor(np.array(values, np.int64), name)


Write = Callable[[Writer, Any, list[str], list[str], tuple[TensorType, ...]], None]
WRITERS: dict[type[Op], Write] = {}


def writes(*operators: type[Op]) -> Callable[[Write], Write]:
    """Register how operators are written: a function of writer, operator, input names, output names and input types."""

    def register(write: Write) -> Write:
        WRITERS.update(dict.fromkeys(operators, write))
        return write

    return register


_BINARY: dict[type[Op], str] = {kind: name for name, kind in BINARY.items()} | {PRelu: "PRelu"}


@writes(*_BINARY)
def _binary(w: Writer, op: Op, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node(_BINARY[type(op)], x, y[0])


@writes(Convolution)
def _convolution(w: Writer, op: Convolution, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("Conv", x, y[0], strides=op.strides, pads=op.pads, dilations=op.dilations, group=op.groups, kernel_shape=types[1].shape[2:])


@writes(MatMul)
def _matmul(w: Writer, op: MatMul, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    if len(x) == 2:
        w.node("MatMul", x, y[0])
    elif types[0].rank == types[1].rank == 2:
        w.node("Gemm", x, y[0])
    else:
        w.node("Add", [w.node("MatMul", x[:2], w.own(y[0], "product")), x[2]], y[0])


@writes(Clip)
def _clip(w: Writer, op: Clip, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    if op.axis is None and (op.low[0], op.high[0]) == (0.0, float("inf")):
        w.node("Relu", x, y[0])
        return
    dtype, shape = types[0].dtype.numpy, [1] * types[0].rank
    if op.axis is not None:
        shape[op.axis] = -1
    bounds = (np.array(bound, dtype).reshape(shape if op.axis is not None else ()) for bound in (op.low, op.high))
    low, high = (w.tensor(bound, w.own(y[0], name)) for bound, name in zip(bounds, ("low", "high"), strict=True))
    if op.axis is None:
        w.node("Clip", [x[0], low, high], y[0])
    else:
        w.node("Min", [w.node("Max", [x[0], low], w.own(y[0], "raised")), high], y[0])


_NAMED = {function: (name, tuple(attribute for attribute, _ in attributes)) for name, (function, attributes) in FUNCTIONS.items()}


@writes(Function)
def _function(w: Writer, op: Function, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    if op.function == "silu":
        w.node("Mul", [x[0], w.node("Sigmoid", x, w.own(y[0], "gate"))], y[0])
    elif op.function == "pow":
        w.node("Pow", [x[0], w.tensor(np.array(op.parameters[0], types[0].dtype.numpy), w.own(y[0], "exponent"))], y[0])
    elif op.function in ("gelu", "gelu_tanh"):
        w.node("Gelu", x, y[0], approximate="tanh" if op.function == "gelu_tanh" else "none")
    else:
        name, attributes = _NAMED[op.function]
        w.node(name, x, y[0], **dict(zip(attributes, op.parameters, strict=True)))


@writes(BatchNormalization)
def _batch_normalization(w: Writer, op: BatchNormalization, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("BatchNormalization", x, y[0], epsilon=op.epsilon)


@writes(MaxPool)
def _max_pool(w: Writer, op: MaxPool, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("MaxPool", x, y[0], kernel_shape=op.kernel, strides=op.strides, pads=op.pads, dilations=op.dilations, ceil_mode=int(op.ceil))


@writes(AveragePool)
def _average_pool(w: Writer, op: AveragePool, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("AveragePool", x, y[0], kernel_shape=op.kernel, strides=op.strides, pads=op.pads, dilations=op.dilations, ceil_mode=int(op.ceil),
           count_include_pad=int(op.count_padding))


@writes(ReduceMean)
def _reduce_mean(w: Writer, op: ReduceMean, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("ReduceMean", [x[0], w.integers(op.axes, w.own(y[0], "axes"))], y[0], keepdims=int(op.keep), noop_with_empty_axes=1)


@writes(Reshape)
def _reshape(w: Writer, op: Reshape, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("Reshape", [x[0], w.integers(op.shape, w.own(y[0], "shape"))], y[0], allowzero=int(0 in op.shape))


@writes(Transpose)
def _transpose(w: Writer, op: Transpose, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("Transpose", x, y[0], perm=op.permutation)


@writes(Slice)
def _slice(w: Writer, op: Slice, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    parts = (("starts", op.starts), ("stops", op.stops), ("axes", range(types[0].rank)), ("steps", op.steps))
    w.node("Slice", [x[0], *(w.integers(tuple(values), w.own(y[0], name)) for name, values in parts)], y[0])


@writes(Pad)
def _pad(w: Writer, op: Pad, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    value = w.tensor(np.array(op.value, types[0].dtype.numpy), w.own(y[0], "fill"))
    w.node("Pad", [x[0], w.integers((*op.before, *op.after), w.own(y[0], "amounts")), value], y[0])


@writes(Concat)
def _concat(w: Writer, op: Concat, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("Concat", x, y[0], axis=op.axis)


@writes(Gather)
def _gather(w: Writer, op: Gather, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.node("Gather", x, y[0], axis=op.axis)


@writes(Interpolate)
def _interpolate(w: Writer, op: Interpolate, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    column = w.integers([-1 if axis == op.axis else 1 for axis in range(types[0].rank)], w.own(y[0], "column"))
    upper = w.node("Reshape", [x[3], column], w.own(y[0], "weight"))
    lower = w.node("Sub", [w.tensor(np.array(1, types[0].dtype.numpy), w.own(y[0], "one")), upper], w.own(y[0], "rest"))
    terms = []
    for index, weight in ((1, lower), (2, upper)):
        taken = w.node("Gather", [x[0], x[index]], w.own(y[0], "at"), axis=op.axis)
        terms.append(w.node("Mul", [taken, weight], w.own(y[0], "term")))
    w.node("Add", terms, y[0])


@writes(OnnxOperator)
def _onnx(w: Writer, op: OnnxOperator, x: list[str], y: list[str], types: tuple[TensorType, ...]) -> None:
    w.nodes.append(make_node(op, x, y))
