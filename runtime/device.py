"""A GPU to time things on: streams, events, kernels from machine code, and graphs of kernels that follow each other.

It is the driver's entry points for whoever measures (tiles, profiles, benchmarks); models run through their own libraries.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qcc.errors import RuntimeFailure
from qcc.runtime.device_array import driver

_MOST_SHARED_ATTRIBUTE = 8      # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_UNASKED_SHARED = 48 << 10      # bytes of shared memory that a kernel may have without that


class _Node(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v1."""

    _fields_ = [
        ("function", ctypes.c_void_p), ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
        ("arguments", ctypes.c_void_p), ("extra", ctypes.c_void_p),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kernel is started: blocks of the grid, threads of a block, bytes of dynamic shared memory."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0


class Gpu:
    """One GPU; RuntimeFailure where there is no such one.

    Attributes:
        sm: its compute capability, times ten.
    """

    def __init__(self, device: int = 0) -> None:
        self.driver, self.device = driver(), device
        capabilities = self.driver.capabilities()
        if device >= len(capabilities):
            raise RuntimeFailure(f"there is no GPU {device}: this machine has {len(capabilities)}")
        self.sm, self.name = capabilities[device], self.driver.name(device)
        self._streams: list[int] = []
        self._modules: list[ctypes.c_void_p] = []
        self._graphs: list[ctypes.c_void_p] = []

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

    def seconds(self, stream: int, work: Callable[[], object], times: int = 1, before: Callable[[], object] | None = None) -> float:
        """How long one of `times` pieces of work takes that are started on the stream.

        Args:
            before: work that is started first and not timed: it keeps the GPU busy while the rest is started.
        """
        begin, end, milliseconds = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        with self.driver.on(self.device):
            for event in (begin, end):
                self.driver.call("cuEventCreate", ctypes.byref(event), 0)
            try:
                if before is not None:
                    before()
                self.driver.call("cuEventRecord", begin, ctypes.c_void_p(stream))
                for _ in range(times):
                    work()
                self.driver.call("cuEventRecord", end, ctypes.c_void_p(stream))
                self.driver.call("cuStreamSynchronize", ctypes.c_void_p(stream))
                self.driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
            finally:
                for event in (begin, end):
                    self.driver.call("cuEventDestroy_v2", event)
        return max(1e-9, milliseconds.value * 1e-3 / times)

    def module(self, image: bytes) -> ctypes.c_void_p:
        """Machine code or PTX (text that ends with a zero byte), loaded until `close`."""
        module = ctypes.c_void_p()
        with self.driver.on(self.device):
            self.driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.create_string_buffer(image))
        self._modules.append(module)
        return module

    def kernel(self, module: ctypes.c_void_p, name: str, shared_bytes: int = 0) -> ctypes.c_void_p:
        """A kernel of a module, which may be started with so much dynamic shared memory."""
        function = ctypes.c_void_p()
        with self.driver.on(self.device):
            self.driver.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
            if shared_bytes > _UNASKED_SHARED:
                self.driver.call("cuFuncSetAttribute", function, _MOST_SHARED_ATTRIBUTE, shared_bytes)
        return function

    def launch(self, function: ctypes.c_void_p, shape: Shape, stream: int, *addresses: int) -> None:
        """Start a kernel, whose arguments are addresses on the GPU."""
        table, _kept = _arguments(addresses)
        with self.driver.on(self.device):
            self.driver.call("cuLaunchKernel", function, *shape.grid, *shape.block, shape.shared_bytes, ctypes.c_void_p(stream), table,
                             None)

    def graph(self, function: ctypes.c_void_p, shape: Shape, calls: Iterable[Sequence[int]]) -> ctypes.c_void_p:
        """A graph of runs of one kernel, one after the other, each with its arguments; kept until `close`."""
        graph, executable, last = ctypes.c_void_p(), ctypes.c_void_p(), (ctypes.c_void_p * 1)()
        with self.driver.on(self.device):
            self.driver.call("cuGraphCreate", ctypes.byref(graph), 0)
            try:
                for number, addresses in enumerate(calls):
                    table, _kept = _arguments(addresses)
                    node = _Node(function, shape.grid, shape.block, shape.shared_bytes, ctypes.cast(table, ctypes.c_void_p), None)
                    before = (last, ctypes.c_size_t(1)) if number else (None, ctypes.c_size_t(0))
                    added = ctypes.c_void_p()
                    self.driver.call("cuGraphAddKernelNode", ctypes.byref(added), graph, *before, ctypes.byref(node))
                    last[0] = added.value
                self.driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
            finally:
                self.driver.call("cuGraphDestroy", graph)
        self._graphs.append(executable)
        return executable

    def start(self, graph: ctypes.c_void_p, stream: int) -> None:
        """Start a graph."""
        with self.driver.on(self.device):
            self.driver.call("cuGraphLaunch", graph, ctypes.c_void_p(stream))

    def close(self) -> None:
        """Give graphs, streams, modules and the GPU's context back."""
        with self.driver.on(self.device):
            for graph in self._graphs:
                self.driver.call("cuGraphExecDestroy", graph)
            for stream in self._streams:
                self.driver.call("cuStreamDestroy_v2", ctypes.c_void_p(stream))
            for module in self._modules:
                self.driver.call("cuModuleUnload", module)
        self._graphs, self._streams, self._modules = [], [], []
        self.driver.release()


def _arguments(addresses: Sequence[int]) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_ulonglong]]:
    """The driver's table of pointers to arguments, and the arguments, which must live as long as the table."""
    values = (ctypes.c_ulonglong * len(addresses))(*addresses)
    first = ctypes.addressof(values)
    return (ctypes.c_void_p * len(addresses))(*(first + 8 * number for number in range(len(addresses)))), values
