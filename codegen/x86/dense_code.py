"""The code of the dense family: loops over tiles, a reduction in registers, and what it asks the caches for ahead of time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cpu.packing import WORD, block_offsets, words
from qcc.codegen.emit import Function, Memory, Register, broadcast, cast, reinterpret, store_first
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import Output, Requantizer
from qcc.codegen.x86.intrinsics import dot_product_for

if TYPE_CHECKING:
    from qcc.codegen.x86.dense import DenseKernel

UNROLLED_STEPS = 4      # of the reduction, where it is a loop
WHOLE_DOTS = 320        # a reduction with no more dot products than this is not a loop at all
LINE = 64               # bytes of a cache line
MOST_TILES = 4          # per line and round: with more tiles to a group of panels, its first reading hardly counts


@dataclass(frozen=True)
class Rounds:
    """The innermost loop: `count` rounds of `steps` steps each (count 0: no loop), then the rest of the run one by one."""

    count: int
    steps: int


class DenseCode:
    """The code of one kernel."""

    def __init__(self, kernel: DenseKernel, target: Target) -> None:
        self.kernel, self.dot = kernel, dot_product_for(target, kernel.lanes)
        self.function = Function(kernel.operands)
        memories = list(self.function.operands)
        self.source = memories.pop(0)
        self.residual: Memory | None = memories.pop(0) if kernel.residual is not None else None
        self.weights, self.numbers = memories[:2]
        self.output = memories[-1]
        self.requantizer = None
        if kernel.epilogue is not None:
            self.requantizer = Requantizer(self.function, kernel.epilogue, kernel.lanes, self.numbers, memories[2], self.output)
        self.offsets = block_offsets(kernel.output.shape[3] // kernel.groups, kernel.tile.blocks, kernel.lanes)

    def emit(self) -> Any:
        from tvm import tirx

        kernel, function = self.kernel, self.function
        images, tile_rows, tile_columns = kernel.pixel_tiles
        _, rows, columns, _ = kernel.output.shape
        with function.loop(function.begin, function.end) as task:
            panel_group, tile = self._divide(task, images * tile_rows * tile_columns)
            image, rest = self._divide(tile, tile_rows * tile_columns)
            row, column = self._divide(rest, tile_columns)
            row = function.let(tirx.Min(row * kernel.tile.rows, tirx.const(rows - kernel.tile.rows, "int32")))
            column = function.let(tirx.Min(column * kernel.tile.columns, tirx.const(columns - kernel.tile.columns, "int32")))
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

    def _tile(self, panel: Any, upcoming: Any, image: Any, row: Any, column: Any) -> None:
        from tvm import tirx

        kernel, tile = self.kernel, self.kernel.tile
        own = kernel.output.shape[3] // kernel.groups
        group, panel_of_group = self._divide(panel, kernel.panels // kernel.groups)
        limit = tirx.const(max(0, own - tile.blocks * kernel.lanes), "int32")
        start = tirx.Min(panel_of_group * (tile.blocks * kernel.lanes), limit)
        channel = self.function.let(group * own + start)
        source = self._address(kernel.source, image, row * kernel.strides[0], column * kernel.strides[1],
                               group * (kernel.source.shape[3] // kernel.groups))
        accumulators = [[self._initial(panel, block) for block in range(tile.blocks)] for _ in range(tile.pixels)]
        self._reduce(accumulators, source, self.function.let(panel * (kernel.steps * tile.blocks * kernel.lanes * WORD)), upcoming)
        output = self._address(kernel.output, image, row, column, channel)
        residual = None if kernel.residual is None else self._address(kernel.residual, image, row, column, channel)
        self._finish(accumulators, panel, output, residual)

    def _initial(self, panel: Any, block: int) -> Register:
        return self.function.register(self.numbers.load(self._numbers(panel, block), self.kernel.lanes))

    def _numbers(self, panel: Any, block: int) -> Any:
        """Where the bias of a block lies; its multipliers follow."""
        kernel = self.kernel
        return (panel * kernel.tile.blocks + block) * (kernel.numbers * kernel.lanes)

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        """accumulators += everything under the window; `weights` is the address of the panel, `upcoming` what to ask for."""
        kernel, function = self.kernel, self.function
        down, along, run = kernel.runs
        step_bytes = kernel.tile.blocks * kernel.lanes * WORD
        row_bytes, column_bytes = kernel.dilations[0] * kernel.source.strides[1], kernel.dilations[1] * kernel.source.strides[2]
        rounds = self.rounds
        looped = rounds.count * rounds.steps
        if self._shares_words(rounds.steps if looped else words(run)):
            with function.loop(0, words(run)) as word, function.loop(0, down) as kh:
                self._step(accumulators, source + (kh * row_bytes + word * WORD), weights + (kh * words(run) + word) * step_bytes)
            return
        whole = kernel.steps * kernel.tile.pixels * kernel.tile.blocks <= WHOLE_DOTS
        with ExitStack() as loops:
            for kh in range(down) if whole else [loops.enter_context(function.loop(0, down))]:
                for kw in range(along) if whole else [loops.enter_context(function.loop(0, along))]:
                    here = function.let(source + (kh * row_bytes + kw * column_bytes))
                    panel = function.let(weights + (kh * along + kw) * (words(run) * step_bytes))
                    if looped and not whole:
                        with function.loop(0, rounds.count) as index:
                            self._prefetch_source(here, index)
                            self._prefetch_weights(upcoming, (kh * along + kw) * rounds.count + index)
                            for step in range(rounds.steps):
                                word = index * rounds.steps + step
                                self._step(accumulators, here + word * WORD, panel + word * step_bytes)
                    for word in range(0 if whole else looped, words(run)):
                        self._step(accumulators, here + word * WORD, panel + word * step_bytes)

    def _prefetch_source(self, here: Any, index: Any) -> None:
        """Every round of a pointwise layer asks for its share of what the tile to the right reads; a taller window has most of it."""
        kernel, tile = self.kernel, self.kernel.tile
        if kernel.window[0] > 1:
            return
        ahead = tile.columns * kernel.strides[1] * kernel.source.strides[2]
        lines = -(-ahead // (self.rounds.count * LINE))
        for row in range(tile.rows):
            for line in range(lines):
                start = ahead + row * kernel.strides[0] * kernel.source.strides[1] + line * LINE
                self.source.prefetch(here + index * (lines * LINE) + start)

    def _prefetch_weights(self, upcoming: Any, index: Any) -> None:
        """Every round asks for its share of the next panels, which would else be waited for when their first tile needs them."""
        if upcoming is not None:
            for line in range(self.lines):
                self.weights.prefetch(upcoming + index * (self.lines * LINE) + line * LINE)

    @property
    def lines(self) -> int:
        """Cache lines of the next panels that a round asks for; 0 where that is not worth it."""
        kernel, rounds = self.kernel, self.rounds
        tiles = prod(kernel.pixel_tiles)
        own = kernel.steps * kernel.tile.blocks * kernel.lanes * WORD    # bytes of a panel
        share = rounds.count * kernel.runs[0] * kernel.runs[1] * tiles * LINE
        worthwhile = kernel.panels > kernel.panel_group and 0 < share <= MOST_TILES * own
        return -(-own // share) if worthwhile else 0

    @property
    def rounds(self) -> Rounds:
        steps = max(1, min(UNROLLED_STEPS, WHOLE_DOTS // (self.kernel.tile.pixels * self.kernel.tile.blocks)))
        run = words(self.kernel.runs[2])
        return Rounds(run // steps if run >= 2 * steps else 0, steps)

    def _upcoming(self, panel_group: Any, tile: Any, panel: Any) -> Any:
        """Where the share of the next group's weights begins that this tile asks for while it computes a panel."""
        kernel = self.kernel
        if not self.lines:
            return None
        own = kernel.steps * kernel.tile.blocks * kernel.lanes * WORD
        share = self.rounds.count * kernel.runs[0] * kernel.runs[1] * self.lines * LINE
        following = (panel_group + 1) * kernel.panel_group
        return self.function.let(following * own + (tile * kernel.panel_group + panel - panel_group * kernel.panel_group) * share)

    def _shares_words(self, count: int) -> bool:
        """Whether neighbouring pixels read the same words in different steps out of `count` (a first layer of few channels).

        LLVM would then keep words of unrolled steps in registers that the accumulators need, so such steps must not be unrolled.
        """
        kernel = self.kernel
        step = kernel.strides[1] * kernel.source.strides[2]
        return kernel.merged and any(step * pixels < count * WORD and step * pixels % WORD == 0 for pixels in range(1, kernel.tile.columns))

    def _step(self, accumulators: list[list[Register]], source: Any, weights: Any) -> None:
        """Four products for every accumulator."""
        kernel, function = self.kernel, self.function
        lanes = kernel.lanes
        vectors = [function.let(self.weights.load(weights + block * lanes * WORD, lanes * WORD)) for block in range(kernel.tile.blocks)]
        for pixel, (row, column) in enumerate(np.ndindex(kernel.tile.rows, kernel.tile.columns)):
            offset = row * kernel.strides[0] * kernel.source.strides[1] + column * kernel.strides[1] * kernel.source.strides[2]
            word = reinterpret(self.source.load(source + offset, WORD), "int32")
            activation = function.let(broadcast(word, lanes))
            for accumulator, vector in zip(accumulators[pixel], vectors, strict=True):
                accumulator.set(self.dot.emit(accumulator.get(), activation, vector))

    def _finish(self, accumulators: list[list[Register]], panel: Any, output: Any, residual: Any) -> None:
        kernel, function = self.kernel, self.function
        lanes, blocks = kernel.lanes, kernel.tile.blocks
        width = min(lanes, kernel.output.shape[3] // kernel.groups)
        outputs = []
        for pixel, (row, column) in enumerate(np.ndindex(kernel.tile.rows, kernel.tile.columns)):
            address = function.let(output + (row * kernel.output.strides[1] + column * kernel.output.strides[2]))
            for block in range(blocks):
                value, channel = accumulators[pixel][block].get(), self.offsets[block]
                if self.requantizer is None:
                    store_first(self.output, address + channel, value, width)
                    continue
                added = None
                if self.residual is not None and kernel.residual is not None:
                    offset = row * kernel.residual.strides[1] + column * kernel.residual.strides[2] + channel
                    added = cast(self.residual.load(residual + offset, lanes), "int32")
                outputs.append(Output(value, self._numbers(panel, block) + lanes, address, channel, width, added))
        if self.requantizer is not None:
            self.requantizer.store(outputs)
