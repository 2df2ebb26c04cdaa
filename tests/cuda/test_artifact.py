"""An artifact for GPUs end to end: loaded, run through the driver's entry points, equal to the interpreter bit for bit; and its errors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcc
from qcc.codegen.cuda.toolchain import architectures
from qcc.errors import RuntimeFailure
from qcc.ir import interpret
from qcc.runtime import Manifest
from tests.cuda.conftest import images
from tests.cuda.fake import VARIABLES, FakeDriver

Set = Callable[[str, object], None]


@pytest.fixture
def setting(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Set:
    """`setting("SM", 90)`: what the driver is to be."""
    return lambda name, value: monkeypatch.setenv(f"{VARIABLES}{name}", str(value))


def expect(artifact: Path, message: str) -> None:
    with pytest.raises(RuntimeFailure, match=message):
        qcc.load(artifact)


def test_results_equal_the_interpreter(driver: FakeDriver, artifact: Path, compiled: qcc.Artifact) -> None:
    with qcc.load(artifact) as module:
        module.selftest()
        for seed in range(4):
            feeds = {"image": images(seed) * (seed + 1)}
            found = module.run(feeds)["logits"]
            np.testing.assert_array_equal(found.view(np.uint32), interpret(compiled.graph, feeds)["logits"].view(np.uint32))
        steps = len(module.manifest.steps)
    assert driver.statistics()["launches"] >= 5 * steps
    assert driver.statistics()["graph_launches"] >= 5


def test_threads_in_descending_order(artifact: Path, compiled: qcc.Artifact, setting: Set) -> None:
    setting("ORDER", 1)
    with qcc.load(artifact) as module:
        feeds = {"image": images(9)}
        np.testing.assert_array_equal(module.run(feeds)["logits"], interpret(compiled.graph, feeds)["logits"])


def test_contexts_share_machine_code_and_constants(driver: FakeDriver, artifact: Path) -> None:
    with qcc.load(artifact) as module:
        first, second = module._take(), module._take()
        assert driver.statistics()["modules"] == 1
        assert driver.statistics()["memory"] == 3      # constants, and an arena for each context
        module._give(first)
        module._give(second)


def test_profile_names_every_step(driver: FakeDriver, artifact: Path) -> None:
    with qcc.load(artifact) as module:
        profile = module.profile({"image": images(2)})
    assert [node for node, _ in profile] == [step.node for step in module.manifest.steps]


IMAGES = [(75, 75, 0), (80, 80, 0), (86, 86, 0), (87, 86, 0), (89, 89, 0), (90, 90, 0), (120, 90, 1)]


@pytest.mark.parametrize(("sm", "image", "is_ptx"), IMAGES)
def test_the_image_for_a_gpu(driver: FakeDriver, artifact: Path, setting: Set, sm: int, image: int, is_ptx: int) -> None:
    """Machine code of the same generation, the closest that is not later; PTX for later generations."""
    setting("SM", sm)
    qcc.load(artifact).close()
    assert (driver.statistics()["image_sm"], driver.statistics()["image_is_ptx"]) == (image, is_ptx)


def test_a_gpu_without_code(artifact: Path, setting: Set) -> None:
    setting("SM", 70)
    expect(artifact, r"compute capability 7\.0, and the library holds code for sm_75 sm_80 .* and PTX for sm_90 or later; .*cuda:sm_70")


def test_stepwise_runs_name_the_kernel_that_fails(artifact: Path, setting: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCC_CUDA_STEPWISE", "1")
    with qcc.load(artifact) as module:
        module.selftest()
        setting("FAIL", "cuStreamSynchronize=700")
        with pytest.raises(RuntimeFailure, match=r"step 0, .* \(kernel small_k0\) failed on the GPU: CUDA_ERROR_ILLEGAL_ADDRESS"):
            module.run({"image": images(0)})


def loading(artifact: Path, **options: Any) -> str:
    """What a new process that loads the artifact says."""
    code = f"import qcc; qcc.load({str(artifact)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options).stderr


def test_no_gpu(driver: FakeDriver, artifact: Path) -> None:
    message = "the NVIDIA driver finds no GPU on this machine; the library needs an NVIDIA GPU"
    assert message in loading(artifact, env=driver.environment(count=0))


def test_a_driver_that_cannot_start(driver: FakeDriver, artifact: Path) -> None:
    assert "the NVIDIA driver cannot start: CUDA_ERROR_UNKNOWN" in loading(artifact, env=driver.environment(fail="cuInit=999"))


def test_out_of_device_memory(artifact: Path, setting: Set) -> None:
    setting("MEMORY", 100)
    expect(artifact, r"no device memory for \d+ bytes of constants: CUDA_ERROR_OUT_OF_MEMORY")
    setting("MEMORY", 9000)
    expect(artifact, r"no device memory for \d+ bytes of arena, inputs and outputs: CUDA_ERROR_OUT_OF_MEMORY")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cuModuleLoadData=218", "cannot load the library's machine code: CUDA_ERROR_INVALID_PTX"),
        ("cuModuleGetFunction=500", "kernel small_k0 is not in the library's machine code: CUDA_ERROR_NOT_FOUND"),
        ("cuDevicePrimaryCtxRetain=2", "the GPU cannot be used: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuStreamCreate=2", "no stream can be made"),
        ("cuGraphAddKernelNode=1", r"step 0, .* \(kernel small_k0\) cannot be put into the graph: CUDA_ERROR_INVALID_VALUE"),
        ("cuGraphInstantiateWithFlags=2", "the CUDA graph cannot be made"),
    ],
)
def test_failures_of_the_driver_while_loading(artifact: Path, setting: Set, function: str, message: str) -> None:
    setting("FAIL", function)
    expect(artifact, message)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cuMemcpyHtoDAsync_v2=1", r"input image cannot be copied \(1944 bytes\)"),
        ("cuMemcpyDtoHAsync_v2=1", r"output logits cannot be copied \(40 bytes\)"),
        ("cuGraphLaunch=700", "the CUDA graph cannot be started: CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuStreamSynchronize=700", "a step failed on the GPU .*CUDA_ERROR_ILLEGAL_ADDRESS"),
    ],
)
def test_failures_of_the_driver_while_running(artifact: Path, setting: Set, function: str, message: str) -> None:
    with qcc.load(artifact) as module:
        setting("FAIL", function)
        with pytest.raises(RuntimeFailure, match=message):
            module.run({"image": images(0)})
        setting("FAIL", "")
        module.selftest()


def test_a_step_alone_names_its_kernel(artifact: Path, setting: Set) -> None:
    with qcc.load(artifact) as module:
        setting("FAIL", "cuLaunchKernel=701")
        name = module.manifest.steps[0].kernel
        with pytest.raises(RuntimeFailure, match=rf"step 0, .* \(kernel {name}\) cannot be started: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"):
            next(module.trace({"image": images(0)}))


def test_the_manifest_says_what_it_takes(artifact: Path, cuda_compiler: str) -> None:
    manifest = Manifest.read(artifact)
    assert manifest.sms == (75, 80, 86, 89, 90)
    assert manifest.features == ()
    assert manifest.versions[cuda_compiler]
    assert {step.kernel for step in manifest.steps} <= set(re.findall(r"small_k\d+", (artifact / "small.cu").read_text()))


def test_the_library_needs_no_cuda(artifact: Path) -> None:
    needed = subprocess.run(["readelf", "-d", artifact / "libsmall.so"], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in needed


def test_without_a_driver(artifact: Path) -> None:
    message = "there is no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded); the library needs an NVIDIA GPU"
    assert message in loading(artifact)


def test_the_same_bytes_again(compiled: qcc.Artifact, artifact: Path, tmp_path: Path) -> None:
    compiled.save(tmp_path / "again")
    for path in sorted(artifact.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    assert len(compiled.objects) == 1 + len(architectures(compiled.target))
