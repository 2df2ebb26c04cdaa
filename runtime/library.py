"""The bridge to a library's C functions: opens it once it is known to be the right file, and makes contexts."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc.errors import RuntimeFailure
from qcc.runtime.manifest import ABI_VERSION, Manifest, StepRecord, file_hash

_CHOICE = threading.Lock()     # a library's choice of kernels holds for the whole process


class Context:
    """One arena and its threads; used by one call at a time. The pointer tables are made once, for every call to fill, and so are the
    arguments of `Library.run_bound`."""

    __slots__ = ("arguments", "inputs", "outputs", "pointer")

    def __init__(self, pointer: int, inputs: int, outputs: int) -> None:
        self.pointer = pointer
        self.inputs = (ctypes.c_void_p * max(1, inputs))()
        self.outputs = (ctypes.c_void_p * max(1, outputs))()
        self.arguments = (ctypes.c_void_p(pointer), self.inputs, self.outputs)


class Library:
    """The C functions of one library; in one that has kernels for several targets, contexts take those for `wanted`, if it is named."""

    wanted = ""

    def __init__(self, folder: Path, manifest: Manifest, check: bool) -> None:
        """Open the library; RuntimeFailure when it does not fit the manifest, this machine or this version of qcc."""
        self.manifest = manifest
        self.path = folder / manifest.library
        _refuse(self.path, manifest, check)
        self._descriptor: int | None = None
        self._handle = self._open(str(self.path.resolve()))
        try:
            if self._digest() != manifest.digest:
                self._open_replaced()
            self._bind()
        except RuntimeFailure:
            self.unload()
            raise

    def _open(self, path: str) -> ctypes.CDLL:
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            raise RuntimeFailure(f"{self.path}: cannot be loaded ({error}); is the folder incomplete? Then compile again") from error

    def _open_replaced(self) -> None:
        """Open the file under another name.

        The system's loader goes by the path: while a module of an older build is open, it answers with that build.
        """
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        replaced = self._handle
        self._handle = self._open(f"/proc/self/fd/{self._descriptor}")
        _ctypes.dlclose(replaced._handle)
        if self._digest() != self.manifest.digest:
            raise RuntimeFailure(f"{self.path}: is not the library that the manifest describes; compile the model again")

    def _digest(self) -> str:
        digest: bytes = self._function("digest", ctypes.c_char_p)()
        return digest.decode()

    def _bind(self) -> None:
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        version = self._function("abi_version", integer)()
        if version != ABI_VERSION:
            raise RuntimeFailure(f"{self.path}: has ABI version {version}, expected {ABI_VERSION}; compile the model again")
        self.init = self._function("init", ctypes.c_int, ctypes.POINTER(pointer), pointer, pointer, integer)
        self.run = self._function("run", ctypes.c_int, pointer, pointer, pointer)
        self.run_bound = self._function("run", ctypes.c_int)    # for a context's `arguments`, which need no conversion
        self.run_bound.argtypes = None
        self.run_profiled = self._function("run_profiled", ctypes.c_int, pointer, pointer, pointer, pointer)
        self.run_steps = self._function("run_steps", ctypes.c_int, pointer, pointer, pointer, integer, integer)
        self.arena = self._function("arena", pointer, pointer)
        self.selftest = self._function("selftest", ctypes.c_int, pointer)
        self.error = self._function("error", ctypes.c_char_p, pointer)
        if self.manifest.variants:
            self.select = self._function("select", ctypes.c_int, ctypes.c_char_p)
            self.variant = self._function("variant", ctypes.c_char_p, pointer)
        self.close = self._function("close", None, pointer)

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        try:
            function = self._handle[f"{self.manifest.name}_{name}"]
        except AttributeError as error:
            raise RuntimeFailure(f"{self.path}: has no function {self.manifest.name}_{name}; compile the model again") from error
        function.restype, function.argtypes = result, list(arguments)
        return function

    def make_context(self, threads: int) -> Context:
        """A new context; RuntimeFailure with the library's own words when the CPU, memory or threads do not suffice."""
        pointer = ctypes.c_void_p()
        with _CHOICE:
            refused = self.manifest.variants and self.select(self.wanted.encode() or None) != 0
            if refused or self.init(ctypes.byref(pointer), None, None, threads) != 0 or pointer.value is None:
                raise RuntimeFailure(f"{self.path}: {self.error(None).decode(errors='replace')}")
        return Context(pointer.value, len(self.manifest.inputs), len(self.manifest.outputs))

    def steps_of(self, context: Context) -> tuple[StepRecord, ...]:
        """The steps of the kernels that the context took."""
        taken = self.variant(context.pointer).decode() if self.manifest.variants else ""
        return next((record.steps for record in self.manifest.variants if record.target == taken), self.manifest.steps)

    def text(self, context: Context) -> str:
        """What was wrong with the last call."""
        return f"{self.path}: {self.error(context.pointer).decode(errors='replace')}"

    def arena_of(self, context: Context) -> npt.NDArray[np.uint8]:
        """The bytes of the context's arena (not a copy)."""
        cells = (ctypes.c_uint8 * self.manifest.arena_bytes).from_address(self.arena(context.pointer))
        return np.ctypeslib.as_array(cells)

    def unload(self) -> None:
        """Give the library back to the system; all contexts must be closed."""
        _ctypes.dlclose(self._handle._handle)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _refuse(path: Path, manifest: Manifest, check: bool) -> None:
    machine = os.uname().machine
    if manifest.abi_version != ABI_VERSION:
        raise RuntimeFailure(f"{path}: has ABI version {manifest.abi_version}, this qcc loads {ABI_VERSION}; compile the model again")
    if manifest.machine != machine:
        raise RuntimeFailure(
            f"{path}: was compiled for {manifest.machine} (target {manifest.target}) and this machine is {machine}; "
            "copy it to such a machine, or compile the model with --target host"
        )
    try:
        found = file_hash(path) if check else None
    except OSError as error:
        raise RuntimeFailure(f"{path}: cannot be read: {error.strerror}; the folder is incomplete, compile the model again") from error
    expected = manifest.files.get(manifest.library)
    if check and found != expected:
        raise RuntimeFailure(f"{path}: was changed after it was built (SHA-256 {found}, manifest: {expected}); compile the model again")
