"""Inputs that are made for networks without data: gradients against differences, and the statistics that are matched."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.ir import Array, Graph, GraphBuilder, Stage, TensorType, interpret
from qcc.ir.types import F32
from qcc.measuring import measure
from qcc.onnx import prepare
from qcc.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Convolution,
    Function,
    MatMul,
    MaxPool,
    Multiply,
    Pad,
    ReduceMean,
    Reshape,
    Subtract,
    Transpose,
)
from qcc.passes.calibrate import Range
from qcc.passes.quantize import place
from qcc.passes.synthetic import channel_moments, reach, synthesize
from qcc.passes.synthetic.distill import Descent, norms_of
from qcc.passes.synthetic.gradient import needed, pull_back
from qcc.passes.synthetic.reach import DEVIATIONS, farthest
from qcc.passes.synthetic.start import inferred, noise, picture_input
from qcc.recipe import Recipe


def many_operators(rng: np.random.Generator) -> Graph:
    """Every operator that has a rule, in one network; smooth ones where two paths meet."""
    b = GraphBuilder("many", Stage.FLOAT)
    x = b.input("x", TensorType(F32, (1, 4, 9, 8)))

    def weights(*shape: int) -> str:
        return b.constant((0.4 * rng.normal(size=shape)).astype(np.float32), "w")

    y = b.add(Convolution((2, 1), (1, 0, 2, 1), (1, 2), 2), [x, weights(6, 2, 3, 2), weights(6)])
    y = b.add(BatchNormalization(1e-3), [y, weights(6), weights(6), weights(6), b.constant(rng.uniform(0.5, 2, 6).astype(np.float32), "v")])
    y = b.add(Clip((-0.7,), (0.9,)), [y])
    depthwise = b.add(Convolution((1, 1), (1, 1, 1, 1), (1, 1), 6), [y, weights(6, 1, 3, 3)])
    y = b.add(Multiply(), [b.add(Function("sigmoid"), [depthwise]), y])
    y = b.add(Subtract(), [b.add(MaxPool((2, 2), (1, 1), (0, 0, 1, 1)), [y]), b.add(AveragePool((3, 3), (1, 1), (1, 1, 1, 1)), [y])])
    y = b.add(Add(), [y, b.add(ReduceMean((2, 3), True), [depthwise])])
    y = b.add(Concat(1), [y, b.add(Multiply(), [y, weights(1, 6, 1, 1)]), y])
    y = b.add(Pad((0, 0, 1, 0), (0, 0, 0, 1), 0.0), [y])
    y = b.add(Transpose((0, 2, 3, 1)), [y])
    shape = b.types[y].shape
    y = b.add(MatMul(), [b.add(Reshape((shape[1], shape[2] * shape[3])), [y]), weights(shape[2] * shape[3], 5)])
    b.outputs["y"] = y
    return b.build()


def test_gradients_are_those_of_differences(rng: np.random.Generator) -> None:
    graph = many_operators(rng)
    (result,), names = graph.outputs.values(), needed(graph)
    x = rng.normal(size=graph.types["x"].shape).astype(np.float32)
    seed = rng.normal(size=graph.types[result].shape).astype(np.float32)
    values = interpret(graph, {"x": x}, keep=frozenset(names))
    found = pull_back(graph, values, {result: seed})["x"]

    def loss(at: Array) -> float:
        return float(np.vdot(interpret(graph, {"x": at})["y"].astype(np.float64), seed))

    for _ in range(6):
        direction = rng.normal(size=x.shape).astype(np.float32)
        step = np.float32(2e-4)
        difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * float(step))
        assert float(np.vdot(found, direction)) == pytest.approx(difference, rel=0.03, abs=0.05)


def small_network(rng: np.random.Generator, norms: bool = True) -> Graph:
    """Two layers with the statistics of inputs of mean 0.4 and deviation 0.6."""
    b = GraphBuilder("small", Stage.FLOAT)
    y, value = b.input("x", TensorType(F32, (1, 3, 16, 16))), (0.4 + 0.6 * rng.normal(size=(32, 3, 16, 16))).astype(np.float32)
    for inputs, outputs in ((3, 8), (8, 8)):
        weights = (rng.normal(size=(outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)).astype(np.float32)
        op = Convolution(pads=(1, 1, 1, 1))
        value = np.concatenate([op.evaluate(one[None], weights)[0] for one in value])
        y = b.add(op, [y, b.constant(weights, "w")])
        if norms:
            mean, variance = value.mean(axis=(0, 2, 3)), value.var(axis=(0, 2, 3))
            parameters = [np.ones(outputs, np.float32), np.zeros(outputs, np.float32), mean, variance]
            y = b.add(BatchNormalization(1e-5), [y, *(b.constant(array, "norm") for array in parameters)])
            value = BatchNormalization(1e-5).evaluate(value, *parameters)[0]
        y, value = b.add(Clip((0.0,), (np.inf,)), [y]), np.maximum(value, 0)
    b.outputs["y"] = y
    return b.build()


def test_made_inputs_match_the_statistics(rng: np.random.Generator) -> None:
    graph = small_network(rng)
    seen: list[tuple[int, int]] = []
    made = synthesize(graph, prepare, 3, lambda done, total: seen.append((done, total)))
    assert made.statistics == 2
    assert made.after < 0.5 * made.before
    assert made.after < 0.15
    assert seen[-1][0] == seen[-1][1] == made.steps
    norms = norms_of(graph)
    loss = Descent(graph, norms, prepare(graph, [norm.value for norm in norms]), []).measured(made.batches[::2])[0]
    assert np.sqrt(loss) == pytest.approx(made.after, rel=1e-3)
    again = synthesize(graph, prepare, 3)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(made.batches, again.batches, strict=True))
    assert not np.array_equal(synthesize(graph, prepare, 4).batches[0]["x"], made.batches[0]["x"])


def test_noise_is_standardized_and_smooth() -> None:
    picture = noise({"x": TensorType(F32, (1, 3, 32, 32))}, (0, 0))["x"]
    assert picture.mean() == pytest.approx(0.0, abs=1e-4)
    assert picture.std() == pytest.approx(1.0, abs=1e-3)
    assert np.square(np.diff(picture, axis=3)).mean() < 0.7


def test_the_manifest_says_what_was_made(rng: np.random.Generator) -> None:
    recipe = Recipe(calibration="none")
    for norms, kind, words in ((True, "synthetic", "match the statistics of 2 BatchNorms"), (False, "noise", "the model has no BatchNorm")):
        graph = small_network(rng, norms)
        measured = measure(graph, place(graph), None, recipe, lambda *_: None, None, graph)
        assert measured.record["data"] == kind
        assert words in measured.record["notes"][0]
        assert measured.batches is not None


def test_values_reach_as_far_as_their_channels_moments_say(rng: np.random.Generator) -> None:
    graph = small_network(rng, False)
    values = place(graph).encoded
    batches = [{"x": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(3)]
    evaluate = prepare(graph, values)
    moments = channel_moments(values, evaluate, batches)
    stacked = np.concatenate([batch["x"] for batch in batches]).astype(np.float64)
    mean, deviation = moments["x"]
    assert mean == pytest.approx(stacked.mean(axis=(0, 2, 3)), abs=1e-6)
    assert deviation == pytest.approx(stacked.std(axis=(0, 2, 3)), rel=1e-6)
    seen = {name: Range(-1.0, 1.0) for name in values}
    found = reach(graph, seen, moments, {})
    assert found["x"].low == pytest.approx(float((mean - farthest(256) * deviation).min()))
    assert found["x"].high == pytest.approx(float((mean + farthest(256) * deviation).max()))
    (result,) = graph.outputs.values()
    assert found[result].low == 0.0      # behind a clip
    far = reach(graph, dict.fromkeys(values, Range(-1000.0, 1000.0)), moments, {})
    assert far["x"] == Range(-1000.0, 1000.0)
    assert far[result] == Range(0.0, 1000.0)
    never = reach(graph, dict.fromkeys(values, Range(0.0, 0.0)), moments, {})
    assert set(never.values()) == {Range(0.0, 0.0)}


def test_the_farthest_of_many_numbers(rng: np.random.Generator) -> None:
    assert np.mean(np.abs(rng.normal(size=(50, 1000))).max(axis=1)) == pytest.approx(farthest(1), rel=0.15)
    assert farthest(1) < farthest(100) < DEVIATIONS == farthest(1e6)


def test_operators_bound_how_far_values_reach() -> None:
    b = GraphBuilder("bounded", Stage.FLOAT)
    x = b.input("x", TensorType(F32, (1, 4, 8, 8)))
    names = {kind: b.add(Function(kind, alphas), [x]) for kind, alphas in (("sigmoid", ()), ("hardswish", ()), ("elu", (1.0,)))}
    names["pool"] = b.add(ReduceMean((2, 3), True), [names["hardswish"]])
    names["product"] = b.add(Multiply(), [x, names["sigmoid"]])
    b.outputs.update({kind: name for kind, name in names.items()})
    moments, seen = (np.zeros(4), np.full(4, 9.0)), {"x": Range(-0.5, 0.5)} | {name: Range(-0.5, 0.5) for name in names.values()}
    found = reach(b.build(), seen, dict.fromkeys(seen, moments), {"x": (-4.0, 2.0)})
    assert found["x"] == Range(-4.0, 2.0)
    most = 1 / (1 + np.exp(-2))      # of the sigmoid
    for kind, low, high in (("sigmoid", 1 / (1 + np.exp(4)), most), ("hardswish", -0.375, 5 / 3), ("elu", np.exp(-4) - 1, 2.0),
                            ("pool", -0.375, 5 / 3), ("product", -4 * most, 2 * most)):
        assert (found[names[kind]].low, found[names[kind]].high) == pytest.approx((low, high), rel=1e-4), kind


def test_observers_that_are_named_are_used_without_data_too(rng: np.random.Generator) -> None:
    graph = small_network(rng)
    plain, far = (measure(graph, place(graph), None, Recipe(calibration="none", observer=observer), lambda *_: None, None, graph)
                  for observer in ("minmax", "auto"))
    assert plain.record["observer"] == "minmax"
    assert far.record["observer"] == "moments"
    assert all(far.ranges[name].low <= seen.low and far.ranges[name].high >= seen.high for name, seen in plain.ranges.items())
    assert far.ranges["x"] != plain.ranges["x"]


def remembered(rng: np.random.Generator, pictures: Array) -> tuple[Graph, str, Array, Array]:
    """A first layer, its result, and the moments by channel that it has of these pictures [N, C, H, W]."""
    b = GraphBuilder("first", Stage.FLOAT)
    shape = (1, *pictures.shape[1:])
    weights = (rng.normal(size=(16, shape[1], 3, 3)) / 5).astype(np.float32)
    weights[3] = 0.0      # as in real networks
    op = Convolution(pads=(1, 1, 1, 1), strides=(2, 2))
    value = b.add(op, [b.input("x", TensorType(F32, shape)), b.constant(weights, "w")])
    b.outputs["y"] = value
    seen = np.concatenate([op.evaluate(one[None], weights)[0] for one in pictures.astype(np.float32)])
    return b.build(), value, seen.mean(axis=(0, 2, 3)), np.maximum(seen.std(axis=(0, 2, 3)), 1e-3)


@pytest.mark.parametrize(("offset", "step", "channels", "bounds"), [
    (127.0, 128.0, 3, (-1.0, 1.0)), (0.0, 255.0, 3, (0.0, 1.0)), (0.0, 1.0, 1, (0.0, 255.0)), (40.0, 10.0, 3, None)])
def test_the_first_norm_says_what_inputs_were(
    rng: np.random.Generator, offset: float, step: float, channels: int, bounds: tuple[float, float] | None
) -> None:
    types = {"x": TensorType(F32, (1, channels, 32, 32))}
    pixels = np.concatenate([115 + 65 * noise(types, (1, number), 1.2, 0.4)["x"] for number in range(24)])
    pictures = (np.clip(pixels, 0, 255) - offset) / step
    graph, value, mean, deviation = remembered(rng, pictures)
    start = inferred(graph, value, mean, deviation, prepare(graph, (value,)))
    assert start is not None
    assert np.ravel(start.mean) == pytest.approx(pictures.mean(axis=(0, 2, 3)), abs=0.05 * float(pictures.std()))
    assert start.deviation == pytest.approx(float(pictures.std()), rel=0.15)
    assert start.range == (bounds or (-np.inf, np.inf))
    made = start.of(noise(types, (2,), start.exponent, start.own)["x"])
    assert start.range[0] <= made.min() < made.max() <= start.range[1]


def test_what_inputs_were_is_not_guessed(rng: np.random.Generator) -> None:
    """Means that no input explains, functions before the norm, and several inputs say nothing."""
    graph, value, mean, deviation = remembered(rng, rng.normal(size=(4, 3, 16, 16)))
    run = prepare(graph, (value,))
    assert inferred(graph, value, mean, deviation, run) is not None
    assert inferred(graph, value, mean + deviation * rng.normal(size=16), deviation, run) is None
    two = many_operators(rng)
    assert picture_input(two, next(iter(two.outputs.values()))) is None
    b = GraphBuilder("sum", Stage.FLOAT)
    b.outputs["y"] = b.add(Add(), [b.input(name, TensorType(F32, (1, 3, 16, 16))) for name in "ab"])
    assert picture_input(b.build(), b.outputs["y"]) is None
