"""From accumulators to bytes on ARM: `y = clamp(((acc * m + (r - z2) * m2 + 2^(s-1)) >> s) + z, low, high)` with sums of 64 bits.

`srshl` by a negative number is that shift with its one rounding (its intermediate result does not wrap). What follows saturates
on the way to bytes: a sum that 16 bits do not hold is far outside of what the last clamp lets through, zero point or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.codegen.arm.intrinsics import LANES
from qcc.codegen.cpu.epilogue import Epilogue, Output, Requantizer
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.emit import Function, Memory, broadcast, cast, constant, llvm, reinterpret, shuffle
from qcc.codegen.kernel import View
from qcc.ir.types import I32, Array

PARAMETERS = View.contiguous(I32, (6,))
MOST_SHIFT = 62    # to the left by less than -63 is another thing


def parameters(form: Requantization) -> Array:
    """The PARAMETERS operand: the shift to the left, zero point, low, high, multiplier and zero point of the residual."""
    return np.array([-form.shift, form.zero_point, form.low, form.high, form.residual_multiplier, form.residual_zero_point], np.int32)


@dataclass(frozen=True, slots=True)
class NeonEpilogue(Epilogue):
    """Every shift is the same code.

    Attributes:
        zero_point: there is one.
        residual_lift: the residual is multiplied by so many powers of two.
    """

    zero_point: bool
    residual_lift: int

    @staticmethod
    def of(form: Requantization) -> NeonEpilogue:
        return NeonEpilogue(form.residual_zero_point != 0, form.low > 0, form.high < 255, form.zero_point != 0, form.residual_lift)


class NeonRequantizer(Requantizer):
    """Emits the requantization; the numbers of the layer are loaded once, where it is made."""

    def __init__(
        self, function: Function, epilogue: NeonEpilogue, multipliers: Memory, parameters: Memory, destination: Memory
    ) -> None:
        super().__init__(function, LANES, destination)
        self.epilogue, self.multipliers = epilogue, multipliers
        numbers = [function.let(parameters.load(index)) for index in range(PARAMETERS.shape[0])]
        self.shift = broadcast(cast(numbers[0], "int64"), 2)
        self.zero_point = broadcast(cast(numbers[1], "int16"), 8)
        self.low, self.high = (broadcast(cast(bound, "uint8"), 16) for bound in numbers[2:4])
        self.residual_multiplier, self.residual_zero_point = (broadcast(number, LANES) for number in numbers[4:6])

    def scale(self, output: Output) -> Any:
        """The shifted sums of four lanes, saturated to int32."""
        let = self.function.let
        totals = _products(output.accumulator, let(self.multipliers.load(output.multipliers, LANES)))
        if output.residual is not None:
            residual = cast(output.residual, "int32")
            residual = residual - self.residual_zero_point if self.epilogue.residual_zero_point else residual
            residual = residual << constant(self.epilogue.residual_lift, "int32", LANES)
            more = _products(let(residual), self.residual_multiplier)
            totals = [total + added for total, added in zip(totals, more, strict=True)]
        shifted = [llvm("llvm.aarch64.neon.srshl", "int64x2", total, self.shift) for total in totals]
        return let(shuffle([llvm("llvm.aarch64.neon.sqxtn", "int32x2", total) for total in shifted], range(LANES)))

    def narrow(self, vectors: Sequence[Any]) -> Any:
        """Up to four int32x4 -> uint8x16, clamped, in order."""
        from tvm import tirx

        four = [vectors[min(index, len(vectors) - 1)] for index in range(4)]
        halves = [llvm("llvm.aarch64.neon.sqxtn", "int16x4", vector) for vector in four]
        words = [shuffle(halves[index : index + 2], range(8)) for index in (0, 2)]
        if self.epilogue.zero_point:
            words = [llvm("llvm.sadd.sat", "int16x8", word, self.zero_point) for word in words]
        packed = shuffle([llvm("llvm.aarch64.neon.sqxtun", "int8x8", word) for word in words], range(16))
        packed = self.function.let(reinterpret(packed, "uint8x16"))
        packed = tirx.Max(packed, self.low) if self.epilogue.clamps_low else packed
        return self.function.let(tirx.Min(packed, self.high) if self.epilogue.clamps_high else packed)

    def in_order(self, packed: Any) -> Any:
        return packed


def _products(values: Any, factors: Any) -> list[Any]:
    """int32x4 * int32x4 -> the lower and the upper two products of 64 bits."""
    halves = (range(2), range(2, 4))
    return [llvm("llvm.aarch64.neon.smull", "int64x2", shuffle([values], half), shuffle([factors], half)) for half in halves]
