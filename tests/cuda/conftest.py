"""A fake driver for all tests of GPU artifacts, and one artifact of a small network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qcc
from qcc.codegen.cuda.toolchain import find_compiler
from qcc.errors import CodegenError
from qcc.recipe import Recipe
from tests.cuda.fake import VARIABLES, FakeDriver, build_driver

SHAPE = (2, 3, 9, 9)
SETTINGS = ("SM", "COUNT", "MEMORY", "FAIL", "ORDER", "TIMES")


@pytest.fixture(scope="session")
def cuda_compiler() -> str:
    """Skips, loudly, where there is no compiler of CUDA C."""
    try:
        return find_compiler().name
    except CodegenError as error:
        pytest.skip(f"artifacts for GPUs are NOT tested: {error}")


@pytest.fixture(scope="session")
def loaded_driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(build_driver(tmp_path_factory.mktemp("driver")))


@pytest.fixture
def driver(loaded_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """The driver; whoever uses it must give everything back."""
    for name in SETTINGS:
        monkeypatch.delenv(f"{VARIABLES}{name}", raising=False)
    yield loaded_driver
    for name in SETTINGS:
        monkeypatch.delenv(f"{VARIABLES}{name}", raising=False)
    failure = loaded_driver.recover()
    assert not failure, failure
    assert not loaded_driver.alive


def small_network() -> onnx.ModelProto:
    """image f32[2, 3, 9, 9] -> convolution of 17 channels, relu, global average, gemm -> logits f32[2, 5]; seeded weights."""
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
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [2, 5])],
        [tensor("w", 17, 3, 3, 3), tensor("b", 17), tensor("m", 5, 17), tensor("c", 5)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture(scope="session")
def compiled(cuda_compiler: str) -> qcc.Artifact:
    """The small network for all GPUs that `cuda` stands for."""
    recipe = Recipe("cuda", name="small", rounding="nearest", correction="none")
    return qcc.compile(small_network(), calibration_data=[{"image": images(1)}], recipe=recipe)


@pytest.fixture(scope="session")
def shared_artifact(compiled: qcc.Artifact, loaded_driver: FakeDriver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved, and known to the driver; not to be changed."""
    folder = tmp_path_factory.mktemp("artifact") / "out"
    compiled.save(folder)
    loaded_driver.prepare(folder)
    return folder


@pytest.fixture
def artifact(shared_artifact: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(shared_artifact, tmp_path / "copy"))
