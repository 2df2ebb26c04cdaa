"""Moving bytes, whatever the machine: what copies and halos are, how they are planned, and which boxes make up a halo.

A machine's kernels are subclasses that say how the work falls into tasks and how it is emitted (cpu/move.py, cuda/move.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import DType

AnyKernel = TypeVar("AnyKernel")


@dataclass(frozen=True)
class Copy:
    """Elements from one view to another of the same shape. Operands: source, destination."""

    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.destination

    @property
    def macs(self) -> int:
        return 0


@dataclass(frozen=True)
class FillHalo:
    """Write one value around the inside of a padded tensor. Operands: value (1 element), the whole padded tensor.

    Attributes:
        before, after: elements of padding per axis; the inside is not touched.
    """

    destination: View
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def operands(self) -> tuple[View, ...]:
        return View.contiguous(self.destination.dtype, (1,)), self.destination

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return 0

    @property
    def boxes(self) -> list[tuple[int, View]]:
        """Offset and view of disjoint boxes that make up the halo: axis by axis, what lies before and behind the inside."""
        view, offset, found = self.destination, 0, []
        for axis, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            extent, stride = view.shape[axis], view.strides[axis]
            for first, count in ((0, before), (extent - after, after)):
                if count:
                    found.append((offset + first * stride, _resized(view, axis, count)))
            view, offset = _resized(view, axis, extent - before - after), offset + before * stride
        return found


def _resized(view: View, axis: int, extent: int) -> View:
    return replace(view, shape=(*view.shape[:axis], extent, *view.shape[axis + 1:]))


def _bits(view: View) -> View:
    """The same elements as unsigned integers: a copy does not care what they mean."""
    return replace(view, dtype=DType("u", 8 * view.dtype.bytes))


def plan_copy(kind: Callable[[View, View], AnyKernel], source: View, destination: View) -> tuple[AnyKernel, tuple[Array, ...]]:
    """A copy of equally shaped views of one type (a transposition is a copy from a view with permuted axes); no constants."""
    if source.shape != destination.shape or source.dtype != destination.dtype or source.packed != destination.packed:
        raise CodegenError(f"copy: {source.dtype}{list(source.shape)} is not the type of {destination.dtype}{list(destination.shape)}")
    return kind(_bits(source.stored), _bits(destination.stored)), ()


def plan_fill_halo(
    kind: Callable[[View, tuple[int, ...], tuple[int, ...]], AnyKernel], destination: View, before: tuple[int, ...],
    after: tuple[int, ...], value: int | float,
) -> tuple[AnyKernel, tuple[Array, ...]]:
    """Fill the padding of a Pad node's output in place; its constant is the value.

    Args:
        destination: the whole padded tensor.
        before, after: padding per axis.
    """
    inside = [n - a - b for n, a, b in zip(destination.shape, before, after, strict=True)]
    if min((*inside, *before, *after)) < 0:
        raise CodegenError(f"halo of {before} and {after} elements in a tensor of shape {list(destination.shape)}")
    if destination.packed:
        before, after, value = (*before[:-1], before[-1] // 2), (*after[:-1], after[-1] // 2), int(value) * 17      # in both halves
    stored = destination.stored
    bits = _bits(stored)
    return kind(bits, before, after), (np.array([value], stored.dtype.numpy).view(bits.dtype.numpy),)
