"""Which channels of which values can be scaled, and which only together: the freedom that a float network leaves to equivalent migration.

Dividing a channel of a value by a positive number changes nothing if everything that makes the value divides it, and everything that
reads it multiplies it back. Linear layers and the scales of norms can do either; operators f with f(a x) = a f(x), and those that only
move elements, hand the number on; additions need equal numbers on both sides; a product of two activations needs the inverse on the
other side, or hands on what is not summed over. Whatever else reads a value needs it as it is.

Labels of a value (see ties.py) have its rank and, along every axis, its extent or 1 where they do not vary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qcc.ir import Array, Graph, Node, Op
from qcc.ir.types import F32
from qcc.ops import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution,
    Divide,
    Function,
    Gather,
    Interpolate,
    MatMul,
    MaxPool,
    Multiply,
    OnnxOperator,
    Pad,
    PRelu,
    ReduceMean,
    Reshape,
    Slice,
    Subtract,
    Transpose,
)
from qcc.ops.functions import HOMOGENEOUS
from qcc.ops.pool import reduced_shape
from qcc.passes.migrate.ties import Ties

NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


@dataclass
class Channels:
    """The labels of every value of a FLOAT graph."""

    graph: Graph
    ties: Ties = field(default_factory=Ties)
    labels: dict[str, Array] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph) -> Channels:
        channels = Channels(graph)
        for name in (*graph.inputs, *graph.constants):
            channels.fix(name)
        for node in graph.nodes:
            rule = RULES.get(type(node.op))
            if rule is None or graph.types[node.outputs[0]].dtype != F32 or not rule(channels, node):
                channels.refuse(node)
        for name in graph.output_values:
            channels.ties.tie_arrays(channels.labels[name], np.zeros((), np.int64))
        for name in graph.types:
            channels.labels[name] = channels.ties.roots(channels.labels[name])
        return channels

    def fix(self, name: str) -> None:
        """A value that stays as it is."""
        self.labels[name] = np.zeros((1,) * self.graph.types[name].rank, np.int64)

    def refuse(self, node: Node) -> None:
        """A node that needs its inputs as they are, and makes values that nothing can scale."""
        for name in node.inputs:
            if name:
                self.ties.tie_arrays(self.labels[name], np.zeros((), np.int64))
        for name in node.outputs:
            self.fix(name)

    def full(self, name: str) -> Array:
        """The labels at the value's whole shape."""
        return np.broadcast_to(self.labels[name], self.graph.types[name].shape)

    def along(self, name: str, axis: int) -> None:
        """Ties all channels of a value but those along one axis."""
        others = tuple(a for a in range(self.graph.types[name].rank) if a != axis)
        self.labels[name] = self.ties.collapse(self.labels[name], others)

    def free(self, name: str, axis: int) -> None:
        """A value that its producer can scale along an axis."""
        shape = [1] * self.graph.types[name].rank
        shape[axis] = -1
        self.labels[name] = self.ties.fresh(self.graph.types[name].shape[axis]).reshape(shape)

    def moved(self, node: Node, labels: Array) -> None:
        self.labels[node.outputs[0]] = compact(labels)

    @property
    def count(self) -> int:
        """Numbers that roots are below of."""
        return len(self.ties.parents)

    def roots(self, name: str) -> list[int]:
        """The roots among a value's labels, ascending."""
        return [int(root) for root in np.unique(np.abs(self.labels[name])) if root]

    def is_fixed(self, name: str) -> bool:
        return not self.ties.roots(self.labels[name]).any()


def compact(labels: Array) -> Array:
    """Labels with extent 1 along the axes along which they do not vary."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis) if labels.shape[axis] > 1 else labels
        if labels.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, labels.shape), labels):
            labels = first
    return labels


def _convolution(c: Channels, node: Node) -> bool:
    c.along(node.inputs[0], 1)
    c.free(node.outputs[0], 1)
    return all(c.graph.is_constant(name) for name in node.inputs[1:] if name)


def _matmul(c: Channels, node: Node) -> bool:
    a, b = node.inputs[:2]
    if c.graph.is_constant(b) and c.graph.types[b].rank == 2 and c.graph.types[a].rank >= 2:
        c.along(a, c.graph.types[a].rank - 1)
        c.free(node.outputs[0], c.graph.types[node.outputs[0]].rank - 1)
        return all(c.graph.is_constant(name) for name in node.inputs[2:] if name)
    activations = not c.graph.is_constant(a) and not c.graph.is_constant(b) and len(node.inputs) == 2
    return activations and min(c.graph.types[n].rank for n in (a, b)) >= 2 and _contraction(c, node)


def _contraction(c: Channels, node: Node) -> bool:
    """q @ k: what is summed over needs the inverse in the other operand; p @ v with a fixed p: the columns of v are those of the result."""
    a, b = node.inputs
    rank_a, rank_b = c.graph.types[a].rank, c.graph.types[b].rank
    out = np.zeros((1,) * c.graph.types[node.outputs[0]].rank, np.int64)
    if c.is_fixed(a):
        c.labels[b] = c.ties.collapse(c.labels[b], (rank_b - 2,))
        c.labels[node.outputs[0]] = c.labels[b] + out
    elif c.is_fixed(b):
        c.labels[a] = c.ties.collapse(c.labels[a], (rank_a - 1,))
        c.labels[node.outputs[0]] = c.labels[a] + out
    else:
        c.labels[a] = c.ties.collapse(c.labels[a], (rank_a - 2,))
        c.labels[b] = c.ties.collapse(c.labels[b], (rank_b - 1,))
        c.ties.tie_arrays(c.labels[a], -c.labels[b].swapaxes(-1, -2))
        c.fix(node.outputs[0])
    return True


def _same(c: Channels, node: Node) -> bool:
    """f(a x) = a f(x), element by element, with constants that do not count."""
    c.labels[node.outputs[0]] = c.labels[node.inputs[0]]
    return all(c.graph.is_constant(name) for name in node.inputs[1:])


def _function(c: Channels, node: Node) -> bool:
    return isinstance(node.op, Function) and node.op.function in HOMOGENEOUS and _same(c, node)


def _clip(c: Channels, node: Node) -> bool:
    """Bounds are divided as the channels are; only images can have bounds per channel."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Clip)
    if not {*op.low, *op.high} <= {0.0, float("inf"), float("-inf")}:
        if c.graph.types[x].rank != 4:
            c.labels[x] = c.ties.collapse(c.labels[x], tuple(range(c.graph.types[x].rank)))
        else:
            c.along(x, 1)
    c.labels[node.outputs[0]] = c.labels[x]
    return True


def _sum(c: Channels, node: Node) -> bool:
    data = [name for name in node.inputs if not c.graph.is_constant(name)]
    labels = np.broadcast_arrays(*(c.labels[name][(None,) * (c.graph.types[node.outputs[0]].rank - c.graph.types[name].rank)]
                                   for name in data))
    if len(data) == 2:
        c.ties.tie_arrays(*labels)
    c.labels[node.outputs[0]] = np.broadcast_to(labels[0], np.broadcast_shapes(*(part.shape for part in labels)))
    return True


def _multiply(c: Channels, node: Node) -> bool:
    """A constant factor with an extent of its own can take any scale (the weight of a norm); a gate that is fixed changes nothing."""
    data = [name for name in node.inputs if not c.graph.is_constant(name)]
    rank = c.graph.types[node.outputs[0]].rank
    if len(data) == 1:
        factor = next(name for name in node.inputs if name != data[0])
        shape = (1,) * (rank - c.graph.types[factor].rank) + c.graph.types[factor].shape
        long = [axis for axis, extent in enumerate(shape) if extent > 1]
        if len(long) == 1 and c.graph.types[data[0]].shape == c.graph.types[node.outputs[0]].shape:
            c.along(data[0], long[0])
            c.free(node.outputs[0], long[0])
            return True
        return _sum(c, node)
    moving = [name for name in data if not c.is_fixed(name)]
    if len(moving) > 1 or len(set(data)) == 1:
        return False
    source = moving[0] if moving else data[0]
    c.labels[node.outputs[0]] = c.labels[source][(None,) * (rank - c.graph.types[source].rank)]
    return True


def _divide(c: Channels, node: Node) -> bool:
    return c.graph.is_constant(node.inputs[1]) and not c.graph.is_constant(node.inputs[0]) and _sum(c, node)


def _pool(c: Channels, node: Node) -> bool:
    c.labels[node.outputs[0]] = c.ties.collapse(c.labels[node.inputs[0]], (2, 3))
    return True


def _mean(c: Channels, node: Node) -> bool:
    op, x = node.op, node.inputs[0]
    assert isinstance(op, ReduceMean)
    labels = c.ties.collapse(c.labels[x], op.axes)
    c.labels[node.outputs[0]] = labels.reshape(reduced_shape(labels.shape, op.axes, op.keep))
    return True


def _interpolate(c: Channels, node: Node) -> bool:
    assert isinstance(node.op, Interpolate)
    c.labels[node.outputs[0]] = c.ties.collapse(c.labels[node.inputs[0]], (node.op.axis,))
    return True


def _move(c: Channels, node: Node) -> bool:
    """The labels move with the elements."""
    constants = [c.graph.constants[name] for name in node.inputs[1:] if isinstance(node.op, Gather)]
    data = node.inputs if isinstance(node.op, Concat) else node.inputs[:1]
    if len(constants) + len(data) != len(node.inputs) or any(c.graph.is_constant(name) for name in data):
        return False
    c.moved(node, node.op.evaluate(*(c.full(name) for name in data), *constants)[0])
    return True


def _pad(c: Channels, node: Node) -> bool:
    """Zeros are zeros at any scale; other numbers are not."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Pad)
    if op.value != 0.0 or not all(c.graph.types[x].shape):
        return False
    padded = [axis for axis in range(len(op.before)) if op.before[axis] + op.after[axis]]
    c.moved(node, np.pad(c.full(x), tuple(zip(op.before, op.after, strict=True)), "edge") if padded else c.full(x))
    return True


def is_norm(graph: Graph, node: Node) -> bool:
    """Whether a node normalizes along the last axis, with constant weights."""
    op = node.op
    if not isinstance(op, OnnxOperator) or op.type not in NORMS or len(node.outputs) != 1:
        return False
    rank, extent = graph.types[node.inputs[0]].rank, graph.types[node.inputs[0]].shape[-1:]
    if not all(graph.is_constant(name) and graph.types[name].shape == extent for name in node.inputs[1:] if name):
        return False
    return dict(op.arguments).get("axis", -1) in (-1, rank - 1)


def _norm(c: Channels, node: Node) -> bool:
    """The weights of a norm scale its result; what it reads it needs as it is."""
    if not is_norm(c.graph, node):
        return False
    rank = c.graph.types[node.inputs[0]].rank
    c.ties.tie_arrays(c.labels[node.inputs[0]], np.zeros((), np.int64))
    c.free(node.outputs[0], rank - 1)
    return True


RULES: Mapping[type[Op], Callable[[Channels, Node], bool]] = {
    Convolution: _convolution, MatMul: _matmul, PRelu: _same, Function: _function, Clip: _clip, Add: _sum, Subtract: _sum,
    Multiply: _multiply, Divide: _divide, MaxPool: _pool, AveragePool: _pool, ReduceMean: _mean, Interpolate: _interpolate, Pad: _pad,
    OnnxOperator: _norm,
} | dict.fromkeys((Concat, Gather, Reshape, Slice, Transpose), _move)
