"""Libraries with the kernels of several targets: the best that the CPU runs, equal results from all, constants shared."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
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
from qcc.codegen.header import exported_names
from qcc.codegen.target import FAT_TARGETS, TARGETS, host_features
from qcc.errors import RuntimeFailure, UsageError
from qcc.ir import interpret
from qcc.recipe import Recipe
from qcc.runtime.manifest import Manifest
from tests.exact.emulated import EMULATOR, build_runner, needed, run_saved

Array = npt.NDArray[Any]
ROOT = Path(__file__).resolve().parents[2]
ZIG = "-target aarch64-linux-musl"
here = pytest.mark.skipif(platform.machine() != "x86_64", reason="this machine runs no kernels of x86")


@pytest.fixture(scope="module")
def data(samples: Callable[..., list[dict[str, Array]]]) -> list[dict[str, Array]]:
    return samples("kws_dscnn", 2)


@dataclass(frozen=True)
class Built:
    artifact: Artifact
    folder: Path
    manifest: Manifest


def build(zoo: Callable[[str], Path], data: list[dict[str, Array]], target: str, folder: Path) -> Built:
    recipe = Recipe(target, "network", rounding="nearest", correction="none")
    artifact = qcc.compile(zoo("kws_dscnn"), calibration_data=data, recipe=recipe)
    return Built(artifact, folder, artifact.save(folder))


@pytest.fixture(scope="module")
def x86(tmp_path_factory: pytest.TempPathFactory, zoo: Callable[[str], Path], data: list[dict[str, Array]]) -> Built:
    return build(zoo, data, "x86-64", tmp_path_factory.mktemp("fat") / "x86")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory, zoo: Callable[[str], Path], data: list[dict[str, Array]]) -> Built:
    return build(zoo, data, "aarch64", tmp_path_factory.mktemp("fat") / "arm")


@here
def test_kernels_of_x86(x86: Built, data: list[dict[str, Array]]) -> None:
    artifact, manifest, folder = x86.artifact, x86.manifest, x86.folder
    names = [variant.target for variant in manifest.variants]
    assert names == list(FAT_TARGETS["x86-64"].variants)
    runs = [name for name in names if host_features().issuperset(TARGETS[name].features)]
    for name in runs:
        with qcc.load(folder, variant=name) as module:
            module.selftest()
            assert [layer for feed in data for layer in verification.check_layers(module, artifact.graph, feed) if not layer.good] == []
    assert verification.check_code(folder, manifest).findings == ()
    for name in set(names) - set(runs):
        with pytest.raises(RuntimeFailure, match="this CPU lacks"):
            qcc.load(folder, variant=name)
    with pytest.raises(RuntimeFailure, match="has no kernels for aarch64-neon"):
        qcc.load(folder, variant="aarch64-neon")


def test_what_inspect_says(x86: Built) -> None:
    """The variants with what they need; what they share is there once."""
    manifest, folder = x86.manifest, str(x86.folder)
    report = json.loads(CliRunner().invoke(main, ["inspect", folder, "--json"]).stdout)
    assert [variant["target"] for variant in report["variants"]] == [variant.target for variant in manifest.variants]
    sizes = [variant["constant_bytes"] for variant in report["variants"]]
    assert max(sizes) < manifest.constants_bytes < sum(sizes)
    assert "variant    x86-64-avx2, which needs avx2" in CliRunner().invoke(main, ["inspect", folder]).stdout


@needed
def test_kernels_of_arm(arm: Built, tmp_path: Path, data: list[dict[str, Array]]) -> None:
    artifact = arm.artifact
    assert verification.check_code(arm.folder, arm.manifest).findings == ()
    shutil.copytree(arm.folder, tmp_path, dirs_exist_ok=True)
    expected = [interpret(artifact.graph, feed) for feed in data]
    program = build_runner(artifact, tmp_path)
    cores = {"max": "i8mm", "neoverse-n1": "dotprod", "cortex-a76": "dotprod", "cortex-a72": "neon", "cortex-a53": "neon"}
    for cpu, variant in cores.items():
        outputs, taken = run_saved(program, tmp_path, data, cpu)
        assert taken == f"aarch64-{variant}", cpu
        for found, right in zip(outputs, expected, strict=True):
            for port, array in found.items():
                bound = artifact.texts.output_bounds.get(port, 0.0)     # of float operators
                np.testing.assert_allclose(array, right[port], rtol=0, atol=bound, err_msg=f"{cpu}, {port}")


@needed
@pytest.mark.parametrize("cross", ["", ZIG])
def test_example(cross: str, arm: Built, tmp_path: Path) -> None:
    """Built with the GNU compiler, and with Zig's against another C library."""
    if shutil.which("make") is None or (cross and find_spec("ziglang") is None):
        pytest.skip("make, or the package ziglang, is not installed: an example is NOT checked")
    for name in ("main.c", "Makefile"):
        shutil.copy(ROOT / "examples" / "arm" / name, tmp_path)
    options = [f"CROSS={sys.executable} -m ziglang cc {cross}"] if cross else []
    subprocess.run(["make", "-C", tmp_path, f"NETWORK={arm.folder}", *options], check=True, capture_output=True)
    done = subprocess.run([EMULATOR, "-cpu", "cortex-a76", tmp_path / "classify", "2", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kernels: aarch64-dotprod\nfastest of 1 runs: ")


@needed
def test_a_library_made_with_zig(arm: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: list[dict[str, Array]]) -> None:
    if find_spec("ziglang") is None:
        pytest.skip("the package ziglang is not installed: its compiler is NOT checked")
    find = shutil.which
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "which", lambda name: None if name.startswith("aarch64-linux-gnu-") else find(name))
        arm.artifact.save(tmp_path)
    list_symbols = ["aarch64-linux-gnu-nm", "-D", "--defined-only", tmp_path / "libnetwork.so"]
    symbols = subprocess.run(list_symbols, capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in symbols.splitlines()} == set(exported_names("network", fat=True))
    outputs, taken = run_saved(build_runner(arm.artifact, tmp_path), tmp_path, data[:1], "neoverse-n1")
    assert taken == "aarch64-dotprod"
    right = interpret(arm.artifact.graph, data[0])
    for port, array in outputs[0].items():
        np.testing.assert_allclose(array, right[port], rtol=0, atol=arm.artifact.texts.output_bounds.get(port, 0.0), err_msg=port)


@pytest.mark.parametrize(("target", "message"), [
    ("x86-64", "name one of them"), ("aarch64-dotprod", "are cross-compiled here")])
def test_what_cannot_be_tuned(target: str, message: str, zoo: Callable[[str], Path]) -> None:
    if TARGETS.get(target, FAT_TARGETS.get(target)).architecture == "aarch64" and host_features().issuperset({"asimd"}):  # type: ignore[union-attr]
        pytest.skip("this machine runs kernels for ARM")
    with pytest.raises(UsageError, match=message):
        qcc.compile(zoo("kws_dscnn"), target=target, tune="quick")
