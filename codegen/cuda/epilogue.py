"""The one requantization (qcc/arith.py) on GPUs: 64-bit sums of 32-bit products, one shift, a clamp.

`y = clamp(((acc*m + (r - z2)*m2 + 2^(s-1)) >> s) + z, low, high)`; `-z2*m2` is part of the rounding's constant, and `z` is added after a
clamp to `low - z .. high - z`. Only where a result shifted to its place may not fit 32 bits is it clamped in 64 bits.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np

from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cuda.emit import GpuFunction, constant
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View
from qcc.ir.types import I32, Array

PARAMETERS = View.contiguous(I32, (8,))


class Epilogue(StrEnum):
    """How a 64-bit sum becomes 32 bits; the numbers stand in the constants."""

    HIGH = "high"              # the shift is at least 32: the high half of the sum, shifted by the rest
    BOUNDED = "bounded"        # the shifted sum is proved to fit 32 bits
    SATURATED = "saturated"    # clamped in 64 bits


def epilogue_of(requantization: Requantization, peaks: Array) -> Epilogue:
    """The form for accumulators (bias included) whose magnitude is at most `peaks`, int64 per channel."""
    if requantization.shift >= 32:
        return Epilogue.HIGH
    products = peaks.astype(object) * np.abs(requantization.multiplier.astype(object))
    added = abs(requantization.residual_multiplier) * 255 + (1 << (requantization.shift - 1))
    return Epilogue.BOUNDED if int(np.max(products, initial=0)) + added < 1 << (31 + requantization.shift) else Epilogue.SATURATED


def parameters(requantization: Requantization) -> Array:
    """The PARAMETERS operand: rounding (low and high half), shift, low and high less the zero point, zero point, residual's multiplier."""
    form = requantization
    rounding = (1 << (form.shift - 1)) - form.residual_zero_point * form.residual_multiplier
    numbers = [rounding & 0xFFFFFFFF, rounding >> 32, form.shift, form.low - form.zero_point, form.high - form.zero_point, form.zero_point,
               form.residual_multiplier, 0]
    return np.array(numbers, np.int64).astype(np.uint32).view(np.int32)


class Requantizer:
    """Emits requantizations; the parameters are loaded once, where it is made."""

    def __init__(self, function: GpuFunction, epilogue: Epilogue, numbers: Memory) -> None:
        self.epilogue = epilogue
        low, high, shift, self.low, self.high, self.zero_point, second = (
            function.let(numbers.load(index), name)
            for index, name in enumerate(("round_low", "round_high", "shift", "low", "high", "zero_point", "second")))
        rounding = cast(high, "int64") << constant(32, "int64") | cast(cast(low, "uint32"), "int64")
        self.rounding, self.second = function.let(rounding, "rounding"), second
        self.shift = function.let(shift - 32 if epilogue is Epilogue.HIGH else cast(shift, "int64"), "by")

    def finish(self, accumulator: Any, multiplier: Any, residual: Any | None) -> Any:
        """int32 (with its bias), int32, and maybe a residual as int32 -> the result as int32."""
        from tvm import tirx

        total = cast(accumulator, "int64") * cast(multiplier, "int64") + self.rounding
        if residual is not None:
            total = total + cast(residual, "int64") * cast(self.second, "int64")
        if self.epilogue is Epilogue.HIGH:
            value = cast(total >> constant(32, "int64"), "int32") >> self.shift
        elif self.epilogue is Epilogue.BOUNDED:
            value = cast(total >> self.shift, "int32")
        else:
            low, high = cast(self.low, "int64"), cast(self.high, "int64")
            return cast(tirx.Min(tirx.Max(total >> self.shift, low), high), "int32") + self.zero_point
        return tirx.Min(tirx.Max(value, self.low), self.high) + self.zero_point
