"""Moving bytes on GPUs: copies between any two layouts, and halos. One thread per element."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from qcc.codegen import copies
from qcc.codegen.copies import Copy, FillHalo
from qcc.codegen.cuda.elements import Elementwise, each, launch_of, ordered
from qcc.codegen.cuda.emit import GpuFunction
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.nest import Nest

if TYPE_CHECKING:
    from qcc.codegen.target import Target


@dataclass(frozen=True)
class CopyKernel(Copy, Elementwise):
    """See `Copy`."""

    def body(self, function: GpuFunction) -> None:
        source, destination = function.operands
        each(function, self.nest, lambda p: destination.store(p[1], source.load(p[0])))


@dataclass(frozen=True)
class FillHaloKernel(FillHalo):
    """See `FillHalo`: every thread writes an element of each box that has so many."""

    @property
    def launch(self) -> Launch:
        return launch_of(max((prod(view.shape) for _, view in self.boxes), default=1))

    def emit(self, target: Target) -> Any:
        function = GpuFunction(self.operands, self.launch)
        value, destination = function.operands
        element = function.let(value.load(0), "element")
        for offset, box in self.boxes:
            each(function, ordered(Nest.of([box])), lambda p, offset=offset: destination.store(p[0] + offset, element))  # type: ignore[misc]
        return function.finish()


plan_copy = partial(copies.plan_copy, CopyKernel)
plan_fill_halo = partial(copies.plan_fill_halo, FillHaloKernel)
