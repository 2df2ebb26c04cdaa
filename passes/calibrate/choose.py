"""Chooses the observer of a network by its effect on what counts: the outputs, on batches that the ranges were not taken from.

Decides which observers are tried and which batches judge. Weights stay as they are meanwhile: they are rounded afterwards, by their
own effect, and would only add noise to the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from qcc.ir import Array
from qcc.passes.calibrate.collect import Batches, Evaluate, Measurements, batch_digest, fold_of
from qcc.passes.calibrate.observers import Range, observed

TRIED = ("minmax", "percentile", "entropy", "mse")      # where two err equally, the first is taken
JUDGES = 12                 # batches, at most
FEWEST = 2, 6               # batches that judge, and that ranges are taken from: with fewer, chance decides

Simulate = Callable[[Mapping[str, Range]], Evaluate]    # values' ranges -> a function that computes outputs with these values rounded


def judging_fold(sizes: Sequence[int]) -> int | None:
    """The fold whose size is nearest to an even share; None where there are too few batches."""
    total = sum(sizes)
    able = [number for number, size in enumerate(sizes) if size >= FEWEST[0] and total - size >= FEWEST[1]]
    return min(able, key=lambda number: (abs(sizes[number] - total / len(sizes)), number), default=None)


def judges(batches: Batches, fold: int) -> list[Mapping[str, Array]]:
    """Up to JUDGES different batches of a fold, the same ones in whatever order the batches come."""
    kept: dict[str, Mapping[str, Array]] = {}
    for batch in batches:
        digest = batch_digest(batch)
        if fold_of(digest) == fold:
            kept[digest] = batch
            if len(kept) > JUDGES:
                del kept[max(kept)]
    return [kept[digest] for digest in sorted(kept)]


def choose(
    measured: Measurements, bits: Mapping[str, int], percentile: float, batches: Batches, exact: Evaluate, simulate: Simulate,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[str, dict[str, float]]:
    """The observer whose ranges make the outputs err least, and the error of each that was tried (noise to signal, summed over outputs).

    Args:
        bits: of each value.
        batches: the data that were measured.
        exact: computes the outputs of the float network.
        progress: told (observers tried, observers in all).
    """
    fold = judging_fold(measured.sizes)
    if fold is None:
        return TRIED[0], {}
    samples = judges(batches, fold)
    wanted = [exact(sample) for sample in samples]
    seen = {name: measured.seen(name, fold) for name in measured.folds}
    errors: dict[str, float] = {}
    for number, observer in enumerate(TRIED):
        run = simulate({name: observed(seen[name], observer, bits[name], percentile) for name in seen})
        errors[observer] = distance(wanted, (run(sample) for sample in samples))
        progress(number + 1, len(TRIED))
    return min(TRIED, key=lambda observer: errors[observer]), errors


def distance(wanted: Sequence[Mapping[str, Array]], found: Iterable[Mapping[str, Array]]) -> float:
    """Squared differences over squares, per output over all samples, summed over outputs."""
    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    for exact, rounded in zip(wanted, found, strict=True):
        for name, array in exact.items():
            real = array.astype(np.float64)
            noise[name] = noise.get(name, 0.0) + float(np.square(real - rounded[name]).sum())
            signal[name] = signal.get(name, 0.0) + float(np.square(real).sum())
    return sum(noise[name] / max(signal[name], 1e-30) for name in noise)
