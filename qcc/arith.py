"""qcc's integer arithmetic. This page is normative: the interpreter runs it, and every kernel on every target equals it bit for bit.

**Encoding.** A quantized tensor stands for ``real = scale * (q - zero_point)``, so 0.0 is exactly ``q = zero_point``.

**Accumulation.** A convolution or matrix product of u8 activations and s8 weights sums in int32. Written with reals,
``sum_k s_x (x_k - z_x) * s_w[c] w_k = s_x s_w[c] * (sum_k x_k w_k - z_x sum_k w_k)``: the second sum does not depend on the data, so it is
part of the bias, ``bias[c] = round(b[c] / (s_x s_w[c])) - z_x sum_k w_k``, an int32 at the accumulator's scale ``s_x s_w[c]``.
`accumulator_bounds` proves from the actual weights that no order of summation leaves int32.

**Requantization.** There is one, with one rounding, for any number of terms (a convolution, a residual add, an elementwise sum)::

    y = clamp(((sum_i (x_i - z_i) * m_i + 2**(s-1)) >> s) + z, low, high)

``m_i`` are int32 (one per channel or one for all), ``s`` is one integer in 1..62, the sum is int64, ``>>`` floors. So ``m_i / 2**s``
is a dyadic stand-in for the real factor ``s_i / s_y``, and adding ``2**(s-1)`` before a floor shift rounds to nearest, halves up. Two
roundings, or a float anywhere, would be a different result and are errors. `dyadic` picks m and s and proves that the sum fits.

Equivalent forms that kernels use because they are equal in exact integers: ``z << s`` and ``-z_i * m_i`` folded into one constant;
the bias multiplied out, ``(acc + b) m = acc m + b m``; for ``s >= 32`` only the high 32 bits of the sum, shifted by ``s - 32``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcc.errors import TypeMismatch
from qcc.ir.types import Array

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def requantize(terms: Sequence[tuple[Array, Array, int]], shift: int, zero_point: int, low: int, high: int) -> Array:
    """clamp(((sum_i (x_i - z_i) * m_i + 2**(shift-1)) >> shift) + zero_point, low, high) in int64.

    Args:
        terms: (x, m, z) each; x and m integers that broadcast against each other.

    >>> requantize([(np.array([-3, -1, 1, 3]), np.array(1), 0)], 1, 10, 0, 255).tolist()   # x / 2, halves up
    [9, 10, 11, 12]
    """
    total: Array = np.array(1 << (shift - 1), np.int64)
    for x, m, z in terms:
        total = total + (x.astype(np.int64) - z) * m.astype(np.int64)
    result: Array = np.clip((total >> np.int64(shift)) + zero_point, low, high)
    return result


@dataclass(frozen=True)
class Dyadic:
    """Multipliers (int32 arrays, one per term) over one power of two: factor_i is about multipliers_i / 2**shift."""

    multipliers: tuple[Array, ...]
    shift: int


def dyadic(factors: Sequence[Array], bounds: Sequence[int], offset: int) -> Dyadic:
    """Integers m_i and s with m_i / 2**s nearest to the real factors, as precise as int32 and int64 allow.

    The largest |m| gets 31 bits unless the sum could then leave int64; one s serves all terms and channels, so every term has
    the same absolute resolution and the error of y is at most ``sum_i bounds_i * 2**-(s+1)`` steps.

    Args:
        factors: real factors per term, any shape, any sign.
        bounds: per term the largest |x_i - z_i| that can occur.
        offset: an upper bound of |zero_point|, which kernels may fold into the sum as zero_point << s.

    Raises:
        TypeMismatch: a factor is not finite or too large for int32.
    """
    peak = float(np.max([np.max(np.abs(f), initial=0.0) for f in factors], initial=0.0))      # NumPy's maximum lets no NaN go unseen
    if not np.isfinite(peak) or peak >= 2**30:
        raise TypeMismatch(f"a requantization factor of {peak:g} has no dyadic form (expected finite and below 2**30)")
    shift = 62 if peak == 0.0 else min(62, 30 - int(np.floor(np.log2(peak))))
    while shift >= 1:
        multipliers = tuple(np.rint(np.asarray(f, np.float64) * 2.0**shift) for f in factors)
        largest = [int(np.max(np.abs(m), initial=0.0)) for m in multipliers]
        total = sum(m * b for m, b in zip(largest, bounds, strict=True)) + ((offset + 1) << shift)
        if max(largest, default=0) <= INT32_MAX and total <= INT64_MAX:
            return Dyadic(tuple(m.astype(np.int32) for m in multipliers), shift)
        shift -= 1
    raise TypeMismatch(f"requantization factors up to {peak:g} over values up to {max(bounds)} do not fit 64-bit sums")


def accumulator_bounds(weights: Array, bias: Array, low: int, high: int) -> tuple[Array, Array]:
    """The smallest and largest value that any partial sum of an accumulator can take, per output channel.

    Args:
        weights: integers, output channel first.
        bias: int per channel, in the sum from the start.
        low, high: range of the activations as stored (so the bound does not depend on the zero point's folding).

    Returns:
        int64 arrays (lowest, highest): every partial sum in every order lies between them. With low <= 0 <= high after each
        product's own sign they bound prefixes, too: each adds only terms of one sign.
    """
    flat = weights.reshape(weights.shape[0], -1).astype(np.int64)
    products = np.stack([flat * low, flat * high])
    lowest = np.minimum(products.min(axis=0), 0).sum(axis=1) + np.minimum(bias.astype(np.int64), 0)
    highest = np.maximum(products.max(axis=0), 0).sum(axis=1) + np.maximum(bias.astype(np.int64), 0)
    return lowest, highest
