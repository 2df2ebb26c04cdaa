"""Depthwise convolution on GPUs: every channel has its own window, and a dot product adds four taps of a row at once.

A thread computes some neighbouring outputs of four channels. The bytes of four neighbouring pixels are transposed (eight byte
permutations), which puts four taps of a channel into one register; outputs beside each other share them, each with the taps at its own
place in the register. Tails are covered by outputs that are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from qcc.arith import accumulator_bounds
from qcc.codegen.cpu.requantization import Requantization, is_bytes
from qcc.codegen.cuda.dense import alignment
from qcc.codegen.cuda.elements import launch_of
from qcc.codegen.cuda.epilogue import PARAMETERS, Epilogue, epilogue_of, parameters
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.cuda.packing import ceil_to, pack_numbers, padded
from qcc.codegen.cuda.tiles import device_of
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, Array

WORD = 4                # channels of a thread, pixels of a dot product
_ROWS = (4, 2, 1)
_COLUMNS = (4, 2, 1)
_BUSY = 512             # threads that a multiprocessor should have


@dataclass(frozen=True, slots=True)
class Quad:
    """A dot product for one of a thread's outputs: of four pixels from `first` on, whose first byte meets tap `tap` of the row."""

    output: int
    first: int
    tap: int


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
        rows, columns: outputs of a thread.
        aligned: four channels are read, and written, at once.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    epilogue: Epilogue | None
    rows: int
    columns: int
    aligned: bool

    @property
    def weight_bits(self) -> int:
        """Bits of a weight as it is stored."""
        return 8

    @property
    def pixels(self) -> int:
        """Pixels of a source row under a thread's outputs (of a row of outputs), in steps of the dilation."""
        return (self.columns - 1) * self.strides[1] + self.window[1]

    @property
    def quads(self) -> tuple[Quad, ...]:
        """The dot products of a row of the window that have any tap."""
        return quads(self.window[1], self.strides[1], self.columns)

    @property
    def taps(self) -> tuple[int, ...]:
        """The distinct places of a row's taps in a register."""
        return tuple(sorted({quad.tap for quad in self.quads}))

    @property
    def words(self) -> int:
        """Registers that hold the channels."""
        return -(-self.output.shape[3] // WORD)

    @property
    def numbers(self) -> int:
        """Constants per channel: bias and multiplier."""
        return 1 if self.epilogue is None else 2

    @property
    def operands(self) -> tuple[View, ...]:
        weights = View.contiguous(I8, (self.window[0], len(self.taps), self.words * WORD, WORD))
        numbers = View.contiguous(I32, (1, self.words * WORD, self.numbers))
        last = (PARAMETERS,) if self.epilogue is not None else ()
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *last, self.output)

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """Threads by images, rows, columns and registers of channels."""
        images, rows, columns, _ = self.output.shape
        return images, -(-rows // self.rows), -(-columns // self.columns), self.words

    @property
    def launch(self) -> Launch:
        return launch_of(prod(self.extents))

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return prod(self.output.shape) * prod(self.window)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.cuda.depthwise_code import DepthwiseCode

        return DepthwiseCode(self).emit()


def quads(width: int, stride: int, columns: int) -> tuple[Quad, ...]:
    """The dot products of a row: every output's taps lie somewhere in the groups of four pixels."""
    pixels = (columns - 1) * stride + width
    every = (Quad(output, first, first - output * stride) for output in range(columns) for first in range(0, pixels, WORD))
    return tuple(quad for quad in every if -WORD < quad.tap < width)


def _work(width: int, stride: int, columns: int) -> float:
    """Instructions of a row of the window per output, about: loads, permutations and dot products."""
    pixels = (columns - 1) * stride + width
    return (2 * pixels + 8 * -(-pixels // WORD) + WORD * len(quads(width, stride, columns))) / columns


def _outputs_per_thread(kernel_window: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int], output: View,
                        target: Target) -> tuple[int, int]:
    """Rows and columns: columns for few instructions, rows that share weights as long as there are threads enough."""
    images, rows, columns, channels = output.shape
    best = min(_fitting(columns, dilations), key=lambda n: _work(kernel_window[1], strides[1], n))
    threads = images * rows * -(-columns // best) * -(-channels // WORD)
    enough = device_of(target).processors * _BUSY
    return next(n for n in _ROWS if n == 1 or (n <= rows and threads // n >= enough)), best


def _fitting(columns: int, dilations: tuple[int, int]) -> list[int]:
    """Outputs of a row that a thread may compute: several share pixels only where those lie side by side."""
    return [n for n in _COLUMNS if n <= columns and (n == 1 or dilations[1] == 1)]


def alternatives(kernel: DepthwiseKernel, target: Target) -> list[DepthwiseKernel]:
    """The layer with every number of outputs per thread, those of few instructions and enough threads first."""
    enough = device_of(target).processors * _BUSY
    _, rows, columns, _ = kernel.output.shape
    kernels = [replace(kernel, rows=count, columns=width) for width in _fitting(columns, kernel.dilations)
               for count in _ROWS if count <= rows]

    def time(choice: DepthwiseKernel) -> tuple[float, int, int]:
        work = _work(choice.window[1], choice.strides[1], choice.columns)
        return work * max(1.0, enough / prod(choice.extents)), -choice.rows, -choice.columns

    return sorted(kernels, key=time)


def plan_depthwise(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None, target: Target, offsets: tuple[int, int, int] = (0, 0, 0),
    tuned: Callable[[DepthwiseKernel], DepthwiseKernel] = unchanged,
) -> tuple[DepthwiseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands.

    Args:
        source: u8 (N, H, W, C) with channel stride 1, already padded.
        weights: i8 [C, KH, KW, 1].
        bias: int32 [C], the source's zero point folded in.
        output: (N, OH, OW, C) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        offsets: elements from an address of the arena to the source, the residual and the output.
        tuned: puts other outputs per thread into the planned kernel.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    _check(source, weights, strides, dilations, output, requantization, residual)
    lowest, highest = accumulator_bounds(weights, bias, 0, 255)
    epilogue = None if requantization is None else epilogue_of(requantization, np.maximum(np.abs(lowest), np.abs(highest)))
    window = (weights.shape[1], weights.shape[2])
    views = [(source, offsets[0]), (output, offsets[2])] + ([(residual, offsets[1])] if residual is not None else [])
    aligned = all(alignment(view, offset, 1) >= WORD for view, offset in views)
    kernel = tuned(DepthwiseKernel(source, output, residual, window, strides, dilations, epilogue,
                                   *_outputs_per_thread(window, strides, dilations, output, target), aligned))
    columns = [bias] if requantization is None else [bias, np.broadcast_to(requantization.multiplier, bias.shape)]
    last = () if requantization is None else (parameters(requantization),)
    return kernel, (pack_taps(weights[..., 0], kernel.taps), pack_numbers(columns, 1, WORD), *last)


def pack_taps(windows: Array, taps: tuple[int, ...]) -> Array:
    """i8 [C, KH, KW] -> i8 [KH, places, channels, 4]: a row's taps from each of the places on, zeros where there is none."""
    channels, _, width = windows.shape
    full = padded(windows.transpose(1, 0, 2), ceil_to(channels, WORD), width)
    none = np.zeros_like(full[..., 0])
    places = [np.stack([full[..., tap + i] if 0 <= tap + i < width else none for i in range(WORD)], axis=-1) for tap in taps]
    return np.ascontiguousarray(np.stack(places, axis=1))


def _check(
    source: View, weights: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None,
) -> None:
    extents = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(source.shape[1:3], weights.shape[1:3], dilations, strides, strict=True)]
    shape = (source.shape[0], *extents, source.shape[3])
    kind, typed = ("i32", output.dtype == I32) if requantization is None else ("u8", is_bytes(output))
    views = [source, output] + ([residual] if residual is not None else [])
    unit = all(view.strides[3] == 1 and view.span < 1 << 31 for view in views)
    added = residual is None or (requantization is not None and residual.shape == output.shape and is_bytes(residual))
    single = weights.shape[0] == source.shape[3] and weights.shape[3] == 1
    if not (single and unit and added and is_bytes(source) and typed and output.shape == shape):
        raise CodegenError(
            f"depthwise layer of source {source}, weights {weights.shape}, strides {strides}, dilations {dilations}: expected one window "
            f"per channel, an output of {kind} {shape}, channels that lie side by side and less than 2 GiB, got output {output}, "
            f"residual {residual}")
