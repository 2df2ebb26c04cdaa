"""Moving bytes on GPUs: copies between any two layouts, and halos. One thread per element."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cuda.elements import Elementwise, each, launch_of, ordered
from qcc.codegen.cuda.emit import GpuFunction
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import DType

if TYPE_CHECKING:
    from qcc.codegen.target import Target


def _bits(view: View) -> View:
    """The same elements as unsigned integers: a copy does not care what they mean."""
    return replace(view, dtype=DType("u", 8 * view.dtype.bytes))


@dataclass(frozen=True)
class CopyKernel(Elementwise):
    """Elements from one view to another of the same shape. Operands: source, destination."""

    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.destination

    def body(self, function: GpuFunction) -> None:
        source, destination = function.operands
        each(function, self.nest, lambda p: destination.store(p[1], source.load(p[0])))


def plan_copy(source: View, destination: View) -> tuple[CopyKernel, tuple[Array, ...]]:
    """A copy of equally shaped views of one type (a transposition is a copy from a view with permuted axes); no constants."""
    if source.shape != destination.shape or source.dtype != destination.dtype or source.packed != destination.packed:
        raise CodegenError(f"copy: {source.dtype}{list(source.shape)} is not the type of {destination.dtype}{list(destination.shape)}")
    return CopyKernel(_bits(source.stored), _bits(destination.stored)), ()


@dataclass(frozen=True)
class FillHaloKernel:
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

    @property
    def launch(self) -> Launch:
        return launch_of(max((prod(view.shape) for _, view in self.boxes), default=1))

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function = GpuFunction(self.operands, self.launch)
        value, destination = function.operands
        element = function.let(value.load(0), "element")
        for offset, box in self.boxes:
            each(function, ordered(Nest.of([box])), lambda p, offset=offset: destination.store(p[0] + offset, element))  # type: ignore[misc]
        return function.finish()


def _resized(view: View, axis: int, extent: int) -> View:
    return replace(view, shape=(*view.shape[:axis], extent, *view.shape[axis + 1:]))


def plan_fill_halo(
    destination: View, before: tuple[int, ...], after: tuple[int, ...], value: int | float
) -> tuple[FillHaloKernel, tuple[Array, ...]]:
    """Fill the padding of a Pad node's output (the whole tensor) in place; its constant is the value."""
    if destination.packed:
        before, after, value = (*before[:-1], before[-1] // 2), (*after[:-1], after[-1] // 2), int(value) * 17      # in both halves
    destination = destination.stored
    bits = _bits(destination)
    return FillHaloKernel(bits, before, after), (np.array([value], destination.dtype.numpy).view(bits.dtype.numpy),)
