"""Which operators have an integer form, and of what kind: the facts from which placement decides and conversion works."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from qcc.ir import Graph, Node
from qcc.ir.types import F32
from qcc.ops import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution,
    Function,
    Gather,
    Interpolate,
    MatMul,
    MaxPool,
    Multiply,
    Pad,
    PRelu,
    ReduceMean,
    Reshape,
    Slice,
    Subtract,
    Transpose,
)
from qcc.ops.integer_batch import DEEPEST


class Form(StrEnum):
    """How an operator becomes integers."""

    LINEAR = "linear"        # constant weights: an int32 accumulator with one scale per output channel
    SUM = "sum"              # a sum of scaled terms, of which constants may be some
    SCALE = "scale"          # a product with a constant: a change of scale
    PRODUCT = "product"      # a product of two activations, element by element
    CONTRACTION = "contraction"    # a matrix product of two activations
    MEAN = "mean"            # an integer sum and a change of scale
    BLEND = "blend"          # linear interpolation with constant integer weights
    CLIP = "clip"            # bounds on a requantization
    TABLE = "table"          # a function of one low-bit value
    MOVE = "move"            # the same integers in other places
    MAXIMUM = "maximum"      # the largest integer of a window


ACCUMULATING = frozenset({Form.LINEAR, Form.SUM, Form.SCALE, Form.PRODUCT, Form.CONTRACTION, Form.MEAN, Form.BLEND})
SINGLE = frozenset({Form.LINEAR, Form.CONTRACTION, Form.MEAN, Form.PRODUCT})      # one int32 accumulator with one scale or one per channel
TIED = frozenset({Form.MOVE, Form.MAXIMUM})     # output and inputs must have one encoding

_SIMPLE = {
    AveragePool: Form.MEAN, ReduceMean: Form.MEAN, Interpolate: Form.BLEND, Clip: Form.CLIP, Function: Form.TABLE, MaxPool: Form.MAXIMUM,
    Reshape: Form.MOVE, Transpose: Form.MOVE, Slice: Form.MOVE, Concat: Form.MOVE, Gather: Form.MOVE, Pad: Form.MOVE,
}


def data_inputs(graph: Graph, node: Node) -> tuple[str, ...]:
    """The inputs that are not constants."""
    return tuple(name for name in node.inputs if name and not graph.is_constant(name))


def form_of(graph: Graph, node: Node) -> Form | None:
    """The integer form of a node of a float graph, None if it has none."""
    data = data_inputs(graph, node)
    if not data or any(graph.types[name].dtype != F32 for name in (*data, *node.outputs)):
        return None
    kind = type(node.op)
    if kind is MatMul and len(data) == 2:
        return Form.CONTRACTION if _plain_contraction(graph, node) else None
    if kind is Convolution or kind is MatMul:
        weights_constant = len(data) == 1 and data[0] == node.inputs[0] and graph.types[node.inputs[1]].rank >= 2
        return Form.LINEAR if weights_constant and (kind is Convolution or _plain_product(graph, node)) else None
    if kind in (Add, Subtract):
        return Form.SUM
    if kind is Multiply:
        return Form.PRODUCT if len(data) == 2 else Form.SCALE
    if kind is PRelu:
        return Form.TABLE if len(data) == 1 and data[0] == node.inputs[0] and _per_channel(graph, node) else None
    if kind is Concat:
        return Form.MOVE if len(data) == len(node.inputs) else None
    if isinstance(node.op, Clip):
        return Form.CLIP if node.op.axis is None or (node.op.axis == 1 and graph.types[node.inputs[0]].rank == 4) else None
    if kind in (Gather, Interpolate):
        return _SIMPLE[kind] if data == node.inputs[:1] else None
    return _SIMPLE.get(kind)


def _plain_product(graph: Graph, node: Node) -> bool:
    return graph.types[node.inputs[1]].rank == 2 and graph.types[node.inputs[0]].rank >= 2


def _plain_contraction(graph: Graph, node: Node) -> bool:
    """Whether two activations of rank 2 or more are multiplied, without a bias, and any int32 holds the sums."""
    a, b = (graph.types[name] for name in node.inputs[:2])
    return len(node.inputs) == 2 and min(a.rank, b.rank) >= 2 and a.shape[-1] <= DEEPEST


def _per_channel(graph: Graph, node: Node) -> bool:
    """Whether a PRelu's slope is one number, or one per index of axis 1."""
    x, slope = (graph.types[name] for name in node.inputs)
    full = (1,) * (x.rank - slope.rank) + slope.shape
    return all(extent == 1 or axis == 1 for axis, extent in enumerate(full)) and (x.rank == 4 or int(np.prod(full)) == 1)
