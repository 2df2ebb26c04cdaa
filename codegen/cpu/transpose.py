"""Element by element from one operand to another of different layout: tiles are read along the one's rows and written along the other's.

It decides which loop is innermost. Where the same axis is dense in both operands, vectors go straight through. Where two
different axes are, tiles of a register's bytes squared are transposed by interleaving; few channels become one interleaved run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qcc.codegen.emit import Function, Memory, lanes_of, shuffle
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest, load, offsets_at, store, walk, walk_row

FEW = 4             # channels that are interleaved all at once
_REGISTER = 16      # bytes of the registers that tiles are transposed in

Read = Callable[[Sequence[Any], int], Any]
Write = Callable[[Sequence[Any], Any], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """Loops over operands of which the first is read and the last written.

    Attributes:
        nest: straight: the innermost loop is walked by vectors. Transposed: the last two loops are dense in the source and in
            the destination, respectively.
        tile: elements of a tile's row, 0 if the layout is straight.
    """

    nest: Nest
    tile: int

    @staticmethod
    def of(views: Sequence[View], bytes_per_element: int) -> Layout:
        """The layout for views that broadcast against each other; elements are transposed at this width."""
        nest, tile = Nest.of(views), _REGISTER // bytes_per_element
        axes = range(len(nest.shape))
        read = [axis for axis in axes if nest.strides[0][axis] == 1]
        written = [axis for axis in axes if nest.strides[-1][axis] == 1]
        both = [axis for axis in read if axis in written]
        if both:
            return Layout(_with_last(nest, both), 0)
        if read and written and nest.shape[read[0]] >= tile:
            return Layout(_with_last(nest, [read[0], written[0]]), tile)
        return Layout(_with_last(nest, (written or read)[:1]), 0)

    @property
    def tasks(self) -> int:
        if not self.tile:
            return self.nest.tasks
        return prod(self.nest.shape[:-2]) * self._strips

    @property
    def _strips(self) -> int:
        """Tasks along the axis that is read, where the outer loops give too few."""
        return self.nest.shape[-2] // self.tile if prod(self.nest.shape[:-2]) < 8 else 1

    def emit(self, function: Function, lanes: int, read: Read, write: Write) -> None:
        """Emit the loops over the function's tasks.

        Args:
            lanes: most lanes of a vector in a straight layout.
            read: (offsets per operand, lanes) -> a vector, along the source's dense axis.
            write: (offsets per operand, vector) writes along the destination's innermost or dense axis.
        """
        if not self.tile:
            walk(function, self.nest, lanes, lambda places, count: write(places, read(places, count)))
            return
        from tvm import tirx

        outer = range(len(self.nest.shape) - 2)
        with function.loop(function.begin, function.end) as task:
            places = offsets_at(self.nest, tirx.truncdiv(task, self._strips), outer)
            places = [function.let(place) for place in places]
            if self._strips == 1:
                walk_row(function, self.nest.shape[-2], self.tile, lambda start, _: self._strip(function, places, start, read, write))
                return
            strip = tirx.truncmod(task, self._strips)
            self._strip(function, places, strip * self.tile, read, write)
            if self.nest.shape[-2] % self.tile:
                with function.when(strip == self._strips - 1):
                    self._strip(function, places, self.nest.shape[-2] - self.tile, read, write)

    def _strip(self, function: Function, places: Sequence[Any], start: Any, read: Read, write: Write) -> None:
        """Tiles from `start` on the axis that is read, along all of the axis that is written."""
        here = self._moved(places, -2, start)
        extent = self.nest.shape[-1]
        if extent <= min(FEW, self.tile):
            self._tile(function, here, extent, read, write)
        else:
            walk_row(function, extent, self.tile, lambda first, rows: self._tile(function, self._moved(here, -1, first), rows, read, write))

    def _tile(self, function: Function, places: Sequence[Any], rows: int, read: Read, write: Write) -> None:
        vectors = [function.let(read(self._moved(places, -1, row), self.tile)) for row in range(rows)]
        vectors = interleave(function, vectors)
        if self.nest.strides[-1][-2] == rows == self.nest.shape[-1] and all(steps[-2:] == (0, 0) for steps in self.nest.strides[1:-1]):
            for number, vector in enumerate(vectors):
                write(self._moved(places, -2, number * lanes_of(vector) // rows), vector)
            return
        for column in range(self.tile):
            first = column * rows
            vector = vectors[first // lanes_of(vectors[0])]
            first %= lanes_of(vector)
            piece = vector if lanes_of(vector) == rows else shuffle([vector], range(first, first + rows))
            write(self._moved(places, -2, column), piece)

    def _moved(self, places: Sequence[Any], axis: int, count: Any) -> list[Any]:
        return [place + count * steps[axis] for place, steps in zip(places, self.nest.strides, strict=True)]


def _with_last(nest: Nest, last: Sequence[int]) -> Nest:
    return nest.permuted([*(axis for axis in range(len(nest.shape)) if axis not in last), *last])


def interleave(function: Function, rows: Sequence[Any]) -> list[Any]:
    """Vectors whose elements, one after the other, are the first of each row, the second of each row, and so on."""
    count, lanes = len(rows), lanes_of(rows[0])
    if count & (count - 1):
        return [function.let(shuffle(rows, [row * lanes + lane for lane in range(lanes) for row in range(count)]))]
    vectors, half = list(rows), lanes // 2
    distance = count
    while distance > 1:
        distance //= 2
        pairs = [(vectors[i], vectors[i + count // 2]) for i in range(count // 2)]
        masks = [[first + i + side * lanes for i in range(half) for side in (0, 1)] for first in (0, half)]
        vectors = [function.let(shuffle(pair, mask)) for pair in pairs for mask in masks]
    return vectors


class LayoutKernel(ABC):
    """What kernels have in common that go over a layout, and multiply nothing."""

    @property
    @abstractmethod
    def layout(self) -> Layout: ...

    @property
    def tasks(self) -> int:
        return self.layout.tasks

    @property
    def macs(self) -> int:
        return 0


def read_from(memory: Memory, layout: Layout) -> Read:
    """A reader of the first operand."""
    return lambda places, lanes: load(memory, places[0], lanes, 1 if layout.tile else layout.nest.inner(0))


def write_to(memory: Memory, nest: Nest) -> Write:
    """A writer to the last operand, for vectors that need no more than storing."""
    return lambda places, vector: store(memory, places[-1], vector, nest.inner(-1))
