"""The code of a 3x3 layer by minimal filtering (winograd.py): transformed squares, 16 matrix products, and the way back to outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cpu.dense_code import ImplicitProductCode
from qcc.codegen.cpu.epilogue import Output
from qcc.codegen.emit import Register, cast, constant, store_first
from qcc.codegen.target import Target
from qcc.codegen.x86.pairs_code import add_products, requantizing
from qcc.codegen.x86.winograd_filter import POINTS, both_ways

if TYPE_CHECKING:
    from qcc.codegen.x86.winograd import WinogradKernel

UNROLLED_STEPS = 2    # of the reduction
PAIR, SIDE, REACH = 2, 2, 4    # products of a lane, outputs of a square and the pixels that they need, along one axis


class WinogradCode(ImplicitProductCode):
    """The code of one kernel."""

    kernel: WinogradKernel

    def __init__(self, kernel: WinogradKernel, target: Target) -> None:
        super().__init__(kernel, requantizing(kernel, target))
        self.patch = self.function.scratch("int16", kernel.patch)
        self.point = kernel.patch // POINTS    # numbers of a point in the patch
        self.sums = self.function.scratch("int32", POINTS * kernel.tile.columns * kernel.tile.blocks * kernel.lanes)

    def _square(self, number: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of a square's first output."""
        from tvm import tirx

        _, down, along = self.kernel.squares
        rows, columns = self.kernel.sums
        image, rest = self._divide(number, down * along)
        row, column = self._divide(rest, along)
        row, column = (tirx.Min(place * SIDE, tirx.const(extent - SIDE, "int32")) for place, extent in ((row, rows), (column, columns)))
        return image, self.function.let(row), self.function.let(column)

    def _begin_tile(self, image: Any, row: Any, column: Any) -> None:
        """Transform the squares of the tile."""
        from tvm import tirx

        kernel, function, width = self.kernel, self.function, self.kernel.vector
        _, down, along, _ = kernel.source.strides
        with function.loop(0, kernel.tile.columns) as square:
            start = self._address(kernel.source, *self._square(function.let(column + square)), 0)
            with function.loop(0, -(-kernel.channels // width)) as number:
                channel = function.let(tirx.Min(number * width, tirx.const(kernel.channels - width, "int32")))
                here = function.let(start + channel)
                pixels = [self._pixel(here + (y * down + x * along)) for y, x in np.ndindex(REACH, REACH)]
                for point, value in enumerate(both_ways(self._transformed, pixels, REACH)):
                    self.patch.store(point * self.point + square * kernel.channels + channel, value)

    def _pixel(self, place: Any) -> Any:
        return self.function.let(cast(self.source.load(place, self.kernel.vector), "int16"))

    def _transformed(self, d: Sequence[Any]) -> Sequence[Any]:
        let = self.function.let
        outer = [let(d[0] - d[2]), let(d[1] - d[3])]
        first, last = (let(value + value) for value in outer)
        return first, let(d[1] + d[2]), let(d[2] - d[1]), last

    def _tile(self, panel: Any, upcoming: Any, image: Any, row: Any, column: Any) -> None:
        from tvm import tirx

        kernel, function, tile = self.kernel, self.function, self.kernel.tile
        apart = kernel.filters(kernel.weight_bits).point
        weights = function.let(panel * (POINTS * apart))
        vectors = tile.columns * tile.blocks
        with function.loop(0, POINTS) as point:
            zero = constant(0, "int32", kernel.lanes)
            sums = [[function.register(zero) for _ in range(tile.blocks)] for _ in range(tile.columns)]
            self._reduce(sums, function.let(point * self.point), function.let(weights + point * apart), None)
            for number, register in enumerate(register for row_ in sums for register in row_):
                self.sums.store((point * vectors + number) * kernel.lanes, register.get())
        limit = tirx.const(max(0, kernel.output.shape[3] - tile.blocks * kernel.lanes), "int32")
        channel = function.let(tirx.Min(panel * (tile.blocks * kernel.lanes), limit))
        with function.loop(0, tile.columns) as square:
            self._outputs(panel, square, self._square(function.let(column + square)), channel)

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        kernel, function = self.kernel, self.function
        looped = kernel.pairs // UNROLLED_STEPS * UNROLLED_STEPS
        offsets = [column * kernel.channels for column in range(kernel.tile.columns)]
        with function.loop(0, looped, UNROLLED_STEPS) as step:
            add_products(self, accumulators, source + step * PAIR, offsets, weights + step * kernel.step_bytes, UNROLLED_STEPS)
        if kernel.pairs > looped:
            rest = kernel.pairs - looped
            add_products(self, accumulators, source + looped * PAIR, offsets, weights + looped * kernel.step_bytes, rest)

    def _outputs(self, panel: Any, square: Any, place: tuple[Any, Any, Any], channel: Any) -> None:
        """A^T M A of every block of a square, and its bias."""
        from tvm import tirx

        kernel, function, lanes, blocks = self.kernel, self.function, self.kernel.lanes, self.kernel.tile.blocks
        vectors = kernel.tile.columns * blocks
        results = []
        for block in range(blocks):
            bias = self.numbers.load(self._numbers(panel, block), lanes)
            points = [function.let(self.sums.load((point * vectors + square * blocks + block) * lanes, lanes)) for point in range(POINTS)]
            results.append([function.let(value + bias) for value in both_ways(self._collected, points, REACH)])
        image, row, column = place
        if kernel.pool == (1, 1):
            self._store([[result[pixel] for result in results] for pixel in range(SIDE * SIDE)], panel, place, channel)
        else:
            maxima = [function.let(reduce(tirx.Max, result)) for result in results]
            self._store([maxima], panel, (image, *(tirx.Div(x, tirx.const(SIDE, "int32")) for x in (row, column))), channel)

    def _collected(self, m: Sequence[Any]) -> Sequence[Any]:
        let = self.function.let
        inner, outer = let(m[1] + m[2]), let(m[1] - m[2])
        return let(m[0] + inner), let(outer - m[3])

    def _store(self, values: Sequence[Sequence[Any]], panel: Any, place: tuple[Any, Any, Any], channel: Any) -> None:
        kernel, function, lanes = self.kernel, self.function, self.kernel.lanes
        width = min(lanes, kernel.output.shape[3])
        output = self._address(kernel.output, *place, channel)
        residual = None if kernel.residual is None else self._address(kernel.residual, *place, channel)
        outputs = []
        for vectors, (row, column) in zip(values, np.ndindex(SIDE, SIDE), strict=False):
            address = function.let(output + (row * kernel.output.strides[1] + column * kernel.output.strides[2]))
            for block, (value, offset) in enumerate(zip(vectors, self.offsets, strict=True)):
                if self.requantizer is None:
                    store_first(self.output, address + offset, value >> constant(kernel.lift, "int32", lanes), width)
                    continue
                added = None
                if self.residual is not None and kernel.residual is not None:
                    where = row * kernel.residual.strides[1] + column * kernel.residual.strides[2] + offset
                    added = self.residual.load(residual + where, lanes)
                outputs.append(Output(value, self._numbers(panel, block) + lanes, address, offset, width, added))
        if self.requantizer is not None:
            self.requantizer.store(outputs)
