"""Moving bytes: copies between any two layouts (transpositions, parts of concatenations, insides of padded images), and halos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cpu.transpose import Layout, write_to
from qcc.codegen.emit import Function, broadcast
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest, load, store, walk_all
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import DType

if TYPE_CHECKING:
    from qcc.codegen.target import Target


def _bits(view: View) -> View:
    """The same elements as unsigned integers: a copy does not care what they mean."""
    return replace(view, dtype=DType("u", 8 * view.dtype.bytes))


@dataclass(frozen=True)
class CopyKernel:
    """Elements from one view to another of the same shape. Operands: source, destination."""

    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.destination

    @property
    def layout(self) -> Layout:
        return Layout.of(self.operands, self.source.dtype.bytes)

    @property
    def tasks(self) -> int:
        return self.layout.tasks

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function, layout = Function(self.operands), self.layout
        source, destination = function.operands

        def read(places: Sequence[Any], lanes: int) -> Any:
            return load(source, places[0], lanes, 1 if layout.tile else layout.nest.inner(0))

        layout.emit(function, 4 * target.lanes // self.source.dtype.bytes, read, write_to(destination, layout.nest))
        return function.finish()


def plan_copy(source: View, destination: View) -> tuple[CopyKernel, tuple[Array, ...]]:
    """A copy of equally shaped views of one type (a transposition is a copy from a view with permuted axes); no constants."""
    if source.shape != destination.shape or source.dtype != destination.dtype:
        raise CodegenError(f"copy: {source.dtype}{list(source.shape)} is not the type of {destination.dtype}{list(destination.shape)}")
    return CopyKernel(_bits(source), _bits(destination)), ()


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
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return 0

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

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        value, destination = function.operands
        element = function.let(value.load(0))
        with function.loop(function.begin, function.end):
            for offset, box in self.boxes():
                self._fill(function, destination, element, offset, box, 4 * target.lanes // box.dtype.bytes)
        return function.finish()

    def _fill(self, function: Function, destination: Any, element: Any, offset: int, box: View, lanes: int) -> None:
        nest = Nest.of([box])

        def body(places: Sequence[Any], count: int) -> None:
            store(destination, places[0] + offset, broadcast(element, count) if count > 1 else element, nest.inner(0))

        walk_all(function, nest, lanes, body)


def _resized(view: View, axis: int, extent: int) -> View:
    return replace(view, shape=(*view.shape[:axis], extent, *view.shape[axis + 1:]))


def plan_fill_halo(
    destination: View, before: tuple[int, ...], after: tuple[int, ...], value: int | float
) -> tuple[FillHaloKernel, tuple[Array, ...]]:
    """Fill the padding of a Pad node's output in place; its constant is the value.

    Args:
        destination: the whole padded tensor.
        before, after: padding per axis.
    """
    inside = [n - a - b for n, a, b in zip(destination.shape, before, after, strict=True)]
    if min((*inside, *before, *after)) < 0:
        raise CodegenError(f"halo of {before} and {after} elements in a tensor of shape {list(destination.shape)}")
    bits = _bits(destination)
    constant = np.array([value], destination.dtype.numpy).view(bits.dtype.numpy)
    return FillHaloKernel(bits, before, after), (constant,)
