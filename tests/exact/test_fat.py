"""Libraries with the kernels of several targets: the best that the CPU runs, equal results from all, constants shared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import qcc
from qcc import verification
from qcc.artifact import Artifact
from qcc.cli import main
from qcc.codegen.target import FAT_TARGETS, TARGETS, host_features
from qcc.errors import RuntimeFailure, UsageError
from qcc.ir import interpret
from qcc.recipe import Recipe
from qcc.runtime.manifest import Manifest
from tests.exact.emulated import build_runner, needed, run_saved

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def data(samples: Callable[..., list[dict[str, Array]]]) -> list[dict[str, Array]]:
    return samples("kws_dscnn", 2)


def built(zoo: Callable[[str], Path], data: list[dict[str, Array]], target: str, folder: Path) -> tuple[Artifact, Manifest]:
    recipe = Recipe(target, rounding="nearest", correction="none")
    artifact = qcc.compile(zoo("kws_dscnn"), calibration_data=data, recipe=recipe)
    return artifact, artifact.save(folder)


def test_kernels_of_x86(tmp_path: Path, zoo: Callable[[str], Path], data: list[dict[str, Array]]) -> None:
    artifact, manifest = built(zoo, data, "x86-64", tmp_path)
    names = [variant.target for variant in manifest.variants]
    assert names == list(FAT_TARGETS["x86-64"].variants)
    runs = [name for name in names if host_features().issuperset(TARGETS[name].features)]
    for name in runs:
        with qcc.load(tmp_path, variant=name) as module:
            module.selftest()
            assert [layer for feed in data for layer in verification.check_layers(module, artifact.graph, feed) if not layer.good] == []
    assert verification.check_code(tmp_path, manifest).findings == ()
    for name in set(names) - set(runs):
        with pytest.raises(RuntimeFailure, match="this CPU lacks"):
            qcc.load(tmp_path, variant=name)
    with pytest.raises(RuntimeFailure, match="has no kernels for aarch64-neon"):
        qcc.load(tmp_path, variant="aarch64-neon")


def test_what_inspect_says(tmp_path: Path, zoo: Callable[[str], Path], data: list[dict[str, Array]]) -> None:
    """The variants with what they need; what they share is there once."""
    _, manifest = built(zoo, data, "x86-64", tmp_path)
    report = json.loads(CliRunner().invoke(main, ["inspect", str(tmp_path), "--json"]).stdout)
    assert [variant["target"] for variant in report["variants"]] == [variant.target for variant in manifest.variants]
    sizes = [variant["constant_bytes"] for variant in report["variants"]]
    assert max(sizes) < manifest.constants_bytes < sum(sizes)
    assert "variant    x86-64-avx2, which needs avx2" in CliRunner().invoke(main, ["inspect", str(tmp_path)]).stdout


@needed
def test_kernels_of_arm(tmp_path: Path, zoo: Callable[[str], Path], data: list[dict[str, Array]]) -> None:
    artifact, manifest = built(zoo, data, "aarch64", tmp_path)
    assert verification.check_code(tmp_path, manifest).findings == ()
    expected = [interpret(artifact.graph, feed) for feed in data]
    program = build_runner(artifact, tmp_path, 1 << 20)
    cores = {"max": "i8mm", "neoverse-n1": "dotprod", "cortex-a76": "dotprod", "cortex-a72": "neon", "cortex-a53": "neon"}
    for cpu, variant in cores.items():
        outputs, taken = run_saved(program, tmp_path, data, cpu)
        assert taken == f"aarch64-{variant}", cpu
        for found, right in zip(outputs, expected, strict=True):
            for port, array in found.items():
                bound = artifact.texts.output_bounds.get(port, 0.0)     # of float operators
                np.testing.assert_allclose(array, right[port], rtol=0, atol=bound, err_msg=f"{cpu}, {port}")


@pytest.mark.parametrize(("target", "message"), [
    ("x86-64", "tune for one of them"), ("aarch64-dotprod", "are cross-compiled here")])
def test_what_cannot_be_tuned(target: str, message: str, zoo: Callable[[str], Path]) -> None:
    if TARGETS.get(target, FAT_TARGETS.get(target)).architecture == "aarch64" and host_features().issuperset({"asimd"}):  # type: ignore[union-attr]
        pytest.skip("this machine runs kernels for ARM")
    with pytest.raises(UsageError, match=message):
        qcc.compile(zoo("kws_dscnn"), target=target, tune="quick")
