"""Streams calibration data through the float network, once, and keeps the distribution of every value that will be encoded.

Decides what is remembered and how batches are parted into folds: by the digest of their content, so that nothing depends on their order.
A fold can judge ranges that were taken from the others. Memory: the network's weights, the watched values of one batch, and per watched
value FOLDS histograms of 32 KiB, however much data there is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array
from qcc.passes.calibrate.distribution import Distribution

FOLDS = 4

Batches = Iterable[Mapping[str, Array]]
Evaluate = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass
class Measurements:
    """What calibration knows.

    Attributes:
        folds: of each value, its distribution over the batches of each fold.
        digests: of the batches seen, in any order.
        complete: whether these were all the data.
    """

    folds: dict[str, list[Distribution]]
    digests: list[str] = field(default_factory=list)
    complete: bool = False

    @staticmethod
    def of(values: Sequence[str]) -> Measurements:
        """Nothing seen yet."""
        return Measurements({name: [Distribution() for _ in range(FOLDS)] for name in values})

    @property
    def digest(self) -> str:
        return data_digest(self.digests)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batches in each fold."""
        found = Counter(map(fold_of, self.digests))
        return tuple(found[number] for number in range(FOLDS))

    def seen(self, value: str, without: int | None = None) -> Distribution:
        """All that a value took, or all but what it took in one fold."""
        return reduce(Distribution.union, (part for number, part in enumerate(self.folds[value]) if number != without), Distribution())


def batch_digest(batch: Mapping[str, Array]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(batch):
        total.update(f"{name}:{batch[name].dtype.str}{batch[name].shape};".encode())
        total.update(np.ascontiguousarray(batch[name]).data)
    return total.hexdigest()


def data_digest(digests: Iterable[str]) -> str:
    """SHA-256 over the digests of batches, sorted: the same batches in another order have the same digest."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def fold_of(digest: str) -> int:
    """The fold that a batch belongs to."""
    return int(digest[:8], 16) % FOLDS


def collect(
    values: Sequence[str], evaluate: Evaluate, batches: Batches, progress: Callable[[int], None] = lambda _: None,
    known: Measurements | None = None, keep: Callable[[Measurements], None] = lambda _: None,
) -> Measurements:
    """The distribution of each value over all batches.

    Args:
        values: names to watch.
        evaluate: computes them for one batch of inputs.
        batches: read once.
        progress: told the number of batches done.
        known: of a part of these batches, from a run that was interrupted; they are not computed again.
        keep: given the measurements after every batch that was computed, for storing them.

    Raises:
        DataError: no data, values that are not finite, or data that are not those of which all or a part is `known`.
    """
    measured = known or Measurements.of(values)
    waiting, number = Counter(measured.digests), -1
    expected = f"expected the {len(measured.digests)} batches that the cache was made from; delete it, or name another file"
    for number, feeds in enumerate(batches):
        digest = batch_digest(feeds)
        if waiting[digest]:
            waiting[digest] -= 1
        elif measured.complete:
            raise DataError(f"the calibration cache was made from other data: batch {number} is new; {expected}")
        else:
            observe(measured, fold_of(digest), evaluate(feeds), number)
            measured.digests.append(digest)
            keep(measured)
        progress(number + 1)
    if number < 0:
        raise DataError("the calibration data holds no batch; expected at least one")
    if waiting.total():
        raise DataError(f"the calibration cache was made from other data: {waiting.total()} of its batches are not among these; {expected}")
    measured.complete = True
    return measured


def observe(measured: Measurements, fold: int, results: Mapping[str, Array], number: int) -> None:
    """Count the values of one batch."""
    for name in measured.folds:
        found = results[name]
        if not is_finite(found):
            raise DataError(f"calibration batch {number}, value {name!r}: {unfit(found)}; check the data and its normalisation")
    for name, folds in measured.folds.items():
        folds[fold].add(results[name])


def is_finite(values: Array) -> bool:
    """Whether there is neither NaN nor infinity among the numbers; faster than looking at each."""
    return not values.size or bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def unfit(values: Array) -> str:
    """What is wrong with numbers that are not finite."""
    wrong = values[~np.isfinite(values)]
    index = [int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)]
    return f"expected finite numbers, got {wrong[0]} at {index} ({wrong.size} such of {values.size})"
