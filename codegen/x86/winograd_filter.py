"""The filters of a 3x3 layer transformed to 16 points, in scratch memory, made anew in every run (see winograd.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.emit import Function, cast, constant
from qcc.codegen.kernel import View
from qcc.codegen.x86.widening import prefetch
from qcc.ir.types import I8, I16, U8

if TYPE_CHECKING:
    from qcc.codegen.target import Target

TAPS = 9       # of a filter
POINTS = 16    # of a transformed one
APART = 32     # numbers between points, which would else often lie so far apart that all compete for one set of the first-level cache


@dataclass(frozen=True, slots=True)
class FilterKernel:
    """U = G g G^T, a panel a task. Operands: weights [panels, filters, 9, vector] as stored, i16 [panels, 16, filters, vector] with gaps.

    Attributes:
        panels: of filters.
        filters: vectors of filters of a panel.
        vector: filters side by side.
        weight_bits: in which a weight is stored; of fewer than 8, as `packing.pack_bits` packs stretches of 9 vectors.
    """

    panels: int
    filters: int
    vector: int
    weight_bits: int

    @property
    def filter_bytes(self) -> int:
        return TAPS * self.vector * self.weight_bits // 8

    @property
    def point(self) -> int:
        """Numbers from a point to the next."""
        return self.filters * self.vector + APART

    @property
    def operands(self) -> tuple[View, ...]:
        stored = View.contiguous(I8 if self.weight_bits == 8 else U8, (self.panels, self.filters * self.filter_bytes))
        return stored, View.contiguous(I16, (self.panels, POINTS * self.point))

    @property
    def tasks(self) -> int:
        return self.panels

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        source, destination = function.operands

        def number(weights: Any) -> Any:
            wide = cast(weights, "int16")    # of fewer bits, they come out in the upper ones of their byte
            return function.let(wide if self.weight_bits == 8 else wide >> constant(8 - self.weight_bits, "int16", self.vector))

        with function.loop(function.begin, function.end) as panel, function.loop(0, self.filters) as index:
            start = function.let((panel * self.filters + index) * self.filter_bytes)
            prefetch(source, start, self.filter_bytes)
            taps = [number(weights) for weights in load_weights(function, source, start, TAPS, self.vector, self.weight_bits)]
            for point, value in enumerate(both_ways(lambda three: _transformed(function.let, three), taps, 3)):
                destination.store((panel * POINTS + point) * self.point + index * self.vector, value)
        return function.finish()


def both_ways(transform: Callable[[Sequence[Any]], Sequence[Any]], values: Sequence[Any], side: int) -> list[Any]:
    """M X M^T of a square matrix X, row by row, where `transform` is M's product with a column."""
    columns = [transform([values[row * side + column] for row in range(side)]) for column in range(side)]
    return [value for row in zip(*columns, strict=True) for value in transform(row)]


def _transformed(let: Callable[[Any], Any], g: Sequence[Any]) -> Sequence[Any]:
    ends = let(g[0] + g[2])
    return g[0], let(ends + g[1]), let(ends - g[1]), g[2]
