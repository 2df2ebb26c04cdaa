"""From accumulators to bytes: one exact integer requantization, shared by every kernel that accumulates in int32 vectors.

`y = clamp(((acc + bias) * m + r * m2 + 2^(s-1)) >> s) + z, low, high)` with a 64-bit sum. Everything that does not depend on the
accumulator or the residual is one 64-bit constant per channel, so that a vector costs two products, two sums, and a 32-bit shift
of the high halves where s >= 32. Four vectors are narrowed together: two saturating packs and one permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.arith import requantize
from qcc.codegen.emit import Function, Memory, broadcast, cast, constant, llvm, reinterpret, shuffle, store_first
from qcc.codegen.kernel import View
from qcc.ir.types import I32, Array

PARAMETERS = View.contiguous(I32, (5,))    # shift (less 32 where wide), low, high, residual multiplier, late zero point
LARGEST_FOLDED_SHIFT = 54                  # 255 << 54 and a product below 2^62 still add up to less than 2^63


def is_bytes(view: View) -> bool:
    """Whether a view's elements are unsigned and lie one per byte (types of fewer than eight bits, too)."""
    return view.dtype.kind == "u" and view.dtype.bytes == 1


@dataclass(frozen=True, eq=False)
class Requantization:
    """How int32 accumulators become u8 values.

    Attributes:
        multiplier: int32, per channel [C] or a scalar [].
        shift: 1..62.
        zero_point, low, high: within 0..255.
        residual_multiplier, residual_zero_point: of the second term, when a residual is added.
    """

    multiplier: Array
    shift: int
    zero_point: int = 0
    low: int = 0
    high: int = 255
    residual_multiplier: int = 0
    residual_zero_point: int = 0

    def evaluate(self, accumulator: Array, residual: Array | None = None) -> Array:
        """The normative meaning: int32 [..., C] (bias included) and u8 [..., C] -> u8 [..., C]."""
        terms = [(accumulator, self.multiplier, 0)]
        if residual is not None:
            terms.append((residual, np.array(self.residual_multiplier, np.int32), self.residual_zero_point))
        return requantize(terms, self.shift, self.zero_point, self.low, self.high).astype(np.uint8)

    @property
    def folds_zero_point(self) -> bool:
        return self.shift <= LARGEST_FOLDED_SHIFT

    def constants(self, bias: Array) -> Array:
        """Everything added to `acc * m`, int64 [C]: bias, rounding, the zero points."""
        total = bias.astype(np.int64) * self.multiplier.astype(np.int64) + (1 << (self.shift - 1))
        total = total - self.residual_zero_point * self.residual_multiplier
        return total + (self.zero_point << self.shift) if self.folds_zero_point else total

    def parameters(self) -> Array:
        """The PARAMETERS operand."""
        shift = self.shift - 32 if self.shift >= 32 else self.shift
        late = 0 if self.folds_zero_point else self.zero_point
        return np.array([shift, self.low, self.high, self.residual_multiplier, late], np.int32)


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The part of a requantization that is code: numbers stand in the constants.

    Attributes:
        wide_shift: s >= 32, only the high halves of the sums matter.
        clamps: low and high are not just 0 and 255 (which narrowing does anyway).
        late_zero_point: the zero point is too large after the shift to be folded into the 64-bit sum.
    """

    wide_shift: bool
    clamps: bool
    late_zero_point: bool

    @staticmethod
    def of(requantization: Requantization) -> Epilogue:
        whole = (requantization.low, requantization.high) == (0, 255)
        return Epilogue(requantization.shift >= 32, not whole, not requantization.folds_zero_point)


@dataclass(frozen=True)
class Output:
    """One vector to requantize, and where it goes: `channel` elements after the address of its pixel.

    Attributes:
        accumulator: int32xL.
        constants: where its channels' constants lie, in int64 elements.
        pixel: offset of the pixel in the destination.
        channel: offset of the first lane from there; vectors with the same pixel may be stored together.
        width: lanes to store.
        residual: the bytes to add, as int32xL, or None.
    """

    accumulator: Any
    constants: Any
    pixel: Any
    channel: int
    width: int
    residual: Any = None


class Requantizer:
    """Emits the requantization; the numbers of the layer are loaded once, where it is made."""

    def __init__(
        self, function: Function, epilogue: Epilogue, lanes: int, constants: Memory, parameters: Memory, destination: Memory
    ) -> None:
        self.function, self.epilogue, self.lanes = function, epilogue, lanes
        self.constants, self.destination = constants, destination
        shift, low, high, multiplier, late = (function.let(parameters.load(index)) for index in range(5))
        self.shift = broadcast(shift, lanes) if epilogue.wide_shift else broadcast(cast(shift, "int64"), lanes // 2)
        self.low, self.high = (broadcast(cast(bound, "uint8"), 4 * lanes) for bound in (low, high))
        self.residual_multiplier = broadcast(cast(multiplier, "int64"), lanes // 2)
        self.late_zero_point = broadcast(cast(late, "int16"), 2 * lanes)

    def store(self, outputs: Sequence[Output]) -> None:
        """Requantize and store, four vectors at a time."""
        for start in range(0, len(outputs), 4):
            four = outputs[start : start + 4]
            packed = self.narrow([self.scale(output) for output in four])
            self._write(self.in_order(packed), four)

    def scale(self, output: Output) -> Any:
        """(acc * m + constants + residual) >> s as int32, saturated to 16 bits at least."""
        half = self.lanes // 2
        wide = f"int64x{half}"
        by32 = constant(32, "int64", half)

        def low(value: Any) -> Any:
            return (value << by32) >> by32

        def number(index: int) -> Any:
            return self.constants.load(output.constants + index * half, half)

        let = self.function.let
        accumulator = let(reinterpret(output.accumulator, wide))
        even = low(accumulator) * low(number(0)) + number(2)
        odd = (accumulator >> by32) * low(number(1)) + number(3)
        if output.residual is not None:
            residual = let(reinterpret(output.residual, wide))
            even = even + low(residual) * self.residual_multiplier
            odd = odd + (residual >> by32) * self.residual_multiplier
        even, odd = let(even), let(odd)
        if self.epilogue.wide_shift:
            return let(self._interleave(even, odd, 1) >> self.shift)
        return let(self._interleave(self._saturate(even >> self.shift), self._saturate(odd >> self.shift), 0))

    def _saturate(self, value: Any) -> Any:
        from tvm import tirx

        bound = [constant(limit, "int64", self.lanes // 2) for limit in (-(1 << 15), (1 << 15) - 1)]
        return tirx.Min(tirx.Max(value, bound[0]), bound[1])

    def _interleave(self, even: Any, odd: Any, half: int) -> Any:
        """The low (0) or high (1) halves of the 64-bit lanes, back in the order of the channels."""
        vectors = [reinterpret(value, f"int32x{self.lanes}") for value in (even, odd)]
        return shuffle(vectors, [pair + half + side * self.lanes for pair in range(0, self.lanes, 2) for side in (0, 1)])

    def narrow(self, vectors: Sequence[Any]) -> Any:
        """Up to four int32xL -> uint8x4L, clamped; the four interleave: groups of four bytes, one per vector, in every 128 bits."""
        from tvm import tirx

        lanes, let = self.lanes, self.function.let
        prefix = "llvm.x86.avx512." if lanes == 16 else "llvm.x86.avx2."
        suffix = ".512" if lanes == 16 else ""
        four = [vectors[min(index, len(vectors) - 1)] for index in range(4)]
        words = [llvm(f"{prefix}packssdw{suffix}", f"int16x{2 * lanes}", four[index], four[index + 1]) for index in (0, 2)]
        if self.epilogue.late_zero_point:
            words = [llvm("llvm.sadd.sat", f"int16x{2 * lanes}", word, self.late_zero_point) for word in words]
        packed = reinterpret(llvm(f"{prefix}packuswb{suffix}", f"int8x{4 * lanes}", *words), f"uint8x{4 * lanes}")
        if self.epilogue.clamps:
            packed = tirx.Min(tirx.Max(packed, self.low), self.high)
        return let(packed)

    def in_order(self, packed: Any) -> Any:
        """The bytes of each vector together: what `narrow` interleaved."""
        lanes, let = self.lanes, self.function.let
        groups = lanes // 4    # of 128 bits, within which the packs work
        order = [group * 4 + vector for vector in range(4) for group in range(groups)]
        return let(reinterpret(shuffle([let(reinterpret(packed, f"int32x{lanes}"))], order), f"uint8x{4 * lanes}"))

    def _write(self, packed: Any, outputs: Sequence[Output]) -> None:
        """Vectors that are neighbours in memory are stored by one instruction."""
        index = 0
        while index < len(outputs):
            first, run = outputs[index], 1
            while first.width == self.lanes and index + run < len(outputs):
                other = outputs[index + run]
                if other.pixel is not first.pixel or (other.channel, other.width) != (first.channel + run * self.lanes, self.lanes):
                    break
                run += 1
            store_first(self.destination, first.pixel + first.channel, packed, first.width * run, index * self.lanes)
            index += run
