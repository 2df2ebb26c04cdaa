"""Reverse mode for float graphs, with respect to values: how a loss of some values changes with the network's inputs.

Decides which operators let a gradient through. Those without a rule here stop it, which is safe: a descent then follows the other
paths only. A convolution's gradient is one matrix product per tap of its kernel, or one product of arrays per tap where it is depthwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qcc.ir import Array, Graph, Node, Op
from qcc.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Convolution,
    Function,
    MatMul,
    MaxPool,
    Multiply,
    Pad,
    ReduceMean,
    Reshape,
    Subtract,
    Transpose,
)
from qcc.ops.pool import Pool

STEP = 1e-3     # of the difference that stands for a function's derivative


@dataclass(frozen=True)
class Local:
    """A node with what its rule may read."""

    graph: Graph
    node: Node
    values: Mapping[str, Array]

    def value(self, name: str) -> Array:
        constant = self.graph.constant(name)
        return self.values[name] if constant is None else constant

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.types[name].shape


Rule = Callable[[Local, Array], dict[str, Array]]      # the output's gradient to those of inputs
RULES: dict[type[Op], Rule] = {}


def rule_for(*operators: type[Op]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


def needed(graph: Graph) -> tuple[str, ...]:
    """The values that the rules read."""
    read: dict[str, None] = {}
    for node in graph.nodes:
        kind = type(node.op)
        if kind in (Clip, MaxPool):
            read[node.outputs[0]] = None
        if kind in (Function, MaxPool) or (kind is Multiply and not any(map(graph.is_constant, node.inputs))):
            read.update(dict.fromkeys(node.inputs))
    return tuple(name for name in read if not graph.is_constant(name))


def pull_back(graph: Graph, values: Mapping[str, Array], seeds: Mapping[str, Array]) -> dict[str, Array]:
    """Gradients of a loss with respect to the graph's inputs (those that it depends on).

    Args:
        values: of all that `needed` names, for one set of inputs.
        seeds: the loss's own gradients with respect to some values.
    """
    gradients = dict(seeds)
    for node in reversed(graph.nodes):
        rule = RULES.get(type(node.op))
        arrived = [gradients.pop(name, None) for name in node.outputs]
        if rule is None or arrived[0] is None:
            continue
        for name, part in rule(Local(graph, node, values), arrived[0]).items():
            if not graph.is_constant(name):
                gradients[name] = gradients[name] + part if name in gradients else part
    return {name: gradients[name] for name in graph.inputs if name in gradients}


def scattered(
    shape: tuple[int, ...], pads: tuple[int, ...], kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int],
    extent: tuple[int, ...], tap: Callable[[int, int], Array],
) -> Array:
    """The transpose of a sliding window: what each tap (row, column) says of [N, C, *extent] is added where that tap read [N, C, H, W]."""
    room = [max(n + p, (e - 1) * s + d * (k - 1) + 1)
            for n, p, e, s, d, k in zip(shape[2:], pads[:2], extent, strides, dilations, kernel, strict=True)]
    result = np.zeros((*shape[:2], *room), np.float32)
    for row, column in np.ndindex(*kernel):
        top, left = row * dilations[0], column * dilations[1]
        target = result[:, :, top : top + (extent[0] - 1) * strides[0] + 1 : strides[0],
                        left : left + (extent[1] - 1) * strides[1] + 1 : strides[1]]
        target += tap(row, column).reshape(target.shape)
    return result[:, :, pads[0] : pads[0] + shape[2], pads[1] : pads[1] + shape[3]]


@rule_for(Convolution)
def _convolution(local: Local, gradient: Array) -> dict[str, Array]:
    node, op = local.node, local.node.op
    assert isinstance(op, Convolution)
    weights = local.value(node.inputs[1])
    outputs, inputs = weights.shape[0] // op.groups, weights.shape[1]
    grouped = gradient.reshape(gradient.shape[0], op.groups, outputs, -1)

    def tap(row: int, column: int) -> Array:
        across = weights[:, :, row, column].reshape(op.groups, outputs, inputs).transpose(0, 2, 1)
        product: Array = across * grouped if outputs == inputs == 1 else across @ grouped
        return product

    kernel = weights.shape[2], weights.shape[3]
    shape, extent = local.shape(node.inputs[0]), gradient.shape[2:]
    return {node.inputs[0]: scattered(shape, op.pads, kernel, op.strides, op.dilations, extent, tap)}


@rule_for(AveragePool, MaxPool)
def _pool(local: Local, gradient: Array) -> dict[str, Array]:
    op, (x, y) = local.node.op, (local.node.inputs[0], local.node.outputs[0])
    assert isinstance(op, Pool)
    shape, extent = local.shape(x), gradient.shape[2:]
    if isinstance(op, AveragePool):
        share = gradient / op.counts(shape).astype(np.float32)
        parts = np.broadcast_to(share[..., None, None], (*share.shape, *op.kernel))
    else:
        parts = gradient[..., None, None] * (op.view(local.value(x), -np.inf) == local.value(y)[..., None, None])

    def tap(row: int, column: int) -> Array:
        return parts[..., row, column]

    return {x: scattered(shape, op.full_pads(shape), op.kernel, op.strides, op.dilations, extent, tap)}


@rule_for(BatchNormalization)
def _batch_normalization(local: Local, gradient: Array) -> dict[str, Array]:
    op, (x, gamma, _, _, variance) = local.node.op, local.node.inputs
    assert isinstance(op, BatchNormalization)
    scale = local.value(gamma) / np.sqrt(local.value(variance) + op.epsilon)
    return {x: gradient * scale.reshape(1, -1, *[1] * (gradient.ndim - 2)).astype(np.float32)}


@rule_for(Clip)
def _clip(local: Local, gradient: Array) -> dict[str, Array]:
    op, y = local.node.op, local.value(local.node.outputs[0])
    assert isinstance(op, Clip)
    shape = [-1 if axis == op.axis else 1 for axis in range(y.ndim)]
    low, high = (np.array(bound, np.float32).reshape(shape) for bound in (op.low, op.high))
    return {local.node.inputs[0]: gradient * ((y > low) & (y < high))}


@rule_for(Function)
def _function(local: Local, gradient: Array) -> dict[str, Array]:
    op, x = local.node.op, local.value(local.node.inputs[0])
    assert isinstance(op, Function)
    slope = (op.evaluate(x + np.float32(STEP))[0] - op.evaluate(x - np.float32(STEP))[0]) / np.float32(2 * STEP)
    return {local.node.inputs[0]: gradient * np.nan_to_num(slope)}


def _summed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of something that was broadcast to the gradient's shape."""
    extra = gradient.ndim - len(shape)
    axes = tuple(i for i in range(gradient.ndim) if i < extra or (shape[i - extra] == 1 and gradient.shape[i] != 1))
    return gradient.sum(axis=axes, keepdims=True).reshape(shape) if axes else gradient


@rule_for(Add, Subtract, Multiply)
def _binary(local: Local, gradient: Array) -> dict[str, Array]:
    a, b = local.node.inputs
    found: dict[str, Array] = {}
    for name, other, sign in ((a, b, 1.0), (b, a, -1.0 if isinstance(local.node.op, Subtract) else 1.0)):
        if not local.graph.is_constant(name):
            part = gradient * local.value(other) if isinstance(local.node.op, Multiply) else np.float32(sign) * gradient
            part = _summed(part, local.shape(name))
            found[name] = found[name] + part if name in found else part
    return found


@rule_for(MatMul)
def _matmul(local: Local, gradient: Array) -> dict[str, Array]:
    a, b = local.node.inputs[:2]
    if not local.graph.is_constant(b) or len(local.shape(b)) != 2:
        return {}
    return {a: gradient @ local.value(b).T}


@rule_for(ReduceMean)
def _mean(local: Local, gradient: Array) -> dict[str, Array]:
    op, x = local.node.op, local.node.inputs[0]
    assert isinstance(op, ReduceMean)
    shape = local.shape(x)
    kept = [1 if axis in op.axes else extent for axis, extent in enumerate(shape)]
    return {x: np.broadcast_to(gradient.reshape(kept) * np.float32(gradient.size / np.prod(shape)), shape)}


@rule_for(Reshape)
def _reshape(local: Local, gradient: Array) -> dict[str, Array]:
    return {local.node.inputs[0]: gradient.reshape(local.shape(local.node.inputs[0]))}


@rule_for(Pad)
def _pad(local: Local, gradient: Array) -> dict[str, Array]:
    op, x = local.node.op, local.node.inputs[0]
    assert isinstance(op, Pad)
    return {x: gradient[tuple(slice(start, start + extent) for start, extent in zip(op.before, local.shape(x), strict=True))]}


@rule_for(Transpose)
def _transpose(local: Local, gradient: Array) -> dict[str, Array]:
    op = local.node.op
    assert isinstance(op, Transpose)
    return {local.node.inputs[0]: gradient.transpose(np.argsort(op.permutation))}


@rule_for(Concat)
def _concat(local: Local, gradient: Array) -> dict[str, Array]:
    op, names = local.node.op, local.node.inputs
    assert isinstance(op, Concat)
    ends = np.cumsum([local.shape(name)[op.axis] for name in names])[:-1]
    found: dict[str, Array] = {}
    for name, part in zip(names, np.split(gradient, ends, op.axis), strict=True):
        found[name] = found[name] + part if name in found else part
    return found
