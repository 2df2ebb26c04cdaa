"""Merges reshapes, and pushes them down through elementwise operators so that these stand next to what they can be fused with."""

from __future__ import annotations

from math import prod

import numpy as np

from qcc.ir import Graph, Node
from qcc.ops import Clip, Function, Gather, ReduceMean, Reshape, Transpose
from qcc.ops.pointwise import Binary
from qcc.passes.simplify.constants import compress, operand
from qcc.passes.simplify.rewrite import Rewriting, rewriting
from qcc.passes.simplify.transposes import TRANSPOSES


def sink_layout(graph: Graph) -> Graph:
    """Transposes and reshapes move down the graph, so that they meet and cancel.

    f(transpose(x), ...) -> transpose(f'(x, ...)), for every f that has such an f'
    transpose(transpose(x)) -> one transpose, or none; transpose that moves only extents of 1 -> reshape
    matmul(reshape(transpose(x)), w) -> matmul(reshape(x), rows of w in another order)
    reshape(reshape(x)) -> reshape(x), or x
    reduce_mean(reshape(x)) over joined axes -> reshape(reduce_mean(x))
    f(reshape(x)) -> reshape(f(x)), f(reshape(x), c) -> reshape(f(x, c')), f(reshape(x), reshape(y)) -> reshape(f(x, y)), f elementwise
    """
    return _layout(graph)


def _merged(rw: Rewriting, node: Node) -> str | None:
    before = rw.producer(node.inputs[0], Reshape) if isinstance(node.op, Reshape) else None
    if before is None:
        return None
    x = before.inputs[0]
    return x if rw.shape(x) == node.op.shape else rw.emit(node.op, (x,), node.outputs[0])  # type: ignore[attr-defined]


def _sunk(rw: Rewriting, node: Node) -> str | None:
    before = rw.producer(node.inputs[0], Reshape) if node.inputs and node.inputs[0] else None
    if before is None or not (isinstance(node.op, Function | Binary) or (isinstance(node.op, Clip) and node.op.axis is None)):
        return None
    x, name = before.inputs[0], node.outputs[0]
    result = rw.types[node.inputs[0]].shape
    inputs: tuple[str, ...] = (x,)
    if isinstance(node.op, Binary):
        other = _other(rw, node, rw.shape(x))
        if other is None:
            return None
        inputs = (x, other)
    return rw.emit(Reshape(result), (rw.emit(node.op, inputs, f"{name}/before"),), name)


def _other(rw: Rewriting, node: Node, shape: tuple[int, ...]) -> str | None:
    """The second operand under the shape that the first has without its reshape."""
    also = rw.producer(node.inputs[1], Reshape)
    if also is not None and rw.shape(node.inputs[1]) == rw.shape(node.inputs[0]) and rw.shape(also.inputs[0]) == shape:
        return also.inputs[0]
    found = operand(rw, node)
    if found is None:
        return None
    array = compress(found[1])
    if array.size > 1:
        # The reshaped constant must still vary along few axes: a full-sized one would be a bad exchange.
        array = compress(np.broadcast_to(array, rw.shape(node.inputs[0])).reshape(shape))
        if array.size > found[1].size:
            return None
    return rw.add_constant(array, f"{node.outputs[0]}/constant")


def _mean_before(rw: Rewriting, node: Node) -> str | None:
    """reduce_mean(reshape(x)) over axes that the reshape has joined: the mean over the axes that they were."""
    before = rw.producer(node.inputs[0], Reshape) if isinstance(node.op, ReduceMean) and node.op.keep else None
    if before is None or not isinstance(node.op, ReduceMean):
        return None
    x = before.inputs[0]
    origins = [_origin(rw.shape(x), rw.shape(node.inputs[0]), axis) for axis in node.op.axes]
    axes = tuple(sorted(axis for origin in origins if origin for axis in origin))
    if None in origins or len(axes) < len(node.op.axes):
        return None
    name = node.outputs[0]
    mean = rw.emit(ReduceMean(axes), (x,), f"{name}/before")
    return rw.emit(Reshape(tuple(1 if i in node.op.axes else n for i, n in enumerate(rw.shape(node.inputs[0])))), (mean,), name)


def _origin(shape: tuple[int, ...], joined: tuple[int, ...], axis: int) -> tuple[int, ...] | None:
    """The axes of `shape` whose elements are those of one axis of `joined`, if there are such."""
    outside = prod(joined[:axis])
    start = next((i for i in range(len(shape)) if prod(shape[:i]) == outside and shape[i] != 1), None)
    if start is None or joined[axis] == 1:
        return None
    stop = next((i for i in range(start + 1, len(shape) + 1) if prod(shape[start:i]) == joined[axis]), None)
    return None if stop is None else tuple(range(start, stop))


def recognize_shuffle(graph: Graph) -> Graph:
    """reshape(transpose(reshape(x))) that only reorders the indices of one axis -> gather along that axis."""
    return _shuffles(graph)


def _shuffled(rw: Rewriting, node: Node) -> str | None:
    transpose = rw.producer(node.inputs[0], Transpose) if isinstance(node.op, Reshape) else None
    split = rw.producer(transpose.inputs[0], Reshape) if transpose else None
    if transpose is None or split is None:
        return None
    x = split.inputs[0]
    shape, parts = rw.shape(x), rw.shape(transpose.inputs[0])
    permutation: tuple[int, ...] = transpose.op.permutation  # type: ignore[attr-defined]  # its kind was asked for
    extra = len(parts) - len(shape)
    if node.op.shape != shape or extra < 1:  # type: ignore[attr-defined]  # its kind was asked for
        return None
    for axis, extent in enumerate(shape):
        inside = range(axis, axis + extra + 1)
        only_this_axis = all(p == i for i, p in enumerate(permutation) if i not in inside)
        split_there = (*parts[:axis], prod(parts[i] for i in inside), *parts[axis + extra + 1:]) == shape
        if only_this_axis and split_there:
            local = tuple(permutation[i] - axis for i in inside)
            order = np.arange(extent).reshape(parts[axis:axis + extra + 1]).transpose(local).reshape(-1)
            return rw.emit(Gather(axis), (x, rw.add_constant(order, f"{node.outputs[0]}/order")), node.outputs[0])
    return None


_layout = rewriting(*TRANSPOSES, _merged, _sunk, _mean_before)
_shuffles = rewriting(_shuffled)
