"""Depthwise convolution: every channel has its own window, and a dot product adds four taps of a row at once.

The bytes of four neighbouring pixels are interleaved (two levels of unpacking), which puts the four taps of a channel into one 32-bit
lane. A block is four such vectors; unpacking scatters its channels over them just as the packs of the epilogue gather them again,
so nothing is permuted. Several output rows share the interleaved rows of the source.

Where pixels lie side by side and the stride is one, `fold` pixels count as one of `fold` times the channels: 24 channels fill
vectors of 64 bytes as well as 64 do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcc.codegen.emit import Function, Memory, Register, constant, reinterpret, shuffle, store_first
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import PARAMETERS, Epilogue, Output, Requantization, Requantizer, is_bytes
from qcc.codegen.x86.intrinsics import dot_product_for
from qcc.codegen.x86.packing import interleaved_channels, pack_numbers, pack_taps
from qcc.codegen.x86.tiles import depthwise_fold, depthwise_rows
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, Array

TAPS = 4                # of one dot product
VECTORS = 4             # of one block of channels
UNROLLED_ROWS = 16      # source rows under a tile that are unrolled; taller windows loop


@dataclass(frozen=True, slots=True)
class DepthwiseKernel:
    """output[n, y, x, c] = epilogue(sum over kh, kw of source[n, y*sh + kh*dh, x*sw + kw*dw, c] * weights[kh, kw, c]).

    Operands: source, [residual], weights, bias (and multipliers), the epilogue's parameters if it has one, and the output.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1.
        output: (N, OH, OW, C), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, channel stride 1, added in the epilogue.
        window, strides, dilations: of rows and columns.
        epilogue: the code of the requantization; None writes int32 accumulators with the bias added.
        lanes: 32-bit lanes of a vector.
        rows: output rows computed together.
        fold: output columns that count as one with so many times the channels.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    epilogue: Epilogue | None
    lanes: int
    rows: int
    fold: int

    @property
    def block(self) -> int:
        """Channels (bytes) of one block."""
        return self.lanes * VECTORS

    @property
    def channels(self) -> int:
        """Channels of `fold` pixels."""
        return self.fold * self.output.shape[3]

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.block)

    @property
    def chunks(self) -> int:
        """Dot products of one row of the window."""
        return -(-self.window[1] // TAPS)

    @property
    def numbers(self) -> int:
        """Constants per channel: bias and multiplier."""
        return 1 if self.epilogue is None else 2

    @property
    def operands(self) -> tuple[View, ...]:
        weights = View.contiguous(I8, (self.blocks, self.window[0], self.chunks, VECTORS, self.lanes, TAPS))
        numbers = View.contiguous(I32, (self.blocks, VECTORS, self.numbers, self.lanes))
        parameters = () if self.epilogue is None else (PARAMETERS,)
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *parameters, self.output)

    @property
    def tasks(self) -> int:
        images, rows, _, _ = self.output.shape
        return images * -(-rows // self.rows) * self.blocks

    @property
    def macs(self) -> int:
        images, rows, columns, channels = self.output.shape
        return images * rows * columns * channels * self.window[0] * self.window[1]

    def emit(self, target: Target) -> Any:
        return _Emitter(self, target).emit()


class _Emitter:
    """The code of one kernel."""

    def __init__(self, kernel: DepthwiseKernel, target: Target) -> None:
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

    def emit(self) -> Any:
        from tvm import tirx

        kernel, function = self.kernel, self.function
        _, rows, columns, _ = kernel.output.shape

        def number(value: int) -> Any:
            return tirx.const(value, "int32")

        with function.loop(function.begin, function.end) as task:
            block = function.let(tirx.Mod(task, number(kernel.blocks)))
            strip = function.let(tirx.Div(task, number(kernel.blocks)))
            strips = -(-rows // kernel.rows)
            image = function.let(tirx.Div(strip, number(strips)))
            row = function.let(tirx.Min(tirx.Mod(strip, number(strips)) * kernel.rows, number(rows - kernel.rows)))
            channel = function.let(tirx.Min(block * kernel.block, number(max(0, kernel.channels - kernel.block))))
            with function.loop(0, -(-columns // kernel.fold)) as step:
                column = function.let(tirx.Min(step * kernel.fold, number(columns - kernel.fold)))
                self._tile(block, image, row, column, channel)
        return function.finish()

    def _address(self, view: View, image: Any, row: Any, column: Any, channel: Any) -> Any:
        return self.function.let(image * view.strides[0] + row * view.strides[1] + column * view.strides[2] + channel)

    def _tile(self, block: Any, image: Any, row: Any, column: Any, channel: Any) -> None:
        kernel = self.kernel
        source = self._address(kernel.source, image, row * kernel.strides[0], column * kernel.strides[1], channel)
        accumulators = [[self._initial(block, vector) for vector in range(VECTORS)] for _ in range(kernel.rows)]
        weights = self.function.let(block * (kernel.window[0] * kernel.chunks * kernel.block * TAPS))
        self._reduce(accumulators, source, weights)
        output = self._address(kernel.output, image, row, column, channel)
        if self.requantizer is None:
            self._store_accumulators(accumulators, output)
        else:
            residual = None if kernel.residual is None else self._address(kernel.residual, image, row, column, channel)
            self._requantize(self.requantizer, accumulators, block, output, residual)

    def _initial(self, block: Any, vector: int) -> Register:
        return self.function.register(self.numbers.load(self._numbers(block, vector), self.kernel.lanes))

    def _numbers(self, block: Any, vector: int) -> Any:
        """Where the bias of a vector lies; its multipliers follow."""
        return (block * VECTORS + vector) * (self.kernel.numbers * self.kernel.lanes)

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any) -> None:
        """accumulators += everything under the windows of the tile."""
        kernel = self.kernel
        step, apart = kernel.strides[0], kernel.dilations[0]
        pitch = kernel.source.strides[1]
        uses: dict[int, list[tuple[int, int]]] = {}    # source row -> (output row, row of the window)
        for row in range(kernel.rows):
            for kh in range(kernel.window[0]):
                uses.setdefault(row * step + kh * apart, []).append((row, kh))
        if len(uses) <= UNROLLED_ROWS:
            for source_row, users in sorted(uses.items()):
                self._row(source + source_row * pitch, [(accumulators[row], weights + self._weights_row(kh)) for row, kh in users])
            return
        with self.function.loop(0, kernel.window[0]) as kh:
            for row in range(kernel.rows):
                here = self.function.let(source + kh * (apart * pitch) + row * step * pitch)
                self._row(here, [(accumulators[row], self.function.let(weights + self._weights_row(kh)))])

    def _weights_row(self, kh: Any) -> Any:
        return kh * (self.kernel.chunks * self.kernel.block * TAPS)

    def _row(self, source: Any, users: Sequence[tuple[list[Register], Any]]) -> None:
        """One row of the source, for every output row that it lies under: (accumulators, address of the window's row)."""
        kernel = self.kernel
        apart = kernel.dilations[1] * kernel.source.strides[2]
        for chunk in range(kernel.chunks):
            taps = range(chunk * TAPS, min((chunk + 1) * TAPS, kernel.window[1]))
            pixels = [self.function.let(self.source.load(source + tap * apart, kernel.block)) for tap in taps]
            for vector, interleaved in enumerate(self._interleave(pixels)):
                for accumulators, weights in users:
                    offset = (chunk * VECTORS + vector) * kernel.lanes * TAPS
                    weight = self.weights.load(weights + offset, kernel.lanes * TAPS)
                    accumulators[vector].set(self.dot.emit(accumulators[vector].get(), interleaved, weight))

    def _interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """One to four vectors of bytes -> four int32xL, whose lanes hold a channel's bytes. Missing pixels repeat; their weights are 0."""
        block = self.kernel.block
        first = self._unpack(pixels[0], pixels[min(1, len(pixels) - 1)], 8, f"uint16x{block // 2}")
        second = first if len(pixels) < 3 else self._unpack(pixels[2], pixels[-1], 8, f"uint16x{block // 2}")
        return [vector for a, b in zip(first, second, strict=True) for vector in self._unpack(a, b, 4, f"int32x{block // 4}")]

    def _unpack(self, a: Any, b: Any, half: int, dtype: str) -> tuple[Any, Any]:
        """punpckl and punpckh: elements of a and b alternate, from the lower and the upper half of every 128 bits."""
        count = self.kernel.lanes // 4 * 2 * half
        every = range(0, count, 2 * half)    # where 128 bits begin
        lower, upper = (
            [start + index + side * count for start in every for index in range(skip, skip + half) for side in (0, 1)] for skip in (0, half)
        )
        let = self.function.let
        return let(reinterpret(shuffle([a, b], lower), dtype)), let(reinterpret(shuffle([a, b], upper), dtype))

    def _requantize(
        self, requantizer: Requantizer, accumulators: list[list[Register]], block: Any, output: Any, residual: Any
    ) -> None:
        """Vector by vector over all rows, so that a vector's constants are loaded once."""
        kernel = self.kernel
        added: list[list[Any]] = [[None] * VECTORS for _ in range(kernel.rows)]
        if self.residual is not None and kernel.residual is not None:
            for row in range(kernel.rows):
                vector = self.function.let(self.residual.load(residual + row * kernel.residual.strides[1], kernel.block))
                added[row] = self._widen(vector)
        scaled: list[list[Any]] = [[] for _ in range(kernel.rows)]
        for vector in range(VECTORS):
            for row in range(kernel.rows):
                multipliers = self._numbers(block, vector) + kernel.lanes
                item = Output(accumulators[row][vector].get(), multipliers, output, 0, kernel.lanes, added[row][vector])
                scaled[row].append(requantizer.scale(item))
        for row in range(kernel.rows):
            address = output + row * kernel.output.strides[1]
            store_first(self.output, address, requantizer.narrow(scaled[row]), min(kernel.block, kernel.channels))

    def _widen(self, vector: Any) -> list[Any]:
        """Bytes -> four int32xL in the order of the block."""
        block = self.kernel.block
        words = self._unpack(vector, constant(0, "uint8", block), 8, f"uint16x{block // 2}")
        return [wide for half in words for wide in self._unpack(half, constant(0, "uint16", block // 2), 4, f"int32x{block // 4}")]

    def _store_accumulators(self, accumulators: list[list[Register]], output: Any) -> None:
        kernel = self.kernel
        lanes = kernel.lanes
        for row in range(kernel.rows):
            vectors = [self.function.let(register.get()) for register in accumulators[row]]
            for part in range(lanes // 4):    # 16 channels: the same 128 bits of all vectors
                left = min(16, kernel.channels - part * 16)
                if left > 0:
                    order = [vector * lanes + part * 4 + lane for vector in range(VECTORS) for lane in range(4)]
                    ordered = self.function.let(shuffle(vectors, order))
                    store_first(self.output, output + row * kernel.output.strides[1] + part * 16, ordered, left)


def plan_depthwise(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None, target: Target,
    tuned: Callable[[DepthwiseKernel], DepthwiseKernel] = unchanged,
) -> tuple[DepthwiseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands.

    Args:
        source: u8 (N, H, W, C) with channel stride 1, already padded.
        weights: i8 [C, KH, KW, 1].
        bias: int32 [C], the source's zero point folded in.
        output: (N, OH, OW, C) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        tuned: puts other rows and another fold into the planned kernel.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    _check(source, weights, strides, dilations, output, requantization, residual)
    window = (weights.shape[1], weights.shape[2])
    epilogue = None if requantization is None else Epilogue.of(requantization)
    kernel = DepthwiseKernel(source, output, residual, window, strides, dilations, epilogue, target.lanes, 1, 1)
    _, rows, columns, channels = output.shape
    views = [source, output] + ([residual] if residual is not None else [])
    if strides[1] == 1 and all(view.strides[2] == channels for view in views):
        kernel = replace(kernel, fold=depthwise_fold(channels, columns, kernel.block))
    kernel = tuned(replace(kernel, rows=depthwise_rows(rows, target)))
    order = interleaved_channels(channels, kernel.fold, target.lanes)
    packed = pack_taps(np.asarray(weights[..., 0]), order)
    parameters = () if requantization is None else (requantization.parameters(),)
    return kernel, (packed, pack_numbers(bias, requantization, order), *parameters)


def _check(
    source: View, weights: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None,
) -> None:
    extents = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(source.shape[1:3], weights.shape[1:3], dilations, strides, strict=True)]
    shape = (source.shape[0], *extents, source.shape[3])
    kind, typed = ("i32", output.dtype == I32) if requantization is None else ("u8", is_bytes(output))
    views = [source, output] + ([residual] if residual is not None else [])
    unit = all(view.strides[3] == 1 for view in views)
    added = residual is None or (requantization is not None and residual.shape == output.shape and is_bytes(residual))
    single = weights.shape[0] == source.shape[3] and weights.shape[3] == 1
    if not (single and unit and added and is_bytes(source) and typed and output.shape == shape):
        raise CodegenError(
            f"depthwise layer of source {source}, weights {weights.shape}, strides {strides}, dilations {dilations}: expected one window "
            f"per channel, an output of {kind} {shape} and channels that lie side by side, got output {output}, residual {residual}")
