"""`qcc compile --migration`: what is chosen is written down, applied again by `qcc compare`, and exact with bounds per channel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qcc.recipe import Recipe


@pytest.fixture
def unbalanced(network: Any, tmp_path: Path) -> tuple[Path, Path]:
    """The small network with ReLU6 and channels of very different width, and data for it."""
    model = network()
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    widths = np.exp(np.linspace(-3, 1, 16)).astype(np.float32)
    arrays["w"] *= widths[:, None, None, None]
    arrays["b"] *= widths
    arrays["m"] /= widths
    arrays |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    model.graph.node[1].CopyFrom(helper.make_node("Clip", ["conv", "zero", "six"], ["relu"]))
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(model, tmp_path / "unbalanced.onnx")
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32))
    return tmp_path / "unbalanced.onnx", tmp_path / "data.npz"


def test_auto_takes_what_helps_and_compare_follows(qcc: Any, unbalanced: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = unbalanced
    found = {}
    for migration in ("none", "auto"):
        out = tmp_path / migration
        done = qcc("compile", model, "-o", out, "--calibration-data", data, "--migration", migration)
        assert done.exit_code == 0, done.output
        found[migration] = json.loads(qcc("compare", model, out, "--data", data, "--json").stdout)
    assert Recipe.load(tmp_path / "none" / "recipe.toml").migration == "none"
    assert not (tmp_path / "none" / "migration.json").exists()
    assert Recipe.load(tmp_path / "auto" / "recipe.toml").migration == "smooth"
    assert json.loads((tmp_path / "auto" / "migration.json").read_text())["method"] == "smooth"
    assert found["auto"]["outputs"][0]["sqnr_db"] > found["none"]["outputs"][0]["sqnr_db"] + 3
    assert min(layer["sqnr_db"] for layer in found["auto"]["layers"]) > 25, "layers are compared as they were migrated"
    assert "= clamp(" in (tmp_path / "auto" / "graph.qir").read_text(), "bounds that differ by channel are a clamp"
    verified = qcc("verify", tmp_path / "auto", "--layers")
    assert verified.exit_code == 0, verified.output


def test_a_recipe_with_the_choice_gives_the_same_bytes(qcc: Any, unbalanced: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = unbalanced
    options = ("compile", model, "--calibration-data", data)
    assert qcc(*options, "-o", tmp_path / "first", "--migration", "auto").exit_code == 0
    assert qcc(*options, "-o", tmp_path / "again", "--recipe", tmp_path / "first" / "recipe.toml").exit_code == 0
    for file in ("graph.qir", "recipe.toml", "migration.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
