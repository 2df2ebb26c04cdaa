"""In how many bits x86 stores the weights of a layer, and what becomes of its other numbers then.

Weights that share bytes come out of them times 2^(8 - bits) (cpu/unpacking.py), and there they stay: accumulators are as many times
larger, and so are the bias and, for the requantization, the residual; its shift takes the factor away again.
"""

from __future__ import annotations

import numpy as np

from qcc.arith import INT32_MAX, accumulator_bounds
from qcc.codegen.cpu.packing import stored_bits
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.kernel import View
from qcc.codegen.x86.epilogue import MOST_SHIFT
from qcc.ir.types import Array


def lifted(
    weights: Array, bias: Array, source: View, requantization: Requantization | None
) -> tuple[int, Array, Requantization | None]:
    """Bits of a stored weight, and the layer's bias and requantization for them.

    Where accumulators, times 2^(8 - bits), could leave 32 bits, a weight takes a byte: at 4 bits that needs some 75 000 products.

    Args:
        weights: i8 [OC, ...].
        bias: int32 [OC].
    """
    bits = stored_bits(weights)
    more = 8 - bits
    lowest, highest = accumulator_bounds(weights, bias, 0, source.dtype.range[1])
    reach = int(np.maximum(-lowest, highest).max(initial=0))
    if reach << more > INT32_MAX or (requantization is not None and requantization.shift + more > MOST_SHIFT):
        return 8, bias, requantization
    return bits, bias << more, None if requantization is None else requantization.scaled(more)
