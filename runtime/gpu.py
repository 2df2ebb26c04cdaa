"""A loaded model that runs on an NVIDIA GPU: arrays in main memory, or on the GPU without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc.errors import RuntimeFailure, UsageError
from qcc.runtime.device_array import LEGACY_STREAM, Borrowed, DeviceArray, borrow, driver, is_on_gpu
from qcc.runtime.library import Context, Library
from qcc.runtime.module import Module

_ALIGNMENT = 16     # of arrays that the caller has on the GPU


class GpuLibrary(Library):
    """The C functions of one library for GPUs; contexts are made on the GPU `device`."""

    device = 0

    def _bind(self) -> None:
        super()._bind()
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.init_device = self._function("init_device", ctypes.c_int, ctypes.POINTER(pointer), pointer, pointer, ctypes.c_int32)
        self.run_device = self._function("run_device", ctypes.c_int, pointer, pointer, pointer, pointer)
        self.read_arena = self._function("read_arena", ctypes.c_int, pointer, pointer, size, size)

    def make_context(self, threads: int) -> Context:
        pointer = ctypes.c_void_p()
        if self.init_device(ctypes.byref(pointer), None, None, self.device) != 0 or pointer.value is None:
            raise RuntimeFailure(f"{self.path}: {self.error(None).decode(errors='replace')}")
        return Context(pointer.value, len(self.manifest.inputs), len(self.manifest.outputs))

    def arena_of(self, context: Context) -> npt.NDArray[np.uint8]:
        """A copy of the context's arena."""
        copy = np.empty(self.manifest.arena_bytes, np.uint8)
        if self.read_arena(context.pointer, copy.ctypes.data, 0, copy.nbytes) != 0:
            raise RuntimeFailure(self.text(context))
        return copy


class GpuModule(Module):
    """A compiled model on one GPU; see `Module`. Threads do not matter: all work is the GPU's."""

    def __init__(self, path: str | Path, threads: int = 1, check: bool = False, device: int = 0) -> None:
        self.device = device
        super().__init__(path, threads, check)

    def _open(self, folder: Path, check: bool) -> Library:
        library = GpuLibrary(folder, self.manifest, check)
        library.device = self.device
        return library

    def run(self, inputs: Mapping[str, Any] | Any, out: Mapping[str, Any] | None = None, stream: int | None = None) -> dict[str, Any]:
        """Run the model.

        Args:
            inputs: as for `Module.run`: then results are NumPy arrays. Or arrays on the module's GPU (PyTorch's, CuPy's, anything with
                `__dlpack__`), dense and at multiples of 16 bytes, of exactly the inputs' types and shapes: then nothing is copied.
            out: arrays to write to, by output name: on the GPU where the inputs are.
            stream: a CUDA stream (its address as a number), for arrays on the GPU only: the run is started there and not waited for, and
                inputs must stay as they are until it has ended. None: on the default stream, and the results are complete.

        Returns:
            an array for every output, in the model's order: `DeviceArray`s for inputs on the GPU, but for those given in `out`.

        Raises:
            UsageError: names, types, shapes or places of arrays do not fit.
            RuntimeFailure: the module is closed, or the GPU failed.
        """
        named = inputs if isinstance(inputs, Mapping) else self._single(inputs)
        if any(is_on_gpu(array) for array in named.values()):
            return self._run_on_gpu(named, out or {}, stream)
        if stream is not None:
            raise UsageError("a stream is for arrays on the GPU; these are in main memory, and their runs are waited for")
        if wrong := [name for name, array in (out or {}).items() if is_on_gpu(array)]:
            raise UsageError(f"out[{wrong[0]!r}] is on the GPU and the inputs are in main memory: expected both in one place")
        return super().run(named, out)

    def _run_on_gpu(self, inputs: Mapping[str, Any], out: Mapping[str, Any], stream: int | None) -> dict[str, Any]:
        numbered = LEGACY_STREAM if stream is None else stream
        for kind, ports, found in (("input", self.inputs, inputs), ("output", self.outputs, out)):
            names = {port.name for port in ports}
            if not names.issuperset(found) or (kind == "input" and len(found) != len(ports)):
                raise UsageError(self._names(kind, ports, found))
        sources = [self._borrow(f"input {port.name!r}", inputs[port.name], numbered, port.numpy, port.shape) for port in self.inputs]
        results, places = {}, []
        for port in self.outputs:
            given = port.name in out
            array = out[port.name] if given else DeviceArray(port.shape, port.numpy, self.device)
            places.append(self._borrow(f"out[{port.name!r}]", array, numbered, port.numpy, port.shape) if given else array)
            results[port.name] = array
        self.start([source.pointer for source in sources], [place.pointer for place in places], stream)
        for array in results.values():
            if isinstance(array, DeviceArray):
                array.stream = stream
        if stream is None:
            with driver().on(self.device):
                driver().call("cuStreamSynchronize", ctypes.c_void_p(None))
        return results

    def start(self, inputs: Sequence[int], outputs: Sequence[int], stream: int | None = None) -> None:
        """Start a run with arrays at these addresses on the GPU, in the order of inputs and outputs, and return; see NAME_run_device.

        Raises:
            RuntimeFailure: an address is not the GPU's, or the run cannot be started.
        """
        context = self._take()
        try:
            for table, addresses in ((context.inputs, inputs), (context.outputs, outputs)):
                for number, address in enumerate(addresses):
                    table[number] = address
            assert isinstance(self._library, GpuLibrary)
            if self._library.run_device(context.pointer, context.inputs, context.outputs, ctypes.c_void_p(stream)) != 0:
                raise RuntimeFailure(self._library.text(context))
        finally:
            self._give(context)

    def _borrow(self, where: str, array: Any, stream: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Borrowed:
        """The array's place on the GPU; UsageError when it is not there, or not as the library needs it."""
        if not is_on_gpu(array):
            raise UsageError(f"{where} is in main memory, and other arrays are on the GPU: expected all in one place")
        found = borrow(array, stream)
        if found.dtype != dtype or found.shape != shape:
            raise UsageError(f"{where}: expected {dtype}{list(shape)}, got {found.dtype}{list(found.shape)}")
        if found.device != self.device:
            raise UsageError(f"{where} is on GPU {found.device}, and the module on GPU {self.device}: load it with device={found.device}")
        if not found.is_contiguous or found.pointer % _ALIGNMENT:
            raise UsageError(f"{where}: expected a dense array at a multiple of {_ALIGNMENT} bytes; copy it, in PyTorch with .contiguous()")
        return found
