"""How a dense layer is computed on x86: by dot products of bytes, or by those of 16-bit numbers where the target has no others."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from qcc.codegen.cpu.rules import Planned, all_channels
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.dense import DenseKernel, plan_dense
from qcc.codegen.x86.pairs import plan_pairs
from qcc.codegen.x86.tiles import cycles
from qcc.codegen.x86.winograd import LEAST_CHANNELS, plan_winograd
from qcc.codegen.x86.winograd_filter import POINTS
from qcc.ir.types import U16, Array

LEAST_PIXELS = 16               # for which weights are widened before
MOST_SCRATCH = 512 * 1024      # bytes of widened weights, such that they stay in the second-level cache
WHOLE = 32                      # channels of a part are a multiple of this, so that its panels are full


def plan_product(source: View, *form: Any, tuned: Callable[[Any], Any] = unchanged, pool: tuple[int, int] = (1, 1)) -> Planned:
    """The cheapest of the ways; arguments as `qcc.codegen.x86.dense.plan_dense`."""
    target, output = form[-1], form[5]
    in_bytes: Callable[..., tuple[DenseKernel, tuple[Array, ...]]] = plan_dense
    if not _widens(target, output) or source.dtype == U16:
        return in_bytes(source, *form, tuned=tuned, pool=pool)
    kernel = in_bytes(source, *form, pool=pool)[0]
    costs: dict[Callable[..., Any], float] = {in_bytes: cycles(kernel.work, kernel.tile, target)}
    ways: tuple[Callable[..., Any], ...] = (plan_pairs, plan_winograd)
    for way in ways:
        widened = way(source, *form, pool=pool)
        if widened is not None:
            costs[way] = widened[0].cycles(target)
    planned: Planned = min(costs, key=lambda way: costs[way])(source, *form, tuned=tuned, pool=pool)
    return planned


def parts(weights: Array, groups: int, output: View, target: Target) -> list[slice]:
    """Output channels whose weights, widened, fit the scratch memory."""
    count = len(weights)
    if groups > 1 or len(output.shape) > 4 or not _widens(target, output):
        return all_channels(weights, groups, output, target)
    squares = weights.shape[1:3] == (3, 3) and weights.shape[3] >= LEAST_CHANNELS
    width = 2 * (POINTS * weights.shape[3] if squares else prod(weights.shape[1:]))    # bytes of a channel
    least = -(-count * width // MOST_SCRATCH)
    own = -(-count // least // WHOLE) * WHOLE
    return [slice(start, min(start + own, count)) for start in range(0, count, own)]


def _widens(target: Target, output: View) -> bool:
    return target.dot == "madd256" and prod(output.shape[:-1]) >= LEAST_PIXELS
