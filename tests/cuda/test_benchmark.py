"""benchmarks/cuda.py against the fake driver, as far as it goes without a GPU: what it measures there is thrown away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qcc.codegen.target import find_target
from qcc.codegen.tune import EFFORTS
from qcc.codegen.tuning import load_tuning
from qcc.runtime import Manifest
from tests.cuda.fake import VARIABLES, FakeDriver
from tests.cuda.harness import build_host

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"
NAME = "ad_autoencoder_b1_w8a8"


@pytest.fixture(scope="module")
def bundle(cuda_compiler: str, loaded_driver: FakeDriver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, candidates of its layers, and the kernels of the peak."""
    folder = tmp_path_factory.mktemp("bundle")
    options = ["--batches", "1", "--bits", "8", "--target", "cuda:sm_80", "--tune", "quick", "--no-kernels"]
    arguments = [FOLDER / "cuda_bundle.py", folder, "ad_autoencoder", *options]
    subprocess.run([sys.executable, *arguments], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))} | environment())
    loaded_driver.prepare(folder / NAME)
    for text in (folder / "peak.cu", *folder.glob("*.races/candidates*.cu")):
        loaded_driver.kernels.append(build_host(text.read_text(), text.with_suffix(".so")))
    return folder


def environment() -> dict[str, str]:
    """What a program needs, and nothing of a driver."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def benchmark(bundle: Path, driver: FakeDriver | None, *options: str) -> subprocess.CompletedProcess[str]:
    found = {} if driver is None else driver.environment(kernels=":".join(map(str, driver.kernels)))
    command = [sys.executable, str(FOLDER / "cuda.py"), str(bundle), *options]
    variables = environment() | found | {"PYTHONPATH": str(FOLDER.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def test_everything_runs(bundle: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part, with times that are made up; and what it learns of tiles is a record that compiles."""
    monkeypatch.setenv(f"{VARIABLES}TIMES", "any=2000")
    done = benchmark(bundle, driver, "--rounds", "1", "--no-sanitizer")
    assert done.returncode == 1, done.stdout + done.stderr      # PyTorch's part: it finds no GPU, or is not there
    assert "1 of 1 artifacts are exact" in done.stdout
    assert "TIMES MEAN NOTHING" in done.stdout
    report = json.loads((bundle / "results.json").read_text())
    parts = report["parts"]
    assert list(report["failed"]) == ["torch products"]
    assert parts[f"check {NAME}"]["layers_compared"] >= 10
    steps = Manifest.read(bundle / NAME).steps
    layers = parts[f"network {NAME}"]["layers"]
    assert parts[f"network {NAME}"]["seconds"] == pytest.approx(len(steps) * 2e-3)
    assert [row["node"] for row in layers] == [step.node for step in steps]
    assert sum(row["macs"] for row in layers) > 1e5
    assert {row["form"] for row in layers} >= {"vector"}
    assert parts["peak"]["products"] == pytest.approx(2 * 8 * 2 * 8 * 16 * 8 * 32 / 2e-3)
    assert all(seconds == pytest.approx(2e-3) for row in parts[f"races {NAME}.races"]["kernels"] for seconds in row["seconds"])
    record = load_tuning(bundle / f"{NAME}.races.tuning.json", find_target("cuda:sm_80"))
    assert len(record.choices) == len(parts[f"races {NAME}.races"]["kernels"]) >= 3


def test_time_that_runs_out_costs_the_last_parts(bundle: Path, driver: FakeDriver) -> None:
    done = benchmark(bundle, driver, "--minutes", "0.0002")
    assert done.returncode == 1
    assert "no GPU, so NOTHING was checked: no time" in done.stderr


def test_a_part_that_fails_costs_no_other(bundle: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{VARIABLES}TIMES", "any=2000")
    peak = bundle / "peak.sm_80"
    kept = peak.read_bytes()
    peak.write_bytes(b"nothing that a driver takes")
    done = benchmark(bundle, driver, "--rounds", "1", "--no-sanitizer")
    peak.write_bytes(kept)
    report = json.loads((bundle / "results.json").read_text())
    assert done.returncode == 1
    assert "FAILED peak: cuModuleLoadData failed" in done.stdout
    assert set(report["parts"]) >= {f"check {NAME}", f"network {NAME}"}


def test_a_wrong_layer_is_named(bundle: Path, driver: FakeDriver) -> None:
    path = bundle / f"{NAME}.layers.json"
    kept = path.read_text()
    rows = json.loads(kept)
    rows[-1]["checksum"] += 1
    path.write_text(json.dumps(rows))
    done = benchmark(bundle, driver, "--check")
    path.write_text(kept)
    assert done.returncode == 5
    assert f"layer {rows[-1]['node']} differs from the interpreter" in done.stdout
    assert f"WRONG: {NAME}" in done.stdout


def test_the_sanitizer_is_run_and_believed(bundle: Path, driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that runs what it is given, and finds something as one of its tools."""
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\nif [ "$2" = racecheck ]; then echo a hazard; exit 9; fi\nshift 4\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = benchmark(bundle, driver, "--check")
    assert done.returncode == 5, done.stdout + done.stderr
    assert f"compute-sanitizer memcheck {NAME}: clean" in done.stdout
    assert f"compute-sanitizer racecheck {NAME}: a hazard" in done.stdout


def test_without_a_gpu_it_says_so(bundle: Path) -> None:
    done = benchmark(bundle, None)
    assert done.returncode == 1
    assert "no GPU, so NOTHING was checked: there is no NVIDIA driver" in done.stderr


def test_single_kernels_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of cuda_static.py as races: sources and results change, constants are recognised."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import cuda_bundle

    found = cuda_bundle.single_kernels(find_target("cuda:sm_90"), EFFORTS["quick"], [8])
    assert {label for label in found if label.startswith("3x3 256")} == {f"3x3 256 {bits}, batch 8" for bits in ("8/8", "4/8", "4/4")}
    for kernels, constant in found.values():
        assert len(kernels) > 1
        assert (constant[0], constant[-1], constant[-2]) == (False, False, True)
        assert len(constant) == len(kernels[0].operands)


@pytest.mark.gpu
def test_on_a_gpu(bundle: Path) -> None:
    done = benchmark(bundle, None)
    if "no GPU" in done.stderr:
        pytest.skip("there is NO GPU: kernels were run in emulation only, and no time was measured")
    assert done.returncode == 0, done.stdout + done.stderr
