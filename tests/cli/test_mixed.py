"""--bits mixed and qcc profile as a user types them."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from qcc.codegen.target import TARGETS, host_features

Run = Callable[..., Result]
HOST = platform.machine() == "x86_64"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def mixed(qcc: Run, shared: Any, tmp_path: Path) -> Run:
    """`mixed("--budget", "size=0.7x")` compiles the small network into tmp_path / "out"."""

    def run(*options: object) -> Result:
        return qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "--bits", "mixed", *options)

    return run


def test_a_budget_is_kept_reported_and_replayed(mixed: Run, qcc: Run, shared: Any, tmp_path: Path) -> None:
    result = mixed("--budget", "size=0.75x", "--pareto", "size", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    chosen = report["mixed"]
    eight = next(u for u in chosen["uniform"] if u["bits"] == "w8a8")
    assert chosen["totals"]["size"] <= 0.75 * eight["size"]
    assert report["summary"]["constant_bytes"] <= 0.75 * eight["size"] + 256       # constants are aligned
    assert {layer["weight_bits"] for layer in chosen["layers"]} - {8}
    assert sum(layer["loss_share"] for layer in chosen["layers"]) <= 1.001
    assert chosen["frontier"][0]["size"] >= chosen["frontier"][-1]["size"]
    assert chosen["frontier"][0]["loss"] <= chosen["frontier"][-1]["loss"]
    assert json.loads((tmp_path / "out" / "mixed.json").read_text()) == chosen
    recipe = tmp_path / "out" / "recipe.toml"
    again = qcc("compile", shared.model, "-o", tmp_path / "again", "--calibration-data", shared.data, "--recipe", recipe)
    assert again.exit_code == 0, again.output
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "mixed.json"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert qcc("verify", tmp_path / "out").exit_code == 0


def test_the_tables_name_every_layer_and_the_baselines(mixed: Run) -> None:
    result = mixed("--budget", "bitops=0.5x")
    assert result.exit_code == 0, result.output
    for text in ("conv", "logits", "chosen", "greedy", "w8a8", "w4a4", "gap to the optimum", "an estimate: nothing was measured"):
        assert text in result.stdout


@pytest.mark.parametrize(("options", "code", "message"), [
    ((), 2, "needs a goal"),
    (("--budget", "size=3parsecs"), 2, "expected a positive number"),
    (("--budget", "size=0.01x"), 2, "size cannot be at most"),
    (("--budget", "size=0.5x", "--budget", "size=0.4x"), 2, "given twice"),
    (("--max-loss", "1e-12"), 4, "the loss cannot be kept"),
    (("--max-drop", "0.1"), 2, "--max-drop and --eval go together"),
    (("--max-drop", "0.1", "--eval", "nonsense"), 2, "expected MODULE:FUNCTION"),
    (("--max-drop", "0.1", "--eval", "no_such_module_here:f"), 2, "cannot be imported"),
])
def test_goals_that_cannot_be_served(mixed: Run, tmp_path: Path, options: tuple[str, ...], code: int, message: str) -> None:
    result = mixed(*options)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("body", "code", "message"), [
    ("raise ValueError('no labels')", 2, "raised ValueError: no labels"),
    ("return float('nan')", 2, "returned nan"),
    ("calls.append(1); return 1.0 - 0.3 * len(calls)", 4, "cannot be kept"),
    ("return float(sum(run({'image': x})['logits'].argmax() == y for x, y in data))", 0, "chosen"),
])
def test_the_users_own_measure(
    mixed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, code: int, message: str
) -> None:
    name = f"measure_{code}_{len(body)}"
    (tmp_path / f"{name}.py").write_text(
        f"import numpy as np\ncalls = []\ndata = [(np.ones((1, 3, 8, 8), np.float32), 2)]\ndef good(run):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    result = mixed("--max-drop", "0.1", "--eval", f"{name}:good")
    assert result.exit_code == code, result.output
    assert message in result.output


def test_options_of_mixed_need_mixed(qcc: Run, shared: Any, tmp_path: Path) -> None:
    result = qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "--budget", "size=0.5x")
    assert result.exit_code == 2
    assert "--budget without --bits mixed" in result.output


@pytest.mark.skipif(not HOST or not host_features().issuperset(TARGETS["x86-64-avx2"].features), reason="measures on x86 with AVX2")
def test_a_profile_is_measured_and_used_only_where_it_fits(qcc: Run, mixed: Run, shared: Any, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    result = qcc("profile", shared.model, "--target", "x86-64-avx2", "-o", profile)
    assert result.exit_code == 0, result.output
    used = mixed("--target", "x86-64-avx2", "--budget", "latency=1x", "--profile", profile, "--json")
    assert used.exit_code == 0, used.output
    assert json.loads(used.stdout)["mixed"]["measured_latency"] is True
    other = mixed("--target", "aarch64-neon", "--budget", "latency=1x", "--profile", profile, "--force")
    assert other.exit_code == 2
    assert "measured for target x86-64-avx2" in other.output
    assert qcc("profile", shared.artifact, "-o", profile).exit_code == 2       # it exists


@pytest.mark.skipif(not HOST, reason="runs the harness here")
def test_the_harness_prints_a_profile(qcc: Run, mixed: Run, shared: Any, tmp_path: Path) -> None:
    folder = tmp_path / "harness"
    result = qcc("profile", shared.artifact, "--harness", folder)
    assert result.exit_code == 0, result.output
    printed = subprocess.run([folder / "profile"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "device.json").write_text(printed)
    used = mixed("--budget", "latency=1x", "--profile", tmp_path / "device.json")
    assert used.exit_code == 0, used.output
    assert "device.json" in used.output
    subprocess.run(["make", "-B", "-C", folder], capture_output=True, check=True)


def test_another_device_is_measured_there(qcc: Run, shared: Any, tmp_path: Path) -> None:
    foreign = "aarch64-neon" if HOST else "x86-64-avx2"
    result = qcc("profile", shared.model, "--target", foreign, "-o", tmp_path / "profile.json")
    assert result.exit_code == 2
    assert "--harness FOLDER" in result.output


@pytest.mark.parametrize(("target", "message"), [
    ("cuda", "its tiles are for all of sm_75, sm_80, sm_86, sm_89, sm_90: name one of them"), ("x86-64", "name one of them")])
def test_targets_that_have_no_profile(qcc: Run, shared: Any, tmp_path: Path, target: str, message: str) -> None:
    places = (("-o", tmp_path / "profile.json", message), ("--harness", tmp_path / "harness", f"for one kind of CPU, and {target} is none"))
    for option, path, expected in places:
        result = qcc("profile", shared.model, "--target", target, option, path)
        assert result.exit_code == 2
        assert expected in " ".join(result.output.split())
