"""A GPU for benchmarks/cuda.py: streams, events, kernels from a file, and what it reaches at most. NumPy and the driver only."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcc.errors import RuntimeFailure
from qcc.runtime.device_array import DeviceArray, driver

_THREADS = 256
_WARPS, _PRODUCTS, _MACS = _THREADS // 32, 8, 16 * 8 * 32     # of a block, of a warp's turn, of one product (cuda_peak.cu)


@dataclass(frozen=True)
class Peak:
    """int8 multiply-accumulates, and bytes read and written, per second."""

    products: float
    bandwidth: float


class Gpu:
    """One GPU; RuntimeFailure where there is no such one."""

    def __init__(self, device: int = 0) -> None:
        self.driver, self.device = driver(), device
        capabilities = self.driver.capabilities()
        if device >= len(capabilities):
            raise RuntimeFailure(f"there is no GPU {device}: this machine has {len(capabilities)}")
        self.sm = capabilities[device]
        name = ctypes.create_string_buffer(100)
        self.driver.call("cuDeviceGetName", name, 100, device)
        self.name = name.value.decode()
        self._streams: list[int] = []
        self._modules: list[ctypes.c_void_p] = []

    @property
    def is_emulated(self) -> bool:
        """Whether this is the driver of qcc's tests, whose times mean nothing."""
        return self.name.startswith("emulated")

    def stream(self) -> int:
        """A new stream, open until `close`."""
        stream = ctypes.c_void_p()
        with self.driver.on(self.device):
            self.driver.call("cuStreamCreate", ctypes.byref(stream), 1)
        self._streams.append(stream.value or 0)
        return self._streams[-1]

    def seconds(self, stream: int, work: Callable[[], object], times: int) -> float:
        """How long one of `times` pieces of work takes that are started on the stream."""
        begin, end, milliseconds = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        with self.driver.on(self.device):
            for event in (begin, end):
                self.driver.call("cuEventCreate", ctypes.byref(event), 0)
            self.driver.call("cuEventRecord", begin, ctypes.c_void_p(stream))
            for _ in range(times):
                work()
            self.driver.call("cuEventRecord", end, ctypes.c_void_p(stream))
            self.driver.call("cuStreamSynchronize", ctypes.c_void_p(stream))
            self.driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
            for event in (begin, end):
                self.driver.call("cuEventDestroy_v2", event)
        return max(1e-9, milliseconds.value * 1e-3 / times)

    def kernel(self, image: bytes, name: str) -> ctypes.c_void_p:
        """A kernel of an image, loaded until `close`."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        with self.driver.on(self.device):
            self.driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.create_string_buffer(image))
            self.driver.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        self._modules.append(module)
        return function

    def launch(self, function: ctypes.c_void_p, blocks: int, stream: int, *arrays: DeviceArray) -> None:
        """Start a kernel of blocks of 256 threads; its arguments are arrays."""
        values = [ctypes.c_ulonglong(array.pointer) for array in arrays]
        table = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        with self.driver.on(self.device):
            self.driver.call("cuLaunchKernel", function, blocks, 1, 1, _THREADS, 1, 1, 0, ctypes.c_void_p(stream), table, None)


    def close(self) -> None:
        """Give streams, modules and the GPU's context back."""
        with self.driver.on(self.device):
            for stream in self._streams:
                self.driver.call("cuStreamDestroy_v2", ctypes.c_void_p(stream))
            for module in self._modules:
                self.driver.call("cuModuleUnload", module)
        self._streams, self._modules = [], []
        self.driver.release()


def image_for(folder: Path, sm: int) -> bytes:
    """The peak's machine code for a GPU: of its generation and not later, else PTX; RuntimeFailure when there is neither."""
    found = {int(path.suffix[4:]): path for path in folder.glob("peak.sm_*")}
    fitting = [known for known in found if known <= sm and known // 10 == sm // 10]
    if fitting:
        return found[max(fitting)].read_bytes()
    texts = sorted(folder.glob("peak.compute_*"), key=lambda path: int(path.suffix[9:]))
    if not texts or int(texts[-1].suffix[9:]) > sm:
        raise RuntimeFailure(f"{folder} holds no peak kernels for sm_{sm}: make it with --target cuda")
    return texts[-1].read_bytes()


def measure_peak(gpu: Gpu, bundle: Path, blocks: int = 2048, turns: int = 4096, megabytes: int = 512) -> Peak:
    """The rates of cuda_peak.cu's kernels, the best of ten."""
    image, stream = image_for(bundle, gpu.sm), gpu.stream()
    products, copy = gpu.kernel(image, "qcc_peak_products"), gpu.kernel(image, "qcc_peak_copy")
    sums, count = DeviceArray((blocks * _THREADS,), np.int32, gpu.device), DeviceArray.of(np.array([turns], np.int32), gpu.device)
    best = min(gpu.seconds(stream, lambda: gpu.launch(products, blocks, stream, sums, count), 1) for _ in range(10))
    source, result = (DeviceArray((megabytes << 20,), np.uint8, gpu.device) for _ in range(2))
    copies = (megabytes << 20) // (16 * _THREADS)
    fastest = min(gpu.seconds(stream, lambda: gpu.launch(copy, copies, stream, source, result), 1) for _ in range(10))
    return Peak(blocks * _WARPS * turns * _PRODUCTS * _MACS / best, 2 * (megabytes << 20) / fastest)
