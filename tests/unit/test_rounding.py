"""Rounding by effect: what each step promises, on random problems and on small networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir import Array, Graph, GraphBuilder, TensorType, verify
from qcc.ir.types import F32
from qcc.onnx import prepare
from qcc.ops import Convolution, MatMul, Reshape
from qcc.passes.quantize import Placement, Precision, encode, place
from qcc.passes.rounding import Options, find_rounding, round_weights, thinned
from qcc.passes.rounding.choose import choose
from qcc.passes.rounding.columns import columns, results, weight_rows, weights_of
from qcc.passes.rounding.layer import Layer, round_nearest
from qcc.passes.rounding.methods import METHODS
from qcc.passes.rounding.moments import Moments, Problem
from qcc.passes.rounding.solve import Factor, best_scale, descend, nearest, search_scale, second_order
from qcc.passes.rounding.tandem import Walker, live_elements
from tests.unit.graphs import measured

SEEDS = st.integers(0, 2**32 - 1)


def layer_and_rows(seed: int, bits: int, rows: int = 200) -> tuple[Layer, Array, Array]:
    """A layer, correlated inputs [groups, rows, depth] and the wanted results."""
    rng = np.random.default_rng(seed)
    groups, outputs, depth = (int(n) for n in rng.integers(1, (4, 6, 90)))
    mixing = rng.normal(size=(groups, depth, depth)) * rng.uniform(0.01, 3.0, size=(groups, 1, depth))
    x = (rng.normal(size=(groups, rows, depth)) @ mixing + rng.normal(size=(groups, 1, depth))).astype(np.float32)
    weights = rng.normal(size=(groups, outputs, depth))
    scale = np.abs(weights).max(axis=2, keepdims=True) / ((1 << (bits - 1)) - 1)
    y = (x @ weights.transpose(0, 2, 1) + rng.normal(size=(groups, 1, outputs))).astype(np.float32)
    return Layer(weights, scale, np.zeros(scale.shape[:2], bool), bits), x, y


def moments_of(x: Array, y: Array) -> Moments:
    return Moments.of(x, y, (x.mean(axis=1), y.mean(axis=1)))


@given(seed=SEEDS, bits=st.integers(2, 8), refit=st.booleans(), tied=st.booleans(), method=st.sampled_from(sorted(METHODS)))
@settings(deadline=None, max_examples=60)
def test_no_method_errs_more_than_the_nearest(seed: int, bits: int, refit: bool, tied: bool, method: str) -> None:
    layer, x, y = layer_and_rows(seed, bits)
    if tied:
        layer = replace(layer, scale=np.full_like(layer.scale, layer.scale.max()), tied=True)
    problem = moments_of(x, y).centred().damped(layer.weights, 0.03)
    result = METHODS[method](layer, problem, refit)
    errors, plain = problem.error(result.weights), problem.error(round_nearest(layer).weights)
    if tied:
        errors, plain = errors.sum(), plain.sum()
        assert len(np.unique(result.scale)) == 1
    assert np.all(errors <= plain * (1 + 1e-9) + 1e-12)
    assert np.array_equal(result.integers, np.rint(result.integers))
    assert np.abs(result.integers).max() <= layer.levels
    assert refit or method == "mse" or np.array_equal(result.scale, layer.scale)      # "mse" is a choice of scales


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_moments_say_what_the_data_say(seed: int) -> None:
    layer, x, y = layer_and_rows(seed, 4)
    problem, rounded = moments_of(x, y).centred(), round_nearest(layer)
    found = x.astype(np.float64) @ rounded.weights.transpose(0, 2, 1) + problem.bias(rounded.weights)[:, None]
    error = y - found
    scale = np.square(y, dtype=np.float64).mean()
    assert np.abs(error.mean(axis=1)).max() <= 1e-4 * np.sqrt(scale)        # bias correction closes the mean
    assert np.allclose(problem.error(rounded.weights), np.square(error).mean(axis=1), rtol=1e-3, atol=1e-5 * scale)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_parts_of_the_data_add_up(seed: int) -> None:
    _, x, y = layer_and_rows(seed, 8)
    origin = x.mean(axis=1), y.mean(axis=1)
    whole = Moments.of(x, y, origin).centred()
    split = (Moments.of(x[:, :70], y[:, :70], origin) + Moments.of(x[:, 70:], y[:, 70:], origin)).centred()
    for a, b in ((whole.hessian, split.hessian), (whole.wanted, split.wanted), (whole.x, split.x), (whole.y, split.y)):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


@given(seed=SEEDS, bits=st.integers(2, 5))
@settings(deadline=None, max_examples=25)
def test_descent_fit_and_search_never_make_it_worse(seed: int, bits: int) -> None:
    layer, x, y = layer_and_rows(seed, bits)
    problem = moments_of(x, y).centred().damped(layer.weights, 0.1)
    before = nearest(layer.weights, layer.scale, layer.levels)
    after = descend(problem, before, layer.scale, layer.levels, 3)
    errors = [problem.error(layer.scale * q) for q in (before, after)]
    fitted = problem.error(best_scale(problem, after, layer.scale) * after)
    for worse, better in ((errors[0], errors[1]), (errors[1], fitted)):
        assert np.all(better <= worse * (1 + 1e-9) + 1e-12)
    scale = search_scale(problem, layer.weights, layer.scale, layer.levels, (1.0, 0.8, 0.6))
    assert np.all(problem.error(scale * nearest(layer.weights, scale, layer.levels)) <= errors[0] * (1 + 1e-9))


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_many_levels_lose_nothing(seed: int) -> None:
    """With fine steps the rounding follows the real optimum, whatever the order and the blocks."""
    layer, x, y = layer_and_rows(seed, 8)
    problem = moments_of(x, y).centred().damped(layer.weights, 0.1)
    factor = Factor.of(problem.hessian)
    best = factor.solve(problem.wanted)
    assert np.allclose(best @ problem.hessian, problem.wanted, rtol=1e-6, atol=1e-6 * np.abs(problem.wanted).max())
    fine = layer.scale * 1e-5
    assert np.abs(fine * second_order(factor, best, fine, 1 << 40) - best).max() <= 1e-2 * np.abs(best).max()


def test_the_choice_is_judged_by_unseen_rows() -> None:
    """What is seen is noise: following it would be a mistake, and it is noticed."""
    layer, x, y = layer_and_rows(5, 8, rows=400)
    noise = np.random.default_rng(1).normal(size=y.shape).astype(np.float32) * 100
    assert choose(layer, moments_of(x[:, :8], (y + noise)[:, :8]), moments_of(x[:, 200:], y[:, 200:]), "auto", True)[1].method == "nearest"


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_columns_times_weights_are_the_convolution(groups: int, rng: np.random.Generator) -> None:
    builder = GraphBuilder()
    op = Convolution((2, 1), (1, 0, 2, 1), (1, 2), groups)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((2, 6, 9, 8), (12, 6 // groups, 3, 2)))
    builder.input("x", TensorType.of(x))
    builder.add(op, ["x", builder.constant(w, "w")], ["y"])
    node, (y,) = builder.nodes[0], op.evaluate(x, w)
    chosen = np.array([0, 3, 5, 11])
    product = columns(node, x, w.shape, chosen) @ weight_rows(node, w).transpose(0, 2, 1)
    assert np.allclose(product, results(node, y, chosen), atol=1e-4)
    assert np.array_equal(weights_of(node, weight_rows(node, w), w.shape), w)


def network() -> tuple[Graph, Placement, list[dict[str, Array]]]:
    """Convolution, depthwise convolution and matrix product, with inputs that rounding to the nearest does badly on."""

    rng = np.random.default_rng(3)
    builder = GraphBuilder("net")
    builder.input("x", TensorType(F32, (1, 4, 6, 6)))
    w = [rng.normal(size=s).astype(np.float32) for s in ((8, 4, 3, 3), (8, 1, 3, 3), (128, 5))]
    a = builder.add(Convolution(), ["x", builder.constant(w[0], "w0")], ["a"])
    b = builder.add(Convolution(pads=(1, 1, 0, 0), groups=8), [a, builder.constant(w[1], "w1")], ["b"])
    c = builder.add(Reshape((1, 72)), [b], ["c"])
    builder.outputs["out"] = builder.add(MatMul(), [c, builder.constant(w[2][:72], "w2")], ["d"])
    graph = builder.build()
    mixing = rng.normal(size=(6, 6))
    samples = [{"x": (rng.normal(size=(1, 4, 6, 6)) @ mixing + 1).astype(np.float32)} for _ in range(64)]
    return graph, place(graph), samples


def output_error(graph: Graph, quantized: Graph, samples: list[dict[str, Array]]) -> float:
    runs = [prepare(g, ["d"]) for g in (graph, quantized)]
    return float(np.mean([np.square(runs[0](s)["d"] - runs[1](s)["d"]).mean() for s in samples]))


def test_networks_gain_on_samples_that_were_not_seen() -> None:
    graph, placement, samples = network()
    ranges = measured(graph, placement.encoded, samples)
    errors = {}
    for bits in (3, 8):
        plain = encode(graph, placement, ranges, Precision(bits))
        for options in (Options("nearest", "none"), Options("nearest", "bias"), Options("auto", "affine")):
            found = find_rounding(graph, plain, placement, samples[:48], prepare, options)
            better = round_weights(plain, found)
            verify(better)
            assert options.idle == (better is plain)
            assert options.idle or set(found.reports) == {"a", "b", "d"}
            errors[bits, options.rounding, options.correction] = output_error(graph, better, samples[48:])
    assert errors[3, "auto", "affine"] < 0.85 * errors[3, "nearest", "none"]
    # Weights of 8 bits hardly matter here, and 48 rows for 72 inputs are few: no great harm is what can be asked for.
    assert errors[8, "auto", "affine"] < 1.2 * errors[8, "nearest", "none"]


def test_weights_lie_on_their_grids_and_twice_is_the_same() -> None:
    graph, placement, samples = network()
    plain = encode(graph, placement, measured(graph, placement.encoded, samples), Precision(4))
    first, second = (round_weights(plain, find_rounding(graph, plain, placement, samples, prepare, Options())) for _ in range(2))
    for node in first.nodes:
        if isinstance(node.op, Convolution | MatMul):
            array, encoding = first.constants[node.inputs[1]], first.types[node.inputs[1]].encoding
            assert encoding is not None
            assert np.array_equal(encoding.dequantize(encoding.quantize(array)), array)
            for name in node.inputs[1:]:
                assert np.array_equal(first.constants[name], second.constants[name])
            assert first.types[node.inputs[1]] == second.types[node.inputs[1]]


def test_walking_gives_the_values_of_a_run() -> None:
    graph, _, samples = network()
    walker = Walker.start(graph, prepare, samples[:2])
    walker.advance(1, ("a",))
    walker.advance(2, ("b",))
    assert set(walker.values[0]) == {"b"}
    expected = prepare(graph, ["b"])(samples[1])["b"]
    assert np.array_equal(walker.values[1]["b"], expected)
    assert live_elements(graph) == 4 * 6 * 6 + 8 * 4 * 4 or live_elements(graph) == 8 * 4 * 4 + 8 * 3 * 3


def test_samples_are_thinned_evenly() -> None:
    graph, _, _ = network()
    batches = [{"x": np.full((1,), n, np.float32)} for n in range(100)]
    kept = [int(batch["x"][0]) for batch in thinned(iter(batches), graph, 16)]
    assert kept == list(range(0, 100, 8))
    assert len(thinned(batches[:16], graph, 16)) == 16


def test_constant_inputs_and_zero_weights_stay_sound() -> None:
    weights = np.zeros((1, 2, 3))
    weights[0, 0] = 1.0
    layer = Layer(weights, np.full((1, 2, 1), 0.01), np.array([[False, True]]), 8)
    x = np.ones((1, 10, 3), np.float32)
    seen = moments_of(x, (x @ weights[0].T).astype(np.float32))
    _, rounded = choose(layer, seen, seen, "auto", True)
    assert np.all(np.isfinite(rounded.weights))
    assert np.all(rounded.integers[0, 1] == 0)
    assert np.allclose(seen.centred().bias(rounded.weights) + rounded.weights.sum(axis=2), [[3.0, 0.0]], atol=1e-5)


def test_problems_in_float32_are_close() -> None:
    layer, x, y = layer_and_rows(9, 8)
    problem = moments_of(x, y).centred()
    assert isinstance(problem.compact(), Problem)
    errors = [p.error(round_nearest(layer).weights) for p in (problem, problem.compact())]
    assert np.allclose(*errors, rtol=1e-2, atol=1e-3 * problem.variance.max())
