"""Constant operands of elementwise operators: along which axes they vary, and in the one shape that they are kept in."""

from __future__ import annotations

import numpy as np

from qcc.ir import Array, Node
from qcc.passes.simplify.rewrite import Rewriting


def compress(array: Array) -> Array:
    """The smallest array that broadcasts to the same: axes along which nothing changes have extent 1, leading ones are dropped."""
    for axis, extent in enumerate(array.shape):
        first = array.take([0], axis=axis) if extent > 1 else array
        if extent > 1 and bool(np.all(array == first)):
            array = first
    shape = array.shape
    while shape and shape[0] == 1:
        shape = shape[1:]
    return array.reshape(shape)


def operand(rw: Rewriting, node: Node) -> tuple[str, Array] | None:
    """The variable and the constant of a binary operator whose constant stands second and does not widen the variable's shape."""
    if len(node.inputs) != 2:
        return None
    array = rw.constant(node.inputs[1])
    if array is None or array.dtype.kind != "f" or rw.constant(node.inputs[0]) is not None:
        return None
    shape = rw.shape(node.inputs[0])
    return (node.inputs[0], array) if np.broadcast_shapes(shape, array.shape) == shape else None


def along(array: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """The numbers of a constant along one axis of the shape that it broadcasts to (float64), if it varies along no other axis."""
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if any(extent != 1 for i, extent in enumerate(full) if i != axis):
        return None
    result: Array = np.broadcast_to(array.reshape(-1).astype(np.float64), (shape[axis],))
    return result
