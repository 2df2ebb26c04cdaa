"""A loaded model: NumPy arrays in, NumPy arrays out.

It decides what is accepted as input and who may use a context when; the C side is behind runtime/library.py.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from qcc.errors import RuntimeFailure, UsageError, VerificationError
from qcc.runtime.library import Context, Library
from qcc.runtime.manifest import Manifest, PortRecord, StepRecord, numpy_dtype

Array = npt.NDArray[Any]
_HEAD = object.__basicsize__     # bytes of what every object begins with


def _told_address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _stored_address(array: Array) -> int:
    return ctypes.c_void_p.from_address(id(array) + _HEAD).value or 0


def _choose() -> Callable[[Array], int]:
    """How to learn where an array's elements begin.

    NumPy's C API fixes that a pointer to them is the first field of an array. Reading it takes a tenth of a microsecond, and asking for
    `__array_interface__` one or two: longer than small networks run. Interpreters with other objects are asked.
    """
    probe = np.empty(1)
    if sys.implementation.name == "cpython" and _stored_address(probe) == _told_address(probe):
        return _stored_address
    return _told_address


address_of = _choose()


class Module:
    """A compiled model, ready to run.

    A module may be used from several threads: every call takes a free context (an arena and its worker threads) or makes one
    when all are in use, so calls run side by side and never wait for each other. `close`, or leaving a `with` block, frees them.

    Attributes:
        manifest: what the library is and needs.
        inputs, outputs: names, types, shapes and encodings, in order.
        layers: for every layer its node, op, bits, multiply-accumulates and bytes.
    """

    def __init__(self, path: str | Path, threads: int = 1, check: bool = False, variant: str = "") -> None:
        """Load an artifact folder; see `load`."""
        self._closed = True
        folder = Path(path)
        if not 1 <= threads <= 64:
            raise UsageError(f"threads={threads}: expected 1 to 64")
        self.manifest = Manifest.read(folder)
        self.inputs: tuple[PortRecord, ...] = self.manifest.inputs
        self.outputs: tuple[PortRecord, ...] = self.manifest.outputs
        self.layers: tuple[Mapping[str, Any], ...] = self.manifest.layers
        self.threads, self._variant = threads, variant
        self._expected = [(number, port.name, port.numpy, port.shape) for number, port in enumerate(self.inputs)]
        self._results = [(number, port.name, port.numpy, port.shape) for number, port in enumerate(self.outputs)]
        self._library = self._open(folder, check)
        self._run = self._library.run_bound
        self._lock = threading.Lock()
        try:
            self._free = [self._library.make_context(threads)]
        except RuntimeFailure:
            self._library.unload()
            raise
        self._alive = 1     # contexts, free or in use
        self._closed = False

    def _open(self, folder: Path, check: bool) -> Library:
        library = Library(folder, self.manifest, check)
        library.wanted = self._variant
        return library

    def run(self, inputs: Mapping[str, Any] | Any, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run the model.

        Args:
            inputs: an array for every input's name, or, for a model of one input, the array alone. Arrays are NumPy arrays or
                have `__dlpack__`, with exactly the input's type and shape; one that is not contiguous is copied. Float inputs
                may hold NaN and infinities: what becomes of them is the model's matter.
            out: arrays to write to instead of new ones, by output name: contiguous, of the output's type and shape, and not
                overlapping an input.

        Returns:
            an array for every output, in the model's order.

        Raises:
            UsageError: names, types or shapes do not fit.
            RuntimeFailure: the module is closed, or a kernel failed.
        """
        context = self._take()
        try:
            kept = self._bind_inputs(context, inputs)
            results = self._bind_outputs(context, out)
            if self._run(*context.arguments) != 0:
                raise RuntimeFailure(self._library.text(context))
            del kept  # until here the arrays, or copies of them, must live
            return results
        finally:
            self._give(context)

    def profile(self, inputs: Mapping[str, Any] | Any) -> list[tuple[str, int]]:
        """Run once; for every step its node and the nanoseconds that it took. Arguments and errors are those of `run`."""
        context = self._take()
        try:
            kept = self._bind_inputs(context, inputs), self._bind_outputs(context, None)
            times = (ctypes.c_uint64 * max(1, len(self.manifest.steps)))()
            if self._library.run_profiled(context.pointer, context.inputs, context.outputs, times) != 0:
                raise RuntimeFailure(self._library.text(context))
            del kept
            return [(step.node, time) for step, time in zip(self.manifest.steps, times, strict=False)]
        finally:
            self._give(context)

    def trace(self, inputs: Mapping[str, Any] | Any) -> Iterator[tuple[StepRecord, Callable[..., Array]]]:
        """Run step by step; after every step its record and `read`, which copies what lies at an argument of the step.

        `read()` gives the last result, which every kernel writes; `read(number)` any other argument in the arena or an output. It
        must be called before the next step runs, which may use the memory again. Errors are those of `run`.
        """
        context = self._take()
        try:
            kept = self._bind_inputs(context, inputs)
            results = list(self._bind_outputs(context, None).values())
            for number, step in enumerate(self._library.steps_of(context)):
                if self._library.run_steps(context.pointer, context.inputs, context.outputs, number, number + 1) != 0:
                    raise RuntimeFailure(self._library.text(context))
                yield step, partial(_read, step, lambda: self._library.arena_of(context), results)
            del kept
        finally:
            self._give(context)

    def selftest(self) -> None:
        """Run the golden input that is built into the library; VerificationError when the result is not the golden output."""
        context = self._take()
        try:
            if self._library.selftest(context.pointer) != 0:
                raise VerificationError(self._library.text(context))
        finally:
            self._give(context)

    def close(self) -> None:
        """Free the contexts; calls that are under way finish first, later ones raise RuntimeFailure."""
        if self._closed:
            return
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<qcc.runtime.Module {self.manifest.name}, target {self.manifest.target}, threads {self.threads}>"

    def _take(self) -> Context:
        """A free context, or a new one. Free ones are a list's last element, which needs no lock: `pop` and `append` are one step each."""
        try:
            context = self._free.pop()
        except IndexError:
            return self._make()
        if self._closed:
            self._give(context)
            raise RuntimeFailure(f"module {self.manifest.name} is closed")
        return context

    def _make(self) -> Context:
        with self._lock:
            if self._closed:
                raise RuntimeFailure(f"module {self.manifest.name} is closed")
            self._alive += 1
        try:
            return self._library.make_context(self.threads)
        except RuntimeFailure:
            self._forget()
            raise

    def _give(self, context: Context) -> None:
        self._free.append(context)
        if self._closed:      # looked at after the context can be found: either this call frees it, or `close` does
            self._drain()

    def _drain(self) -> None:
        """Free what a closed module has in its list."""
        while self._free:
            try:
                context = self._free.pop()
            except IndexError:
                return
            self._library.close(context.pointer)
            self._forget()

    def _forget(self) -> None:
        """There is one context less; the last of a closed module takes the library along."""
        with self._lock:
            self._alive -= 1
            last = self._closed and self._alive == 0
        if last:
            self._library.unload()

    def _bind_inputs(self, context: Context, inputs: Mapping[str, Any] | Any) -> list[Array]:
        """Write the arrays' addresses into the context; the arrays returned must live until the run is over."""
        if type(inputs) is not dict and not isinstance(inputs, Mapping):    # the abstract class alone is slow to ask
            inputs = self._single(inputs)
        if len(inputs) != len(self._expected):
            raise UsageError(self._names("input", self.inputs, inputs))
        arrays = []
        for number, name, dtype, shape in self._expected:
            if name not in inputs:
                raise UsageError(self._names("input", self.inputs, inputs))
            array = inputs[name]
            if type(array) is not np.ndarray:
                array = _as_numpy(name, array)
            if array.dtype != dtype or array.shape != shape:
                found = f"{array.dtype}{list(array.shape)}{_hint(array, dtype, shape)}"
                raise UsageError(f"input {name!r}: expected {dtype}{list(shape)}, got {found}")
            if not array.flags.c_contiguous:
                array = np.ascontiguousarray(array)
            context.inputs[number] = address_of(array)
            arrays.append(array)
        return arrays

    def _bind_outputs(self, context: Context, out: Mapping[str, Array] | None) -> dict[str, Array]:
        if out is not None and not set(out).issubset(port.name for port in self.outputs):
            raise UsageError(self._names("output", self.outputs, out))
        results = {}
        for number, name, dtype, shape in self._results:
            if out is not None and name in out:
                array = out[name]
                fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape
                if not fits or not array.flags.c_contiguous or not array.flags.writeable:
                    raise UsageError(f"out[{name!r}]: expected a contiguous, writable array {dtype}{list(shape)}")
            else:
                array = np.empty(shape, dtype)
            context.outputs[number] = address_of(array)
            results[name] = array
        return results

    def _single(self, value: Any) -> dict[str, Any]:
        if len(self.inputs) != 1:
            raise UsageError(f"this model has {len(self.inputs)} inputs: pass a dict with the keys {[port.name for port in self.inputs]}")
        return {self.inputs[0].name: value}

    def _names(self, kind: str, ports: tuple[PortRecord, ...], found: Mapping[str, Any]) -> str:
        return f"{kind}s: expected the names {[port.name for port in ports]}, got {list(found)}"


def load(path: str | Path, threads: int = 1, check: bool = False, device: int = 0, variant: str = "") -> Module:
    """Load the artifact folder that `qcc compile` wrote.

    Args:
        path: the folder.
        threads: how many threads work on one run, the caller's included (1 to 64).
        variant: in a library with kernels for several targets, the one whose kernels to take, instead of the best for this CPU.
        check: compare the whole library with the hash in the manifest first (`qcc verify` does); without it, the digest that
            is part of the library must be the manifest's.
        device: number of the GPU, for a model that was compiled for GPUs.

    Raises:
        UsageError: a number of threads out of range, or a device for a model that runs on the CPU.
        RuntimeFailure: no such folder, a damaged library, another ABI version or architecture, missing CPU features; no driver or
            no GPU that fits.
    """
    if Manifest.read(Path(path)).sms:
        from qcc.runtime.gpu import GpuModule

        return GpuModule(path, threads, check, device)
    if device != 0:
        raise UsageError(f"device={device}: {path} was compiled for a CPU; compile the model with --target cuda to run it on a GPU")
    return Module(path, threads, check, variant)


def _as_numpy(name: str, value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if not hasattr(value, "__dlpack__"):
        raise UsageError(f"input {name!r}: expected a NumPy array or an object with __dlpack__, got {type(value).__name__}")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"input {name!r}: NumPy cannot read this {type(value).__name__} ({error}); copy it to main memory") from error


def _hint(array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    if array.dtype != dtype:
        return f"; convert it with .astype(np.{dtype})"
    return "; the extents are in another order, transpose it" if sorted(array.shape) == sorted(shape) else ""


def _read(step: StepRecord, arena: Callable[[], npt.NDArray[np.uint8]], results: list[Array], number: int = -1) -> Array:
    """A copy of what lies at an argument of the arena or of an output; negative numbers count back from the last result."""
    argument = step.arguments[number if number >= 0 else number - step.scratch]
    dtype = numpy_dtype(argument.dtype)
    strides = tuple(stride * dtype.itemsize for stride in argument.strides)
    if argument.space == "arena":
        memory, offset = arena(), argument.position
    elif argument.space == "output":
        memory, offset = results[argument.position].reshape(-1).view(np.uint8), argument.offset
    else:
        raise UsageError(f"step {step.node!r}: argument {number} lies in {argument.space} memory; only the arena and outputs can be read")
    return np.ndarray(argument.shape, dtype, memory, offset, strides).copy()
