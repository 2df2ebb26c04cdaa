"""Depthwise convolution: every channel has its own window, and a dot product adds four taps of a row at once.

The bytes of four neighbouring pixels are interleaved (two levels of unpacking), which puts the four taps of a channel into one 32-bit
lane. The neighbours are those along a row; a last column that would be alone in its dot products (of 5 or 1) goes down instead. A block
is four such vectors; unpacking scatters its channels over them just as the packs of the epilogue gather them again, so nothing is
permuted but four bytes. Several output rows share the interleaved pixels of the source.

Where pixels lie side by side and the stride is one, `fold` pixels count as one of `fold` times the channels: 24 channels fill
vectors of 64 bytes as well as 64 do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcc.codegen.cpu.depthwise import DepthwiseForm, check_depthwise
from qcc.codegen.cpu.packing import TAPS, VECTORS, interleaved_channels, pack_bits, pack_numbers, pack_taps
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.weights import lifted
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import MOST_SHIFT, PARAMETERS, HalvesEpilogue, lifted_multipliers, parameters_of
from qcc.codegen.x86.tiles import depthwise_fold, depthwise_rows
from qcc.ir.types import I8, I32, U8, Array

UNROLLED_ROWS = 16    # source rows under a tile that are unrolled; taller windows loop


@dataclass(frozen=True, slots=True)
class Quad:
    """Four neighbouring positions of the window, of which a dot product takes some: from (row, column) on, along a row or down a column."""

    row: int
    column: int
    down: bool
    takes: tuple[bool, ...]

    @property
    def own(self) -> tuple[tuple[int, int] | None, ...]:
        """The positions that it takes, None for the others."""
        every = ((self.row + i * self.down, self.column + i * (not self.down)) for i in range(TAPS))
        return tuple(position if taken else None for position, taken in zip(every, self.takes, strict=True))


def across(height: int, width: int) -> tuple[Quad, ...]:
    """Every row of the window by itself."""
    return tuple(Quad(row, column, False, tuple(column + i < width for i in range(TAPS)))
                 for row in range(height) for column in range(0, width, TAPS))


def cover(height: int, width: int, step: int) -> tuple[Quad, ...]:
    """Every position once, in few quads: rows, and down the last column where it would be alone in every row.

    Args:
        step: from one output's window down to the next; quads that begin at multiples of it are shared with other outputs.
    """
    if width % TAPS != 1:
        return across(height, width)
    quads = list(across(height, width - 1))
    for top in range(0, height, TAPS):
        row = min(range(min(top, max(0, height - TAPS)), top + 1), key=lambda row: (row % step != 0, row))
        quads.append(Quad(row, width - 1, True, tuple(top <= row + i < min(height, top + TAPS) for i in range(TAPS))))
    return tuple(quads)


@dataclass(frozen=True, slots=True)
class DepthwiseKernel(DepthwiseForm):
    """A depthwise layer with the dot products of x86.

    Attributes:
        lanes: 32-bit lanes of a vector.
        rows: output rows computed together.
        fold: output columns that count as one with so many times the channels.
        weight_bits: in which a weight is stored (cpu/weights.py).
    """

    epilogue: HalvesEpilogue | None
    lanes: int
    rows: int
    fold: int
    weight_bits: int = 8

    @property
    def lift(self) -> int:
        """Accumulators are so many powers of two larger than the sums."""
        return 8 - self.weight_bits

    @property
    def vector(self) -> int:
        """Weights of one vector."""
        return self.lanes * TAPS

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
    def source_rows(self) -> list[int]:
        """Rows of the source under the output rows of a tile, from the first of them on."""
        rows = {row * self.strides[0] + kh * self.dilations[0] for row in range(self.rows) for kh in range(self.window[0])}
        return sorted(rows)

    @property
    def is_tall(self) -> bool:
        """Whether the code loops over the rows of the window."""
        return len(self.source_rows) > UNROLLED_ROWS

    @property
    def quads(self) -> tuple[Quad, ...]:
        """The dot products of one output; if tall, equally many in every row of the window."""
        return across(*self.window) if self.is_tall else cover(*self.window, self.strides[0])

    @property
    def stretch(self) -> int:
        """Vectors of weights that the code takes at once: all of a block, or of a row of tall windows."""
        return len(self.quads) // (self.window[0] if self.is_tall else 1) * VECTORS

    @property
    def block_bytes(self) -> int:
        """Bytes of weights of a block."""
        return len(self.quads) * VECTORS * self.vector * self.weight_bits // 8

    @property
    def operands(self) -> tuple[View, ...]:
        whole = (self.blocks, len(self.quads), VECTORS, self.lanes, TAPS)
        weights = View.contiguous(U8, (self.blocks, self.block_bytes)) if self.weight_bits < 8 else View.contiguous(I8, whole)
        numbers = View.contiguous(I32, (self.blocks, VECTORS, self.numbers, self.lanes))
        parameters = () if self.epilogue is None else (PARAMETERS,)
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *parameters, self.output)

    @property
    def tasks(self) -> int:
        images, rows, _, _ = self.output.shape
        return images * -(-rows // self.rows) * self.blocks

    def emit(self, target: Target) -> Any:
        from qcc.codegen.x86.depthwise_code import DepthwiseCode

        return DepthwiseCode(self, target).emit()


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
    check_depthwise(source, weights, strides, dilations, output, requantization, residual)
    window = (weights.shape[1], weights.shape[2])
    bits, bias, requantization = lifted(weights, bias, source, requantization, MOST_SHIFT)
    epilogue = None if requantization is None else HalvesEpilogue.of(requantization)
    kernel = DepthwiseKernel(source, output, residual, window, strides, dilations, epilogue, target.lanes, 1, 1, bits)
    _, rows, columns, channels = output.shape
    views = [source, output] + ([residual] if residual is not None else [])
    if strides[1] == 1 and all(view.strides[2] == channels for view in views):
        kernel = replace(kernel, fold=depthwise_fold(channels, columns, kernel.block))
    kernel = tuned(replace(kernel, rows=depthwise_rows(rows, target)))
    order = interleaved_channels(channels, kernel.fold, target.lanes)
    packed = pack_taps(np.asarray(weights[..., 0]), [quad.own for quad in kernel.quads], order)
    if bits < 8:
        packed = pack_bits(packed.reshape(kernel.blocks, 1, -1, kernel.vector), bits, kernel.stretch)
    if requantization is None:
        return kernel, (packed, pack_numbers(bias, None, order))
    return kernel, (packed, pack_numbers(bias, lifted_multipliers(requantization), order), parameters_of(requantization))
