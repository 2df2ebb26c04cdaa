"""Folds explicit padding into convolutions and pools, and names pools that cover everything for what they are."""

from __future__ import annotations

from dataclasses import replace

from qcc.ir import Graph, Node
from qcc.ops import AveragePool, Clip, Convolution, Function, MaxPool, Pad, ReduceMean
from qcc.ops.functions import NOT_NEGATIVE
from qcc.passes.simplify.rewrite import Rewriting, rewriting


def fold_padding(graph: Graph) -> Graph:
    """Padding of height and width -> the padding that the window operator has itself.

    convolution(pad(x, 0)) -> convolution with pads
    average_pool(pad(x, 0)) -> average_pool with pads that count
    max_pool(pad(x, -infinity)) -> max_pool with pads; also max_pool(pad(x, 0)) if x has no negative elements
    Pools only as far as each of their windows has an element of x.
    """
    return _padding(graph)


def _folded(rw: Rewriting, node: Node) -> str | None:
    if not isinstance(node.op, Convolution | AveragePool | MaxPool):
        return None
    pad = rw.producer(node.inputs[0], Pad)
    if pad is None or not isinstance(pad.op, Pad) or any((*pad.op.before[:2], *pad.op.after[:2])):
        return None
    extra = (*pad.op.before[2:], *pad.op.after[2:])
    top, left, bottom, right = (a + b for a, b in zip(node.op.pads, extra, strict=True))
    pads = (top, left, bottom, right)
    op = node.op
    if not isinstance(op, Convolution) and any(p >= k for p, k in zip(pads, op.kernel * 2, strict=True)):
        return None      # windows of nothing but padding: ONNX knows no such pools
    if isinstance(op, Convolution):
        fits = pad.op.value == 0
    elif isinstance(op, AveragePool):
        fits = pad.op.value == 0 and not op.ceil and (op.count_padding or not any(op.pads))
        op = replace(op, count_padding=True)
    else:
        zero = pad.op.value == 0 and _not_negative(rw, pad.inputs[0]) and set(op.dilations) == {1}
        lowest = pad.op.value == float("-inf") or zero
        fits = lowest and not op.ceil
    return rw.emit(replace(op, pads=pads), (pad.inputs[0], *node.inputs[1:]), node.outputs[0]) if fits else None


def _not_negative(rw: Rewriting, value: str) -> bool:
    made = rw.producer(value, (Clip, Function))
    if made is None:
        return False
    return min(made.op.low) >= 0 if isinstance(made.op, Clip) else made.op.function in NOT_NEGATIVE  # type: ignore[attr-defined]


def name_global_pools(graph: Graph) -> Graph:
    """average_pool over the whole of height and width -> reduce_mean."""
    return _global(graph)


def _mean(rw: Rewriting, node: Node) -> str | None:
    op = node.op
    if not isinstance(op, AveragePool) or any(op.pads) or set(op.dilations) != {1} or op.kernel != rw.shape(node.inputs[0])[2:]:
        return None
    return rw.emit(ReduceMean((2, 3)), node.inputs, node.outputs[0])


def merge_clips(graph: Graph) -> Graph:
    """clip(clip(x)) -> one clip."""
    return _clips(graph)


def _one_clip(rw: Rewriting, node: Node) -> str | None:
    before = rw.producer(node.inputs[0], Clip) if isinstance(node.op, Clip) else None
    if before is None or not isinstance(before.op, Clip) or not isinstance(node.op, Clip) or before.op.axis != node.op.axis:
        return None

    def within(values: tuple[float, ...], outer: Clip) -> tuple[float, ...]:
        return tuple(min(max(v, low), high) for v, low, high in zip(values, outer.low, outer.high, strict=True))

    return rw.emit(Clip(within(before.op.low, node.op), within(before.op.high, node.op), node.op.axis), before.inputs, node.outputs[0])


_padding = rewriting(_folded)
_global = rewriting(_mean)
_clips = rewriting(_one_clip)
