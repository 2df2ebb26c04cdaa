"""What becomes of a layer's results: sums are made exact, and what ends of ranges hide is no error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir import Array, Graph, GraphBuilder, TensorType
from qcc.ir.types import F32
from qcc.onnx import prepare
from qcc.ops import Add, Clip, Convolution
from qcc.passes.quantize import Precision, encode, place
from qcc.passes.rounding import Options, find_rounding, round_weights
from qcc.passes.rounding.correct import sample_of
from qcc.passes.rounding.moments import Moments
from qcc.passes.rounding.rows import Rows
from qcc.passes.rounding.sums import Sum, sum_of
from tests.unit.graphs import measured


def residual(rng: np.random.Generator) -> Graph:
    """Two convolutions, whose input is added to the second one's results."""
    b = GraphBuilder("residual")
    x = b.input("x", TensorType(F32, (1, 6, 9, 9)))

    def layer(value: str, name: str, outputs: int) -> str:
        weights = (rng.normal(size=(outputs, b.types[value].shape[1], 3, 3)) / 6).astype(np.float32)
        constants = b.constant(weights, f"{name}.w"), b.constant(rng.normal(size=outputs).astype(np.float32), f"{name}.b")
        return b.add(Convolution(pads=(1, 1, 1, 1)), [value, *constants], (name,))

    first = b.add(Clip((0.0,), (np.inf,)), [layer(x, "first", 6)], ("start",))
    total = b.add(Add(), [layer(first, "second", 6), first], ("total",))
    b.outputs["y"] = layer(b.add(Clip((0.0,), (2.0,)), [total], ("end",)), "last", 3)
    return b.build()


def quantized(graph: Graph, batches: list[dict[str, Array]], bits: int) -> Graph:
    placement = place(graph)
    return encode(graph, placement, measured(graph, placement.encoded, batches), Precision(4, bits))


@pytest.mark.parametrize("bits", [4, 8])
def test_what_follows_a_layer_is_found(rng: np.random.Generator, bits: int) -> None:
    graph = residual(rng)
    q = quantized(graph, [{"x": rng.normal(size=(1, 6, 9, 9)).astype(np.float32)} for _ in range(4)], bits)
    numbers = {node.outputs[0]: number for number, node in enumerate(q.nodes)}
    assert sum_of(q, numbers["first"]).others == ()
    found = sum_of(q, numbers["second"])
    assert sum_of(q, numbers["last"]) == Sum()     # an output that is not rounded
    assert (found == Sum()) == (bits == 8)
    if found.bounds is not None:
        assert found.others == ("start",)
        encoding = q.types["end"].encoding
        assert encoding is not None
        assert found.bounds[0].shape == (1, 1, 6)
        assert np.all(found.bounds[0] == 0.0)
        assert found.bounds[1] == pytest.approx(min(2.0, 15 * encoding.scale[0]))


def test_sums_are_wanted_exact(rng: np.random.Generator) -> None:
    graph = residual(rng)
    node = next(node for node in graph.nodes if node.outputs[0] == "second")
    values = [{name: rng.normal(size=(1, 6, 9, 9)).astype(np.float32) for name in ("start", "second")} for _ in range(2)]
    rounded, exact = values
    x, wanted, added = sample_of(node, Sum(("start",)), rounded, exact)
    assert added is not None
    assert x is rounded["start"]
    assert wanted + added == pytest.approx(exact["second"] + exact["start"], abs=1e-5)
    assert sample_of(node, Sum(), rounded, exact)[1:] == (exact["second"], None)


@given(seed=st.integers(0, 2**32 - 1), summed=st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_problem_behind_bounds_errs_nowhere_less(seed: int, summed: bool) -> None:
    rng = np.random.default_rng(seed)
    graph = residual(rng)
    node = graph.nodes[0]
    samples = [(*(rng.normal(size=(1, 6, 9, 9)).astype(np.float32) for _ in range(2)),
                rng.normal(size=(1, 6, 9, 9)).astype(np.float32) if summed else None) for _ in range(8)]
    rows = Rows(node, (6, 6, 3, 3), samples, 4096)
    seen, unseen = rows.moments()
    assert unseen is not None
    weights, bias = rng.normal(size=(1, 6, 54)) / 7, rng.normal(size=(1, 6))
    wide, bounds = ((np.full((1, 1, 6), low, np.float32), np.full((1, 1, 6), high, np.float32)) for low, high in ((-99, 99), (-0.3, 0.9)))
    everything, _ = rows.within((seen, unseen), weights, bias, wide)
    total = seen + unseen
    assert everything == pytest.approx(float(total.centred(bias).error(weights).sum()) * total.count, rel=1e-3)
    error, moved = rows.within((seen, unseen), weights, bias, bounds)
    assert error == pytest.approx(within(rows, weights, bias, bounds), rel=1e-4)
    assert error < 0.8 * everything

    def squares(w: Array, b: Array) -> float:
        total: Moments = moved[0] + moved[1]
        return float(total.centred(b).error(w).sum()) * total.count

    assert error <= squares(weights, bias) < everything
    for _ in range(4):
        w, b = weights + 0.1 * rng.normal(size=weights.shape), bias + 0.3 * rng.normal(size=bias.shape)
        assert within(rows, w, b, bounds) <= squares(w, b) * (1 + 1e-3)


def within(rows: Rows, weights: Array, bias: Array, bounds: tuple[Array, Array]) -> float:
    """The error behind bounds, number by number."""
    total = 0.0
    for side in rows.sides():
        for x, y, added in rows.chunks(side):
            offset = np.zeros_like(y) if added is None else added
            sums = x @ weights.transpose(0, 2, 1) + bias[:, None] + offset, y + offset
            total += float(np.square(np.subtract(*(np.clip(one, *bounds) for one in sums))).sum())
    return total


def test_few_bits_in_a_residual_network_lose_less(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against layers that are made right one by one, on data that rounding did not see."""
    graph = residual(rng)
    mixing = rng.normal(size=(6, 6))
    batches = [{"x": np.einsum("oc,nchw->nohw", mixing, rng.normal(size=(1, 6, 9, 9))).astype(np.float32)} for _ in range(48)]
    learned, others = batches[:32], batches[32:]
    q, placement, exact = quantized(graph, learned, 4), place(graph), prepare(graph, ["end"])

    def error() -> float:
        found = round_weights(q, find_rounding(graph, q, placement, learned, prepare, Options()))
        run = prepare(found, ["end"])
        return sum(float(np.square(run(one)["end"] - exact(one)["end"]).sum()) for one in others)

    together = error()
    monkeypatch.setattr("qcc.passes.rounding.correct.sum_of", lambda _graph, _number: Sum())
    assert together < 0.99 * error()
