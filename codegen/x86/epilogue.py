"""From accumulators to bytes: one exact integer requantization, shared by every kernel that accumulates in int32 vectors.

`y = clamp(((acc * m + (r - z2) * m2 + 2^(s-1)) >> s) + z, low, high)` with a 64-bit sum; the bias is in `acc` from the start.

Where s > 32 the rounding `2^(s-1)` has no bits in the low half of the sum, so that the sum's high half `h` is computed without it,
`y = ((h + 2^(t-1)) >> t) + z` with `t = s - 32`, and the rest is done on 16-bit numbers, two vectors at a time: a saturating pack, a
saturating sum with `2^(t-1) + (z << t)`, a shift. A saturated `h` saturates the result if t <= 7; for a larger t, `h` is shifted by `t - 7`
before (two floor shifts are one). Where s <= 32 (most sums with a residual have s = 30 or 31), the whole sum is
multiplied by a power of two such that s becomes 33, if the multipliers fit 32 bits then; else the sum is shifted in 64 bits.

Products are made of even and of odd lanes; one cheap shuffle brings both together again, into the order of the channels if the
accumulators' lanes are in `PAIRED` order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.arith import INT32_MAX
from qcc.codegen.cpu.epilogue import Epilogue, Output, Requantizer
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.emit import Function, Memory, broadcast, cast, constant, element_of, llvm, reinterpret, shuffle
from qcc.codegen.kernel import View
from qcc.ir.types import I32, Array

PARAMETERS = View.contiguous(I32, (10,))
LEAST_SHIFT = 33       # of a sum of which only the high half matters
MOST_SHIFT = 62        # of a sum of 64 bits
MOST_LIFT = 22         # bits; a residual less its zero point still fits 32 bits, and its product 62
PACKED_SHIFT = 7       # bits that are shifted after narrowing to 16 bits: of 2^15 >> 7, bytes are saturated
PAIRED = (0, 2, 1, 3)  # channels of four lanes: those of even lanes come first when products are brought together


def lift_of(form: Requantization) -> int | None:
    """The power of two by which the sum is multiplied such that its high half is enough; None where something would not fit.

    Where it can, it lifts a residual by whole bytes, which costs nothing where the residual's bytes are moved anyway. The 64-bit sum
    fits then: an accumulator times a multiplier is at most 2^62, and so is `255 * 2^31 << MOST_LIFT`.
    """
    least = max(0, LEAST_SHIFT - form.shift)
    largest = int(np.abs(form.multiplier.astype(np.int64)).max(initial=0))
    wanted = [least + -(least + form.residual_lift) % 8, least] if form.residual_multiplier else [least]
    return next((lift for lift in wanted if lift + form.residual_lift <= MOST_LIFT and largest << lift <= INT32_MAX), None)


def lifted_multipliers(form: Requantization) -> Array:
    """As kernels take them: int32."""
    return np.asarray(form.multiplier.astype(np.int32) << np.int32(lift_of(form) or 0))


def paired_lanes(channels: Array) -> Array:
    """The lanes (last axis) of accumulators that will be requantized."""
    return channels.reshape(*channels.shape[:-1], -1, len(PAIRED))[..., PAIRED].reshape(channels.shape)


def parameters_of(form: Requantization) -> Array:
    """The PARAMETERS operand: shift of 32 or 64 bits, shift and rounding (with the zero point) of 16 bits, low, high, multiplier,
    zero point and lift of the residual, rounding of a 64-bit sum (low and high half)."""
    lift = lift_of(form)
    left = 0 if lift is None else form.shift + lift - 32
    packed = min(left, PACKED_SHIFT)
    rounding = 1 << (form.shift - 1)
    packed_rounding = (1 << packed >> 1) + (form.zero_point << packed)
    numbers = [form.shift if lift is None else left - packed, packed, packed_rounding, form.low, form.high,
               form.residual_multiplier, form.residual_zero_point, (lift or 0) + form.residual_lift,
               rounding & 0xFFFFFFFF, rounding >> 32]
    return np.array(numbers, np.int64).astype(np.uint32).view(np.int32)


@dataclass(frozen=True, slots=True)
class HalvesEpilogue(Epilogue):
    """The zero point is part of the rounding.

    Attributes:
        halves: only the high halves of the sums matter.
        deep: they are shifted before they are narrowed, too.
        residual_byte: of a product's operand, where a residual's byte is lifted to; None where it must be shifted.
    """

    halves: bool
    deep: bool
    residual_byte: int | None = None

    @staticmethod
    def of(form: Requantization) -> HalvesEpilogue:
        lift = lift_of(form)
        deep = lift is None or form.shift + lift > 32 + PACKED_SHIFT
        more = (lift or 0) + form.residual_lift
        byte = more // 8 if form.residual_multiplier and more % 8 == 0 else None
        return HalvesEpilogue(form.residual_zero_point != 0, form.low > 0, form.high < 255, lift is not None, deep, byte)


class HalvesRequantizer(Requantizer):
    """Emits the requantization; the numbers of the layer are loaded once, where it is made.

    Accumulators whose lanes are in PAIRED order come out in the order of the channels, and the other way round; residuals always stand in
    the order in which results come out.
    """

    def __init__(
        self, function: Function, epilogue: HalvesEpilogue, lanes: int, multipliers: Memory, parameters: Memory, destination: Memory
    ) -> None:
        super().__init__(function, lanes, destination)
        self.epilogue, self.multipliers = epilogue, multipliers
        numbers = [function.let(parameters.load(index)) for index in range(PARAMETERS.shape[0])]
        self.shift = broadcast(numbers[0], lanes) if epilogue.halves else broadcast(cast(numbers[0], "int64"), lanes // 2)
        self.packed_shift = function.let(cast(numbers[1], "int16"))
        self.packed_rounding = broadcast(cast(numbers[2], "int16"), 2 * lanes)
        self.low, self.high = (broadcast(cast(bound, "uint8"), 4 * lanes) for bound in numbers[3:5])
        self.residual_multiplier = broadcast(cast(numbers[5], "int64"), lanes // 2)
        self.residual_zero_point, self.lift = (broadcast(number, lanes) for number in numbers[6:8])
        self.placed_zero_point = broadcast(cast(numbers[6] << numbers[7], "int64"), lanes // 2)
        rounding = cast(numbers[9], "int64") << constant(32, "int64") | cast(cast(numbers[8], "uint32"), "int64")
        self.rounding = broadcast(rounding, lanes // 2)

    def scale(self, output: Output) -> Any:
        """High halves of acc * m + (r - z2) * m2, shifted as far as `narrow` cannot, as int32; saturated to 16 bits at least."""
        let = self.function.let
        multipliers = let(self.multipliers.load(output.multipliers, self.lanes))
        values = self._even_odd(output.accumulator)
        even, odd = values[0] * self._pick(multipliers, (0, 2)), values[1] * self._pick(multipliers, (1, 3))
        if output.residual is not None:
            even, odd = (total + self._residual(output.residual, lanes) * self.residual_multiplier
                         for total, lanes in ((even, (0, 1)), (odd, (2, 3))))
        if not self.epilogue.halves:
            even, odd = (self._saturate((total + self.rounding) >> self.shift) for total in (even, odd))
            return let(self._interleave(let(even), let(odd), 0))
        highs = self._interleave(let(even), let(odd), 1)
        return let(highs >> self.shift if self.epilogue.deep else highs)

    def _residual(self, residual: Any, lanes: tuple[int, int]) -> Any:
        """Two of every four channels of a residual, less its zero point and lifted, as int64xL/2."""
        epilogue = self.epilogue
        if element_of(residual) == "uint8" and epilogue.residual_byte is not None:
            own = [four + lane for four in range(0, self.lanes, 4) for lane in lanes]
            zeros = constant(0, "uint8", 4 * self.lanes)
            order = [channel if byte == epilogue.residual_byte else 4 * self.lanes for channel in own for byte in range(8)]
            placed = reinterpret(shuffle([shuffle([residual] * 4, range(4 * self.lanes)), zeros], order), f"int64x{self.lanes // 2}")
            return placed - self.placed_zero_point if epilogue.residual_zero_point else placed
        wide = cast(residual, "int32")
        wide = wide - self.residual_zero_point if epilogue.residual_zero_point else wide
        return self._pick(self.function.let(wide << self.lift), lanes)

    def _pick(self, vector: Any, lanes: tuple[int, int]) -> Any:
        """int32xL -> int64xL/2: two of every four lanes.

        A shuffle, then the low halves with their sign: LLVM sees also across blocks of code that 32 bits are all there is to multiply.
        """
        chosen = [four + lane for four in range(0, self.lanes, 4) for lane in lanes for _ in range(2)]
        by32 = constant(32, "int64", self.lanes // 2)
        return (reinterpret(shuffle([vector], chosen), f"int64x{self.lanes // 2}") << by32) >> by32

    def _even_odd(self, vector: Any) -> tuple[Any, Any]:
        """int32xL -> its even and its odd lanes as int64."""
        by32 = constant(32, "int64", self.lanes // 2)
        wide = self.function.let(reinterpret(vector, f"int64x{self.lanes // 2}"))
        return (wide << by32) >> by32, wide >> by32

    def _saturate(self, value: Any) -> Any:
        from tvm import tirx

        bound = [constant(limit, "int64", self.lanes // 2) for limit in (-(1 << 15), (1 << 15) - 1)]
        return tirx.Min(tirx.Max(value, bound[0]), bound[1])

    def _interleave(self, even: Any, odd: Any, half: int) -> Any:
        """The low (0) or high (1) halves of the 64-bit lanes, in the order of the channels."""
        vectors = [reinterpret(value, f"int32x{self.lanes}") for value in (even, odd)]
        fours = range(half, self.lanes + half, 4)
        return shuffle(vectors, [four + pair + side * self.lanes for four in fours for side in (0, 1) for pair in (0, 2)])

    def narrow(self, vectors: Sequence[Any]) -> Any:
        """Up to four int32xL -> uint8x4L, clamped; the four interleave: groups of four bytes, one per vector, in every 128 bits."""
        from tvm import tirx

        lanes, let = self.lanes, self.function.let
        prefix = "llvm.x86.avx512." if lanes == 16 else "llvm.x86.avx2."
        suffix = ".512" if lanes == 16 else ""
        four = [vectors[min(index, len(vectors) - 1)] for index in range(4)]
        words = [llvm(f"{prefix}packssdw{suffix}", f"int16x{2 * lanes}", four[index], four[index + 1]) for index in (0, 2)]
        words = [llvm("llvm.sadd.sat", f"int16x{2 * lanes}", word, self.packed_rounding) for word in words]
        words = [self._shift(word) for word in words]
        packed = reinterpret(llvm(f"{prefix}packuswb{suffix}", f"int8x{4 * lanes}", *words), f"uint8x{4 * lanes}")
        packed = tirx.Max(packed, self.low) if self.epilogue.clamps_low else packed
        return let(tirx.Min(packed, self.high) if self.epilogue.clamps_high else packed)

    def _shift(self, words: Any) -> Any:
        """By the same count in all 16-bit lanes; AVX2 has no instruction with a count per lane, AVX-512's is the cheaper one."""
        if self.lanes == 16:
            return words >> broadcast(self.packed_shift, 2 * self.lanes)
        count = reinterpret(broadcast(cast(self.packed_shift, "int64"), 2), "int16x8")
        return llvm("llvm.x86.avx2.psra.w", f"int16x{2 * self.lanes}", words, count)

    def in_order(self, packed: Any) -> Any:
        """The bytes of each vector together: what `narrow` interleaved."""
        lanes, let = self.lanes, self.function.let
        groups = lanes // 4    # of 128 bits, within which the packs work
        order = [group * 4 + vector for vector in range(4) for group in range(groups)]
        return let(reinterpret(shuffle([let(reinterpret(packed, f"int32x{lanes}"))], order), f"uint8x{4 * lanes}"))
