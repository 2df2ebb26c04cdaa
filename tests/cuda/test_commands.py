"""The commands on artifacts for GPUs: with the fake driver, and where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from qcc.cli import main
from qcc.codegen.cuda import toolchain
from qcc.codegen.target import GPU_TARGETS, find_target
from qcc.errors import UnknownTarget
from tests.cuda.conftest import images, small_network
from tests.cuda.fake import FakeDriver


def qcc(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def without_driver(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that finds no driver."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "qcc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_run_and_bench(driver: FakeDriver, artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images(1))
    result = qcc("run", artifact, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz")
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "y.npz")["logits"].shape == (2, 5)
    result = qcc("bench", artifact, "--rounds", "1", "--layers")
    assert result.exit_code == 0, result.output


def test_verify(driver: FakeDriver, artifact: Path) -> None:
    result = qcc("verify", artifact, "--inputs", "1")
    assert result.exit_code == 0, result.output
    assert "IMMA" in result.output
    assert "verified" in result.output


def test_verify_finds_a_wrong_library(driver: FakeDriver, artifact: Path) -> None:
    """An output of the golden pair that the library does not compute, under hashes that are right."""
    with np.load(artifact / "golden.npz") as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    golden["output.logits"] = golden["output.logits"] + np.float32(1)
    np.savez(artifact / "golden.npz", **golden)
    result = qcc("verify", artifact, "--inputs", "1")
    assert result.exit_code == 5
    assert "golden.npz" in result.stderr


@pytest.mark.parametrize("command", [("verify",), ("run", "--input", "x.npy", "-o", "y.npz"), ("bench",)])
def test_without_a_driver(command: tuple[str, ...], artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images(1))
    name, *options = (text.replace("x.npy", str(tmp_path / "x.npy")).replace("y.npz", str(tmp_path / "y.npz")) for text in command)
    done = without_driver(name, artifact, *options)
    assert done.returncode == 6
    assert "there is no NVIDIA driver on this machine" in done.stderr
    assert ("--static" in done.stderr) == (name == "verify")
    assert "Traceback" not in done.stderr


def test_verify_static_needs_no_gpu(artifact: Path) -> None:
    done = without_driver("verify", artifact, "--static")
    assert done.returncode == 0, done.stderr
    assert "NOT RUN (--static)" in done.stdout
    assert "IMMA" in done.stdout
    (artifact / "graph.qir").write_text("")
    assert without_driver("verify", artifact, "--static").returncode == 5


def test_inspect_names_the_gpus(artifact: Path) -> None:
    assert "an NVIDIA GPU (machine code for sm_75, sm_80, sm_86, sm_89, sm_90; PTX for later ones)" in qcc("inspect", artifact).output
    assert json.loads(qcc("inspect", artifact, "--json").output)["sms"] == [75, 80, 86, 89, 90]


def test_targets(driver: FakeDriver) -> None:
    found = {target["name"]: target for target in json.loads(qcc("targets", "--json").output)["targets"]}
    assert set(GPU_TARGETS) <= set(found)
    assert [name for name in GPU_TARGETS if found[name]["runs_here"]] == ["cuda", "cuda:sm_75", "cuda:sm_80"]
    assert "lacks an NVIDIA driver" in without_driver("targets").stdout
    with pytest.raises(UnknownTarget, match="did you mean 'cuda:sm_90'"):
        find_target("cuda:sm90")


@pytest.mark.parametrize("command", [("compile", "--tune", "quick"), ("profile",)])
def test_what_needs_a_gpu_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "small.onnx")
    name, *options = command
    done = without_driver(name, tmp_path / "small.onnx", "--target", "cuda:sm_80", "-o", tmp_path / "out", *options)
    assert done.returncode == 2
    message = "this machine cannot time those of target cuda:sm_80: there is no NVIDIA driver on this machine (libcuda.so.1 cannot be"
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "packaged", lambda pattern: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    onnx.save(small_network(), tmp_path / "small.onnx")
    result = qcc("compile", tmp_path / "small.onnx", "--target", "cuda", "-o", tmp_path / "out")
    assert result.exit_code == 7
    assert "neither NVRTC as a Python package, nor nvcc in CUDA_HOME or on the PATH" in " ".join(result.stderr.split())
