"""Observers: what is remembered of the values that flow by. Memory per value is constant, and the order of batches does not matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array

BINS = 4096


@dataclass(frozen=True, slots=True)
class Range:
    """The reals that a value is expected to take."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


class Observer(Protocol):
    """Sees every batch of one value in each of `passes` passes over the data, then states the range."""

    passes: int

    def observe(self, values: Array, turn: int) -> None: ...

    def range(self) -> Range: ...


@dataclass
class MinMax:
    """The smallest and the largest value seen."""

    passes: int = 1
    low: float = float("inf")
    high: float = float("-inf")

    def observe(self, values: Array, turn: int) -> None:
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"values reach {low}..{high}, expected finite numbers")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> Range:
        return Range(self.low, self.high)


@dataclass
class Percentile:
    """The range that holds `percentile` percent of the values, half of the rest on either side, from a histogram of BINS bins.

    The first pass finds the extremes, the second fills the histogram between them.
    """

    percentile: float
    passes: int = 2
    extremes: MinMax = field(default_factory=MinMax)
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def observe(self, values: Array, turn: int) -> None:
        if turn == 0:
            self.extremes.observe(values, turn)
        else:
            low, high = self.extremes.low, self.extremes.high
            if low < high:      # in float64, which has room for BINS numbers between any two of float32
                self.counts += np.histogram(values.astype(np.float64), BINS, (low, high))[0]
            else:
                self.counts[0] += values.size

    def range(self) -> Range:
        low, high = self.extremes.low, self.extremes.high
        tail = (100.0 - self.percentile) / 200.0
        share = np.cumsum(self.counts) / max(1, int(self.counts.sum()))
        edges = np.linspace(low, high, BINS + 1)
        first = int(np.searchsorted(share, tail, "right"))
        last = int(np.searchsorted(share, 1.0 - tail, "left"))
        return Range(float(edges[min(first, BINS - 1)]), float(edges[min(last, BINS - 1) + 1]))
