"""Requantization of any number of terms on ARM: the shared kernel, with sums of 64 bits (pairs of 16-bit products are x86's)."""

from __future__ import annotations

from collections.abc import Sequence

from qcc.codegen.cpu.elementwise import RequantizeKernel
from qcc.codegen.cpu.scale import scaling
from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize


def plan_requantize(
    op: Requantize, terms: Sequence[View], multipliers: Sequence[Array], destination: View
) -> tuple[RequantizeKernel, tuple[Array, ...]]:
    """The kernel of a Requantize node and its constants.

    Args:
        terms: one view per term, of up to 16 bits where it has a zero point; they broadcast against each other to the destination.
        multipliers: int32, one array per term, which broadcast likewise.

    Raises:
        CodegenError: the destination is not of the operator's type.
    """
    if destination.dtype != op.dtype:
        raise CodegenError(f"requantize to {op.dtype}: the destination has {destination.dtype}")
    peaks = [max(abs(bound - zero) for bound in view.dtype.range) for view, zero in zip(terms, op.zero_points, strict=True)]
    numbers = scaling(op, multipliers, peaks, op.zero_points, narrow=False)
    views = tuple(View.contiguous(I32, array.shape) for array in numbers.multipliers)
    return RequantizeKernel(numbers.method, tuple(terms), views, destination), (numbers.parameters, *numbers.multipliers)
