"""Observers: from the distribution of a value to the range that its encoding should cover. Decides what each of them means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.ir import Array
from qcc.passes.calibrate.distribution import Distribution

SHARES = np.linspace(1.0, 0.1, 91)        # of the extremes, tried by the searches
TURNS = 3                                 # of a search that takes the two ends in turns


@dataclass(frozen=True, slots=True)
class Range:
    """The reals that a value is expected to take."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


def observed(seen: Distribution, observer: str, bits: int = 8, percentile: float = 99.999) -> Range:
    """The range that an observer (see Recipe) takes from what was seen.

    Args:
        seen: of at least one number.
        bits: of the encoding to be.
        percentile: for the observer of that name, in percent.
    """
    if observer == "average":
        return averaged(seen)
    if observer == "percentile":
        return within(seen, percentile)
    if observer == "mse":
        return least_squares(seen, bits)
    return least_divergence(seen, bits) if observer == "entropy" else Range(seen.low, seen.high)


def averaged(seen: Distribution) -> Range:
    """The means of the batches' smallest and largest numbers: single outliers count for little."""
    return Range(float(seen.lows / seen.batches), float(seen.highs / seen.batches))


def within(seen: Distribution, percentile: float) -> Range:
    """The range that holds `percentile` percent of the numbers, half of the rest on either side."""
    tail = (100.0 - percentile) / 200.0
    share = np.cumsum(seen.counts) / seen.counts.sum()
    last_bin = len(share) - 1
    low = min(int(np.searchsorted(share, tail, "right")), last_bin)
    high = min(int(np.searchsorted(share, 1.0 - tail, "left")), last_bin)
    edges = (seen.first + low) * seen.width, (seen.first + high + 1) * seen.width
    return Range(max(seen.low, edges[0]), min(seen.high, edges[1]))


def least_squares(seen: Distribution, bits: int) -> Range:
    """The range whose encoding errs least, rounding and clipping together, among ranges that hold 0 and are shorter on either side."""
    low, high = min(0.0, seen.low), max(0.0, seen.high)
    if not low < high:
        return Range(seen.low, seen.high)
    used = np.flatnonzero(seen.counts)
    centres, weights = seen.centres[used], seen.counts[used] / seen.counts.sum()
    lows, highs = low * SHARES, high * SHARES
    below = np.array([weights @ np.square(np.minimum(centres - end, 0.0)) for end in lows])
    above = np.array([weights @ np.square(np.maximum(centres - end, 0.0)) for end in highs])
    steps = (highs[None] - lows[:, None]) / ((1 << bits) - 1)
    errors = below[:, None] + above[None] + np.square(steps) / 12.0
    best = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return Range(float(lows[best[0]]), float(highs[best[1]]))


def least_divergence(seen: Distribution, bits: int) -> Range:
    """The range that keeps most information: least Kullback-Leibler divergence of the rounded numbers from the numbers seen.

    As in TensorRT (S. Migacz, 8-bit inference with TensorRT, 2017), the distribution with all that is clipped at the ends is compared
    with the one that the levels can tell: each level's numbers spread evenly over the bins that were not empty. Unlike there, both ends are
    free (in turns, until they rest), the zero point is where the encoding has it, and the bin of 0.0, which every encoding holds
    exactly, does not take part: else the zeros that a ReLU makes would outvote all other numbers.
    """
    low, high = min(0.0, seen.low), max(0.0, seen.high)
    used = np.flatnonzero(seen.counts)
    used = used[used != -seen.first]
    if not low < high or not used.size:
        return Range(seen.low, seen.high)
    centres, weights = seen.centres[used], seen.counts[used] / seen.counts[used].sum()
    shares = [0, 0]
    for _ in range(TURNS):
        before = list(shares)
        for end in (0, 1):
            if (low, high)[end]:
                tried = [(low * SHARES[shares[0] if end else i], high * SHARES[i if end else shares[1]]) for i in range(len(SHARES))]
                shares[end] = int(np.argmin([divergence(centres, weights, *ends, bits) for ends in tried]))
        if shares == before:
            break
    return Range(low * float(SHARES[shares[0]]), high * float(SHARES[shares[1]]))


def divergence(centres: Array, weights: Array, low: float, high: float, bits: int) -> float:
    """Of the rounded from the given distribution, in nats; `centres` ascend, `weights` add up to 1."""
    step = (high - low) / ((1 << bits) - 1)
    zero = np.rint(-low / step)
    levels = np.clip(np.rint(centres / step) + zero, 0, (1 << bits) - 1).astype(np.intp)
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return np.inf
    wanted = np.where(inside, weights, 0.0)
    first, last = np.flatnonzero(inside)[[0, -1]]
    wanted[first] += weights[:first].sum()
    wanted[last] += weights[last + 1 :].sum()
    kept = weights[inside].sum()
    mass = np.bincount(levels[inside], weights[inside], 1 << bits)
    bins = np.bincount(levels[inside], minlength=1 << bits)
    told = mass[levels[inside]] / bins[levels[inside]] / kept
    return float(np.sum(wanted[inside] * np.log(wanted[inside] / told)))
