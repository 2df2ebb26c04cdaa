"""Compile CUDA C for this machine and run it, with the threads of a block as fibers (tests/cuda/host): exactness without a GPU.

    compiled = compile_kernels([kernel, ...], find_target("cuda"), tmp_path)
    (result,) = compiled.run(kernel, [source, ...])
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcc.codegen import worker
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.kernel import READ_SLACK, View
from qcc.codegen.target import Target
from qcc.ir import Array

HOST = Path(__file__).parent / "host"
DEVICE_HEADERS = Path(worker.__file__).resolve().parent.parent / "runtime" / "csrc"
ERROR_BYTES = 600
ASCENDING, DESCENDING = 0, 1

_KERNEL = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\([^)]*\) \{$', re.MULTILINE)
_DYNAMIC = re.compile(r"extern __shared__(?: __align__\(\d+\))? (\w+) (\w+)\[\];")
_STATIC = re.compile(r"(?<!extern )__shared__(?: __align__\(\d+\))? (\w+) (\w+)\[(\d+)\];")
_OPTIONS = (
    "-std=c++17", "-O1", "-march=native", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off",
    "-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused",
)  # fmt: skip


class KernelFailed(Exception):
    """What the harness found wrong while it ran a kernel: kernel, block, thread, and what happened."""


def host_source(text: str) -> str:
    """CUDA C as the C++ that the harness compiles: shared memory becomes guarded memory of the block, and a table of kernels is added."""
    symbols = dict.fromkeys(_KERNEL.findall(text))      # a kernel with a form per generation of GPUs is there more than once
    assert symbols, "no kernel in the source"
    text = _DYNAMIC.sub(r"\1* \2 = (\1*)qcc_host::dynamic_shared();", text)
    numbers = iter(range(1_000_000))
    text = _STATIC.sub(lambda m: f"{m[1]}* {m[2]} = ({m[1]}*)qcc_host::static_shared({next(numbers)}, sizeof({m[1]}[{m[3]}]));", text)
    assert "__shared__" not in text, "a declaration of shared memory that the harness does not know"
    table = ", ".join(f"QCC_HOST_KERNEL({symbol})" for symbol in symbols)
    return f'#include "device_functions.h"\n{text}\n#include "launch.h"\nQCC_HOST_KERNELS({table})\n'


def build_host(text: str, path: Path, sm: int = 80) -> Path:
    """Compile CUDA C into a shared library for this machine, as a device of compute capability `sm`/10 would see it."""
    source = path.with_suffix(".host.cpp")
    source.write_text(host_source(text), encoding="ascii")
    command = ["g++", *_OPTIONS, f"-DQCC_SM={sm}", f"-I{HOST}", f"-I{DEVICE_HEADERS}", str(source), "-o", str(path), "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return path


@dataclass(frozen=True)
class HostLibrary:
    """Kernels of one library, callable on this machine."""

    functions: ctypes.CDLL

    @staticmethod
    def load(path: Path) -> HostLibrary:
        functions = ctypes.CDLL(str(path))
        functions.qcc_host_allocate.restype = ctypes.c_void_p
        functions.qcc_host_allocate.argtypes = [ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
        functions.qcc_host_free.argtypes = [ctypes.c_void_p]
        return HostLibrary(functions)

    def launch(self, symbol: str, launch: Launch, addresses: Sequence[int], order: int = ASCENDING, threads: int = 1) -> None:
        """Run a kernel to its end.

        Args:
            order: ASCENDING or DESCENDING, in which blocks, warps and lanes take turns.
            threads: of this machine, for different blocks.

        Raises:
            KernelFailed: it did what a device does not allow.
        """
        number = self.functions.qcc_host_find(symbol.encode())
        assert number >= 0, f"no kernel {symbol}"
        grid, block = (ctypes.c_uint * 3)(*launch.grid), (ctypes.c_uint * 3)(*launch.block)
        values = (ctypes.c_void_p * len(addresses))(*addresses)
        pointers = (ctypes.c_void_p * len(addresses))(*(ctypes.addressof(values) + 8 * n for n in range(len(addresses))))
        error = ctypes.create_string_buffer(ERROR_BYTES)
        status = self.functions.qcc_host_launch(number, grid, block, launch.shared_bytes, pointers, order, threads, error, ERROR_BYTES)
        if status != 0:
            raise KernelFailed(error.value.decode())


@dataclass
class Operand:
    """A tensor in memory of its own, 128-byte aligned; noise between the elements, READ_SLACK bytes behind them, guards beside it."""

    view: View
    memory: Array     # bytes
    library: HostLibrary
    handle: ctypes.c_void_p

    @staticmethod
    def of(library: HostLibrary, view: View, array: Array | None, front: bool) -> Operand:
        size, handle = view.span * view.dtype.bytes + READ_SLACK, ctypes.c_void_p()
        address = library.functions.qcc_host_allocate(size, int(front), ctypes.byref(handle))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        memory[...] = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        operand = Operand(view, memory, library, handle)
        if array is not None:
            assert array.shape == view.shape, f"expected {view.shape}, got {array.shape}"
            assert array.dtype == view.dtype.numpy, f"expected {view.dtype}, got {array.dtype}"
            operand.elements()[...] = array
        return operand

    def elements(self) -> Array:
        strides = tuple(s * self.view.dtype.bytes for s in self.view.strides)
        return np.ndarray(self.view.shape, self.view.dtype.numpy, self.memory.data, 0, strides)

    def free(self) -> None:
        self.library.functions.qcc_host_free(self.handle)

    def others(self) -> Array:
        """The bytes that hold no element."""
        mask = np.zeros_like(self.memory)
        strides = tuple(s * self.view.dtype.bytes for s in self.view.strides)
        np.ndarray(self.view.shape, f"u{self.view.dtype.bytes}", mask.data, 0, strides)[...] = (1 << 8 * self.view.dtype.bytes) - 1
        return np.asarray(self.memory[mask == 0])


@dataclass(frozen=True)
class CompiledKernels:
    """Kernels of a target, compiled for this machine."""

    library: HostLibrary
    symbols: Mapping[Any, str]
    source: str

    def run(self, kernel: Any, sources: Sequence[Array], destinations: Sequence[Array] = ()) -> list[Array]:
        """Run a kernel twice, the second time with all orders reversed; returns its destinations (operands beyond the sources).

        Sources include constants. Checked: both runs agree; sources and all bytes that hold no element stay as they were; nothing is
        read or written beyond the operands and their READ_SLACK, the first time after their ends, the second time before their beginnings.

        Args:
            destinations: what lies there before, noise if not given.
        """
        results = [self._run_once(kernel, [*sources, *destinations], len(sources), order) for order in (ASCENDING, DESCENDING)]
        for number, (one, other) in enumerate(zip(*results, strict=True)):
            message = f"result {number} depends on the order of threads: is a barrier missing?"
            np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8), err_msg=message)
        return results[0]

    def _run_once(self, kernel: Any, arrays: Sequence[Array], sources: int, order: int) -> list[Array]:
        given = [*arrays, *[None] * (len(kernel.operands) - len(arrays))]
        front = order == DESCENDING
        operands = [Operand.of(self.library, view, array, front) for view, array in zip(kernel.operands, given, strict=True)]
        try:
            before = [operand.memory.copy() if n < sources else operand.others() for n, operand in enumerate(operands)]
            addresses = [operand.memory.ctypes.data for operand in operands]
            self.library.launch(self.symbols[kernel], kernel.launch, addresses, order, threads=2)
            for n, (operand, kept) in enumerate(zip(operands, before, strict=True)):
                now, what = (operand.memory, "is read-only") if n < sources else (operand.others(), "is written where no element lies")
                assert np.array_equal(now, kept), f"operand {n}, {operand.view}, {what}"
            return [operand.elements().copy() for operand in operands[sources:]]
        finally:
            for operand in operands:
                operand.free()


def compile_kernels(kernels: Sequence[Any], target: Target, folder: Path, sm: int | None = None) -> CompiledKernels:
    """Kernels for a GPU target, as CUDA C and then as a library for this machine.

    Args:
        folder: for temporary files; one library per folder.
        sm: the compute capability whose branches of qcc_device.cuh are taken; the target's lowest by default.
    """
    symbols = {kernel: f"k{number}" for number, kernel in enumerate(dict.fromkeys(kernels))}
    files = worker.compile_kernels(symbols, target, folder, workers=2 if len(symbols) > worker.BATCH else 1)
    text = "\n".join(path.read_text(encoding="ascii") for path in files)
    path = build_host(text, folder / "kernels.so", target.sms[0] if sm is None else sm)
    return CompiledKernels(HostLibrary.load(path), symbols, text)
