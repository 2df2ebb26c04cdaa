"""Rules that push transposes down the graph until they meet their inverse, a reshape, a matrix product, or the end."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from qcc.ir import Graph, Node, Op
from qcc.ops import Gather, Interpolate, MatMul, ReduceMean, Reshape, Transpose
from qcc.passes.simplify.rewrite import Rewriting, rewriting


def _merged(rw: Rewriting, node: Node) -> str | None:
    before = rw.producer(node.inputs[0], Transpose) if isinstance(node.op, Transpose) else None
    if before is None:
        return None
    inner: tuple[int, ...] = before.op.permutation  # type: ignore[attr-defined]  # its kind was asked for
    permutation = tuple(inner[p] for p in node.op.permutation)  # type: ignore[attr-defined]
    if permutation == tuple(range(len(permutation))):
        return before.inputs[0]
    return rw.emit(Transpose(permutation), before.inputs, node.outputs[0])


def _only_ones(rw: Rewriting, node: Node) -> str | None:
    """A transpose under which the other extents keep their order."""
    if not isinstance(node.op, Transpose):
        return None
    shape, permutation = rw.shape(node.inputs[0]), node.op.permutation
    moved = [p for p in permutation if shape[p] != 1]
    return rw.emit(Reshape(tuple(shape[p] for p in permutation)), node.inputs, node.outputs[0]) if moved == sorted(moved) else None


def inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))


def _sunk(rw: Rewriting, node: Node) -> str | None:
    transposes = [t for name in node.inputs if (t := rw.producer(name, Transpose)) is not None]
    if not transposes or len(node.outputs) != 1 or isinstance(node.op, Transpose):
        return None
    permutation: tuple[int, ...] = transposes[0].op.permutation  # type: ignore[attr-defined]  # its kind was asked for
    op = _under(node.op, permutation)
    rank = len(permutation)
    if op is None:
        return None
    if isinstance(op, Gather) and len(rw.shape(node.inputs[1])) != 1:
        return None
    positions = isinstance(op, Gather | Interpolate)     # all inputs but the first are lists of positions
    inputs: list[str] = []
    for place, name in enumerate(node.inputs):
        undone = name if positions and place else _undone(rw, name, permutation, node.outputs[0])
        if undone is None:
            return None
        inputs.append(undone)
    name = node.outputs[0]
    before = rw.emit(op, inputs, f"{name}/untransposed")
    if len(rw.shape(before)) != rank:
        return None
    return rw.emit(Transpose(permutation), (before,), name)


def _under(op: Op, permutation: tuple[int, ...]) -> Op | None:
    """The operator f' with f(transpose(x)) == transpose(f'(x))."""
    if isinstance(op, Gather | Interpolate):
        return replace(op, axis=permutation[op.axis])
    return op.transposed(inverse(permutation))


def _undone(rw: Rewriting, name: str, permutation: tuple[int, ...], hint: str) -> str | None:
    """The value whose transposition this one is, if it can be had without a transpose."""
    made, shape = rw.producer(name, Transpose), rw.shape(name)
    if made is not None and made.op.permutation == permutation:  # type: ignore[attr-defined]  # its kind was asked for
        return made.inputs[0]
    if prod(shape) == 1 and len(shape) <= 1:
        return name
    if len(shape) > len(permutation):
        return None
    full = (1,) * (len(permutation) - len(shape)) + shape
    array = rw.constant(name)
    if array is not None:
        return rw.add_constant(array.reshape(full).transpose(inverse(permutation)), f"{hint}/constant")
    axes = [i for i, extent in enumerate(full) if extent != 1]
    moved = [p for p in inverse(permutation) if p in axes]
    return rw.emit(Reshape(tuple(full[p] for p in inverse(permutation))), (name,), f"{hint}/reshaped") if moved == axes else None


def _absorbed(rw: Rewriting, node: Node) -> str | None:
    """matmul(reshape(transpose(x)), w): the reshape joins axes into one row, whose order the rows of w may follow."""
    if not isinstance(node.op, MatMul):
        return None
    reshape = rw.producer(node.inputs[0], Reshape)
    transpose = rw.producer(reshape.inputs[0], Transpose) if reshape else None
    w = rw.constant(node.inputs[1])
    if reshape is None or transpose is None or w is None or w.ndim != 2:
        return None
    permutation: tuple[int, ...] = transpose.op.permutation  # type: ignore[attr-defined]  # its kind was asked for
    turned, flat = rw.shape(reshape.inputs[0]), rw.shape(node.inputs[0])
    kept = next((k for k in range(len(turned)) if turned[:k] == flat[:-1] and prod(turned[k:]) == flat[-1]), None)
    if kept is None or permutation[:kept] != tuple(range(kept)):
        return None
    inner = tuple(p - kept for p in permutation[kept:])
    rows = w.reshape(*turned[kept:], w.shape[1]).transpose(*inverse(inner), len(inner)).reshape(w.shape)
    name = node.outputs[0]
    straight = rw.emit(Reshape(flat), transpose.inputs, f"{name}/rows")
    return rw.emit(node.op, (straight, rw.add_constant(np.ascontiguousarray(rows), f"{name}/weights"), *node.inputs[2:]), name)


def keep_reduced_axes(graph: Graph) -> Graph:
    """reduce_mean(x) without the reduced axes -> reshape(reduce_mean(x) with them as 1)."""
    return _keep(graph)


def _kept(rw: Rewriting, node: Node) -> str | None:
    if not isinstance(node.op, ReduceMean) or node.op.keep:
        return None
    name = node.outputs[0]
    mean = rw.emit(replace(node.op, keep=True), node.inputs, f"{name}/mean")
    return rw.emit(Reshape(tuple(n for i, n in enumerate(rw.shape(mean)) if i not in node.op.axes)), (mean,), name)


TRANSPOSES = (_merged, _only_ones, _absorbed, _sunk)
_keep = rewriting(_kept)
