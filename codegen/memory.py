"""The arena: one block of memory for all values of a run, planned from their lifetimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcc.codegen.program import ALIGNMENT


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of `bytes` that is in use during the steps first..last, both included."""

    bytes: int
    first: int
    last: int

    @property
    def aligned(self) -> int:
        return -(-self.bytes // ALIGNMENT) * ALIGNMENT

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Byte offset of each buffer, the size that results, and the size below which no plan can go."""

    offsets: tuple[int, ...]
    bytes: int
    lower_bound: int


def plan_arena(buffers: Sequence[Lifetime]) -> Arena:
    """Offsets such that buffers alive at the same time do not overlap.

    First fit in several orders (by size, by size times duration, by the busiest step that a buffer lives through); the smallest wins.
    Optimal packing is NP-hard (dynamic storage allocation); networks' lifetimes are nested enough that this meets the bound or nearly.
    """
    load = _load(buffers)
    peaks = [max(load[b.first:b.last + 1], default=0) for b in buffers]
    orders: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda i: (-buffers[i].aligned, buffers[i].first, i),
        lambda i: (-buffers[i].aligned * (buffers[i].last - buffers[i].first + 1), i),
        lambda i: (-peaks[i], -buffers[i].aligned, i),
        lambda i: (-peaks[i], buffers[i].first, i),
        lambda i: (buffers[i].first, -buffers[i].aligned, i),
        lambda i: (-buffers[i].last, -buffers[i].aligned, i),
    )
    plans = [_first_fit(buffers, sorted(range(len(buffers)), key=order)) for order in orders]
    offsets, size = min(plans, key=lambda plan: plan[1])
    return Arena(offsets, size, max(load, default=0))


def _load(buffers: Sequence[Lifetime]) -> list[int]:
    """Bytes in use at each step."""
    load = [0] * (max((b.last for b in buffers), default=-1) + 1)
    for buffer in buffers:
        for step in range(buffer.first, buffer.last + 1):
            load[step] += buffer.aligned
    return load


def _first_fit(buffers: Sequence[Lifetime], order: Sequence[int]) -> tuple[tuple[int, ...], int]:
    offsets: dict[int, int] = {}
    for i in order:
        taken = sorted((offsets[j], offsets[j] + buffers[j].aligned) for j in offsets if buffers[j].meets(buffers[i]))
        start = 0
        for low, high in taken:
            if start + buffers[i].aligned <= low:
                break
            start = max(start, high)
        offsets[i] = start
    size = max((offsets[i] + buffers[i].aligned for i in offsets), default=0)
    return tuple(offsets[i] for i in range(len(buffers))), size
