"""Observers: what is remembered of the values that flow by. Memory per value is constant, and the order of batches does not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array

BINS = 4096
SHARES = np.linspace(1.0, 0.1, 91)        # of the extremes, tried by LeastSquares


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
class Average:
    """The means of the batches' smallest and largest values: single outliers count for little. Two numbers per batch are kept."""

    passes: int = 1
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)

    def observe(self, values: Array, turn: int) -> None:
        batch = MinMax()
        batch.observe(values, turn)
        if values.size:
            self.lows.append(batch.low)
            self.highs.append(batch.high)

    def range(self) -> Range:
        count = max(1, len(self.lows))      # fsum rounds once, so that the order of batches cannot matter
        return Range(math.fsum(self.lows) / count, math.fsum(self.highs) / count)


@dataclass
class Histogram:
    """Counts in BINS equal bins: the first pass finds the extremes, the second fills the histogram between them."""

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


@dataclass
class Percentile(Histogram):
    """The range that holds `percentile` percent of the values, half of the rest on either side."""

    percentile: float = 99.999

    def range(self) -> Range:
        low, high = self.extremes.low, self.extremes.high
        tail = (100.0 - self.percentile) / 200.0
        share = np.cumsum(self.counts) / max(1, int(self.counts.sum()))
        edges = np.linspace(low, high, BINS + 1)
        first = int(np.searchsorted(share, tail, "right"))
        last = int(np.searchsorted(share, 1.0 - tail, "left"))
        return Range(float(edges[min(first, BINS - 1)]), float(edges[min(last, BINS - 1) + 1]))


@dataclass
class LeastSquares(Histogram):
    """The range whose encoding errs least, rounding and clipping together, among ranges that hold 0 and are shorter on either side."""

    bits: int = 8

    def range(self) -> Range:
        low, high = min(0.0, self.extremes.low), max(0.0, self.extremes.high)
        if not low < high:
            return Range(self.extremes.low, self.extremes.high)
        centres = np.linspace(self.extremes.low, self.extremes.high, 2 * BINS + 1)[1::2]
        weights = self.counts / max(1, int(self.counts.sum()))
        lows, highs = low * SHARES, high * SHARES
        below = np.array([weights @ np.square(np.minimum(centres - end, 0.0)) for end in lows])
        above = np.array([weights @ np.square(np.maximum(centres - end, 0.0)) for end in highs])
        steps = (highs[None] - lows[:, None]) / ((1 << self.bits) - 1)
        errors = below[:, None] + above[None] + np.square(steps) / 12.0
        best = np.unravel_index(int(np.argmin(errors)), errors.shape)
        return Range(float(lows[best[0]]), float(highs[best[1]]))
