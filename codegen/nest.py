"""Loops over strided operands that agree element by element: how they are merged, divided into tasks, and walked by vectors.

A remainder is covered by one vector that ends where the row ends and overlaps the one before; rows shorter than a vector take
vectors of a smaller power of two. So no operand is ever read or written outside its elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from qcc.codegen.emit import Function, Memory, broadcast, extract, lanes_of
from qcc.codegen.kernel import View

TASKS = 64          # pieces that a loop nest is cut into, about
LEAST = 2048        # elements that are worth a task of their own

Body = Callable[[Sequence[Any], int], None]


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops, outermost first, and for each operand its stride (in elements) along each; 0 where it is broadcast."""

    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(views: Sequence[View]) -> Nest:
        """The loops over all elements of views that broadcast against each other, with axes merged wherever every operand allows it."""
        shape = np.broadcast_shapes(*(view.shape for view in views))
        rank = len(shape)
        padded = [((1,) * (rank - len(v.shape)) + v.shape, (0,) * (rank - len(v.shape)) + v.strides) for v in views]
        axes = [(n, [stride[i] if extent[i] == n else 0 for extent, stride in padded]) for i, n in enumerate(shape) if n != 1]
        merged: list[tuple[int, list[int]]] = []
        for extent, steps in axes:
            if merged and merged[-1][1] == [extent * step for step in steps]:
                merged[-1] = (merged[-1][0] * extent, steps)
            else:
                merged.append((extent, steps))
        merged = merged or [(1, [0] * len(views))]
        return Nest(tuple(n for n, _ in merged), tuple(zip(*(steps for _, steps in merged), strict=True)))

    def permuted(self, order: Sequence[int]) -> Nest:
        """The same loops, nested in another order."""
        return Nest(tuple(self.shape[i] for i in order), tuple(tuple(steps[i] for i in order) for steps in self.strides))

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def outer(self) -> int:
        """How many of the loops are divided into tasks: as few as give enough of them; never the innermost."""
        count = 0
        while count < len(self.shape) - 1 and prod(self.shape[:count]) < TASKS:
            count += 1
        return count

    @property
    def tasks(self) -> int:
        """Pieces of work: iterations of the outer loops, or stretches of a single one."""
        return prod(self.shape[: self.outer]) if len(self.shape) > 1 else max(1, min(TASKS, self.size // LEAST))

    def inner(self, operand: int) -> int:
        """Stride of an operand along the innermost loop."""
        return self.strides[operand][-1]


def offsets_at(nest: Nest, index: Any, axes: range) -> list[Any]:
    """Per operand the offset of the iteration `index`, counted over the loops `axes` together."""
    from tvm import tirx

    places: list[Any] = [0] * len(nest.strides)
    for axis in reversed(axes):
        position = index if axis == axes[0] else tirx.truncmod(index, nest.shape[axis])
        index = tirx.truncdiv(index, nest.shape[axis])
        places = [place + position * steps[axis] for place, steps in zip(places, nest.strides, strict=True)]
    return places


def walk(function: Function, nest: Nest, lanes: int, body: Body) -> None:
    """Emit the loops over the function's range of tasks; `body(offsets, lanes)` emits the work on that many elements of a row.

    Args:
        lanes: the most elements of one vector, a power of two; body is called with it or a smaller one.
    """
    if len(nest.shape) == 1:
        _walk_stretch(function, nest, lanes, body)
        return
    with function.loop(function.begin, function.end) as task:
        _walk_rows(function, nest, lanes, body, nest.outer, offsets_at(nest, task, range(nest.outer)))


def walk_all(function: Function, nest: Nest, lanes: int, body: Body) -> None:
    """The loops over everything, at the current place, whatever the range of tasks."""
    _walk_rows(function, nest, lanes, body, 0, [0] * len(nest.strides))


def _walk_rows(function: Function, nest: Nest, lanes: int, body: Body, axis: int, places: Sequence[Any]) -> None:
    if axis == len(nest.shape) - 1:
        walk_row(function, nest.shape[-1], lanes, lambda start, count: body(_advance(nest, places, start), count))
        return
    with function.loop(0, nest.shape[axis]) as index:
        inner = [place + index * steps[axis] for place, steps in zip(places, nest.strides, strict=True)]
        _walk_rows(function, nest, lanes, body, axis + 1, inner)


def _advance(nest: Nest, places: Sequence[Any], start: Any) -> list[Any]:
    return [place + start * steps[-1] for place, steps in zip(places, nest.strides, strict=True)]


def walk_row(function: Function, extent: int, lanes: int, body: Callable[[Any, int], None]) -> None:
    """Cover 0..extent by vectors: `body(start, lanes)`."""
    lanes = min(lanes, 1 << (extent.bit_length() - 1))
    whole = extent // lanes
    if whole == 1:
        body(0, lanes)
    else:
        with function.loop(0, whole) as number:
            body(number * lanes, lanes)
    if extent % lanes:
        body(extent - lanes, lanes)


def _walk_stretch(function: Function, nest: Nest, lanes: int, body: Body) -> None:
    """A single loop: tasks are stretches of whole vectors, and the last one has the remainder."""
    from tvm import tirx

    extent = nest.shape[0]
    lanes = min(lanes, 1 << (extent.bit_length() - 1))
    whole, tasks = extent // lanes, nest.tasks
    origin = [0] * len(nest.strides)
    first, last = (function.let(tirx.truncdiv(edge * whole, tasks)) for edge in (function.begin, function.end))
    with function.loop(first, last) as number:
        body(_advance(nest, origin, number * lanes), lanes)
    if extent % lanes:
        with function.when((function.end == tasks) & (function.begin < tasks)):
            body(_advance(nest, origin, extent - lanes), lanes)


def load(memory: Memory, offset: Any, lanes: int, stride: int) -> Any:
    """`lanes` elements at any stride; stride 0 repeats one."""
    if stride == 0 and lanes > 1:
        return broadcast(memory.load(offset), lanes)
    return memory.load(offset, lanes, stride)


def store(memory: Memory, offset: Any, value: Any, stride: int) -> None:
    """Write a vector at any stride."""
    lanes = lanes_of(value)
    if stride == 1 or lanes == 1:
        memory.store(offset, value)
        return
    value = memory.function.let(value)
    for lane in range(lanes):
        memory.store(offset + lane * stride, extract(value, lane))
