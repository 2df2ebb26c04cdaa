"""Convolution, pointwise convolution and matrix products on tensor cores: an implicit matrix product over NHWC bytes.

A block of threads computes a tile of output pixels times channels. In every step of a pipeline it copies 64 bytes of each of its
pixels' windows, and the weights that meet them, to shared memory; warps multiply what came before with `mma` (16 x 8 x 32). Padding was
materialised before. Rows, channels and depth are padded here: rows beyond the last repeat it and are not stored, weights beyond
the last are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from qcc.arith import accumulator_bounds
from qcc.codegen.cpu.requantization import Requantization, is_bytes
from qcc.codegen.cuda.epilogue import PARAMETERS, Epilogue, epilogue_of, parameters
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.cuda.packing import pack_fragments, pack_narrow_fragments, pack_nibbles, pack_numbers, padded
from qcc.codegen.cuda.tiles import STEP_BYTES, Tile, Work, choose, device_of, ranked, resident_blocks, results_bytes, shared_bytes
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, U8, Array

NIBBLE_PEAK = 1 << 27     # accumulators of 4-bit weights are 16 times as large until they are complete
_SPAN = 1 << 31           # offsets are 32 bits
_ANY_TILE = Tile(16, 16, (1, 1), 2)
PACKS = {(8, 8): pack_fragments, (8, 4): pack_nibbles, (4, 4): pack_narrow_fragments}    # by bits of the source and of weights


class Bits(NamedTuple):
    """Stored bits of values."""

    source: int = 8
    weights: int = 8
    residual: int = 8
    output: int = 8


class Pieces(NamedTuple):
    """Bytes that are copied at once."""

    source: int
    residual: int
    output: int


@dataclass(frozen=True, slots=True)
class DenseKernel:
    """output[n, y, x, o] = epilogue(sum over kh, kw, c of source[n, y*sh + kh*dh, x*sw + kw*dw, c] * weights[o, kh, kw, c]).

    Operands: source, [residual], [offsets of the window's pieces], weights, bias (and multipliers), the epilogue's parameters if it
    has one, and the output. A view whose values have 4 bits is one of bytes, two values in each.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1.
        output: (N, OH, OW, OC), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, channel stride 1, added in the epilogue.
        window, strides, dilations: of rows and columns.
        groups: the channels of source and output fall into so many parts.
        epilogue: the code of the requantization; None writes int32 accumulators with the bias added.
        bits: of a value of the source, a weight, the residual and the output as they are stored, 8 or 4; the source has 4 only if the
            weights do.
        pieces: bytes of the source, the residual and the output that are copied at once, all of whose addresses are multiples of it
            (1: one by one).
        tile: outputs of one block.
        resident: blocks that a multiprocessor shall hold.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    groups: int
    epilogue: Epilogue | None
    bits: Bits
    pieces: Pieces
    tile: Tile
    resident: int = 1

    @property
    def work(self) -> Work:
        """The layer as the cost model sees it."""
        weight = self.bits.weights * 8 // self.bits.source      # bits beside a byte of the source
        return Work(prod(self.output.shape[:3]), self.channels // self.groups, self.depth, self.groups, weight, self.bits.source)

    @property
    def weight_bits(self) -> int:
        """Bits of a weight as it is stored."""
        return self.bits.weights

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.output.shape[3] * 8 // self.bits.output

    @property
    def depth(self) -> int:
        """Bytes of the source under one output."""
        return prod(self.window) * (self.source.shape[3] // self.groups)

    @property
    def steps(self) -> int:
        return -(-self.depth // STEP_BYTES)

    @property
    def column_tiles(self) -> int:
        return -(-(self.channels // self.groups) // self.tile.columns)

    @property
    def gathers(self) -> bool:
        """Whether the pieces of a window lie at offsets from a table rather than side by side."""
        return self.window != (1, 1) or self.pieces.source == 1

    @property
    def entries(self) -> int:
        """Of the table of offsets: one step more than there are, which is loaded ahead and not used."""
        return (self.steps + 1) * STEP_BYTES // self.pieces.source

    @property
    def tables(self) -> dict[int, Array]:
        """Constants that depend on nothing but the kernel, by position: where pieces lie."""
        return {1 if self.residual is None else 2: window_offsets(self)} if self.gathers else {}

    @property
    def numbers(self) -> int:
        """Constants per channel: bias and multiplier."""
        return 1 if self.epilogue is None else 2

    @property
    def operands(self) -> tuple[View, ...]:
        tiles, columns = self.column_tiles, self.tile.columns
        kind = I8 if self.bits.weights == 8 else U8
        weights = View.contiguous(kind, (self.groups, tiles, self.steps, columns * STEP_BYTES * self.work.weight_bits // 8))
        numbers = View.contiguous(I32, (self.groups, tiles * columns, self.numbers))
        offsets = (View.contiguous(I32, (self.entries,)),) if self.gathers else ()
        last = (PARAMETERS,) if self.epilogue is not None else ()
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, *offsets, weights, numbers, *last, self.output)

    @property
    def launch(self) -> Launch:
        rows = -(-self.work.rows // self.tile.rows)
        return Launch((rows, self.column_tiles, self.groups), (self.tile.threads, 1, 1), self.shared_bytes, self.resident)

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return prod(self.output.shape[:3]) * self.channels * self.depth * 8 // self.bits.source

    @property
    def residual_place(self) -> int:
        """Where in shared memory the residual's tile lies: in that of the results if they are stored alike, else behind it."""
        return 0 if self.residual is None or self.bits.residual == self.bits.output else results_bytes(self.tile)

    @property
    def shared_bytes(self) -> int:
        behind = self.residual_place + results_bytes(self.tile) if self.residual_place else 0
        return max(shared_bytes(self.tile, self.work.weight_bits), behind)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.cuda.dense_code import DenseCode

        return DenseCode(self, target).emit()


def alignment(view: View, offset: int, groups: int) -> int:
    """Bytes (16, 8, 4 or 1) of which all addresses of an image's pixels, and the bytes of a group's channels, are multiples.

    Args:
        offset: elements (bytes of a view of bytes) from an aligned address to the view.
    """
    steps = [stride for n, stride in zip(view.shape[:3], view.strides[:3], strict=True) if n > 1]
    fits = (size for size in (16, 8, 4) if not any(n % size for n in (*steps, view.shape[3] // groups, offset)))
    return next(fits, 1)


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, offsets: tuple[int, int, int] = (0, 0, 0),
    weight_bits: int = 8, tuned: Callable[[DenseKernel], DenseKernel] = unchanged,
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
        tuned: puts another tile into the planned kernel.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    _check(source, weights, strides, dilations, groups, output, requantization, residual)
    lowest, highest = accumulator_bounds(weights, bias, 0, 255)
    epilogue = None if requantization is None else epilogue_of(requantization, np.maximum(np.abs(lowest), np.abs(highest)))
    narrow = takes_narrow(weights, weight_bits)
    first, added, last = (4 if view is not None and view.packed else 8 for view in (source, residual, output))
    bits = Bits(first, 4 if narrow else 8, added, last)
    views = [None if view is None else view.stored for view in (source, residual, output)]
    pieces = Pieces(*(16 if view is None else alignment(view, offset * width // 8, groups)
                      for view, offset, width in zip(views, offsets, (bits.source, bits.residual, bits.output), strict=True)))
    window = (weights.shape[1], weights.shape[2])
    kernel = DenseKernel(source.stored, output.stored, views[1], window, strides, dilations, groups, epilogue, bits, pieces, _ANY_TILE)
    kernel = tuned(with_tile(kernel, choose(kernel.work, target), target))
    pack = PACKS[bits.source, bits.weights]      # a source shares bytes only where the weights do (rules.is_narrow)
    columns = [bias] if requantization is None else [bias, np.broadcast_to(requantization.multiplier, bias.shape)]
    flat = weights.reshape(groups, weights.shape[0] // groups, -1)
    constants = [pack(flat, kernel.tile.columns), pack_numbers(columns, groups, kernel.tile.columns)]
    return kernel, (*kernel.tables.values(), *constants, *([parameters(requantization)] if requantization is not None else []))


def with_tile(kernel: DenseKernel, tile: Tile, target: Target) -> DenseKernel:
    """The layer with another tile, and with as many resident blocks as it should have then."""
    kernel = replace(kernel, tile=tile)
    return replace(kernel, resident=resident_blocks(tile, kernel.shared_bytes, kernel.work, device_of(target)))


def alternatives(kernel: DenseKernel, target: Target) -> list[DenseKernel]:
    """The layer with every tile, and with one resident block less (more registers for a thread), by the model's cycles."""
    found = []
    for tile in ranked(kernel.work, target):
        planned = with_tile(kernel, tile, target)
        found += [planned] + ([replace(planned, resident=planned.resident - 1)] if planned.resident > 1 else [])
    return found


def takes_narrow(weights: Array, bits: int) -> bool:
    """Whether weights of this width are stored two per byte: their sums, 16 times as large until they are complete, must fit 32 bits."""
    peak = np.abs(weights.reshape(weights.shape[0], -1).astype(np.int64)).sum(axis=1).max(initial=0) * 255
    return bool(bits <= 4 and np.abs(weights).max(initial=0) < 8 and peak < NIBBLE_PEAK)


def window_offsets(kernel: DenseKernel) -> Array:
    """int32: where the pieces of a window lie, in elements from its first; 0 for those beyond the last (their weights are zero)."""
    (height, width), channels = kernel.window, kernel.source.shape[3] // kernel.groups
    down, along, channel = np.ogrid[:height, :width, : channels : kernel.pieces.source]
    (_, row, column, _), (dh, dw) = kernel.source.strides, kernel.dilations
    every = (down * (dh * row) + along * (dw * column) + channel).reshape(-1)
    return padded(every.astype(np.int32), kernel.entries)


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
