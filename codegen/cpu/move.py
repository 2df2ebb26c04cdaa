"""Moving bytes on CPUs: copies between any two layouts (transpositions, parts of concatenations, insides of padded images), and halos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qcc.codegen import copies
from qcc.codegen.copies import Copy, FillHalo
from qcc.codegen.cpu.transpose import Layout, LayoutKernel, read_from, write_to
from qcc.codegen.emit import Function, broadcast
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest, store, walk_all

if TYPE_CHECKING:
    from qcc.codegen.target import Target


@dataclass(frozen=True)
class CopyKernel(LayoutKernel, Copy):
    """See `Copy`; transposed by tiles where that helps."""

    @property
    def layout(self) -> Layout:
        return Layout.of(self.operands, self.source.dtype.bytes)

    def emit(self, target: Target) -> Any:
        function, layout = Function(self.operands), self.layout
        source, destination = function.operands

        layout.emit(function, 4 * target.lanes // self.source.dtype.bytes, read_from(source, layout), write_to(destination, layout.nest))
        return function.finish()


@dataclass(frozen=True)
class FillHaloKernel(FillHalo):
    """See `FillHalo`."""

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        value, destination = function.operands
        element = function.let(value.load(0))
        with function.loop(function.begin, function.end):
            for offset, box in self.boxes:
                self._fill(function, destination, element, offset, box, 4 * target.lanes // box.dtype.bytes)
        return function.finish()

    def _fill(self, function: Function, destination: Any, element: Any, offset: int, box: View, lanes: int) -> None:
        nest = Nest.of([box])

        def body(places: Sequence[Any], count: int) -> None:
            store(destination, places[0] + offset, broadcast(element, count) if count > 1 else element, nest.inner(0))

        walk_all(function, nest, lanes, body)


plan_copy = partial(copies.plan_copy, CopyKernel)
plan_fill_halo = partial(copies.plan_fill_halo, FillHaloKernel)
