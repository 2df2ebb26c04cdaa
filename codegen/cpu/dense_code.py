"""The loops of a dense layer over its tiles; the reduction of one tile is each architecture's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from qcc.codegen.cpu.dense import ImplicitProduct
from qcc.codegen.cpu.epilogue import Output, Requantizer
from qcc.codegen.cpu.packing import block_offsets
from qcc.codegen.emit import Function, Memory, Register, constant, store_first
from qcc.codegen.kernel import View

Requantizing = Callable[[Function, Memory, Memory, Memory], Requantizer]    # numbers, parameters and output of a layer


class ImplicitProductCode(ABC):
    """The code of one kernel."""

    def __init__(self, kernel: ImplicitProduct, requantizing: Requantizing) -> None:
        self.kernel, self.function = kernel, Function(kernel.operands)
        memories = list(self.function.operands)
        self.source = memories.pop(0)
        self.residual: Memory | None = memories.pop(0) if kernel.residual is not None else None
        self.weights, self.numbers = memories[:2]
        self.output = memories[-1]
        self.requantizer = None if kernel.epilogue is None else requantizing(self.function, self.numbers, memories[2], self.output)
        self.offsets = block_offsets(kernel.output.shape[3] // kernel.groups, kernel.tile.blocks, kernel.lanes)

    def emit(self) -> Any:
        from tvm import tirx

        kernel, function = self.kernel, self.function
        images, tile_rows, tile_columns = kernel.pixel_tiles
        rows, columns = kernel.extents
        with function.loop(function.begin, function.end) as task:
            panel_group, tile = self._divide(task, images * tile_rows * tile_columns)
            image, rest = self._divide(tile, tile_rows * tile_columns)
            row, column = self._divide(rest, tile_columns)
            row = function.let(tirx.Min(row * kernel.tile.rows, tirx.const(rows - kernel.tile.rows, "int32")))
            column = function.let(tirx.Min(column * kernel.tile.columns, tirx.const(columns - kernel.tile.columns, "int32")))
            self._begin_tile(image, row, column)
            first = function.let(panel_group * kernel.panel_group)
            with function.loop(first, tirx.Min(first + kernel.panel_group, tirx.const(kernel.panels, "int32"))) as panel:
                self._tile(panel, self._upcoming(panel_group, tile, panel), image, row, column)
        return function.finish()

    def _divide(self, value: Any, divisor: int) -> tuple[Any, Any]:
        from tvm import tirx

        by = tirx.const(divisor, "int32")
        return self.function.let(tirx.Div(value, by)), self.function.let(tirx.Mod(value, by))

    def _address(self, view: View, image: Any, row: Any, column: Any, channel: Any) -> Any:
        return self.function.let(image * view.strides[0] + row * view.strides[1] + column * view.strides[2] + channel)

    def _begin_tile(self, image: Any, row: Any, column: Any) -> None:
        """What is done once for all panels that are computed for a tile of pixels."""
        return

    def _source(self, image: Any, row: Any, column: Any, channel: Any) -> Any:
        """Where the reduction of a tile begins to read."""
        return self._address(self.kernel.source, image, row * self.kernel.strides[0], column * self.kernel.strides[1], channel)

    def _tile(self, panel: Any, upcoming: Any, image: Any, row: Any, column: Any) -> None:
        from tvm import tirx

        kernel, tile = self.kernel, self.kernel.tile
        own = kernel.output.shape[3] // kernel.groups
        group, panel_of_group = self._divide(panel, kernel.panels // kernel.groups)
        limit = tirx.const(max(0, own - tile.blocks * kernel.lanes), "int32")
        start = tirx.Min(panel_of_group * (tile.blocks * kernel.lanes), limit)
        channel = self.function.let(group * own + start)
        source = self._source(image, row, column, group * (kernel.source.shape[3] // kernel.groups))
        accumulators = [[self._initial(panel, block) for block in range(tile.blocks)] for _ in range(tile.pixels)]
        self._reduce(accumulators, source, self.function.let(panel * (kernel.steps * kernel.step_bytes)), upcoming)
        down, along = (tirx.const(extent, "int32") for extent in kernel.pool)
        output = self._address(kernel.output, image, tirx.Div(row, down), tirx.Div(column, along), channel)
        residual = None if kernel.residual is None else self._address(kernel.residual, image, row, column, channel)
        self._finish(accumulators, panel, output, residual)

    def _initial(self, panel: Any, block: int) -> Register:
        return self.function.register(self.numbers.load(self._numbers(panel, block), self.kernel.lanes))

    def _numbers(self, panel: Any, block: int) -> Any:
        """Where the bias of a block lies; its multipliers follow."""
        kernel = self.kernel
        return (panel * kernel.tile.blocks + block) * (kernel.numbers * kernel.lanes)

    @abstractmethod
    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        """accumulators += everything under the window; `weights` is the address of the panel, `upcoming` what to ask for."""

    def _upcoming(self, panel_group: Any, tile: Any, panel: Any) -> Any:
        """Where to begin to ask for weights ahead of time; None: nowhere."""
        return None

    def _finish(self, accumulators: list[list[Register]], panel: Any, output: Any, residual: Any) -> None:
        kernel, function = self.kernel, self.function
        lanes, blocks = kernel.lanes, kernel.tile.blocks
        width = min(lanes, kernel.output.shape[3] // kernel.groups)
        outputs = []
        for row, column in np.ndindex(kernel.tile.rows // kernel.pool[0], kernel.tile.columns // kernel.pool[1]):
            address = function.let(output + (row * kernel.output.strides[1] + column * kernel.output.strides[2]))
            for block in range(blocks):
                value, channel = self._pooled(accumulators, row, column, block), self.offsets[block]
                if self.requantizer is None:
                    store_first(self.output, address + channel, value >> constant(kernel.lift, "int32", lanes), width)
                    continue
                added = None
                if self.residual is not None and kernel.residual is not None:
                    offset = row * kernel.residual.strides[1] + column * kernel.residual.strides[2] + channel
                    added = self.residual.load(residual + offset, lanes)
                outputs.append(Output(value, self._numbers(panel, block) + lanes, address, channel, width, added))
        if self.requantizer is not None:
            self.requantizer.store(outputs)

    def _pooled(self, accumulators: list[list[Register]], row: int, column: int, block: int) -> Any:
        """The sum of an output of the tile, or the maximum of the sums under its window."""
        from tvm import tirx

        (down, along), columns = self.kernel.pool, self.kernel.tile.columns
        window = [accumulators[(row * down + i) * columns + column * along + j][block].get() for i, j in np.ndindex(down, along)]
        return self.function.let(reduce(tirx.Max, window)) if len(window) > 1 else window[0]
