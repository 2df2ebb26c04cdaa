"""Runs with arrays on the GPU: DLPack in and out, streams, and what is refused."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcc
from qcc.errors import RuntimeFailure, UsageError
from qcc.ir import interpret
from qcc.runtime.device_array import CUDA, DeviceArray, borrow, driver
from qcc.runtime.gpu import GpuModule
from tests.cuda.conftest import SHAPE, images
from tests.cuda.fake import FakeDriver


@pytest.fixture
def module(driver: FakeDriver, artifact: Path) -> Iterator[GpuModule]:
    with qcc.load(artifact) as loaded:
        assert isinstance(loaded, GpuModule)
        yield loaded
    gc.collect()
    give_back()


def give_back() -> None:
    driver().release()


class Lent:
    """Somebody else's array on the GPU: hands out a capsule, possibly of a strided or shifted view."""

    def __init__(self, array: DeviceArray, device: int = 0) -> None:
        self.array, self.device, self.streams = array, device, []     # type: ignore[var-annotated]

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__(stream=stream)


def expected(compiled: qcc.Artifact, image: Any) -> Any:
    return interpret(compiled.graph, {"image": image})["logits"]


def test_arrays_stay_on_the_gpu(module: GpuModule, compiled: qcc.Artifact) -> None:
    for seed in (3, 4):
        result = module.run({"image": Lent(DeviceArray.of(images(seed)))})["logits"]
        assert isinstance(result, DeviceArray)
        np.testing.assert_array_equal(result.numpy(), expected(compiled, images(seed)))
    np.testing.assert_array_equal(np.asarray(result), result.numpy())
    # Addresses in the graph changed, and change back for arrays in main memory.
    np.testing.assert_array_equal(module.run({"image": images(5)})["logits"], expected(compiled, images(5)))


def test_results_go_where_they_are_wanted(module: GpuModule, compiled: qcc.Artifact) -> None:
    result, source = DeviceArray((2, 5), np.float32), DeviceArray.of(images(1))
    assert module.run(source, out={"logits": result})["logits"] is result
    np.testing.assert_array_equal(result.numpy(), expected(compiled, images(1)))


def test_a_capsule_goes_round(module: GpuModule) -> None:
    array = DeviceArray.of(np.arange(6, dtype=np.int16).reshape(2, 3))
    found = borrow(array, 1)
    assert (found.pointer, found.shape, found.dtype, found.is_contiguous) == (array.pointer, (2, 3), np.dtype(np.int16), True)
    assert array.__cuda_array_interface__["data"] == (array.pointer, False)
    assert DeviceArray.of(np.array([True, False])).numpy().tolist() == [True, False]


def test_runs_on_a_stream_are_not_waited_for(module: GpuModule, compiled: qcc.Artifact) -> None:
    stream = ctypes.c_void_p()
    with driver().on(0):
        driver().call("cuStreamCreate", ctypes.byref(stream), 1)
    assert stream.value is not None
    sources = [Lent(DeviceArray.of(images(seed))) for seed in (6, 7)]
    results = [module.run(source, stream=stream.value)["logits"] for source in sources]
    assert [source.streams for source in sources] == [[stream.value]] * 2
    assert all(result.stream == stream.value for result in results)
    # A run with arrays in main memory waits for those that use the same arena.
    np.testing.assert_array_equal(module.run({"image": images(8)})["logits"], expected(compiled, images(8)))
    for seed, result in zip((6, 7), results, strict=True):
        np.testing.assert_array_equal(result.numpy(), expected(compiled, images(seed)))
        assert result.stream is None
    with driver().on(0):
        driver().call("cuStreamDestroy_v2", stream)


def test_refused(module: GpuModule) -> None:
    good, host = DeviceArray.of(images(0)), images(0)
    with pytest.raises(UsageError, match=r"'image': expected float32\[2, 3, 9, 9\], got float64\[2, 3, 9, 9\]"):
        module.run(DeviceArray(SHAPE, np.float64))
    with pytest.raises(UsageError, match=r"got float32\[2, 3, 9\]"):
        module.run(DeviceArray(SHAPE[:3], np.float32))
    with pytest.raises(UsageError, match="expected the names"):
        module.run({"picture": good})
    with pytest.raises(UsageError, match=r"out\['logits'\] is in main memory"):
        module.run(good, out={"logits": np.empty((2, 5), np.float32)})
    with pytest.raises(UsageError, match=r"out\['logits'\] is on the GPU and the inputs are in main memory"):
        module.run(host, out={"logits": DeviceArray((2, 5), np.float32)})
    with pytest.raises(UsageError, match="a stream is for arrays on the GPU"):
        module.run(host, stream=5)
    shifted = DeviceArray.of(np.zeros((2, 3, 9, 10), np.float32))
    shifted.pointer, pointer = shifted.pointer + 4, shifted.pointer
    shifted.shape = SHAPE
    with pytest.raises(UsageError, match="a dense array at a multiple of 16 bytes"):
        module.run(shifted)
    shifted.pointer = pointer


def test_host_pointers_where_device_pointers_are_due(module: GpuModule) -> None:
    image, logits = images(0), np.empty((2, 5), np.float32)
    result = DeviceArray(logits.shape, logits.dtype)
    with pytest.raises(RuntimeFailure, match=r"input image is at 0x\w+, which is not memory of a GPU: expected a device pointer"):
        module.start([image.ctypes.data], [result.pointer], None)
    source = DeviceArray.of(image)
    with pytest.raises(RuntimeFailure, match=r"output logits is at 0x\w+, which is not memory of a GPU"):
        module.start([source.pointer], [logits.ctypes.data], None)
    with pytest.raises(RuntimeFailure, match="input 0, image, is NULL"):
        module.start([0], [result.pointer], None)
    with pytest.raises(RuntimeFailure, match="expected a multiple of 16"):
        module.start([source.pointer + 8], [result.pointer], None)


def test_no_such_gpu(driver: FakeDriver, artifact: Path) -> None:
    with pytest.raises(RuntimeFailure, match="there is no GPU 3: this machine has 1"):
        qcc.load(artifact, device=3)


def test_out_of_memory_for_arrays(module: GpuModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCC_FAKE_CUDA_MEMORY", "1000")
    with pytest.raises(RuntimeFailure, match="cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY"):
        DeviceArray((1000, 1000), np.float32)
