"""Convolution, pointwise convolution and matrix products as one family: an implicit matrix product over NHWC bytes.

A kernel computes, for every tile of output pixels, panels of output channels: the accumulators of a tile stay in registers while
the reduction runs over stretches of source bytes without gaps ("runs"), four bytes a step. Padding was materialised before.
Tails are overlapped tiles: computing an output twice writes the same value twice.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from qcc.codegen.emit import Function, Memory, Register, broadcast, cast, constant, reinterpret, store_first
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import PARAMETERS, Epilogue, Output, Requantization, Requantizer, is_bytes
from qcc.codegen.x86.intrinsics import dot_product_for
from qcc.codegen.x86.packing import (
    WORD,
    block_offsets,
    merge_groups,
    pack_requantization,
    pack_weights,
    panel_channels,
    take_channels,
    words,
)
from qcc.codegen.x86.tiles import Tile, Work, choose, cycles, panels
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, I64, Array

UNROLLED_STEPS = 4                # of the reduction, where it is a loop
WHOLE_DOTS = 320                  # a reduction with no more dot products than this is not a loop at all
PANEL_GROUP_BYTES = 384 * 1024    # weights that stay in the second-level cache while pixels stream past them
LEAST_TASKS = 64                  # to share among threads, where a layer has as many panels and tiles


@dataclass(frozen=True, slots=True)
class DenseKernel:
    """output[n, y, x, o] = epilogue(sum over kh, kw, c of source[n, y*sh + kh*dh, x*sw + kw*dw, c] * weights[o, kh, kw, c]).

    Operands: source, [residual], weights, then bias (int32) or the epilogue's constants and parameters, and the output.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1.
        output: (N, OH, OW, OC), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, channel stride 1, added in the epilogue.
        window, strides, dilations: of rows and columns.
        groups: the channels of source and output fall into so many parts; a planned kernel may have merged some of the layer's.
        epilogue: the code of the requantization; None writes int32 accumulators with the bias added.
        lanes: 32-bit lanes of a vector, which fixes the layout of the constants.
        tile: outputs that one pass of the registers computes.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    groups: int
    epilogue: Epilogue | None
    lanes: int
    tile: Tile

    @property
    def merged(self) -> bool:
        """Whether the bytes under a row of the window have no gaps: (kw, c) is one run."""
        return self.groups == 1 and self.dilations[1] == 1 and self.source.strides[2] == self.source.shape[3]

    @property
    def runs(self) -> tuple[int, int, int]:
        """Runs down the window, runs along it, and the bytes of one."""
        channels = self.source.shape[3] // self.groups
        return (self.window[0], 1, self.window[1] * channels) if self.merged else (*self.window, channels)

    @property
    def steps(self) -> int:
        down, along, run = self.runs
        return down * along * words(run)

    @property
    def work(self) -> Work:
        """The layer as the cost model sees it."""
        images, rows, columns, channels = self.output.shape
        own = channels // self.groups
        return Work(rows, columns, own, self.steps, images, self.groups, self.epilogue is not None, self.residual is not None)

    @property
    def panels(self) -> int:
        """Panels of all groups."""
        return self.groups * panels(self.output.shape[3] // self.groups, self.tile, self.lanes)

    @property
    def panel_group(self) -> int:
        """Panels that are computed for a tile of pixels before the next tile."""
        cached = PANEL_GROUP_BYTES // (self.steps * self.tile.blocks * self.lanes * WORD)
        shared = self.panels // -(-LEAST_TASKS // prod(self.pixel_tiles))
        return max(1, min(self.panels, cached, shared))

    @property
    def operands(self) -> tuple[View, ...]:
        blocks = (self.panels, self.tile.blocks)
        weights = View.contiguous(I8, (self.panels, self.steps, self.tile.blocks, self.lanes, WORD))
        numbers: tuple[View, ...] = (View.contiguous(I32, (*blocks, self.lanes)),)
        if self.epilogue is not None:
            numbers = (View.contiguous(I64, (*blocks, 4, self.lanes // 2)), PARAMETERS)
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, *numbers, self.output)

    @property
    def pixel_tiles(self) -> tuple[int, int, int]:
        images, rows, columns, _ = self.output.shape
        return images, -(-rows // self.tile.rows), -(-columns // self.tile.columns)

    @property
    def tasks(self) -> int:
        images, rows, columns = self.pixel_tiles
        return -(-self.panels // self.panel_group) * images * rows * columns

    @property
    def macs(self) -> int:
        images, rows, columns, channels = self.output.shape
        return images * rows * columns * channels * self.window[0] * self.window[1] * (self.source.shape[3] // self.groups)

    def emit(self, target: Target) -> Any:
        return _Emitter(self, target).emit()


class _Emitter:
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
            panel_group, rest = self._divide(task, images * tile_rows * tile_columns)
            image, rest = self._divide(rest, tile_rows * tile_columns)
            row, column = self._divide(rest, tile_columns)
            row = function.let(tirx.Min(row * kernel.tile.rows, tirx.const(rows - kernel.tile.rows, "int32")))
            column = function.let(tirx.Min(column * kernel.tile.columns, tirx.const(columns - kernel.tile.columns, "int32")))
            first = function.let(panel_group * kernel.panel_group)
            with function.loop(first, tirx.Min(first + kernel.panel_group, tirx.const(kernel.panels, "int32"))) as panel:
                self._tile(panel, image, row, column)
        return function.finish()

    def _divide(self, value: Any, divisor: int) -> tuple[Any, Any]:
        from tvm import tirx

        by = tirx.const(divisor, "int32")
        return self.function.let(tirx.Div(value, by)), self.function.let(tirx.Mod(value, by))

    def _address(self, view: View, image: Any, row: Any, column: Any, channel: Any) -> Any:
        return self.function.let(image * view.strides[0] + row * view.strides[1] + column * view.strides[2] + channel)

    def _tile(self, panel: Any, image: Any, row: Any, column: Any) -> None:
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
        self._reduce(accumulators, source, self.function.let(panel * (kernel.steps * tile.blocks * kernel.lanes * WORD)))
        output = self._address(kernel.output, image, row, column, channel)
        residual = None if kernel.residual is None else self._address(kernel.residual, image, row, column, channel)
        self._finish(accumulators, panel, output, residual)

    def _initial(self, panel: Any, block: int) -> Register:
        lanes = self.kernel.lanes
        if self.requantizer is not None:
            return self.function.register(constant(0, "int32", lanes))
        return self.function.register(self.numbers.load((panel * self.kernel.tile.blocks + block) * lanes, lanes))

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any) -> None:
        """accumulators += everything under the window; `weights` is the address of the panel."""
        kernel, function = self.kernel, self.function
        down, along, run = kernel.runs
        step_bytes = kernel.tile.blocks * kernel.lanes * WORD
        row_bytes, column_bytes = kernel.dilations[0] * kernel.source.strides[1], kernel.dilations[1] * kernel.source.strides[2]
        dots = kernel.tile.pixels * kernel.tile.blocks
        unroll = max(1, min(UNROLLED_STEPS, WHOLE_DOTS // dots))
        looped = words(run) // unroll * unroll if words(run) >= 2 * unroll else 0
        if self._shares_words(unroll if looped else words(run)):
            with function.loop(0, words(run)) as word, function.loop(0, down) as kh:
                self._step(accumulators, source + (kh * row_bytes + word * WORD), weights + (kh * words(run) + word) * step_bytes)
            return
        whole = kernel.steps * dots <= WHOLE_DOTS
        with ExitStack() as loops:
            for kh in range(down) if whole else [loops.enter_context(function.loop(0, down))]:
                for kw in range(along) if whole else [loops.enter_context(function.loop(0, along))]:
                    here = function.let(source + (kh * row_bytes + kw * column_bytes))
                    panel = function.let(weights + (kh * along + kw) * (words(run) * step_bytes))
                    if looped and not whole:
                        with function.loop(0, looped, unroll) as word:
                            for more in range(unroll):
                                self._step(accumulators, here + (word + more) * WORD, panel + (word + more) * step_bytes)
                    for word in range(0 if whole else looped, words(run)):
                        self._step(accumulators, here + word * WORD, panel + word * step_bytes)

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
                outputs.append(Output(value, (panel * blocks + block) * 2 * lanes, address, channel, width, added))
        if self.requantizer is not None:
            self.requantizer.store(outputs)


def _flatten(view: View, images: bool) -> View:
    """Rows (and images) of a view as one row of pixels."""
    n, h, w, c = view.shape
    shape = (1, 1, n * h * w, c) if images else (n, 1, h * w, c)
    return View(view.dtype, shape, (view.strides[0], view.strides[1], view.strides[2], view.strides[3]))


def _merge_pixels(source: View, output: View, residual: View | None) -> tuple[View, View, View | None]:
    """For a pointwise layer: (n, h, w) -> (n, 1, h*w) -> (1, 1, n*h*w) where no view has gaps there."""
    views = [source, output] + ([residual] if residual is not None else [])

    def dense(outer: int) -> bool:
        inner = outer + 1
        return all(v.shape[outer] == 1 or v.strides[outer] == v.shape[inner] * v.strides[inner] for v in views)

    if dense(1):
        whole = all(v.shape[0] == 1 or v.strides[0] == v.shape[1] * v.shape[2] * v.strides[2] for v in views)
        views = [_flatten(view, whole) for view in views]
    return views[0], views[1], views[2] if residual is not None else None


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
) -> tuple[DenseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands.

    Args:
        source: u8 (N, H, W, C) with channel stride 1, already padded.
        weights: i8 [OC, KH, KW, C/groups].
        bias: int32 [OC], the source's zero point folded in.
        output: (N, OH, OW, OC) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        tile: replaces the cost model's choice.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    window = (weights.shape[1], weights.shape[2])
    _check(source, weights, strides, dilations, groups, output, requantization, residual)
    if window == (1, 1) and strides == (1, 1):
        source, output, residual = _merge_pixels(source, output, residual)
        dilations = (1, 1)
    epilogue = None if requantization is None else Epilogue.of(requantization)
    form = DenseKernel(source, output, residual, window, strides, dilations, groups, epilogue, target.lanes, tile or Tile(1, 1, 1))
    kernel = form if tile else min((_tiled(form, factor, target) for factor in range(1, groups + 1) if groups % factor == 0),
                                   key=lambda kernel: cycles(kernel.work, kernel.tile, target))
    weights, groups = merge_groups(weights, groups, groups // kernel.groups), kernel.groups
    channels = output.shape[3]
    order = panel_channels(channels, groups, kernel.tile.blocks, target.lanes)
    down, along, run = kernel.runs
    packed = pack_weights(weights.reshape(channels, down * along, run), order)
    if requantization is None:
        return kernel, (packed, take_channels(bias.astype(np.int32), order))
    return kernel, (packed, pack_requantization(requantization, bias, order), requantization.parameters())


def _tiled(form: DenseKernel, factor: int, target: Target) -> DenseKernel:
    """The layer with so many groups merged into one (few channels fill vectors badly), and the best tile for that."""
    kernel = replace(form, groups=form.groups // factor)
    return replace(kernel, tile=choose(kernel.work, target))


def _check(
    source: View, weights: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None,
) -> None:
    extents = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(source.shape[1:3], weights.shape[1:3], dilations, strides, strict=True)]
    shape = (source.shape[0], *extents, weights.shape[0])
    kind, typed = ("i32", output.dtype == I32) if requantization is None else ("u8", is_bytes(output))
    grouped = source.shape[3] == weights.shape[3] * groups and weights.shape[0] % groups == 0
    views = [source, output] + ([residual] if residual is not None else [])
    unit = all(view.strides[3] == 1 for view in views)
    added = residual is None or (requantization is not None and residual.shape == output.shape and is_bytes(residual))
    if not (grouped and unit and added and is_bytes(source) and typed and output.shape == shape):
        raise CodegenError(
            f"dense layer of source {source}, weights {weights.shape}, strides {strides}, dilations {dilations}, groups {groups}: expected "
            f"an output of {kind} {shape} and views whose channels lie side by side, got output {output}, residual {residual}")
