"""Ways to round, by name: what each promises beyond erring no more than the nearest, and what a layer's clip and bad data change."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.commands import compile as command
from qcc.compiler import prepare
from qcc.ir import verify
from qcc.passes.integer import prove, to_integer
from qcc.passes.quantize import Precision, encode
from qcc.passes.rounding import Options, find_rounding, round_weights
from qcc.passes.rounding.choose import PLAIN, ways
from qcc.passes.rounding.layer import Layer
from qcc.passes.rounding.methods import METHODS, round_decoupled, round_second_order
from qcc.recipe import OBSERVERS, ROUNDINGS
from tests.unit.graphs import measured
from tests.unit.test_rounding import SEEDS, layer_and_rows, moments_of, network, output_error


def test_names_are_the_same_everywhere() -> None:
    assert set(ROUNDINGS) == {"auto", *METHODS}
    assert (command.ROUNDINGS, command.OBSERVERS) == (ROUNDINGS, OBSERVERS)
    for bits in (2, 4, 8):
        for coarse, rows in product((False, True), (1, 999)):
            found = {way.method for way in ways(layer_of(bits, coarse), "auto", True, rows)}
            assert found <= set(METHODS)
            assert (found <= PLAIN) == (coarse and rows == 1 and bits < 8)


def layer_of(bits: int, coarse: bool) -> Layer:
    return replace(layer_and_rows(3, bits)[0], coarse=coarse)


@given(seed=SEEDS, bits=st.integers(2, 4))
@settings(deadline=None, max_examples=20)
def test_alternation_errs_no_more_than_second_order_rounding(seed: int, bits: int) -> None:
    layer, x, y = layer_and_rows(seed, bits)
    problem = moments_of(x, y).centred().damped(layer.weights, 0.1)
    first, last = round_second_order(layer, problem, True, descents=0), round_decoupled(layer, problem, True)
    assert np.all(problem.error(last.weights) <= problem.error(first.weights) * (1 + 1e-9) + 1e-12)


@given(seed=SEEDS, bits=st.integers(3, 6))
@settings(deadline=None, max_examples=15)
def test_adaround_goes_up_or_down_and_no_further(seed: int, bits: int) -> None:
    layer, x, y = layer_and_rows(seed, bits)
    problem = moments_of(x, y).centred().damped(layer.weights, 0.1)
    assert np.all(np.abs(METHODS["adaround"](layer, problem, False).integers - layer.weights / layer.scale) <= 1.0 + 1e-5)


@pytest.mark.parametrize("method", ["second-order", "adaround", "adaquant", "decoupleq"])
def test_methods_that_see_the_data_gain_much_where_inputs_are_alike(method: str) -> None:
    gains = []
    for seed in range(5):
        layer, x, y = layer_and_rows(seed, 4)
        problem = moments_of(x, y).centred().damped(layer.weights, 0.01)
        errors = [problem.error(METHODS[name](layer, problem, True).weights).sum() for name in (method, "nearest")]
        gains.append(errors[0] / errors[1])
    assert np.median(gains) < 0.8


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_scaling_a_network_does_not_change_learned_integers(seed: int) -> None:
    """Everything by powers of two: the same integers."""
    layer, x, y = layer_and_rows(seed, 4)
    scaled = replace(layer, weights=layer.weights * 8.0, scale=layer.scale * 8.0)
    for method in ("adaround", "adaquant"):
        first, second = (METHODS[method](one, moments_of(x, factor * y).centred().damped(one.weights, 0.1), False)
                         for one, factor in ((layer, np.float32(1)), (scaled, np.float32(8))))
        assert np.mean(first.integers != second.integers) < 0.01


@given(seed=SEEDS)
@settings(deadline=None, max_examples=20)
def test_a_kept_bias_counts_errors_of_the_mean(seed: int) -> None:
    layer, x, y = layer_and_rows(seed, 4)
    own = np.random.default_rng(seed).normal(size=layer.weights.shape[:2])
    problem, weights = moments_of(x, y).centred(own), METHODS["nearest"](layer, moments_of(x, y).centred(), False).weights
    error = y - (x.astype(np.float64) @ weights.transpose(0, 2, 1) + own[:, None])
    assert np.allclose(problem.error(weights), np.square(error).mean(axis=1), rtol=1e-3, atol=1e-5 * np.square(y).mean())


def test_each_layer_is_corrected_for_what_the_rounded_layers_before_make() -> None:
    """The mean error of the last layer is zero on the very network that comes out, over all samples: no input was the exact network's."""
    graph, placement, samples = network()
    plain = encode(graph, placement, measured(graph, placement.encoded, samples), Precision(3, 3))
    for rounding in ("nearest", "second-order"):
        decided = find_rounding(graph, plain, placement, samples, prepare, Options(rounding, "bias"))
        found, reports = round_weights(plain, decided), decided.reports
        exact, rounded = (np.stack([prepare(g, ["d"])(sample)["d"] for sample in samples]) for g in (graph, found))
        error = exact - rounded
        assert np.abs(error.mean(axis=0)).max() < 1e-3 * np.abs(error).max()
        assert {report.correction for report in reports.values()} == {"bias"}
        assert {report.method.partition(",")[0] for report in reports.values()} == {rounding}


def test_one_scale_for_a_layer_stays_one() -> None:
    graph, placement, samples = network()
    plain = encode(graph, placement, measured(graph, placement.encoded, samples), Precision(6, 8, granularity="tensor"))
    errors = {}
    for rounding, correction in (("nearest", "none"), ("second-order", "affine"), ("auto", "bias")):
        options = Options(rounding, correction, tied=True)
        found = round_weights(plain, find_rounding(graph, plain, placement, samples[:48], prepare, options))
        verify(found)
        encodings = [found.types[node.inputs[1]].encoding for node in found.nodes if len(node.inputs) > 1]
        assert all(encoding is not None and len(set(encoding.scale)) == 1 for encoding in encodings)
        assert prove(to_integer(found, placement, False))
        errors[rounding] = output_error(graph, found, samples[48:])
    assert errors["second-order"] < errors["nearest"]


@pytest.mark.parametrize("rounding", [name for name in ROUNDINGS if name != "nearest"])
def test_few_constant_and_dead_data_give_sound_networks(rounding: str) -> None:
    graph, placement, samples = network()
    constants = dict(graph.constants)
    constants["w0"] = np.where(np.arange(8)[:, None, None, None] == 2, 0.0, constants["w0"]).astype(np.float32)
    graph = replace(graph, constants=constants)
    dead = [{"x": np.where(np.arange(4)[None, :, None, None] == 1, np.float32(0), sample["x"])} for sample in samples[:8]]
    for some in (samples[:1], samples[:3], dead, [{"x": np.ones((1, 4, 6, 6), np.float32)}] * 5):
        plain = encode(graph, placement, measured(graph, placement.encoded, some), Precision(4, 4))
        decided = find_rounding(graph, plain, placement, some, prepare, Options(rounding))
        found, reports = round_weights(plain, decided), decided.reports
        verify(found)
        assert len(some) > 3 or {report.method for report in reports.values()} == {"nearest"}
        assert np.isfinite(prepare(found, ["d"])(some[0])["d"]).all()
        assert output_error(graph, found, some) <= 1.1 * output_error(graph, plain, some) + 1e-6
