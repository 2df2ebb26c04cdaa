"""Compile kernels, load them, and run them on operands that lie in the middle of guard bytes."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcc.codegen.kernel import READ_SLACK, Kernel, View
from qcc.codegen.target import TARGETS, Target, host_features
from qcc.codegen.worker import KernelCompiler
from qcc.ir import Array

GUARD = 192
RUNNABLE = [target for target in TARGETS.values() if host_features().issuperset(target.features)]


def library(kernels: Sequence[Kernel], compiler: KernelCompiler, folder: Path) -> Library:
    """All kernels, compiled for the compiler's target into one shared library without undefined symbols."""
    named = {kernel: f"k{number}" for number, kernel in enumerate(dict.fromkeys(kernels))}
    objects = compiler.compile(named, folder)
    path = folder / "kernels.so"
    subprocess.run(["cc", "-shared", "-Wl,-z,defs", "-o", path, *objects, "-lm"], check=True)
    return Library(ctypes.CDLL(str(path)), named)


@dataclass(frozen=True)
class Library:
    functions: ctypes.CDLL
    symbols: dict[Kernel, str]

    def run(self, kernel: Kernel, sources: Sequence[Array], destinations: Sequence[Array] = ()) -> list[Array]:
        """Run a kernel on two ranges of tasks; returns its destinations (operands beyond the sources).

        Sources are placed in buffers with other bytes between and around the elements; so are destinations, and it is checked
        that not a byte of theirs changes that is not an element.

        Args:
            destinations: what lies there before, noise if not given.
        """
        views = kernel.operands
        memories = [Placed.of(view, array) for view, array in zip(views, (*sources, *destinations), strict=False)]
        memories += [Placed.of(view, None) for view in views[len(memories):]]
        function = self.functions[self.symbols[kernel]]
        function.argtypes = [*[ctypes.c_void_p] * len(views), ctypes.c_int32, ctypes.c_int32]
        before = [memory.data.copy() for memory in memories]
        for begin, end in halves(kernel.tasks):
            assert function(*(memory.address for memory in memories), begin, end) == 0
        for number, memory in enumerate(memories):
            if number >= len(sources):
                memory.assert_only_elements_changed(before[number])
            else:
                assert np.array_equal(memory.data, before[number]), f"operand {number} is read-only"
        return [memory.elements().copy() for memory in memories[len(sources):]]


def halves(tasks: int) -> list[tuple[int, int]]:
    """All tasks, the later half first, with empty ranges in between."""
    middle = tasks // 2
    return [(middle, tasks), (0, 0), (0, middle)]


@dataclass(frozen=True)
class Placed:
    """An operand in the middle of a buffer of noise, at an odd address."""

    view: View
    data: Array     # bytes

    @staticmethod
    def of(view: View, array: Array | None) -> Placed:
        size = view.span * view.dtype.bytes
        noise = np.random.default_rng(size).integers(0, 256, GUARD + size + max(GUARD, READ_SLACK), dtype=np.uint8)
        placed = Placed(view, noise)
        if array is not None:
            assert array.shape == view.shape, f"expected {view.shape}, got {array.shape}"
            assert array.dtype == view.dtype.numpy, f"expected {view.dtype}, got {array.dtype}"
            placed.elements()[...] = array
        return placed

    @property
    def start(self) -> int:
        return GUARD // 2 + self.view.dtype.bytes

    @property
    def address(self) -> int:
        return int(self.data.ctypes.data) + self.start

    def elements(self) -> Array:
        strides = tuple(s * self.view.dtype.bytes for s in self.view.strides)
        return np.ndarray(self.view.shape, self.view.dtype.numpy, self.data.data, self.start, strides)

    def assert_only_elements_changed(self, before: Array) -> None:
        touched = Placed(self.view, np.zeros_like(self.data))
        touched.elements().view(f"u{self.view.dtype.bytes}")[...] = -1 % (1 << 8 * self.view.dtype.bytes)
        outside = touched.data == 0
        changed = np.flatnonzero(outside & (self.data != before))
        assert changed.size == 0, f"bytes {changed[:8] - self.start} from the start of {self.view} changed, but hold no element"


def spread(view: View, gap: int, inner: int = 0) -> View:
    """The same elements with `gap` elements between rows of the innermost axis, and `inner` between its elements."""
    strides, step = [], 1 + inner
    for axis, extent in reversed(list(enumerate(view.shape))):
        strides.append(step)
        step = step * extent + (gap if axis == len(view.shape) - 1 else 0)
    return View(view.dtype, view.shape, tuple(reversed(strides)))


def target_id(target: Target) -> str:
    return target.name
