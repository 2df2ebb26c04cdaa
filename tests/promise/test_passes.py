"""All passes of a compile in their order, each held to its promise, on the bundled models and on random networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.ir import Array, Graph, Pipeline
from qcc.measuring import precision_of
from qcc.models import zoo as model_zoo
from qcc.onnx import import_model, prepare
from qcc.passes.integer import TO_INTEGER
from qcc.passes.migrate import MIGRATE, Bits, Judge
from qcc.passes.quantize import ENCODE, encode, place
from qcc.passes.registry import PASSES
from qcc.passes.rounding import ROUND, Options, find_rounding
from qcc.passes.simplify import SIMPLIFY
from qcc.recipe import Recipe
from tests.promise.promise import NOISE, Watch
from tests.promise.test_simplify import Random, feeds_of
from tests.unit.graphs import measured

PRECISION = precision_of(Recipe())
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "simplify"
DECIDED = {"encode", "round_weights", "to_integer", "migrate"}


def compiled(graph: Graph, data: list[dict[str, Array]], watch: Watch) -> Graph:
    """The integer graph, as the compiler makes it."""
    graph = Pipeline(SIMPLIFY, watch)(graph)
    migration = Judge(prepare, Bits()).find(graph, "smooth", data)
    graph = Pipeline((MIGRATE.given(migration),), watch)(graph)
    placement = place(graph)
    ranges = measured(graph, placement.encoded, data)
    rounding = find_rounding(graph, encode(graph, placement, ranges, PRECISION), placement, data, prepare, Options())
    steps = (ENCODE.given(placement, ranges, PRECISION), ROUND.given(rounding), TO_INTEGER.given(placement, False))
    return Pipeline(steps, watch)(graph)


@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_models(name: str, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Any]]]) -> None:
    data = samples(name, 5)
    watch = Watch(data[-1])
    compiled(import_model(zoo(name)), data[:4], watch)
    assert set(watch.fired) >= DECIDED


def test_every_registered_pass_does_something_here_or_in_a_golden_file() -> None:
    """Random networks amplify roundings as they like, so that LOSSY is asked for only on real ones."""
    fired: set[str] = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        graph = Random(seed).build(12)
        watch = Watch(feeds_of(graph, rng), noise=-NOISE)
        compiled(graph, [dict(watch.feeds), feeds_of(graph, rng)], watch)
        fired.update(watch.fired)
    golden = {path.read_text("utf-8").partition("\n")[0].removeprefix("# pass: ") for path in GOLDEN.glob("*.qir")}
    assert {step.name for step in PASSES} <= fired | golden
    assert len(fired) > 15


def test_names_are_unique() -> None:
    contracts = {(step.name, step.takes, step.gives, step.numerics) for step in PASSES}
    assert len(contracts) == len({step.name for step in PASSES})
