"""The one requantization (qcc/arith.py) of any number of terms, as x86 vector code. There are two ways, both exact:

* narrow, for one or two u8 terms: multipliers are split as `m = h * 2**16 + l`, one `pmaddwd` multiplies the pair (x1 - z1, x2 - z2)
  by (h1, h2), another by (l1, l2), and `sum >> 16 == H + ((L + r) >> 16)` with r the rounding's low half, all in 32 bits;
* wide, for everything else: 64-bit products of even and odd lanes. The result is the high halves of the sums, shifted first where s < 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from qcc.codegen.emit import Function, Memory, broadcast, cast, constant, lanes_of, llvm, reinterpret, shuffle
from qcc.codegen.kernel import View
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize

_TINY, _INT32 = 1 << 15, 1 << 31
_FIXED = 7         # parameters before the zero points


class Sum(StrEnum):
    """How the 64-bit sum is computed and shifted."""

    NARROW = "narrow"            # two 32-bit sums of 16-bit products; u8 terms only
    WIDE = "wide"                # s >= 32: high halves of 64-bit sums
    BOUNDED = "bounded"          # s < 32, and the shifted sum fits 32 bits: shift left first, then high halves
    SATURATED = "saturated"      # s < 32: shift and clamp in 64 bits


@dataclass(frozen=True)
class Scaling:
    """The numbers of one requantization as kernels take them.

    Attributes:
        method: what code they are for.
        parameters: int32 [7 + terms]: the shift that is left to do, rounding (low and high half), low and high less the zero point,
            the zero point, the shift that comes first, the zero points of the sources.
        multipliers: int32 arrays that broadcast to the output: (H, L) pairs of 16 bits if narrow, else one per term.
    """

    method: Sum
    parameters: Array
    multipliers: tuple[Array, ...]


def parameters_view(sources: int) -> View:
    """The operand that holds `Scaling.parameters` for so many sources."""
    return View.contiguous(I32, (_FIXED + sources,))


def scaling(op: Requantize, multipliers: Sequence[Array], peaks: Sequence[int], zero_points: Sequence[int], narrow: bool) -> Scaling:
    """Choose how to compute a requantization, and its constants.

    Args:
        multipliers: per term, int32 of any shape.
        peaks: per term an upper bound of |x - z|.
        zero_points: per source.
        narrow: terms are at most two, of u8 values.
    """
    bound = sum(int(np.abs(m.astype(np.int64)).max(initial=0)) * p for m, p in zip(multipliers, peaks, strict=True)) + (1 << (op.shift - 1))
    split = [((m.astype(np.int64) + _TINY) >> 16, ((m.astype(np.int64) + _TINY) & 0xFFFF) - _TINY) for m in multipliers]
    fits = all(int(high.max(initial=0)) < _TINY for high, _ in split)
    if narrow and fits and max(peaks) < _TINY and op.shift >= 16 and bound < (_INT32 - 2) << 16:
        first, left, rounding = 0, op.shift - 16, 1 << (op.shift - 1)
        halves = rounding & 0xFFFF, rounding >> 16
        pairs = tuple(_pairs([term[half] for term in split]) for half in (0, 1))
        return Scaling(Sum.NARROW, _parameters(op, left, halves, first, zero_points), pairs)
    method = Sum.WIDE if op.shift >= 32 else Sum.BOUNDED if bound < 1 << (31 + op.shift) else Sum.SATURATED
    left, first = (op.shift - 32, 0) if method is Sum.WIDE else (0, 32 - op.shift) if method is Sum.BOUNDED else (0, op.shift)
    rounding = 1 << (op.shift - 1)
    halves = rounding & 0xFFFFFFFF, rounding >> 32
    return Scaling(method, _parameters(op, left, halves, first, zero_points), tuple(m.astype(np.int32) for m in multipliers))


def _parameters(op: Requantize, left: int, rounding: tuple[int, int], first: int, zero_points: Sequence[int]) -> Array:
    numbers = [left, *rounding, op.low - op.zero_point, op.high - op.zero_point, op.zero_point, first, *zero_points]
    return np.array(numbers, np.int64).astype(np.uint32).view(np.int32)


def _pairs(terms: Sequence[Array]) -> Array:
    """The 16-bit numbers of one or two terms side by side in 32 bits."""
    second = terms[1] if len(terms) == 2 else np.zeros((), np.int64)
    packed = (terms[0] & 0xFFFF) | (second & 0xFFFF) << 16
    return packed.astype(np.uint32).view(np.int32)


class Scaler:
    """Emits the requantization of vectors; the numbers are loaded once, where it is made.

    Args:
        parameters: the operand of `parameters_view`.
        sources: how many zero points it has.
        lanes: elements of a full vector of 32 bits.
        dtype: of the results.
    """

    def __init__(self, function: Function, method: Sum, parameters: Memory, sources: int, lanes: int, dtype: str) -> None:
        self.function, self.method, self.lanes, self.dtype = function, method, lanes, dtype
        numbers = [function.let(parameters.load(index)) for index in range(_FIXED + sources)]
        self.left, self.round_low, self.round_high, self.low, self.high, self.zero_point, self.first = numbers[:_FIXED]
        self.zero_points = numbers[_FIXED:]
        wide = cast(self.round_high, "int64") << constant(32, "int64") | cast(cast(self.round_low, "uint32"), "int64")
        self.rounding = function.let(wide)

    def centred(self, values: Sequence[Any]) -> list[Any]:
        """Sources of any integer type, less their zero points, as int32."""
        return [self.function.let(cast(x, "int32") - self._spread(z, lanes_of(x))) for x, z in zip(values, self.zero_points, strict=True)]

    def finish(self, terms: Sequence[Any], multipliers: Sequence[Any]) -> Any:
        """Centred int32 terms and int32 multipliers or pairs of them, equally many lanes -> results of `dtype`."""
        from tvm import tirx

        lanes = lanes_of(terms[0])
        total = self._narrow(terms, multipliers) if self.method is Sum.NARROW else self._wide(terms, multipliers)
        low, high, zero = (self._spread(number, lanes) for number in (self.low, self.high, self.zero_point))
        return cast(tirx.Min(tirx.Max(total, low), high) + zero, self.dtype)

    def _narrow(self, terms: Sequence[Any], pairs: Sequence[Any]) -> Any:
        lanes, let = lanes_of(terms[0]), self.function.let
        if lanes == self.lanes:
            words = f"int16x{2 * lanes}"
            packed = terms[0] & constant(0xFFFF, "int32", lanes)
            packed = packed | terms[1] << constant(16, "int32", lanes) if len(terms) == 2 else packed
            pair = let(reinterpret(packed, words))
            name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
            high, low = (llvm(name, f"int32x{lanes}", pair, reinterpret(factors, words)) for factors in pairs)
        else:
            high, low = (self._products(terms, factors) for factors in pairs)
        by16 = constant(16, "int32", lanes)
        total = high + self._spread(self.round_high, lanes) + ((low + self._spread(self.round_low, lanes)) >> by16)
        return let(total >> self._spread(self.left, lanes))

    def _products(self, terms: Sequence[Any], pairs: Any) -> Any:
        """What one multiply-add of 16-bit pairs gives, for vectors shorter than a register."""
        by16 = constant(16, "int32", lanes_of(terms[0]))
        pairs = self.function.let(pairs)
        total = terms[0] * ((pairs << by16) >> by16)
        return total + terms[1] * (pairs >> by16) if len(terms) == 2 else total

    def _spread(self, scalar: Any, lanes: int) -> Any:
        return broadcast(scalar, lanes) if lanes > 1 else scalar

    def _wide(self, terms: Sequence[Any], multipliers: Sequence[Any]) -> Any:
        lanes, let = lanes_of(terms[0]), self.function.let
        if lanes == 1:
            total = self.rounding
            for x, m in zip(terms, multipliers, strict=True):
                total = total + cast(x, "int64") * cast(m, "int64")
            return let(cast(self._shifted(total, 1), "int32"))
        half = lanes // 2
        by32 = constant(32, "int64", half)
        even = odd = self._spread(self.rounding, half)
        for x, m in zip(terms, multipliers, strict=True):
            values, factors = let(reinterpret(let(x), f"int64x{half}")), let(reinterpret(let(m), f"int64x{half}"))
            even = even + ((values << by32) >> by32) * ((factors << by32) >> by32)
            odd = odd + (values >> by32) * (factors >> by32)
        vectors = [let(reinterpret(let(self._aligned(total, half)), f"int32x{lanes}")) for total in (even, odd)]
        chosen = let(shuffle(vectors, [pair + 1 + side * lanes for pair in range(0, lanes, 2) for side in (0, 1)]))
        return let(chosen >> self._spread(self.left, lanes))

    def _aligned(self, total: Any, lanes: int) -> Any:
        """The sum moved so that its high half is the result, but for the shift that is left to do."""
        if self.method is Sum.WIDE:
            return total
        by = self._spread(cast(self.first, "int64"), lanes)
        if self.method is Sum.BOUNDED:
            return total << by
        return self._saturated(total >> by, lanes) << constant(32, "int64", lanes)

    def _saturated(self, value: Any, lanes: int) -> Any:
        from tvm import tirx

        low, high = (constant(bound, "int64", lanes) for bound in (-_INT32, _INT32 - 1))
        return tirx.Min(tirx.Max(value, low), high)

    def _shifted(self, total: Any, lanes: int) -> Any:
        """A scalar sum, shifted all the way."""
        aligned = self._aligned(total, lanes)
        return (aligned >> constant(32, "int64")) >> cast(self.left, "int64")
