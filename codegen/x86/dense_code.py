"""x86's reduction of a dense layer in registers, and what it asks the caches for ahead of time."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cpu.dense_code import ImplicitProductCode
from qcc.codegen.cpu.epilogue import Requantizer
from qcc.codegen.cpu.packing import WORD, words
from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.emit import Function, Memory, Register, broadcast, cast, constant, reinterpret
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import HalvesRequantizer
from qcc.codegen.x86.intrinsics import dot_product_for, multiply_add_words

if TYPE_CHECKING:
    from qcc.codegen.x86.dense import DenseKernel

LINE = 64               # bytes of a cache line
AHEAD = 1024            # bytes that a stream of weights which are read once is asked for ahead of time: much more comes too early
MOST_TILES = 4          # per line and round: with more tiles to a group of panels, its first reading hardly counts


class DenseCode(ImplicitProductCode):
    """The code of one kernel."""

    kernel: DenseKernel

    def __init__(self, kernel: DenseKernel, target: Target) -> None:
        dot = dot_product_for(target, kernel.lanes)
        self.dot = partial(multiply_add_words, target) if kernel.words_of_two else dot.emit

        def requantizing(function: Function, *memories: Memory) -> Requantizer:
            assert kernel.epilogue is not None
            return HalvesRequantizer(function, kernel.epilogue, kernel.lanes, *memories)

        super().__init__(kernel, requantizing)

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        """accumulators += everything under the window; `weights` is the address of the panel, `upcoming` what to ask for."""
        kernel, function = self.kernel, self.function
        down, along, run = kernel.runs
        step_bytes = kernel.step_bytes
        row_bytes, column_bytes = kernel.dilations[0] * kernel.source.strides[1], kernel.dilations[1] * kernel.source.strides[2]
        rounds = kernel.rounds
        looped = rounds.count * rounds.steps
        if kernel.shares_words:
            with function.loop(0, words(run)) as word, function.loop(0, down) as kh:
                self._steps(accumulators, source + (kh * row_bytes + word * WORD), weights + (kh * words(run) + word) * step_bytes, 1)
            return
        whole = kernel.is_whole
        with ExitStack() as loops:
            for kh in range(down) if whole else [loops.enter_context(function.loop(0, down))]:
                for kw in range(along) if whole else [loops.enter_context(function.loop(0, along))]:
                    here = function.let(source + (kh * row_bytes + kw * column_bytes))
                    panel = function.let(weights + (kh * along + kw) * (words(run) * step_bytes))
                    if looped and not whole:
                        with function.loop(0, rounds.count) as index:
                            self._prefetch_source(here, index)
                            self._prefetch_weights(upcoming, (kh * along + kw) * rounds.count + index)
                            word = index * rounds.steps
                            self._steps(accumulators, here + word * WORD, panel + word * step_bytes, rounds.steps)
                    for word in range(0 if whole else looped, words(run), rounds.steps if looped else words(run)):
                        count = min(words(run) - word, rounds.steps if looped else words(run))
                        self._steps(accumulators, here + word * WORD, panel + word * step_bytes, count)

    def _prefetch_source(self, here: Any, index: Any) -> None:
        """Every round of a pointwise layer asks for its share of what the tile to the right reads; a taller window has most of it."""
        kernel, tile = self.kernel, self.kernel.tile
        if kernel.window[0] > 1:
            return
        ahead = tile.columns * kernel.strides[1] * kernel.source.strides[2]
        lines = -(-ahead // (kernel.rounds.count * LINE))
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
        """Cache lines of weights that a round asks for; 0 where that is not worth it."""
        kernel, rounds = self.kernel, self.kernel.rounds
        tiles = prod(kernel.pixel_tiles)
        if tiles == 1:
            return -(-rounds.steps * kernel.step_bytes // LINE) if rounds.count else 0
        own = kernel.steps * kernel.step_bytes    # bytes of a panel
        share = rounds.count * kernel.runs[0] * kernel.runs[1] * tiles * LINE
        worthwhile = kernel.panels > kernel.panel_group and 0 < share <= MOST_TILES * own
        return -(-own // share) if worthwhile else 0

    def _upcoming(self, panel_group: Any, tile: Any, panel: Any) -> Any:
        """Where the share of the next group's weights begins that this tile asks for while it computes a panel; a single tile reads all
        weights as one stream, of which it asks for what follows soon."""
        kernel = self.kernel
        if not self.lines:
            return None
        own = kernel.steps * kernel.step_bytes
        if prod(kernel.pixel_tiles) == 1:
            return self.function.let(panel * own + AHEAD)
        share = self.kernel.rounds.count * kernel.runs[0] * kernel.runs[1] * self.lines * LINE
        following = (panel_group + 1) * kernel.panel_group
        return self.function.let(following * own + (tile * kernel.panel_group + panel - panel_group * kernel.panel_group) * share)

    def _steps(self, accumulators: list[list[Register]], source: Any, weights: Any, count: int) -> None:
        """Four products for every accumulator in each of `count` steps."""
        kernel, function = self.kernel, self.function
        lanes, blocks = kernel.lanes, kernel.tile.blocks
        stream = load_weights(function, self.weights, weights, count * blocks, kernel.vector, kernel.weight_bits)
        for step in range(count):
            vectors = [self._widened(next(stream)) if kernel.words_of_two else next(stream) for _ in range(blocks)]
            for pixel, (row, column) in enumerate(np.ndindex(kernel.tile.rows, kernel.tile.columns)):
                offset = row * kernel.strides[0] * kernel.source.strides[1] + column * kernel.strides[1] * kernel.source.strides[2]
                word = reinterpret(self.source.load(source + (offset + step * WORD), WORD), "int32")
                activation = function.let(broadcast(word, lanes))
                for accumulator, vector in zip(accumulators[pixel], vectors, strict=True):
                    accumulator.set(self.dot(accumulator.get(), activation, vector))

    def _widened(self, weights: Any) -> Any:
        """int8 -> int16, without the factor that unpacking leaves."""
        wide, more = cast(weights, "int16"), 8 - self.kernel.weight_bits
        return self.function.let(wide >> constant(more, "int16", self.kernel.vector) if more else wide)
