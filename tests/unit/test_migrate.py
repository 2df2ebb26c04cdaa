"""Equivalent migration: what may be scaled together, what scales do to a network, and how they are chosen and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.errors import DataError, ModelError
from qcc.ir import Array, Graph, GraphBuilder, TensorType, interpret, verify
from qcc.ir.types import F32
from qcc.onnx import FloatRunner
from qcc.ops import Add, AveragePool, Clip, Concat, Convolution, Function, MatMul, OnnxOperator, Pad, PRelu, Reshape, Slice, Transpose
from qcc.passes.migrate import Bits, Judge, Migration, migrate
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.decide import scores
from qcc.passes.migrate.rescale import rescale, values_of
from qcc.passes.migrate.statistics import collect_channels
from qcc.passes.migrate.ties import Ties
from qcc.passes.quantize import Precision, encode, place
from tests.unit.graphs import measured, random_feeds, random_graph

RELU, RELU6 = Clip((0.0,), (float("inf"),)), Clip((0.0,), (6.0,))


def scaled(graph: Graph, seed: int) -> tuple[Graph, dict[str, Array]]:
    """The network with random numbers for every root, and what every value is divided by."""
    channels = Channels.of(graph)
    scales = values_of(channels, np.exp(np.random.default_rng(seed).normal(size=channels.count)))
    return rescale(graph, scales), scales


def assert_divided(graph: Graph, seed: int) -> dict[str, Array]:
    """Every value of the rescaled network is the old one divided by its scales."""
    migrated, scales = scaled(graph, seed)
    verify(migrated)
    feeds = next(random_feeds(graph, seed, 1))
    before, after = interpret(graph, feeds, keep=None), interpret(migrated, feeds, keep=None)
    for node in graph.nodes:
        for name in node.outputs:
            wanted = before[name] / scales.get(name, 1.0)
            peak = np.abs(wanted).max(initial=1e-20, where=np.isfinite(wanted))
            np.testing.assert_allclose(after[name], wanted, rtol=1e-4, atol=1e-4 * float(peak), err_msg=name)
    return scales


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1))
def test_scales_change_no_random_network(seed: int) -> None:
    assert_divided(random_graph(seed), seed)


class Images:
    """A network on an image of four channels, written a line an operator."""

    def __init__(self) -> None:
        self.builder, self.random = GraphBuilder("images"), np.random.default_rng(3)
        self.x = self.builder.input("x", TensorType(F32, (1, 4, 6, 6)))

    def weights(self, *shape: int) -> str:
        return self.builder.constant(self.random.normal(size=shape).astype(np.float32), "w")

    def conv(self, x: str, channels: int, groups: int = 1, pads: int = 1) -> str:
        inner = self.builder.types[x].shape[1] // groups
        op = Convolution(pads=(pads,) * 4, groups=groups)
        return self.builder.add(op, [x, self.weights(channels, inner, 3, 3), self.weights(channels)])

    def end(self, x: str) -> Graph:
        self.builder.outputs["y"] = self.conv(x, 2)
        return self.builder.build()


def test_relu6_between_convolutions_gets_a_bound_per_channel() -> None:
    d = Images()
    graph = d.end(d.builder.add(RELU6, [d.conv(d.x, 3)]))
    migrated, _ = scaled(graph, 1)
    (clip,) = (node.op for node in migrated.nodes if isinstance(node.op, Clip))
    assert isinstance(clip, Clip)
    assert clip.axis == 1
    assert len(set(clip.high)) == 3
    assert len(assert_divided(graph, 1)) == 2


def test_residuals_concatenations_and_slices_share_scales() -> None:
    d = Images()
    a = d.builder.add(RELU, [d.conv(d.x, 4)])
    b = d.builder.add(Add(), [a, d.conv(a, 4, groups=4)])
    joined = d.builder.add(Concat(1), [b, d.builder.add(Slice((0, 1, 0, 0), (1, 3, 6, 6), (1, 1, 1, 1)), [a])])
    graph = d.end(d.builder.add(Pad((0, 0, 1, 1), (0, 0, 1, 1), 0.0), [joined]))
    scales = assert_divided(graph, 2)
    np.testing.assert_array_equal(scales[a], scales[b])
    np.testing.assert_array_equal(scales[joined].reshape(-1), np.concatenate([scales[b].reshape(-1), scales[a].reshape(-1)[1:3]]))


def test_padding_with_other_numbers_than_zero_fixes_channels() -> None:
    d = Images()
    graph = d.end(d.builder.add(Pad((0, 0, 1, 1), (0, 0, 1, 1), 0.5), [d.builder.add(RELU, [d.conv(d.x, 4)])]))
    assert assert_divided(graph, 3) == {}


def test_slopes_pools_and_flattening_hand_scales_on_and_curves_do_not() -> None:
    d = Images()
    a = d.builder.add(PRelu(), [d.conv(d.x, 4), d.weights(4, 1, 1)])
    b = d.builder.add(AveragePool((6, 6)), [d.builder.add(Function("leaky_relu", (0.1,)), [a])])
    flat = d.builder.add(Reshape((1, 4)), [b])
    c = d.builder.add(MatMul(), [flat, d.weights(4, 5), d.weights(5)])
    d.builder.outputs["y"] = d.builder.add(MatMul(), [d.builder.add(Function("tanh"), [c]), d.weights(5, 2)])
    scales = assert_divided(d.builder.build(), 4)
    np.testing.assert_array_equal(scales[a].reshape(-1), scales[flat].reshape(-1))
    assert c not in scales


def test_a_layer_behind_a_layer_that_has_its_channels_along_another_axis() -> None:
    d = Images()
    product = d.builder.add(MatMul(), [d.x, d.weights(6, 3)])      # channels along the last axis, read along the second
    d.builder.outputs["y"] = d.builder.add(Convolution(pads=(1, 1, 1, 1)), [product, d.weights(2, 4, 3, 3)])
    assert_divided(d.builder.build(), 7)


def attention(tokens: int = 6) -> tuple[Graph, dict[str, str]]:
    """Two heads of four channels."""
    builder, random = GraphBuilder("attention"), np.random.default_rng(5)
    x = builder.input("x", TensorType(F32, (1, tokens, 8)))
    names: dict[str, str] = {}
    for part in "qkv":
        bias = builder.constant(random.normal(size=8).astype(np.float32))
        made = builder.add(MatMul(), [x, builder.constant(random.normal(size=(8, 8)).astype(np.float32)), bias])
        heads = builder.add(Reshape((1, tokens, 2, 4)), [made])
        names[part] = builder.add(Transpose((0, 2, 3, 1) if part == "k" else (0, 2, 1, 3)), [heads])
    scores = builder.add(Function("tanh"), [builder.add(MatMul(), [names["q"], names["k"]])])
    mixed = builder.add(MatMul(), [scores, names["v"]])
    joined = builder.add(Reshape((1, tokens, 8)), [builder.add(Transpose((0, 2, 1, 3)), [mixed])])
    names["joined"] = joined
    builder.outputs["y"] = builder.add(MatMul(), [joined, builder.constant(random.normal(size=(8, 3)).astype(np.float32))])
    return builder.build(), names


def test_attention_scales_queries_against_keys_and_values_through_the_heads() -> None:
    graph, names = attention()
    scales = assert_divided(graph, 6)
    np.testing.assert_allclose(scales[names["q"]] * scales[names["k"]].swapaxes(2, 3), 1.0)
    np.testing.assert_array_equal(scales[names["v"]].reshape(-1), scales[names["joined"]].reshape(-1))


def normalized(seed: int, factor: float = 1.0, first: bool = True) -> Graph:
    """A block with norms before (or behind) its layers and residual sums, a norm's result times a factor that its layers divide."""
    builder, random = GraphBuilder("normalized"), np.random.default_rng(seed)
    x = builder.input("x", TensorType(F32, (1, 6, 8)))

    def constant(*shape: int, by: float = 1.0) -> str:
        return builder.constant((random.normal(size=shape) * np.exp(random.normal(size=shape[-1])) * by).astype(np.float32))

    def norm(value: str) -> str:
        op = OnnxOperator("LayerNormalization", "", 17, (("axis", -1), ("epsilon", 1e-5)), (), (("f32", (1, 6, 8)),))
        return builder.add(op, [value, constant(8, by=factor), constant(8, by=factor)])

    def layer(value: str, by: float = 1.0) -> str:
        hidden = builder.add(RELU, [builder.add(MatMul(), [value, constant(8, 12, by=by), constant(12)])])
        return builder.add(MatMul(), [hidden, constant(12, 8), constant(8)])

    n = norm(x)
    made = layer(n, 1.0 / factor)
    builder.outputs["y"] = made if first else norm(builder.add(Add(), [n, made]))
    return builder.build()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("method", ["smooth", "shift"])
def test_norms_are_shifted_and_scaled_and_others_read_the_old_numbers(method: str, first: bool) -> None:
    graph = normalized(8, first=first)
    samples = list(random_feeds(graph, 8, 6))
    migrated = migrate(graph, judge().find(graph, method, samples))
    verify(migrated)
    before, after = (FloatRunner(g, [g.outputs["y"]]).run_ports(samples[0])["y"] for g in (graph, migrated))
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()
    name = next(node.outputs[0] for node in graph.nodes if isinstance(node.op, OnnxOperator))
    values = [FloatRunner(g, [name]).run(samples[0])[name] for g in (graph, migrated)]
    spread = [np.abs(value).max(axis=(0, 1)) for value in values]
    assert spread[1].max() / spread[1].min() < spread[0].max() / spread[0].min()
    assert any("@unscaled" in node.outputs[0] for node in migrated.nodes) is not first


@pytest.mark.parametrize("factor", [2.0**-9, 2.0**12])
@pytest.mark.parametrize("method", ["smooth", "shift"])
def test_a_factor_between_norm_and_layers_changes_no_quantized_output(method: str, factor: float) -> None:
    results = []
    for graph in (normalized(9), normalized(9, factor)):
        samples = list(random_feeds(graph, 9, 6))
        migrated = migrate(graph, judge().find(graph, method, samples))
        placement = place(migrated)
        ranges = measured(migrated, placement.encoded, samples)
        quantized = encode(migrated, placement, ranges, Precision())
        results.append(FloatRunner(quantized, []).run_ports(samples[0])["y"])
    np.testing.assert_array_equal(results[0], results[1])


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), max_size=12))
def test_ties_know_what_equations_know(pairs: list[tuple[int, int]]) -> None:
    ties = Ties()
    ties.fresh(6)
    equations = [np.eye(7)[0]]      # logarithms: x_0 is one
    for a, b in pairs:
        ties.tie(a, b)
        equations.append(np.sign(a) * np.eye(7)[abs(a)] * (a != 0) - np.sign(b) * np.eye(7)[abs(b)] * (b != 0))
    rank = np.linalg.matrix_rank(np.array(equations))
    roots = {abs(ties.find(label)) for label in range(7)} - {0}
    assert len(roots) == 7 - rank
    for a, b in pairs:
        assert ties.find(a) == ties.find(b)


def test_equalized_layers_have_equal_ranges() -> None:
    d = Images()
    graph = d.end(d.builder.add(RELU, [d.conv(d.x, 8)]))
    equal = migrate(graph, judge().find(graph, "equalize", None))
    first, last = (node for node in equal.nodes if isinstance(node.op, Convolution))
    constants = equal.constants
    rows, columns = np.abs(constants[first.inputs[1]]).max(axis=(1, 2, 3)), np.abs(constants[last.inputs[1]]).max(axis=(0, 2, 3))
    np.testing.assert_allclose(rows, columns, rtol=1e-3)


def judge(bits: int = 8) -> Judge:
    return Judge(lambda graph, values: FloatRunner(graph, values).run, Bits(bits, bits))


def unbalanced() -> Graph:
    """Two layers with a channel in between that is a hundred times as wide as the others."""
    builder, random = GraphBuilder("unbalanced"), np.random.default_rng(7)
    x = builder.input("x", TensorType(F32, (1, 16)))
    w, v = random.normal(size=(16, 12)).astype(np.float32), random.normal(size=(12, 4)).astype(np.float32)
    w[:, 3] *= 100
    v[3] /= 100
    hidden = builder.add(RELU, [builder.add(MatMul(), [x, builder.constant(w, "w")])])
    builder.outputs["y"] = builder.add(MatMul(), [hidden, builder.constant(v, "v")])
    return builder.build()


@pytest.mark.parametrize("factor", [2.0**-7, 3.0, 1000.0])
def test_the_size_of_numbers_does_not_matter(factor: float) -> None:
    graph = unbalanced()
    other = rescale_by_hand(graph, factor)
    samples = list(random_feeds(graph, 1, 8))
    both = [migrate(g, judge().find(g, "smooth", samples)) for g in (graph, other)]
    ends = [g.constants[next(n for n in reversed(g.nodes) if isinstance(n.op, MatMul)).inputs[1]] for g in both]
    np.testing.assert_allclose(ends[1] / np.float32(factor) ** -1, ends[0], rtol=1e-5)


def rescale_by_hand(graph: Graph, factor: float) -> Graph:
    """The hidden values times a factor."""
    constants = dict(graph.constants)
    constants["w"], constants["v"] = constants["w"] * np.float32(factor), constants["v"] / np.float32(factor)
    return Graph(graph.name, graph.stage, graph.inputs, graph.outputs, graph.nodes, constants, graph.types)


def test_a_wide_channel_is_found_and_migration_helps_on_new_data() -> None:
    graph = unbalanced()
    samples = list(random_feeds(graph, 2, 32))

    def nearest(graph: Graph, seen: Sequence[Mapping[str, Array]]) -> Graph:
        placement = place(graph)
        return encode(graph, placement, measured(graph, placement.encoded, seen), Precision())

    assert judge().decide(graph, samples, nearest, lambda _done, _total: None) == "smooth"
    assert judge().decide(graph, samples[:3], nearest, lambda _done, _total: None) == "none", "too few samples to judge by"


def test_what_is_judged_is_what_will_be_shipped() -> None:
    """A network that loses nothing needs no migration, whatever rounding to the nearest would lose."""
    graph = unbalanced()
    assert judge().decide(graph, list(random_feeds(graph, 2, 32)), lambda graph, _seen: graph, lambda _done, _total: None) == "none"


def test_probabilities_are_judged_by_what_they_are_made_of() -> None:
    builder = GraphBuilder("probabilities")
    x = builder.input("x", TensorType(F32, (1, 4)))
    logits = builder.add(MatMul(), [x, builder.constant(np.eye(4, dtype=np.float32), "w")])
    softmax = OnnxOperator("Softmax", "", 13, (("axis", -1),), (), (("f32", (1, 4)),))
    builder.outputs["y"] = builder.add(softmax, [logits])
    assert scores(builder.build(), builder.outputs["y"]) == logits


def test_a_migration_is_read_back_and_refuses_other_networks() -> None:
    graph = unbalanced()
    found = judge().find(graph, "smooth", list(random_feeds(graph, 2, 4)))
    again = Migration.loads(found.dumps())
    for name, array in migrate(graph, found).constants.items():
        np.testing.assert_array_equal(migrate(graph, again).constants[name], array)
    assert migrate(graph, Migration.loads("")) is graph
    with pytest.raises(ModelError, match="another network"):
        migrate(attention()[0], again)
    with pytest.raises(DataError, match="needs calibration data"):
        judge().find(graph, "smooth", None)


def test_statistics_do_not_depend_on_the_order_of_batches(rng: np.random.Generator) -> None:
    batches = [{"x": rng.normal(size=(2, 3, 5)).astype(np.float32)} for _ in range(6)]
    a, b = (collect_channels({"x": (1, 3, 1)}, lambda feeds: feeds, order)["x"] for order in (batches, batches[::-1]))
    stacked = np.concatenate([batch["x"] for batch in batches])
    for part in ("low", "high", "square", "width"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    np.testing.assert_allclose(a.low.reshape(-1), stacked.min(axis=(0, 2)))
    np.testing.assert_allclose(a.square.reshape(-1), np.square(stacked).mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(a.width.reshape(-1), np.abs(stacked).max(axis=2).mean(axis=0), rtol=1e-6)
    with pytest.raises(DataError, match="no batch"):
        collect_channels({"x": (1, 3, 1)}, lambda feeds: feeds, [])
    with pytest.raises(DataError, match="batch 0, value 'x': not finite"):
        collect_channels({"x": (1, 3, 1)}, lambda feeds: feeds, [{"x": np.full((2, 3, 5), np.nan, np.float32)}])
