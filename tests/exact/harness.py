"""Compile kernels, call them through ctypes, and look after every byte around their output."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from qcc.codegen.kernel import READ_SLACK, Kernel, View
from qcc.codegen.target import TARGETS, Target, host_features
from qcc.codegen.worker import BATCH, compile_kernels
from qcc.ir.types import Array, DType

GUARD = 96    # bytes before and after every operand, written before a call and compared after it


def targets() -> list[Any]:
    """Every x86 target as a test parameter; those that this machine cannot run are skipped."""
    runs = {t.name: host_features().issuperset(t.features) for t in TARGETS.values() if t.triple.startswith("x86_64")}
    return [pytest.param(TARGETS[name], id=name, marks=[] if fits else pytest.mark.skip(reason=f"this CPU lacks features of {name}"))
            for name, fits in runs.items()]


def compile_all(kernels: Sequence[Kernel], target: Target) -> Callable[[Kernel], Any]:
    """Build all kernels into one library; returns kernel -> C function."""
    symbols = {kernel: f"k{number}" for number, kernel in enumerate(dict.fromkeys(kernels))}
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_kernels(symbols, target, Path(folder), workers=2 if len(symbols) > BATCH else 1)
        library_path = Path(folder) / "kernels.so"
        subprocess.run(["cc", "-shared", "-nostdlib", "-Wl,-z,defs", "-o", library_path, *objects], check=True)
        library = ctypes.CDLL(str(library_path))
    return lambda kernel: getattr(library, symbols[kernel])


@dataclass
class Placed:
    """A tensor at the place that its view gives it, in a buffer of random bytes that starts at an odd address."""

    view: View
    storage: Array
    start: int

    @staticmethod
    def of(view: View, rng: np.random.Generator, values: Array | None = None) -> Placed:
        size = view.span * view.dtype.bytes
        odd = 1 if view.dtype.bytes == 1 else 4    # bytes may lie anywhere, words at their own alignment
        start = GUARD // view.dtype.bytes * view.dtype.bytes + odd
        storage = rng.integers(0, 256, start + size + GUARD + READ_SLACK + 64, dtype=np.uint8)
        start += -(storage.ctypes.data + start - odd) % 64
        placed = Placed(view, storage, start)
        if values is not None:
            placed.array[...] = values
        return placed

    @property
    def array(self) -> Array:
        """The tensor itself, writable."""
        size = self.view.span * self.view.dtype.bytes
        flat = self.storage[self.start : self.start + size].view(self.view.dtype.numpy) if self.aligned else None
        base = flat if flat is not None else np.frombuffer(self.storage.data, self.view.dtype.numpy, self.view.span, self.start)
        return np.lib.stride_tricks.as_strided(base, self.view.shape, [s * self.view.dtype.bytes for s in self.view.strides])

    @property
    def aligned(self) -> bool:
        return (self.storage.ctypes.data + self.start) % self.view.dtype.bytes == 0

    @property
    def address(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.storage.ctypes.data + self.start)

    def surroundings(self) -> Array:
        """All bytes but those of the tensor."""
        copy = Placed(self.view, self.storage.copy(), self.start)
        copy.array[...] = 0
        return copy.storage


def constant(array: Array) -> Array:
    """A constant as a program lays it out: 64-byte aligned, with readable bytes after it."""
    storage = np.full(array.nbytes + READ_SLACK + 64, 0xA5, np.uint8)
    start = -storage.ctypes.data % 64
    storage[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return storage[start : start + array.nbytes + READ_SLACK]


def run(function: Any, kernel: Kernel, sources: Sequence[Placed], constants: Sequence[Array], output: Placed, pieces: int = 2) -> Array:
    """Call the kernel for all tasks, split in pieces that are done in reverse; checks that nothing but the output changed."""
    views = kernel.operands[len(sources) : len(sources) + len(constants)]
    assert [(view.shape, view.dtype) for view in views] == [(array.shape, DType.of(array.dtype)) for array in constants]
    kept = [constant(array) for array in constants]
    pointers = [source.address for source in sources] + [ctypes.c_void_p(array.ctypes.data) for array in kept] + [output.address]
    before = output.surroundings()
    bounds = np.linspace(0, kernel.tasks, pieces + 1).astype(int)
    for begin, end in reversed(list(pairwise(bounds))):
        assert function(*pointers, int(begin), int(end)) == 0
    np.testing.assert_array_equal(output.surroundings(), before, err_msg="bytes outside of the output were written")
    return np.array(output.array)


def spaced(dtype: DType, shape: tuple[int, ...], gaps: tuple[int, int, int]) -> View:
    """A view (N, H, W, C) with so many unused elements after every pixel, row and image."""
    n, h, w, c = shape
    pixel = c + gaps[0]
    row = w * pixel + gaps[1]
    return View(dtype, (n, h, w, c), (h * row + gaps[2], row, pixel, 1))


class Layer(Protocol):
    """A layer with its numbers: `views` are the source's and the output's."""

    case: Any
    source: Array
    residual: Array | None
    views: tuple[View, View]

    def plan(self, target: Target) -> tuple[Any, tuple[Array, ...]]: ...

    def evaluate(self) -> Array: ...


def check_layers(layers: Sequence[Layer], target: Target) -> None:
    """Compiles all of them at once, and compares their results bit for bit."""
    plans = [layer.plan(target) for layer in layers]
    functions = compile_all([kernel for kernel, _ in plans], target)
    for number, (item, (kernel, constants)) in enumerate(zip(layers, plans, strict=True)):
        rng = np.random.default_rng(number)
        source, output = item.views
        sources = [Placed.of(source, rng, item.source)]
        if item.residual is not None:
            sources.append(Placed.of(output, rng, item.residual))
        result = run(functions(kernel), kernel, sources, constants, Placed.of(output, rng), pieces=1 + number % 3)
        np.testing.assert_array_equal(result, item.evaluate(), err_msg=f"{item.case} as {kernel}")
