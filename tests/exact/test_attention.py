"""A block of attention, compiled: its library equals the interpreter, products of activations and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.golden import output_bounds
from qcc.ir import interpret
from qcc.onnx.exporter import export_model
from qcc.ops import IntegerBatchMatMul
from qcc.recipe import Recipe
from tests.unit.graphs import random_feeds
from tests.unit.test_migrate import attention


@pytest.mark.parametrize("migration", ["none", "smooth"])
def test_library_equals_interpreter(migration: str, tmp_path: Path) -> None:
    network, _ = attention(tokens=24)
    samples = list(random_feeds(network, 3, 4))
    recipe = Recipe(name="attention", migration=migration)
    artifact = qcc.compile(export_model(network), calibration_data=samples, recipe=recipe)
    assert sum(isinstance(node.op, IntegerBatchMatMul) for node in artifact.graph.nodes) == 2
    artifact.save(tmp_path / "artifact")
    with qcc.load(tmp_path / "artifact") as module:
        for feeds in random_feeds(network, 4, 3):
            wanted = interpret(artifact.graph, feeds)
            bound = output_bounds(artifact.graph, wanted).get("y", 0.0)
            np.testing.assert_allclose(module.run(feeds)["y"], wanted["y"], rtol=0, atol=bound)
