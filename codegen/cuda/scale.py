"""The one requantization (qcc/arith.py) of any number of terms, an element at a time, in 64 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.codegen.cuda.emit import GpuFunction, constant
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize

_FIXED = 6      # numbers before the zero points


@dataclass(frozen=True, slots=True)
class Scale:
    """The part of a requantization that is code.

    Attributes:
        wide: sources less their zero points may need more than 32 bits.
    """

    wide: bool


def numbers_view(sources: int) -> View:
    """The operand that holds the numbers, for so many sources."""
    return View.contiguous(I32, (_FIXED + sources,))


def scale_of(op: Requantize, zero_points: Sequence[int], large: bool) -> tuple[Scale, Array]:
    """The code of a requantization, and int32 numbers: rounding (low and high half), shift, bounds less the zero point, zero point, and
    the zero points of the sources.

    Args:
        large: whether there are sources of more than 16 bits.
    """
    rounding = 1 << (op.shift - 1)
    bounds = (op.low - op.zero_point, op.high - op.zero_point)
    numbers = [rounding & 0xFFFFFFFF, rounding >> 32, op.shift, *bounds, op.zero_point, *zero_points]
    return Scale(large and any(zero_points)), np.array(numbers, np.int64).astype(np.uint32).view(np.int32)


class Scaler:
    """Emits the requantization of elements; the numbers are loaded once, where it is made."""

    def __init__(self, function: GpuFunction, scale: Scale, numbers: Memory, sources: int) -> None:
        self.function, self.scale = function, scale
        loaded = [function.let(numbers.load(index), "number") for index in range(_FIXED + sources)]
        low, high, shift, self.low, self.high, self.zero_point = loaded[:_FIXED]
        self.zero_points, self.shift = loaded[_FIXED:], cast(shift, "int64")
        rounding = cast(high, "int64") << constant(32, "int64") | cast(cast(low, "uint32"), "int64")
        self.rounding = function.let(rounding, "rounding")

    def centred(self, values: Sequence[Any]) -> list[Any]:
        """Sources of any integer type, less their zero points."""
        kind = "int64" if self.scale.wide else "int32"
        return [cast(x, kind) - cast(z, kind) for x, z in zip(values, self.zero_points, strict=True)]

    def finish(self, terms: Sequence[Any], multipliers: Sequence[Any]) -> Any:
        """Centred terms and int32 multipliers, equally many -> the result as int32."""
        from tvm import tirx

        total = self.rounding
        for x, m in zip(terms, multipliers, strict=True):
            total = total + cast(x, "int64") * cast(m, "int64")
        shifted = self.function.let(total >> self.shift, "shifted")
        low, high = cast(self.low, "int64"), cast(self.high, "int64")
        return cast(tirx.Min(tirx.Max(shifted, low), high), "int32") + self.zero_point
