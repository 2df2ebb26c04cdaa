"""In how many bits the weights of a layer are stored, and what becomes of its other numbers then.

Weights that share bytes come out of them times 2^(8 - bits) (cpu/unpacking.py), and there they stay: accumulators are as many times
larger, and so are the bias and, for the requantization, the residual; its shift takes the factor away again.

Activations of 16 bits are multiplied less 2^15, as signed numbers, with weights of 16 bits: to everything but the dot product they are
twice as many channels of bytes.
"""

from __future__ import annotations

import numpy as np

from qcc.arith import INT32_MAX, accumulator_bounds
from qcc.codegen.cpu.packing import stored_bits
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.kernel import View
from qcc.ir.types import U8, Array


def lifted(
    weights: Array, bias: Array, source: View, requantization: Requantization | None, most_shift: int, least: int = -128
) -> tuple[int, Array, Requantization | None]:
    """Bits of a stored weight, and the layer's bias and requantization for them.

    Where accumulators, times 2^(8 - bits), could leave 32 bits, a weight takes a byte: at 4 bits that needs some 75 000 products.

    Args:
        weights: i8 [OC, ...].
        bias: int32 [OC].
        most_shift: of a requantization that the epilogue can do.
        least: what the dot product takes; a weight that would be less, times 2^(8 - bits), makes all take bytes.
    """
    bits = stored_bits(weights)
    more = 8 - bits
    lowest, highest = accumulator_bounds(weights, bias, 0, source.dtype.range[1])
    reach = int(np.maximum(-lowest, highest).max(initial=0))
    fits = int(weights.min(initial=0)) << more >= least and reach << more <= INT32_MAX
    if not fits or (requantization is not None and requantization.shift + more > most_shift):
        return 8, bias, requantization
    return bits, bias << more, None if requantization is None else requantization.scaled(more)


def in_bytes(source: View, weights: Array, bias: Array) -> tuple[View, Array, Array]:
    """A layer of u16 activations as one of bytes: channels 2c and 2c + 1 are the halves of channel c, of weights, too.

    Returns:
        The view u8 (N, H, W, 2C), weights i8 [OC, KH, KW, 2C] (the bytes of 16-bit numbers), and the bias with 2^15 sum w, which wraps
        as the accumulators do.
    """
    view = View(U8, (*source.shape[:3], 2 * source.shape[3]), (*(2 * stride for stride in source.strides[:3]), source.strides[3]))
    left_out = weights.reshape(len(weights), -1).astype(np.int64).sum(axis=1) << 15
    halves = np.ascontiguousarray(weights.astype("<i2")).view(np.int8)
    return view, halves, (bias.astype(np.int64) + left_out).astype(np.int32)
