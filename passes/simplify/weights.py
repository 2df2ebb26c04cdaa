"""Folds constant arithmetic around convolutions and matrix products into their weights and biases."""

from __future__ import annotations

import numpy as np

from qcc.ir import Array, Graph, Node
from qcc.ops import Add, Convolution, MatMul, Multiply
from qcc.passes.simplify.constants import along, operand
from qcc.passes.simplify.rewrite import Rewriting, rewriting


def fold_affine(graph: Graph) -> Graph:
    """Constants per channel -> weights and bias.

    convolution(x, w, b) * a -> convolution(x, w * a, b * a); convolution(x, w, b) + c -> convolution(x, w, b + c)
    convolution(x * a, w, b) -> convolution(x, w * a, b); convolution(x + c, w, b) -> convolution(x, w, b + w c), if nothing is padded
    and the same for matmul
    """
    return _affine(graph)


def _weights(rw: Rewriting, node: Node) -> tuple[Array, Array | None] | None:
    """Weights (float64) and bias of a linear operator, if they are constant; a matrix has rank 2."""
    w = rw.constant(node.inputs[1])
    b = rw.constant(node.inputs[2]) if len(node.inputs) == 3 else None
    if w is None or (len(node.inputs) == 3 and b is None) or (isinstance(node.op, MatMul) and w.ndim != 2):
        return None
    return w.astype(np.float64), None if b is None else b.astype(np.float64)


def _emit(rw: Rewriting, node: Node, x: str, w: Array | None, b: Array | None, name: str) -> str:
    """The linear operator with new weights (None: as before) and bias (None: without)."""
    dtype = rw.types[node.inputs[1]].dtype.numpy
    inputs = [x, node.inputs[1] if w is None else rw.add_constant(w.astype(dtype), f"{name}/weights")]
    if b is not None:
        inputs.append(rw.add_constant(b.astype(dtype), f"{name}/bias"))
    return rw.emit(node.op, inputs, name)


def _behind(rw: Rewriting, node: Node) -> str | None:
    """Arithmetic behind the linear operator, which nothing else reads."""
    found = operand(rw, node) if isinstance(node.op, Add | Multiply) else None
    linear = rw.producer(node.inputs[0], (Convolution, MatMul), alone=True) if found else None
    if found is None or linear is None:
        return None
    shape = rw.shape(node.inputs[0])
    vector = along(found[1], shape, 1 if isinstance(linear.op, Convolution) else len(shape) - 1)
    parts = None if vector is None else _weights(rw, linear)
    if vector is None or parts is None:
        return None
    w, b = parts
    x, name = linear.inputs[0], node.outputs[0]
    if isinstance(node.op, Add):
        return _emit(rw, linear, x, None, vector if b is None else b + vector, name)
    factor = vector.reshape(-1, 1, 1, 1) if isinstance(linear.op, Convolution) else vector
    return _emit(rw, linear, x, w * factor, None if b is None else b * vector, name)


def _in_front(rw: Rewriting, node: Node) -> str | None:
    """Arithmetic in front of the linear operator, which nothing else reads."""
    if not isinstance(node.op, Convolution | MatMul):
        return None
    before = rw.producer(node.inputs[0], (Add, Multiply), alone=True)
    found = operand(rw, before) if before else None
    if before is None or found is None:
        return None
    x, array = found
    shape = rw.shape(x)
    vector = along(array, shape, 1 if isinstance(node.op, Convolution) else len(shape) - 1)
    padded = isinstance(node.op, Convolution) and any(node.op.pads)
    parts = None if vector is None or (isinstance(before.op, Add) and padded) else _weights(rw, node)
    if vector is None or parts is None:
        return None
    w, b = parts
    scaled = w * _per_input(node, w, vector)
    if isinstance(before.op, Multiply):
        return _emit(rw, node, x, scaled, b, node.outputs[0])
    offset = scaled.sum(axis=(1, 2, 3)) if isinstance(node.op, Convolution) else scaled.sum(axis=0)
    return _emit(rw, node, x, None, offset if b is None else b + offset, node.outputs[0])


def _per_input(node: Node, w: Array, vector: Array) -> Array:
    """The factors of the input channels in the shape of the weights."""
    if isinstance(node.op, MatMul):
        return vector.reshape(-1, 1)
    outputs = w.shape[0] // node.op.groups  # type: ignore[attr-defined]  # only convolutions come here
    return np.repeat(vector.reshape(-1, w.shape[1]), outputs, axis=0).reshape(w.shape[0], w.shape[1], 1, 1)


_affine = rewriting(_behind, _in_front)
