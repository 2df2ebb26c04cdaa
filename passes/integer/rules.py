"""Integer forms of sums, products, bounds and functions, one function per operator: (lowering, node) -> None.

Each reads the encodings of the QDQ graph and emits integer operators; `Lowering.settle` rounds where the value carries an encoding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from qcc.arith import accumulator_bounds
from qcc.errors import ModelError
from qcc.ir import Array, Node
from qcc.ops import (
    Clip,
    Convolution,
    Function,
    IntegerBatchMatMul,
    IntegerConvolution,
    IntegerMatMul,
    IntegerMultiply,
    Lookup,
    Pad,
    Reshape,
    Subtract,
    Transpose,
)
from qcc.ops.functions import apply_function
from qcc.passes.integer.lowering import CHANNELS_LAST, Exact, Lowering, Term, logical, stored_constant, suffix
from qcc.passes.quantize.forms import Form, data_inputs

CONSTANT_LEVELS = 2**20      # resolution of a constant addend: far below one step of any 8-bit result


def folded_bias(lowering: Lowering, node: Node, weights: Array, scales: Array) -> tuple[Array, int]:
    """int32 bias with the zero point's share folded in, and the largest magnitude that the accumulator can reach.

    Raises:
        ModelError: the proof fails: some accumulator could leave int32.
    """
    encoding = lowering.encoding(node.inputs[0])
    sums = weights.reshape(len(weights), -1).astype(np.int64).sum(axis=1)
    given = lowering.source.constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(len(weights))
    bias = np.rint(given.astype(np.float64) / (encoding.scale[0] * scales)).astype(np.int64) - encoding.zero_point[0] * sums
    low, high = accumulator_bounds(weights, bias, *encoding.dtype.range)
    bound = max(-int(low.min()), int(high.max()))
    if bound >= 2**31:
        where = f"{node.op} %{node.outputs[0]}"
        raise ModelError(f"{where}: an accumulator could reach {bound}, more than int32 holds; the layer must be split")
    return bias.astype(np.int32), bound


def convolution(lowering: Lowering, node: Node) -> None:
    """conv(x, w, b)  ->  pad(x, zero point); integer_convolution(x, w, folded bias)."""
    op, name, builder = cast(Convolution, node.op), node.outputs[0], lowering.builder
    x, encoding = lowering.get(node.inputs[0], CHANNELS_LAST), lowering.encoding(node.inputs[0])
    if any(op.pads):
        top, left, bottom, right = op.pads
        pad = Pad((0, top, left, 0), (0, bottom, right, 0), encoding.zero_point[0])
        x = builder.add(pad, [x], [builder.fresh(f"{name}@padded")], encoding)
    meaning = lowering.source.types[node.inputs[1]].encoding
    assert meaning is not None
    weights = np.ascontiguousarray(meaning.quantize(lowering.source.constants[node.inputs[1]]).transpose(0, 2, 3, 1))
    scales = np.array(meaning.scale)
    bias, bound = folded_bias(lowering, node, weights, scales)
    inputs = [x, builder.constant(weights, node.inputs[1], meaning), builder.constant(bias, f"{name}@bias")]
    acc = builder.add(IntegerConvolution(op.strides, op.dilations, op.groups), inputs, [builder.fresh(f"{name}@sum")])
    lowering.settle(name, Exact((Term(acc, scales * encoding.scale[0], 0, bound),), CHANNELS_LAST))


def matmul(lowering: Lowering, node: Node) -> None:
    """matmul(x, w, b)  ->  integer_matmul(x, transposed w, folded bias); a flattened image keeps its channels-last order."""
    if lowering.placement.forms[node.outputs[0]] is Form.CONTRACTION:
        contraction(lowering, node)
        return
    name, builder = node.outputs[0], lowering.builder
    source, encoding = node.inputs[0], lowering.encoding(node.inputs[0])
    meaning = lowering.source.types[node.inputs[1]].encoding
    assert meaning is not None
    weights = meaning.quantize(lowering.source.constants[node.inputs[1]]).T
    if source in lowering.flattened:
        x, (channels, height, width) = lowering.flattened[source]
        weights = weights.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weights), -1)
    else:
        x = lowering.get(source, logical(lowering.source.types[source].rank))
    weights, scales = np.ascontiguousarray(weights), np.array(meaning.scale)
    bias, bound = folded_bias(lowering, node, weights, scales)
    inputs = [x, builder.constant(weights, node.inputs[1], replace(meaning, axis=0)), builder.constant(bias, f"{name}@bias")]
    acc = builder.add(IntegerMatMul(), inputs, [builder.fresh(f"{name}@sum")])
    layout = logical(lowering.source.types[name].rank)
    lowering.settle(name, Exact((Term(acc, scales * encoding.scale[0], 0, bound),), layout))


def contraction(lowering: Lowering, node: Node) -> None:
    """matmul(a, b)  ->  integer_batch_matmul of both, whose zero points it subtracts."""
    name, source, builder = node.outputs[0], lowering.source, lowering.builder
    a, b = (lowering.term(n, logical(source.types[n].rank)) for n in node.inputs)
    depth = source.types[node.inputs[0]].shape[-1]
    op = IntegerBatchMatMul((a.zero_point, b.zero_point))
    acc = builder.add(op, [a.value, b.value], [builder.fresh(f"{name}@sum")])
    lowering.settle(name, Exact((Term(acc, a.factor * b.factor, 0, depth * a.bound * b.bound),), logical(source.types[name].rank)))


def addend(lowering: Lowering, name: str, shape: tuple[int, ...], layout: tuple[int, ...], sign: float, hint: str) -> tuple[Term, ...]:
    """An operand of a sum as terms: a constant in fixed point, the exact terms of a fused producer, or an encoded value."""
    source = lowering.source
    if name in source.constants:
        array = stored_constant(sign * source.constants[name].astype(np.float64), layout)
        peak = float(np.abs(array).max(initial=0.0))
        step = peak / CONSTANT_LEVELS
        value = lowering.builder.constant(np.rint(array / (step or 1.0)).astype(np.int32), f"{hint}@addend")
        return (Term(value, np.array(step), 0, CONSTANT_LEVELS),)
    if name in lowering.exact:
        return tuple(replace(term, factor=sign * term.factor) for term in lowering.exact[name].terms)
    rank = source.types[name].rank
    if rank == len(shape):
        return (lowering.term(name, layout, sign),)
    return (expanded_term(lowering, name, len(shape), layout, sign),)


def expanded_term(lowering: Lowering, name: str, rank: int, layout: tuple[int, ...], sign: float = 1.0) -> Term:
    """An encoded value of a lower rank as an addend: it gets leading extents of 1, then the layout of the others."""
    type, builder, encoding = lowering.source.types[name], lowering.builder, lowering.encoding(name)
    term = lowering.term(name, logical(type.rank), sign)
    full = (1,) * (rank - type.rank) + type.shape
    axes = [axis for axis in layout if full[axis] > 1]
    if axes == sorted(axes):
        shape, permutation = tuple(full[axis] for axis in layout), logical(rank)
    else:
        shape, permutation = full, layout
    value = builder.add(Reshape(shape), [term.value], [builder.fresh(f"{name}@expanded")], encoding)
    if permutation != logical(rank):
        value = builder.add(Transpose(permutation), [value], [builder.fresh(f"{name}@expanded")], encoding)
    return replace(term, value=value)


def add(lowering: Lowering, node: Node) -> None:
    """add(a, b), subtract(a, b)  ->  one requantization of both terms."""
    name = node.outputs[0]
    shape = lowering.source.types[name].shape
    fused = [n for n in node.inputs if n in lowering.exact]
    encoded = tuple(n for n in data_inputs(lowering.source, node) if n not in lowering.exact)
    layout = lowering.exact[fused[0]].layout if fused else lowering.best_layout(encoded, len(shape))
    signs = (1.0, -1.0 if isinstance(node.op, Subtract) else 1.0)
    order = sorted(range(2), key=lambda i: node.inputs[i] not in lowering.exact)      # the accumulator first
    terms = tuple(t for i in order for t in addend(lowering, node.inputs[i], shape, layout, signs[i], name))
    lowering.settle(name, Exact(terms, layout))


def multiply(lowering: Lowering, node: Node) -> None:
    """multiply(x, constant)  ->  a change of scale; multiply(a, b)  ->  integer_multiply."""
    source, name = lowering.source, node.outputs[0]
    data = data_inputs(source, node)
    rank = source.types[name].rank
    if len(data) == 1:
        (constant,) = (n for n in node.inputs if n in source.constants)
        exact = lowering.exact.get(data[0])
        layout = exact.layout if exact else lowering.best_layout(data, rank)
        factor = stored_constant(source.constants[constant].astype(np.float64), layout)
        terms = exact.terms if exact else addend(lowering, data[0], source.types[name].shape, layout, 1.0, name)
        lowering.settle(name, Exact(tuple(replace(t, factor=t.factor * factor) for t in terms), layout))
        return
    layout = lowering.best_layout(data, rank)
    a, b = (addend(lowering, n, source.types[name].shape, layout, 1.0, name)[0] for n in node.inputs)
    target = lowering.builder.fresh(f"{name}@product")
    product = lowering.builder.add(IntegerMultiply((a.zero_point, b.zero_point)), [a.value, b.value], [target])
    lowering.settle(name, Exact((Term(product, a.factor * b.factor, 0, a.bound * b.bound),), layout))


def clip(lowering: Lowering, node: Node) -> None:
    """clip(x)  ->  bounds of the requantization that makes it."""
    op, name = cast(Clip, node.op), node.outputs[0]
    exact = lowering.exact.get(node.inputs[0])
    if exact is None:
        layout = lowering.best_layout(node.inputs, lowering.source.types[name].rank)
        exact = Exact((lowering.term(node.inputs[0], layout),), layout)
    lowering.settle(name, replace(exact, low=op.low, high=op.high))


def table(lowering: Lowering, node: Node) -> None:
    """function(x), prelu(x, slope)  ->  lookup of 256 correctly rounded results (per channel for a slope per channel)."""
    source, name = lowering.source, node.outputs[0]
    before, after = lowering.encoding(node.inputs[0]), lowering.encoding(name)
    low, high = before.dtype.range
    q = np.clip(np.arange(256), low, high)
    x = (q - before.zero_point[0]) * before.scale[0]
    layout = lowering.best_layout(node.inputs[:1], source.types[name].rank)
    if isinstance(node.op, Function):
        y = apply_function(node.op.function, node.op.parameters, x)
    else:
        slope = source.constants[node.inputs[1]].astype(np.float64).reshape(-1, 1)
        y = np.where(x >= 0, x, slope * x)[0 if slope.size == 1 else slice(None)]
        layout = layout if slope.size == 1 else CHANNELS_LAST
    # A pole or a domain error inside the range: infinity is the end of the output's range, and what is no number is 0.0.
    ends = after.dequantize(np.array(after.range)).astype(np.float64)
    value = lowering.builder.constant(after.quantize(np.clip(np.where(np.isnan(y), 0.0, y), *ends)), f"{name}@table", after)
    x_name = lowering.get(node.inputs[0], layout)
    target = lowering.builder.fresh(name + suffix(layout))
    lowering.put(name, layout, lowering.builder.add(Lookup(), [x_name, value], [target], after))
