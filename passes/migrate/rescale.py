"""Carries scales and shifts into the constants of a float network: the edit that equivalent migration consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from qcc.ir import Array, Graph, Node, Op, TensorType
from qcc.ops import Add, Clip, Convolution, Divide, MatMul, Multiply, OnnxOperator, Subtract
from qcc.passes.migrate.channels import Channels

LARGEST = 2.0**20      # a scale's distance from one: beyond, float32 would lose small weights


def scales_of(labels: Array, numbers: Array) -> Array:
    """What the channels of these labels are divided by; `numbers` by root, float64."""
    chosen = numbers[np.abs(labels)]
    return np.asarray(np.where(labels < 0, 1.0 / chosen, chosen))


def values_of(channels: Channels, numbers: Array) -> dict[str, Array]:
    """What every value that can be scaled is divided by, float64 with the shape of its labels.

    Numbers are float32, so that dividing here and multiplying there is one rounding each.
    """
    held = np.clip(numbers, 1.0 / LARGEST, LARGEST).astype(np.float32).astype(np.float64)
    held[0] = 1.0
    return {name: scales_of(labels, held) for name, labels in channels.labels.items() if np.any(labels)}


def rescale(graph: Graph, scales: Mapping[str, Array]) -> Graph:
    """The same function with every value divided by its scales (absent: one), which `Channels` allows. CLOSE: only roundings differ.

    before: %y = convolution(%x, %w)    after: %y / s = convolution(%x, %w'),  w' = w / s per output channel
    """
    edit = _Edit(graph, scales)
    nodes = tuple(edit.node(node) for node in graph.nodes)
    return edit.finished(nodes) if edit.changed else graph


@dataclass
class _Edit:
    graph: Graph
    scales: Mapping[str, Array]

    def __post_init__(self) -> None:
        self.constants, self.types = dict(self.graph.constants), dict(self.graph.types)
        self.changed = False

    def node(self, node: Node) -> Node:
        rule = _RULES.get(type(node.op))
        touched = any(name in self.scales for name in (*node.inputs, *node.outputs))
        return rule(self, node) if rule is not None and touched else node

    def scale(self, name: str) -> Array:
        """The value's divisors, with its rank."""
        rank = self.graph.types[name].rank
        return self.scales.get(name, np.ones((1,) * rank))

    def constant(self, node: Node, position: int, factor: Array) -> str:
        """The name of a constant input times a factor that broadcasts; the constant itself where nothing changes."""
        name = node.inputs[position]
        old = self.graph.constants[name]
        new = (old.astype(np.float64) * factor).astype(old.dtype)
        if new.shape == old.shape and np.array_equal(new, old):
            return name
        self.changed = True
        fresh, number = f"{name}@{node.outputs[0]}", 0
        while fresh in self.types:
            number += 1
            fresh = f"{name}@{node.outputs[0]}.{number}"
        new.flags.writeable = False
        self.constants[fresh], self.types[fresh] = new, TensorType.of(new)
        return fresh

    def replaced(self, node: Node, factors: Mapping[int, Array]) -> Node:
        inputs = list(node.inputs)
        for position, factor in factors.items():
            if position < len(inputs) and inputs[position]:
                inputs[position] = self.constant(node, position, factor)
        return replace(node, inputs=tuple(inputs))

    def finished(self, nodes: tuple[Node, ...]) -> Graph:
        """The graph with these nodes, less constants that nothing reads any more."""
        read = {name for node in nodes for name in node.inputs} | self.graph.output_values
        constants = {name: array for name, array in self.constants.items() if name in read}
        types = {name: type for name, type in self.types.items() if name in constants or name not in self.constants}
        return replace(self.graph, nodes=nodes, constants=constants, types=types)


def _convolution(edit: _Edit, node: Node) -> Node:
    op = node.op
    assert isinstance(op, Convolution)
    outputs, inner = edit.graph.types[node.inputs[1]].shape[:2]
    channels = edit.graph.types[node.inputs[0]].shape[1]
    before = np.broadcast_to(edit.scale(node.inputs[0]), (1, channels, 1, 1)).reshape(op.groups, inner)
    after = np.broadcast_to(edit.scale(node.outputs[0]), (1, outputs, 1, 1)).reshape(outputs)
    columns = np.repeat(before, outputs // op.groups, axis=0)
    return edit.replaced(node, {1: (columns / after[:, None])[:, :, None, None], 2: 1.0 / after})


def _matmul(edit: _Edit, node: Node) -> Node:
    if not edit.graph.is_constant(node.inputs[1]):
        return node
    depth, width = edit.graph.types[node.inputs[1]].shape
    before = np.broadcast_to(edit.scale(node.inputs[0]).reshape(-1), (depth,))
    after = np.broadcast_to(edit.scale(node.outputs[0]).reshape(-1), (width,))
    return edit.replaced(node, {1: before[:, None] / after, 2: 1.0 / after})


def _clip(edit: _Edit, node: Node) -> Node:
    op = node.op
    assert isinstance(op, Clip)
    if {*op.low, *op.high} <= {0.0, float("inf"), float("-inf")}:
        return node
    divisor = edit.scale(node.outputs[0]).reshape(-1)
    low, high = (tuple(float(b) for b in np.array(bound) / divisor) for bound in (op.low, op.high))
    edit.changed = True
    same = len(set(low)) == len(set(high)) == 1
    return replace(node, op=Clip(low[:1], high[:1]) if same else Clip(low, high, 1))


def _addend(edit: _Edit, node: Node) -> Node:
    inverse = 1.0 / edit.scale(node.outputs[0])
    return edit.replaced(node, {i: inverse for i, name in enumerate(node.inputs) if edit.graph.is_constant(name)})


def _factor(edit: _Edit, node: Node) -> Node:
    data = [name for name in node.inputs if not edit.graph.is_constant(name)]
    rank = edit.graph.types[node.outputs[0]].rank
    before = edit.scale(data[0])
    factor = before.reshape((1,) * (rank - before.ndim) + before.shape) / edit.scale(node.outputs[0])
    if isinstance(node.op, Divide):
        factor = 1.0 / factor
    return edit.replaced(node, {i: factor for i, name in enumerate(node.inputs) if edit.graph.is_constant(name)})


def _norm(edit: _Edit, node: Node) -> Node:
    inverse = 1.0 / edit.scale(node.outputs[0]).reshape(-1)
    return edit.replaced(node, {1: inverse, 2: inverse})


_RULES: Mapping[type[Op], Callable[[_Edit, Node], Node]] = {
    Convolution: _convolution, MatMul: _matmul, Clip: _clip, Add: _addend, Subtract: _addend, Multiply: _factor, Divide: _factor,
    OnnxOperator: _norm,
}
