"""Convolution, pointwise convolution and matrix products on tensor cores: an implicit matrix product over NHWC bytes.

A block of threads computes a tile of output pixels times channels. In every step of a pipeline it copies 64 bytes of each of its
pixels' windows, and the weights that meet them, to shared memory; warps multiply what came before with `mma` (16 x 8 x 32). Padding was
materialised before. Rows, channels and depth are padded here: rows beyond the last repeat it and are not stored, weights beyond
the last are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from qcc.arith import accumulator_bounds
from qcc.codegen.cpu.requantization import Requantization, is_bytes
from qcc.codegen.cuda.epilogue import PARAMETERS, Epilogue, epilogue_of, parameters
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.cuda.packing import ceil_to, pack_fragments, pack_nibbles, pack_numbers, padded
from qcc.codegen.cuda.tiles import STEP_BYTES, Tile, Work, choose, shared_bytes
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, U8, Array

NIBBLE_PEAK = 1 << 27     # accumulators of 4-bit weights are 16 times as large until they are complete
_SPAN = 1 << 31           # offsets are 32 bits


@dataclass(frozen=True, slots=True)
class DenseKernel:
    """output[n, y, x, o] = epilogue(sum over kh, kw, c of source[n, y*sh + kh*dh, x*sw + kw*dw, c] * weights[o, kh, kw, c]).

    Operands: source, [residual], [offsets of the window's pieces], weights, bias (and multipliers), the epilogue's parameters if it
    has one, and the output.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1.
        output: (N, OH, OW, OC), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, channel stride 1, added in the epilogue.
        window, strides, dilations: of rows and columns.
        groups: the channels of source and output fall into so many parts.
        epilogue: the code of the requantization; None writes int32 accumulators with the bias added.
        weight_bits: 8, or 4 for two weights per byte.
        piece: bytes of the source that are copied at once, all of whose addresses are multiples of it (1: one by one).
        results: the same for the output and the residual.
        tile: outputs of one block.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    groups: int
    epilogue: Epilogue | None
    weight_bits: int
    piece: int
    results: int
    tile: Tile

    @property
    def work(self) -> Work:
        """The layer as the cost model sees it."""
        images, rows, columns, channels = self.output.shape
        return Work(images * rows * columns, channels // self.groups, self.depth, self.groups, self.weight_bits)

    @property
    def depth(self) -> int:
        """Values of the source under one output."""
        return prod(self.window) * (self.source.shape[3] // self.groups)

    @property
    def steps(self) -> int:
        return -(-self.depth // STEP_BYTES)

    @property
    def column_tiles(self) -> int:
        return -(-(self.output.shape[3] // self.groups) // self.tile.columns)

    @property
    def gathers(self) -> bool:
        """Whether the pieces of a window lie at offsets from a table rather than side by side."""
        return self.window != (1, 1) or self.piece == 1

    @property
    def pieces(self) -> int:
        """Entries of the table of offsets: of one step more than there are, which is fetched and not used."""
        return (self.steps + 1) * STEP_BYTES // self.piece

    @property
    def numbers(self) -> int:
        """Constants per channel: bias and multiplier."""
        return 1 if self.epilogue is None else 2

    @property
    def operands(self) -> tuple[View, ...]:
        tiles, columns = self.column_tiles, self.tile.columns
        kind, width = (I8, STEP_BYTES) if self.weight_bits == 8 else (U8, STEP_BYTES // 2)
        weights = View.contiguous(kind, (self.groups, tiles, self.steps, columns * width))
        numbers = View.contiguous(I32, (self.groups, tiles * columns, self.numbers))
        offsets = (View.contiguous(I32, (self.pieces,)),) if self.gathers else ()
        last = (PARAMETERS,) if self.epilogue is not None else ()
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, *offsets, weights, numbers, *last, self.output)

    @property
    def launch(self) -> Launch:
        rows = -(-self.work.rows // self.tile.rows)
        return Launch((rows, self.column_tiles, self.groups), (self.tile.threads, 1, 1), shared_bytes(self.tile, self.weight_bits))

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return prod(self.output.shape) * self.depth

    def emit(self, target: Target) -> Any:
        from qcc.codegen.cuda.dense_code import DenseCode

        return DenseCode(self, target).emit()


def alignment(view: View, offset: int, channels: int, most: int = 16) -> int:
    """Bytes (16, 8, 4 or 1) of which all addresses of an image's pixels, and its extents, are multiples.

    Args:
        offset: elements from an aligned address to the view.
        channels: of one group.
    """
    steps = [stride for n, stride in zip(view.shape[:3], view.strides[:3], strict=True) if n > 1]
    fits = (size for size in (16, 8, 4) if size <= most and not any(n % size for n in (*steps, channels, offset)))
    return next(fits, 1)


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, offsets: tuple[int, int, int] = (0, 0, 0),
    weight_bits: int = 8, tile: Tile | None = None,
) -> tuple[DenseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands.

    Args:
        source: u8 (N, H, W, C) with channel stride 1, already padded.
        weights: i8 [OC, KH, KW, C/groups].
        bias: int32 [OC], the source's zero point folded in.
        output: (N, OH, OW, OC) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        offsets: elements from an address of the arena to the source, the residual and the output.
        weight_bits: of the weights' type; those of at most 4 bits are stored two per byte.
        tile: replaces the cost model's choice.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    _check(source, weights, strides, dilations, groups, output, requantization, residual)
    lowest, highest = accumulator_bounds(weights, bias, 0, 255)
    peaks = np.maximum(np.abs(lowest), np.abs(highest))
    outputs, channels = weights.shape[0] // groups, weights.shape[3]
    piece = alignment(source, offsets[0], channels)
    results = alignment(output, offsets[2], outputs) if requantization is not None else 1
    if residual is not None:
        results = alignment(residual, offsets[1], outputs, results)
    unbiased = np.abs(weights.reshape(weights.shape[0], -1).astype(np.int64)).sum(axis=1).max(initial=0) * 255
    bits = 4 if weight_bits <= 4 and np.abs(weights).max(initial=0) < 8 and unbiased < NIBBLE_PEAK else 8
    work = Work(prod(output.shape[:3]), outputs, prod(weights.shape[1:]), groups, bits)
    epilogue = None if requantization is None else epilogue_of(requantization, peaks)
    window = (weights.shape[1], weights.shape[2])
    kernel = DenseKernel(source, output, residual, window, strides, dilations, groups, epilogue, bits, piece, results,
                         tile or choose(work, target))
    pack = pack_nibbles if bits == 4 else pack_fragments
    columns = [bias] if requantization is None else [bias, np.broadcast_to(requantization.multiplier, bias.shape)]
    constants = [pack(weights.reshape(groups, outputs, -1), kernel.tile.columns), pack_numbers(columns, groups, kernel.tile.columns)]
    table = [window_offsets(kernel)] if kernel.gathers else []
    return kernel, (*table, *constants, *([parameters(requantization)] if requantization is not None else []))


def window_offsets(kernel: DenseKernel) -> Array:
    """int32: where the pieces of a window lie, in elements from its first; 0 for those beyond the last (their weights are zero)."""
    down, along, channel = np.ogrid[: kernel.window[0], : kernel.window[1], : kernel.source.shape[3] // kernel.groups : kernel.piece]
    (_, row, column, _), (dh, dw) = kernel.source.strides, kernel.dilations
    every = (down * (dh * row) + along * (dw * column) + channel).reshape(-1)
    return padded(every.astype(np.int32), ceil_to(kernel.pieces, 1))


def _check(
    source: View, weights: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None,
) -> None:
    extents = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(source.shape[1:3], weights.shape[1:3], dilations, strides, strict=True)]
    shape = (source.shape[0], *extents, weights.shape[0])
    kind, typed = ("i32", output.dtype == I32) if requantization is None else ("u8", is_bytes(output))
    grouped = source.shape[3] == weights.shape[3] * groups and weights.shape[0] % groups == 0
    views = [source, output] + ([residual] if residual is not None else [])
    unit = all(view.strides[3] == 1 and view.span < _SPAN for view in views)
    added = residual is None or (requantization is not None and residual.shape == output.shape and is_bytes(residual))
    if not (grouped and unit and added and is_bytes(source) and typed and output.shape == shape):
        raise CodegenError(
            f"dense layer of source {source}, weights {weights.shape}, strides {strides}, dilations {dilations}, groups {groups}: expected "
            f"an output of {kind} {shape}, views whose channels lie side by side and below 2 GiB, got output {output}, residual {residual}")
