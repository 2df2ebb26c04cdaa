"""Integer forms of pooling, interpolation and of operators that only move elements."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from qcc.ir import Node
from qcc.ops import (
    AveragePool,
    Concat,
    Gather,
    IntegerInterpolate,
    Interpolate,
    MaxPool,
    Pad,
    ReduceMean,
    ReduceSum,
    Reshape,
    Transpose,
    WindowMax,
    WindowSum,
)
from qcc.ops.pool import Pool
from qcc.passes.integer.lowering import CHANNELS_LAST, Exact, Layout, Lowering, Term, logical, suffix

BLEND_BITS = 7               # two interpolations of 8-bit values stay below 2**22


def padded_image(lowering: Lowering, node: Node, value: int) -> str:
    """The N H W C input of a pooling operator with its padding written out."""
    op, name = cast(Pool, node.op), node.outputs[0]
    x = lowering.get(node.inputs[0], CHANNELS_LAST)
    top, left, bottom, right = op.full_pads(lowering.source.types[node.inputs[0]].shape)
    if not any((top, left, bottom, right)):
        return x
    pad = Pad((0, top, left, 0), (0, bottom, right, 0), value)
    return lowering.builder.add(pad, [x], [lowering.builder.fresh(f"{name}@padded")], lowering.encoding(node.inputs[0]))


def max_pool(lowering: Lowering, node: Node) -> None:
    """max_pool(x)  ->  window_max, padded with the smallest integer."""
    op, name = cast(MaxPool, node.op), node.outputs[0]
    encoding = lowering.encoding(name)
    x = padded_image(lowering, node, encoding.dtype.range[0])
    target = lowering.builder.fresh(f"{name}@nhwc")
    lowering.put(name, CHANNELS_LAST, lowering.builder.add(WindowMax(op.kernel, op.strides, op.dilations), [x], [target], encoding))


def average_pool(lowering: Lowering, node: Node) -> None:
    """average_pool(x)  ->  window_sum, padded with the zero point; the factor divides by the count at each position."""
    op, name = cast(AveragePool, node.op), node.outputs[0]
    encoding = lowering.encoding(node.inputs[0])
    zero, taps = encoding.zero_point[0], op.kernel[0] * op.kernel[1]
    x = padded_image(lowering, node, zero)
    total = lowering.builder.add(WindowSum(op.kernel, op.strides, op.dilations), [x], [lowering.builder.fresh(f"{name}@sum")])
    counts = op.counts(lowering.source.types[node.inputs[0]].shape)
    count = np.array(counts.flat[0]) if np.all(counts == counts.flat[0]) else counts[:, :, None]
    bound = taps * max(zero, encoding.range[1] - zero)
    lowering.settle(name, Exact((Term(total, encoding.scale[0] / count, taps * zero, bound),), CHANNELS_LAST))


def reduce_mean(lowering: Lowering, node: Node) -> None:
    """reduce_mean(x)  ->  reduce_sum; the factor divides by the count."""
    op, name, builder = cast(ReduceMean, node.op), node.outputs[0], lowering.builder
    type, encoding = lowering.source.types[node.inputs[0]], lowering.encoding(node.inputs[0])
    layout = lowering.best_layout(node.inputs, type.rank)
    count = int(np.prod([type.shape[axis] for axis in op.axes]))
    zero = encoding.zero_point[0]
    axes = tuple(sorted(layout.index(axis) for axis in op.axes))
    kept = [axis for axis in layout if axis not in op.axes]
    result = layout if op.keep else tuple(sorted(kept).index(axis) for axis in kept)
    total = builder.add(ReduceSum(axes, op.keep), [lowering.get(node.inputs[0], layout)], [builder.fresh(f"{name}@sum")])
    bound = count * max(zero, encoding.range[1] - zero)
    lowering.settle(name, Exact((Term(total, np.array(encoding.scale[0] / count), count * zero, bound),), result))


def interpolate(lowering: Lowering, node: Node) -> None:
    """interpolate(x)  ->  integer_interpolate with weights in 2**-BLEND_BITS; a second one adds its bits before any rounding."""
    op, name, builder = cast(Interpolate, node.op), node.outputs[0], lowering.builder
    exact = lowering.exact.get(node.inputs[0])
    if exact is None:
        layout = lowering.best_layout(node.inputs[:1], lowering.source.types[name].rank)
        exact = Exact((lowering.term(node.inputs[0], layout),), layout)
    (term,) = exact.terms
    lower, upper, weight = (lowering.source.constants[n] for n in node.inputs[1:])
    weights = np.rint(weight.astype(np.float64) * 2**BLEND_BITS).astype(np.int32)
    arrays = {"lower": lower, "upper": upper, "weight": weights}
    tables = [builder.constant(array.astype(np.int32), f"{name}@{part}") for part, array in arrays.items()]
    axis = exact.layout.index(op.axis)
    value = builder.add(IntegerInterpolate(axis, BLEND_BITS), [term.value, *tables], [builder.fresh(f"{name}@blend")])
    grown = Term(value, term.factor / 2**BLEND_BITS, term.zero_point << BLEND_BITS, term.bound << BLEND_BITS)
    lowering.settle(name, replace(exact, terms=(grown,)))


def move(lowering: Lowering, node: Node) -> None:
    """slice, gather, concat and pad  ->  the same on the integers, in the layout that they have."""
    name, op = node.outputs[0], node.op
    rank, encoding = lowering.source.types[name].rank, lowering.encoding(name)
    data = node.inputs if isinstance(op, Concat) else node.inputs[:1]
    source_rank = lowering.source.types[data[0]].rank
    layout = lowering.best_layout(data, rank) if source_rank == rank else logical(source_rank)
    if isinstance(op, Pad):
        op = replace(op, value=int(encoding.quantize(np.array(op.value, np.float64))))
    moved = op if layout == logical(len(layout)) or len(layout) != rank else op.transposed(layout)
    if moved is None:
        layout, moved = logical(len(layout)), op
    inputs = [lowering.get(n, layout) for n in data]
    if isinstance(op, Gather):
        inputs.append(lowering.builder.constant(lowering.source.constants[node.inputs[1]], node.inputs[1]))
    result = layout if len(layout) == rank else logical(rank)
    target = lowering.builder.fresh(name + suffix(result))
    lowering.put(name, result, lowering.builder.add(moved, inputs, [target], encoding))


def transpose(lowering: Lowering, node: Node) -> None:
    """transpose(x)  ->  nothing: the same integers under another layout."""
    permutation, name = cast(Transpose, node.op).permutation, node.outputs[0]
    for layout, value in lowering.layouts(node.inputs[0]).items():
        lowering.put(name, tuple(permutation.index(axis) for axis in layout), value)


def reshape(lowering: Lowering, node: Node) -> None:
    """reshape(x)  ->  reshape of whichever layout has the elements in order; a flattened image leaves its order to its readers."""
    name, source = node.outputs[0], lowering.source
    before, after = source.types[node.inputs[0]].shape, source.types[name].shape
    layouts, encoding = lowering.layouts(node.inputs[0]), lowering.encoding(name)
    fitting = [layout for layout in layouts if _in_order(layout, before)]
    if not fitting and CHANNELS_LAST in layouts and after == (before[0], int(np.prod(before[1:]))) and _only_products(lowering, name):
        target = lowering.builder.fresh(f"{name}@nhwc")
        lowering.builder.add(Reshape(after), [layouts[CHANNELS_LAST]], [target], encoding)
        lowering.flattened[name] = target, before[1:]
        return
    x = layouts[fitting[0]] if fitting else lowering.get(node.inputs[0], logical(len(before)))
    lowering.put(name, logical(len(after)), lowering.builder.add(Reshape(after), [x], [lowering.builder.fresh(name)], encoding))


def _in_order(layout: Layout, shape: tuple[int, ...]) -> bool:
    """Whether the elements lie in logical order in this layout (axes of extent 1 do not count)."""
    axes = [axis for axis in layout if shape[axis] > 1]
    return axes == sorted(axes)


def _only_products(lowering: Lowering, name: str) -> bool:
    """Whether every reader is a matrix product with constant weights, whose rows can take any order."""
    from qcc.passes.quantize import Form

    forms = lowering.placement.forms
    users = lowering.source.users[name]
    return name not in lowering.source.output_values and all(forms.get(u.outputs[0]) is Form.LINEAR and u.inputs[0] == name for u in users)
