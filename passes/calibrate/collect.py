"""Measures ranges: streams calibration data through the float network and lets observers watch the values that will be encoded.

Memory: the network's weights, the watched values of one batch, and a constant per watched value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from qcc.errors import DataError
from qcc.ir import Array
from qcc.passes.calibrate.observers import Average, LeastSquares, MinMax, Observer, Percentile, Range
from qcc.recipe import Recipe

Batches = Iterable[Mapping[str, Array]]
Evaluate = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def make_observer(recipe: Recipe) -> Observer:
    makers: dict[str, Callable[[], Observer]] = {
        "minmax": MinMax, "average": Average, "percentile": lambda: Percentile(percentile=recipe.percentile),
        "mse": lambda: LeastSquares(bits=recipe.activation_bits),
    }
    return makers[recipe.observer]()


def collect(
    values: Sequence[str], evaluate: Evaluate, batches: Batches, recipe: Recipe, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Range]:
    """The range of each value over all batches.

    Args:
        values: names to watch.
        evaluate: computes them for one batch of inputs.
        batches: may be iterated as often as the observer needs passes.
        progress: told the number of batches done.

    Raises:
        DataError: no data, or values that are not finite.
    """
    observers = {name: make_observer(recipe) for name in values}
    done, expected = 0, 0
    for turn in range(max((o.passes for o in observers.values()), default=1)):
        number = -1
        for number, feeds in enumerate(batches):
            results = evaluate(feeds)
            for name, observer in observers.items():
                try:
                    observer.observe(results[name], turn)
                except DataError as error:
                    raise DataError(f"calibration batch {number}, value {name!r}: {error}; check the data and its normalisation") from error
            done += 1
            progress(done)
        if turn and number + 1 != expected:
            seen = f"calibration pass {turn + 1} saw {number + 1} batches, the first {expected}"
            raise DataError(f"{seen}; expected data that can be iterated again, such as a list")
        expected = number + 1
    if not done:
        raise DataError("the calibration data holds no batch; expected at least one")
    return {name: observer.range() for name, observer in observers.items()}
