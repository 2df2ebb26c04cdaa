"""The state of a conversion from QDQ to INTEGER: which integers stand for a float value, in which layouts, and what is not yet rounded.

A float value of rank 4 becomes integers N H W C wherever an operator computes on windows; other layouts are made on demand. A layout
is the permutation p with ``stored = transpose(logical, p)``. Integers of value ``v`` are named ``v`` (logical layout) or ``v@nhwc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qcc.arith import dyadic
from qcc.ir import Array, Encoding, Graph, GraphBuilder, Stage
from qcc.ops import Clamp, Dequantize, Quantize, Requantize, Transpose
from qcc.passes.quantize import Placement

SATURATING = 2.0**24          # a factor that takes every integer but the zero point beyond all that 16 bits hold; more changes nothing
Layout = tuple[int, ...]
CHANNELS_LAST: Layout = (0, 2, 3, 1)


def logical(rank: int) -> Layout:
    return tuple(range(rank))


def suffix(layout: Layout) -> str:
    """What is appended to a float value's name to name its integers in this layout."""
    if layout == logical(len(layout)):
        return ""
    return "@nhwc" if layout == CHANNELS_LAST else "@" + "".join(map(str, layout))


def stored_constant(array: Array, layout: Layout) -> Array:
    """A constant that broadcasts against a logical value, arranged to broadcast against the value as stored."""
    if array.size == 1:
        return array.reshape(())
    full = array.reshape((1,) * (len(layout) - array.ndim) + array.shape).transpose(layout)
    while full.ndim > 1 and full.shape[0] == 1:
        full = full[0]
    return full


@dataclass(frozen=True)
class Term:
    """factor * (value - zero_point), one addend of a real value; `factor` (float64) broadcasts against the value as stored."""

    value: str
    factor: Array
    zero_point: int
    bound: int               # largest |value - zero_point|


@dataclass(frozen=True)
class Exact:
    """A real value that is not rounded yet: a sum of terms, within bounds for all or per channel (logical axis 1 or the last)."""

    terms: tuple[Term, ...]
    layout: Layout
    low: tuple[float, ...] = (float("-inf"),)
    high: tuple[float, ...] = (float("inf"),)


@dataclass
class Lowering:
    """Builds the INTEGER graph in `builder` from the QDQ graph `source`."""

    source: Graph
    placement: Placement
    builder: GraphBuilder
    exact: dict[str, Exact] = field(default_factory=dict)
    stored: dict[str, dict[Layout, str]] = field(default_factory=dict)
    reals: dict[str, str] = field(default_factory=dict)
    flattened: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)   # N K value -> N H W C integers' name, C H W

    @staticmethod
    def start(source: Graph, placement: Placement, integer_inputs: bool) -> Lowering:
        lowering = Lowering(source, placement, GraphBuilder(source.name, Stage.INTEGER))
        for name in source.inputs:
            type = source.types[name]
            if integer_inputs and type.encoding is not None:
                lowering.builder.input(name, replace(type, dtype=type.encoding.dtype))
                lowering.put(name, logical(type.rank), name)
            else:
                lowering.builder.input(name, replace(type, encoding=None))
                lowering.reals[name] = name
        return lowering

    def encoding(self, name: str) -> Encoding:
        encoding = self.source.types[name].encoding
        assert encoding is not None, f"%{name} carries no encoding"
        return encoding

    def layouts(self, name: str) -> Mapping[Layout, str]:
        """The layouts in which the integers of an encoded value exist; a float value is quantized first."""
        if name not in self.stored:
            encoding = self.encoding(name)
            op = Quantize(float(np.float32(1.0 / encoding.scale[0])), encoding.zero_point[0], encoding.dtype)
            value = self.builder.add(op, [self.reals[name]], [self.builder.fresh(f"{name}@integer")], encoding)
            self.put(name, logical(self.source.types[name].rank), value)
        return self.stored[name]

    def get(self, name: str, layout: Layout) -> str:
        """The integers of an encoded value in this layout, transposed if they exist only in another."""
        layouts = self.layouts(name)
        if layout in layouts:
            return layouts[layout]
        held, value = next(iter(layouts.items()))
        permutation = tuple(held.index(axis) for axis in layout)
        target = self.builder.fresh(name + suffix(layout))
        self.put(name, layout, self.builder.add(Transpose(permutation), [value], [target], self.encoding(name)))
        return target

    def put(self, name: str, layout: Layout, value: str) -> None:
        self.stored.setdefault(name, {})[layout] = value

    def best_layout(self, names: tuple[str, ...], rank: int) -> Layout:
        """Channels last if any of the values of this rank has it, else the first layout of the first of them."""
        held = [self.layouts(name) for name in names if self.source.types[name].rank == rank]
        if any(CHANNELS_LAST in layouts for layouts in held):
            return CHANNELS_LAST
        return next(iter(held[0])) if held else logical(rank)

    def real(self, name: str) -> str:
        """The float value in the new graph: a float operator's result, a constant, or dequantized integers."""
        if name not in self.reals:
            rank = self.source.types[name].rank
            if name in self.source.constants:
                value, held = self.builder.constant(self.source.constants[name], name), logical(rank)
            else:
                value, held = self._dequantize(name)
            if held != logical(rank):
                permutation = tuple(held.index(axis) for axis in range(rank))
                value = self.builder.add(Transpose(permutation), [value], [self.builder.fresh(f"{name}@real")])
            self.reals[name] = value
        return self.reals[name]

    def _dequantize(self, name: str) -> tuple[str, Layout]:
        if name in self.exact:
            exact = self.exact[name]
            (term,) = exact.terms
            integers, zero_point, factor, held = term.value, term.zero_point, term.factor, exact.layout
        else:
            encoding = self.encoding(name)
            held, integers = next(iter(self.layouts(name).items()))
            zero_point, factor = encoding.zero_point[0], np.array(encoding.scale[0])
        scale = self.builder.constant(factor.astype(np.float32), f"{name}@scale")
        return self.builder.add(Dequantize(zero_point), [integers, scale], [self.builder.fresh(f"{name}@real")]), held

    def term(self, name: str, layout: Layout, sign: float = 1.0) -> Term:
        """An encoded value as an addend."""
        encoding = self.encoding(name)
        low, high = encoding.range
        zero = encoding.zero_point[0]
        return Term(self.get(name, layout), np.array(sign * encoding.scale[0]), zero, max(zero - low, high - zero))

    def settle(self, name: str, exact: Exact) -> None:
        """Round a value once, if it carries an encoding; else keep it exact for its reader."""
        if self.source.types[name].encoding is None:
            self.exact[name] = exact
            return
        encoding, builder = self.encoding(name), self.builder
        scale, zero = encoding.scale[0], encoding.zero_point[0]
        factors = [np.clip(t.factor / scale, -SATURATING, SATURATING) for t in exact.terms]
        form = dyadic(factors, [t.bound for t in exact.terms], max(abs(v) for v in encoding.dtype.range))
        inputs = []
        for position, (term, multiplier) in enumerate(zip(exact.terms, form.multipliers, strict=True)):
            inputs += [term.value, builder.constant(multiplier, f"{name}@multiplier" + (str(position) if position else ""))]
        bounds = np.array([exact.low, exact.high]) / scale + zero
        low, high = (np.clip(np.rint(b), *encoding.dtype.range).astype(np.int64) for b in bounds)
        low = np.minimum(low, high)      # crossed bounds: the upper one wins
        op = Requantize(tuple(t.zero_point for t in exact.terms), form.shift, zero, int(low.min()), int(high.max()), encoding.dtype)
        plain = len(set(low)) == len(set(high)) == 1
        target = builder.fresh(name + suffix(exact.layout))
        value = builder.add(op, inputs, [target if plain else builder.fresh(f"{target}@unclamped")], encoding)
        if not plain:
            shape = [-1 if axis == 1 else 1 for axis in range(len(exact.layout))]
            limits = [stored_constant(b.reshape(shape).astype(encoding.dtype.numpy), exact.layout) for b in (low, high)]
            ends = [builder.constant(limit, f"{name}@{end}", encoding) for limit, end in zip(limits, ("low", "high"), strict=True)]
            value = builder.add(Clamp(), [value, *ends], [target], encoding)
        self.put(name, exact.layout, value)
