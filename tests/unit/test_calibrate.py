"""Observers and the run that feeds them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import DataError
from qcc.ir import Array
from qcc.passes.calibrate import Range, collect
from qcc.passes.calibrate.observers import BINS, Percentile
from qcc.passes.quantize import activation_encoding
from qcc.recipe import Recipe

PERCENTILE = Recipe(observer="percentile", percentile=99.0)
ARRAYS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).map(lambda values: np.array(values, np.float32))


def batches(*arrays: Array) -> list[dict[str, Array]]:
    return [{"x": array} for array in arrays]


def measure(data: object, recipe: Recipe) -> Range:
    return collect(["x"], lambda feeds: feeds, data, recipe)["x"]  # type: ignore[arg-type]  # iterators, too


@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4))
def test_extremes_over_all_batches(arrays: list[Array]) -> None:
    joined = np.concatenate(arrays)
    assert measure(batches(*arrays), Recipe()) == Range(float(joined.min()), float(joined.max()))


@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4), percentile=st.sampled_from([60.0, 90.0, 99.9, 100.0]))
def test_percentiles_hold_their_share(arrays: list[Array], percentile: float) -> None:
    range = measure(batches(*arrays), Recipe(observer="percentile", percentile=percentile))
    joined = np.concatenate(arrays).astype(np.float64)
    width = (joined.max() - joined.min()) / BINS * 1.001
    inside = np.mean((joined >= range.low - width) & (joined <= range.high + width))
    assert inside >= percentile / 100 - 1e-9
    assert joined.min() - 1e-6 <= range.low <= range.high <= joined.max() + 1e-6


def test_percentiles_leave_outliers_out(rng: np.random.Generator) -> None:
    values = rng.normal(size=100_000).astype(np.float32)
    values[:10] = 1000.0
    range = measure(batches(values, -values[10:]), Recipe(observer="percentile", percentile=99.9))
    assert range.low > -1.5 * np.abs(values[10:]).max()
    assert range.high < 1.5 * np.abs(values[10:]).max()


@given(arrays=st.lists(ARRAYS, min_size=2, max_size=4))
def test_order_does_not_matter(arrays: list[Array]) -> None:
    for recipe in (Recipe(), PERCENTILE, Recipe(observer="average"), Recipe(observer="mse")):
        assert measure(batches(*arrays), recipe) == measure(batches(*reversed(arrays)), recipe)


def test_averages_are_of_the_batches_extremes() -> None:
    arrays = [np.array(values, np.float32) for values in ([-1, 2], [-3, 8], [0, 5])]
    found = measure(batches(*arrays), Recipe(observer="average"))
    assert (found.low, found.high) == (pytest.approx(-4 / 3), 5.0)


def test_least_squares_clip_outliers_only_where_it_pays(rng: np.random.Generator) -> None:
    values = rng.normal(size=200_000).astype(np.float32)
    values[0] = 60.0
    outlier = measure(batches(values), Recipe(observer="mse", activation_bits=8))
    assert 3.0 < outlier.high < 55.0
    uniform = measure(batches(rng.uniform(0, 1, 100_000).astype(np.float32)), Recipe(observer="mse"))
    assert uniform.low == 0.0
    assert uniform.high > 0.97

    def error(range: Range) -> float:
        encoding = activation_encoding(range, 8)
        return float(np.square(encoding.dequantize(encoding.quantize(values)) - values).sum())

    assert error(outlier) < error(measure(batches(values), Recipe()))


def test_constant_values_have_a_range() -> None:
    assert measure(batches(np.full(5, 2.0, np.float32)), PERCENTILE) == Range(2.0, 2.0)


def test_memory_per_value_is_constant(rng: np.random.Generator) -> None:
    observer = Percentile(percentile=99.0)
    for turn in (0, 1):
        for _ in range(3):
            observer.observe(rng.normal(size=1000).astype(np.float32), turn)
    assert observer.counts.nbytes == BINS * 8


@pytest.mark.parametrize("recipe", [Recipe(), PERCENTILE, Recipe(observer="mse"), Recipe(observer="average")])
def test_no_data(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="holds no batch"):
        measure([], recipe)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(bad: float) -> None:
    with pytest.raises(DataError, match="calibration batch 1, value 'x': values reach"):
        measure(batches(np.zeros(3, np.float32), np.array([0.0, bad], np.float32)), Recipe())


def test_empty_values_say_nothing() -> None:
    assert measure(batches(np.zeros(0, np.float32), np.array([1.0, 2.0], np.float32)), Recipe()) == Range(1.0, 2.0)


def test_data_that_can_be_read_only_once_is_refused_where_it_is_read_twice() -> None:
    def stream() -> Iterator[dict[str, Array]]:
        yield from batches(np.array([1.0, 2.0], np.float32))

    assert measure(stream(), Recipe()) == Range(1.0, 2.0)
    with pytest.raises(DataError, match="pass 2 saw 0 batches, the first 1; expected data that can be iterated again"):
        measure(stream(), PERCENTILE)


def test_progress_counts_batches() -> None:
    seen: list[int] = []
    collect(["x"], lambda feeds: feeds, batches(*[np.ones(1, np.float32)] * 3), PERCENTILE, seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
