"""What is remembered of the numbers that a value took: exact extremes, exact sums of the batches' extremes, and a histogram.

Decides the histogram's bins: their width is a power of two, the smallest for which BINS bins reach from the smallest to the largest number
seen, and their edges are multiples of the width. When the range grows, bins are joined pairwise, which is exact. Bins and counts
therefore depend on the set of numbers only, not on how they were split into batches or in which order these came, and the distributions of
two sets add up to that of their union, bit for bit. Memory: 8 * BINS bytes (32 KiB), and some numbers.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array

BINS = 4096
CHUNK = 1 << 16          # numbers that are counted at once: their temporaries stay in a processor's cache
NARROWEST = -120         # binary logarithm of the narrowest bin, so that 2**-NARROWEST is a float32
PRECISION = 23           # of the largest bin number, in bits: float32 holds such numbers exactly, and has no finer ones there


@dataclass
class Distribution:
    """The numbers seen so far.

    Attributes:
        low, high: extremes; infinite (the wrong way round) while nothing was seen.
        lows, highs: exact sums of the extremes of each batch.
        batches: of at least one number.
        exponent, first: bin i holds the numbers from (first + i) * 2**exponent up to, and without, the next edge.
        counts: int64 [BINS].
    """

    low: float = math.inf
    high: float = -math.inf
    lows: Fraction = Fraction(0)
    highs: Fraction = Fraction(0)
    batches: int = 0
    exponent: int = 0
    first: int = 0
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: Array) -> None:
        """Count the numbers of one batch.

        Raises:
            DataError: NaN or infinity among them; nothing is counted then.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"values reach {low}..{high}, expected finite numbers")
        self._widen(low, high)
        self.lows, self.highs, self.batches = self.lows + Fraction(low), self.highs + Fraction(high), self.batches + 1
        flat = values.reshape(-1)
        # Scaling float32 down by a power of two could lose the sign of tiny numbers; scaling up never loses anything.
        kind = np.dtype(np.float32 if values.dtype == np.float32 and self.exponent <= 0 else np.float64).type
        factor, first = kind(2.0**-self.exponent), kind(self.first)
        for start in range(0, flat.size, CHUNK):
            places = flat[start : start + CHUNK] * factor
            np.floor(places, out=places)
            places -= first
            self.counts += np.bincount(places.astype(np.intp), minlength=BINS)

    def union(self, other: Distribution) -> Distribution:
        """The distribution of both sets of numbers together."""
        total = Distribution()
        for part in (self, other):
            if part.batches:
                total._widen(part.low, part.high)
        for part in (self, other):
            if part.batches:
                total.counts += _moved(part.counts, part.exponent, part.first, total.exponent, total.first)
        total.lows, total.highs, total.batches = self.lows + other.lows, self.highs + other.highs, self.batches + other.batches
        return total

    @property
    def centres(self) -> Array:
        """The middle of every bin, within the extremes: float64 [BINS]."""
        edges = (self.first + np.arange(BINS, dtype=np.float64)) * 2.0**self.exponent
        centres: Array = np.clip(edges + 2.0 ** (self.exponent - 1), self.low, self.high)
        return centres

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(2.0**self.exponent)

    def _widen(self, low: float, high: float) -> None:
        """Make room for numbers from `low` to `high`."""
        before = self.batches or self.counts.any()
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent, first = bins_of(self.low, self.high)
        if before and (exponent, first) != (self.exponent, self.first):
            self.counts = _moved(self.counts, self.exponent, self.first, exponent, first)
        self.exponent, self.first = exponent, first

    def dumped(self) -> dict[str, Any]:
        """Everything, as what JSON can hold."""
        if not self.batches:
            return {}
        counts = base64.b64encode(zlib.compress(self.counts.astype("<i8").tobytes(), 6)).decode()
        return {"low": self.low, "high": self.high, "lows": str(self.lows), "highs": str(self.highs), "batches": self.batches,
                "counts": counts}

    @staticmethod
    def loaded(content: Mapping[str, Any]) -> Distribution:
        """The distribution that `dumped` gave.

        Raises:
            ValueError, KeyError, TypeError, zlib.error: it is none.
        """
        if not content:
            return Distribution()
        counts = np.frombuffer(zlib.decompress(base64.b64decode(content["counts"])), "<i8").astype(np.int64)
        low, high = float(content["low"]), float(content["high"])
        if counts.shape != (BINS,) or not low <= high:
            raise ValueError("not the state of a histogram")
        return Distribution(low, high, Fraction(content["lows"]), Fraction(content["highs"]), int(content["batches"]),
                            *bins_of(low, high), counts)


def bins_of(low: float, high: float) -> tuple[int, int]:
    """Exponent and number of the first bin for numbers from `low` to `high`; a wider range never has narrower bins."""
    extent = max(abs(low), abs(high))
    exponent = NARROWEST
    for measure, bits in ((high - low, BINS.bit_length() - 1), (extent, PRECISION)):
        if measure > 0.0:
            exponent = max(exponent, math.frexp(measure)[1] - 1 - bits)
    while _place(high, exponent) - _place(low, exponent) >= BINS or extent > math.ldexp(1.0, exponent + PRECISION):
        exponent += 1
    return exponent, _place(low, exponent)


def _place(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _moved(counts: Array, exponent: int, first: int, new_exponent: int, new_first: int) -> Array:
    """Counts in wider bins, or in bins that start elsewhere."""
    used = np.flatnonzero(counts)
    moved = np.zeros(BINS, np.int64)
    if used.size:
        wider = min(new_exponent - exponent, 62)        # beyond that every number is -1 or 0
        np.add.at(moved, ((used + first) >> wider) - new_first, counts[used])
    return moved
