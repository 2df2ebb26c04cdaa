"""The command line as a user types it, small models to type it about, and one artifact for all tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from qcc.cli import main
from qcc.runtime import Manifest
from qcc.runtime.manifest import file_hash

Run = Callable[..., Result]


@pytest.fixture
def qcc() -> Run:
    """`qcc("compile", model, "-o", folder)`: runs the command in this process; arguments may be paths."""
    return _invoke


def _invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def qcc_process() -> Callable[..., subprocess.Popen[str]]:
    """`qcc_process("compile", ...)`: the command in a process of its own."""

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}      # not the current folder
        command = [sys.executable, "-m", "qcc", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, text=True, env=environment, **pipes)

    return start


def small_network(open_axes: bool = False) -> onnx.ModelProto:
    """image f32[N, 3, 8, 8] -> convolution, relu, global average, gemm -> logits f32[N, 5]; seeded weights."""
    random = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * 0.3).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "m", "c"], ["logits"], transB=1),
    ]
    side: list[int | str] = ["H", "W"] if open_axes else [8, 8]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, *side])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 5])],
        [tensor("w", 16, 3, 3, 3), tensor("b", 16), tensor("m", 5, 16), tensor("c", 5)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def network() -> Callable[..., onnx.ModelProto]:
    """`network()` is a fresh small model to change; `network(open_axes=True)` leaves its height and width open."""
    return small_network


@dataclass(frozen=True)
class Place:
    """A folder with a model, data for it, and what was compiled from them."""

    model: Path
    data: Path
    artifact: Path
    compiled: Result


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Compiled once; not to be changed."""
    folder = tmp_path_factory.mktemp("shared")
    place = folder / "small.onnx", folder / "data.npz", folder / "out"
    onnx.save(small_network(), place[0])
    np.savez(place[1], image=np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32))
    result = _invoke("compile", place[0], "-o", place[2], "--calibration-data", place[1])
    assert result.exit_code == 0, result.output
    return Place(*place, result)


@pytest.fixture
def artifact(shared: Place, tmp_path: Path) -> Path:
    """A copy of the artifact that may be changed."""
    return Path(shutil.copytree(shared.artifact, tmp_path / "copy"))


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """`reseal(folder)` writes the present files' hashes into the manifest."""

    def write(folder: Path) -> None:
        path = folder / "manifest.json"
        values = json.loads(path.read_text())
        values["files"] = {name: file_hash(folder / name) for name in values["files"]}
        path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
        Manifest.read(folder)

    return write
