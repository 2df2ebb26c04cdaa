"""benchmarks/cuda.py against the fake driver, as far as it goes without a GPU: what it measures there is thrown away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.fake import FakeDriver
from tests.cuda.harness import build_host

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def bundle(cuda_compiler: str, loaded_driver: FakeDriver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, and the kernels of the peak."""
    folder = tmp_path_factory.mktemp("bundle")
    arguments = [FOLDER / "cuda_bundle.py", folder, "ad_autoencoder", "--batches", "1", "--bits", "8", "--target", "cuda:sm_80"]
    subprocess.run([sys.executable, *arguments], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))} | environment())
    loaded_driver.prepare(folder / "ad_autoencoder_b1_w8a8")
    loaded_driver.kernels.append(build_host((folder / "peak.cu").read_text(), folder / "peak.so"))
    return folder


def environment() -> dict[str, str]:
    """What a program needs, and nothing of a driver."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def benchmark(bundle: Path, driver: FakeDriver | None, *options: str) -> subprocess.CompletedProcess[str]:
    found = {} if driver is None else driver.environment(kernels=":".join(map(str, driver.kernels)))
    command = [sys.executable, str(FOLDER / "cuda.py"), str(bundle), *options]
    variables = environment() | found | {"PYTHONPATH": str(FOLDER.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def test_everything_is_exact(bundle: Path, driver: FakeDriver, tmp_path: Path) -> None:
    done = benchmark(bundle, driver, "--output", str(tmp_path / "results.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 artifacts are exact" in done.stdout
    assert "NO TIMES are measured" in done.stdout
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["peak"] is None
    assert report["artifacts"][0]["layers_compared"] >= 10


def test_a_wrong_layer_is_named(bundle: Path, driver: FakeDriver) -> None:
    path = bundle / "ad_autoencoder_b1_w8a8.layers.json"
    kept = path.read_text()
    rows = json.loads(kept)
    rows[-1]["checksum"] += 1
    path.write_text(json.dumps(rows))
    done = benchmark(bundle, driver, "--check")
    path.write_text(kept)
    assert done.returncode == 5
    assert f"layer {rows[-1]['node']} differs from the interpreter" in done.stdout
    assert "WRONG: ad_autoencoder_b1_w8a8" in done.stdout


def test_the_sanitizer_is_run_and_believed(bundle: Path, driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that runs what it is given, and finds something as one of its tools."""
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\nif [ "$2" = racecheck ]; then echo a hazard; exit 9; fi\nshift 4\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = benchmark(bundle, driver, "--check")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "compute-sanitizer memcheck: clean" in done.stdout
    assert "compute-sanitizer racecheck: exit code 9: a hazard" in done.stdout


def test_without_a_gpu_it_says_so(bundle: Path) -> None:
    done = benchmark(bundle, None)
    assert done.returncode == 1
    assert "no GPU, so NOTHING was checked: there is no NVIDIA driver" in done.stderr


def test_what_is_measured_on_a_gpu_runs(bundle: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak, whole network and layers: the same calls as on a GPU; their times are the emulation's and mean nothing."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("QCC_FAKE_CUDA_KERNELS", ":".join(map(str, driver.kernels)))
    import cuda
    from cuda_device import measure_peak

    from qcc.runtime.device import Gpu
    from qcc.runtime.gpu import GpuModule

    gpu: Any = Gpu()
    assert gpu.is_emulated
    peak = measure_peak(gpu, bundle, blocks=2, turns=2, megabytes=1)
    assert peak.products > 0
    assert peak.bandwidth > 0
    folder = bundle / "ad_autoencoder_b1_w8a8"
    with GpuModule(folder) as module:
        assert cuda.whole(module, gpu, folder, 1) > 0
        rows = cuda.layers(module, folder, 1, peak)
        assert [row["node"] for row in rows] == [step.node for step in module.manifest.steps]
        assert sum(row["macs"] for row in rows) > 1e5
    gpu.close()


@pytest.mark.gpu
def test_on_a_gpu(bundle: Path) -> None:
    done = benchmark(bundle, None)
    if "no GPU" in done.stderr:
        pytest.skip("there is NO GPU: kernels were run in emulation only, and no time was measured")
    assert done.returncode == 0, done.stdout + done.stderr
