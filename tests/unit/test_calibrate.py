"""Observers and the run that feeds them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import DataError
from qcc.ir import Array
from qcc.passes.calibrate import Cache, Measurements, Range, batch_digest, collect, fold_of, observed
from qcc.passes.calibrate.choose import JUDGES, TRIED, choose, judges, judging_fold
from qcc.passes.calibrate.collect import Evaluate
from qcc.passes.calibrate.distribution import BINS, Distribution, bins_of
from qcc.passes.quantize import activation_encoding
from qcc.recipe import Recipe

PERCENTILE = Recipe(observer="percentile", percentile=99.0)
RECIPES = [PERCENTILE, *(Recipe(observer=observer) for observer in ("minmax", "average", "entropy", "mse"))]
WILD = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20).map(lambda v: np.array(v, np.float32))
ARRAYS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).map(lambda values: np.array(values, np.float32))


def batches(*arrays: Array) -> list[dict[str, Array]]:
    return [{"x": array} for array in arrays]


def measure(data: object, recipe: Recipe) -> Range:
    seen = collect(["x"], lambda feeds: feeds, data).seen("x")  # type: ignore[arg-type]  # iterators, too
    return observed(seen, recipe.observer, recipe.activation_bits, recipe.percentile)


@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4))
def test_extremes_over_all_batches(arrays: list[Array]) -> None:
    joined = np.concatenate(arrays)
    assert measure(batches(*arrays), Recipe()) == Range(float(joined.min()), float(joined.max()))


@given(arrays=st.lists(ARRAYS, min_size=1, max_size=4), percentile=st.sampled_from([60.0, 90.0, 99.9, 100.0]))
def test_percentiles_hold_their_share(arrays: list[Array], percentile: float) -> None:
    range = measure(batches(*arrays), Recipe(observer="percentile", percentile=percentile))
    joined = np.concatenate(arrays).astype(np.float64)
    width = 2.0 ** bins_of(float(joined.min()), float(joined.max()))[0]
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
    for recipe in RECIPES:
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


@given(arrays=st.lists(WILD, min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_distributions_depend_on_the_numbers_only(arrays: list[Array], order: random.Random) -> None:
    """However the numbers are split into batches, whatever the order, or joined afterwards: one histogram, bit for bit."""
    def state(parts: list[Array]) -> tuple[object, ...]:
        seen = Distribution()
        for part in parts:
            seen.add(part)
        return seen.low, seen.high, seen.exponent, seen.first, seen.counts.tobytes()

    shuffled = list(arrays)
    order.shuffle(shuffled)
    joined = np.concatenate(arrays)
    cut = order.randrange(len(joined) + 1)
    left, right = Distribution(), Distribution()
    left.add(joined[:cut])
    right.add(joined[cut:])
    both = left.union(right)
    assert state(arrays) == state(shuffled) == state([joined])
    assert (both.low, both.high, both.exponent, both.first, both.counts.tobytes()) == state([joined])
    places = np.floor(joined.astype(np.float64) * 2.0**-both.exponent).astype(np.int64) - both.first
    assert np.array_equal(both.counts, np.bincount(places, minlength=BINS))


@given(array=ARRAYS)
def test_distributions_are_stored_without_loss(array: Array) -> None:
    seen = Distribution()
    seen.add(array)
    again = Distribution.loaded(json.loads(json.dumps(seen.dumped())))
    assert again.counts.tobytes() == seen.counts.tobytes()
    assert (again.low, again.high, again.lows, again.highs, again.batches, again.exponent, again.first) == (
        seen.low, seen.high, seen.lows, seen.highs, seen.batches, seen.exponent, seen.first)


def test_bins_are_as_narrow_as_the_range_allows() -> None:
    for low, high in ((0.0, 1.0), (-3.0, 5.0), (1e-20, 2e-20), (1e6, 1e6 + 1), (-3e38, 3e38)):
        exponent, first = bins_of(low, high)
        assert math.floor(high / 2.0**exponent) - first < BINS
        finer = exponent - 1
        assert math.floor(high / 2.0**finer) - math.floor(low / 2.0**finer) >= BINS or max(-low, high) > 2.0 ** (finer + 23)


def test_memory_per_value_is_constant(rng: np.random.Generator) -> None:
    seen = Distribution()
    for scale in (1.0, 1e-3, 1e5):
        seen.add((scale * rng.normal(size=1000)).astype(np.float32))
    assert seen.counts.nbytes == BINS * 8
    assert seen.counts.sum() == 3000


def test_entropy_clips_outliers_and_keeps_what_is_uniform(rng: np.random.Generator) -> None:
    entropy = Recipe(observer="entropy")
    values = rng.normal(size=200_000).astype(np.float32)
    values[:3] = 60.0
    found = measure(batches(values), entropy)
    assert 3.0 < found.high < 30.0
    assert -6.0 < found.low < -3.0
    positive = np.concatenate([np.zeros(500_000), rng.uniform(0, 4, 100_000)]).astype(np.float32)      # as behind a ReLU
    kept = measure(batches(positive), entropy)
    assert kept.low == 0.0
    assert kept.high > 3.8


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_data(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="holds no batch"):
        measure([], recipe)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(bad: float) -> None:
    with pytest.raises(DataError, match=r"calibration batch 1, value 'x': expected finite numbers, got -?(nan|inf) at \[1\]"):
        measure(batches(np.zeros(3, np.float32), np.array([0.0, bad], np.float32)), Recipe())


def test_empty_values_say_nothing() -> None:
    assert measure(batches(np.zeros(0, np.float32), np.array([1.0, 2.0], np.float32)), Recipe()) == Range(1.0, 2.0)


def test_data_are_read_once() -> None:
    stream = iter(batches(np.array([1.0, 2.0], np.float32)))
    assert measure(stream, PERCENTILE) == Range(1.0, 2.0)


def test_progress_counts_batches() -> None:
    seen: list[int] = []
    collect(["x"], lambda feeds: feeds, batches(*[np.ones(1, np.float32)] * 3), seen.append)
    assert seen == [1, 2, 3]


def some_batches(rng: np.random.Generator, count: int) -> list[dict[str, Array]]:
    return batches(*rng.normal(size=(count, 50)).astype(np.float32))


def test_an_interrupted_calibration_goes_on(rng: np.random.Generator, tmp_path: Path) -> None:
    data, computed = some_batches(rng, 6), []

    def evaluate(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(feeds)
        return feeds

    cache = Cache(tmp_path / "cache.json", "model", ("x",))
    with pytest.raises(KeyboardInterrupt):
        collect(["x"], evaluate, data, known=cache.load(), keep=cache.save)
    del computed[:]
    resumed = collect(["x"], evaluate, data[::-1], known=cache.load(), keep=cache.save)
    assert len(computed) == 2
    whole = collect(["x"], lambda feeds: feeds, data)
    assert resumed.digest == whole.digest
    assert resumed.seen("x").dumped() == whole.seen("x").dumped()
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]


def test_a_cache_is_refused_where_it_does_not_fit(rng: np.random.Generator, tmp_path: Path) -> None:
    data = some_batches(rng, 3)
    cache = Cache(tmp_path / "cache.json", "a" * 64, ("x",))
    cache.save(collect(["x"], lambda feeds: feeds, data))
    none: list[Measurements] = []
    again = collect(["x"], lambda feeds: feeds, data, known=cache.load(), keep=none.append)
    assert again.complete
    assert not none
    for other in (data[:2], data + some_batches(rng, 1)):
        with pytest.raises(DataError, match="cache was made from other data"):
            collect(["x"], lambda feeds: feeds, other, known=cache.load())
    with pytest.raises(DataError, match=r"made with another model: expected bbbb.*got aaaa"):
        Cache(cache.path, "b" * 64, ("x",)).load()
    with pytest.raises(DataError, match="another set of quantized values"):
        Cache(cache.path, "a" * 64, ("x", "y")).load()
    content = json.loads(cache.path.read_text())
    for change, message in (({"settings": {"format": 0}}, "another version of qcc's histograms"),
                            ({"folds": {"x": [{"low": 1}]}}, "is damaged"),
                            ({"kind": "else"}, "is not a calibration cache, and is not overwritten")):
        cache.path.write_text(json.dumps(content | change))
        with pytest.raises(DataError, match=message):
            cache.load()
    cache.path.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        cache.load()


def outlying(rng: np.random.Generator, count: int) -> list[dict[str, Array]]:
    """Batches of ordinary numbers, each with one that is far out; the network, so to speak, looks at the ordinary ones."""
    values = rng.normal(size=(count, 1000)).astype(np.float32)
    values[:, 0] = rng.uniform(50, 100, count)
    return batches(*values)


def output(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"y": feeds["x"][1:]}


def simulated(ranges: Mapping[str, Range]) -> Evaluate:
    encoding = activation_encoding(ranges["x"], 4)
    return lambda feeds: output({"x": encoding.dequantize(encoding.quantize(feeds["x"]))})


def test_auto_takes_what_serves_the_outputs(rng: np.random.Generator) -> None:
    data = outlying(rng, 24)
    measured = collect(["x"], lambda feeds: feeds, data)
    found, errors = choose(measured, {"x": 4}, 99.5, data, output, simulated)
    assert found == min(errors, key=errors.__getitem__) != "minmax"
    assert errors[found] < 0.2 * errors["minmax"]
    assert set(errors) == set(TRIED)
    shuffled = [data[number] for number in rng.permutation(len(data))]
    assert choose(collect(["x"], lambda feeds: feeds, shuffled), {"x": 4}, 99.5, shuffled, output, simulated) == (found, errors)


def test_auto_judges_by_data_that_gave_no_ranges(rng: np.random.Generator) -> None:
    data = outlying(rng, 60)
    measured = collect(["x"], lambda feeds: feeds, data)
    fold = judging_fold(measured.sizes)
    assert fold is not None
    held = judges(data, fold)
    assert len(held) == JUDGES
    assert all(fold_of(batch_digest(batch)) == fold for batch in held)
    others = Distribution()
    for batch in data:
        if fold_of(batch_digest(batch)) != fold:
            others.add(batch["x"])
    assert measured.seen("x", fold).dumped() | {"lows": 0, "highs": 0} == others.dumped() | {"lows": 0, "highs": 0}


def test_auto_needs_enough_data(rng: np.random.Generator) -> None:
    data = outlying(rng, 3)
    assert choose(collect(["x"], lambda feeds: feeds, data), {"x": 4}, 99.9, data, output, simulated) == ("minmax", {})
    assert judging_fold((2, 2, 2, 2)) == 0
    assert judging_fold((0, 1, 7, 0)) is None
