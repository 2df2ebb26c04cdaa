"""How accumulators become bytes, as numbers: what the epilogues of all dense and depthwise kernels are planned from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qcc.arith import requantize
from qcc.codegen.kernel import View
from qcc.ir.types import Array


def is_bytes(view: View) -> bool:
    """Whether a view's elements are unsigned and lie one per byte (types of fewer than eight bits, too)."""
    return view.dtype.is_byte


@dataclass(frozen=True, eq=False)
class Requantization:
    """How int32 accumulators become u8 values.

    Attributes:
        multiplier: int32, per channel [C] or a scalar [].
        shift: 1..62.
        zero_point, low, high: within 0..255.
        residual_multiplier, residual_zero_point: of the second term, when a residual is added.
        residual_lift: the residual, less its zero point, is multiplied by so many powers of two.
    """

    multiplier: Array
    shift: int
    zero_point: int = 0
    low: int = 0
    high: int = 255
    residual_multiplier: int = 0
    residual_zero_point: int = 0
    residual_lift: int = 0

    def evaluate(self, accumulator: Array, residual: Array | None = None) -> Array:
        """The normative meaning: int32 [..., C] (bias included) and u8 [..., C] -> u8 [..., C]."""
        terms = [(accumulator, self.multiplier, 0)]
        if residual is not None:
            terms.append((residual, np.array(self.residual_multiplier << self.residual_lift, np.int64), self.residual_zero_point))
        return requantize(terms, self.shift, self.zero_point, self.low, self.high).astype(np.uint8)

    def of(self, channels: slice) -> Requantization:
        """That of some of the channels."""
        return replace(self, multiplier=self.multiplier[channels]) if self.multiplier.ndim else self

    def scaled(self, bits: int) -> Requantization:
        """The same results from accumulators that are 2^bits times larger: every term of the sum is, so the shift takes it away again.

        Exact: (2^b * sum + 2^(s+b-1)) >> (s+b) = (sum + 2^(s-1)) >> s.
        """
        return replace(self, shift=self.shift + bits, residual_lift=self.residual_lift + bits)
