"""Depthwise convolution on ARM by dot products: windows three columns wide whose outputs lie side by side.

The bytes of four neighbouring pixels are interleaved (two levels of `zip`), which puts the four columns of a channel into one 32-bit lane.
They serve two outputs: one takes the first three, the other the last three, by the same weights moved by a byte. Rows of the source
serve as many rows of outputs as the tile has under them. A block is eight channels: their weights and accumulators stay in registers.
Other windows, and targets without dot products, take the widening products of codegen/arm/depthwise.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.codegen.arm.dense import LEAST_WEIGHT, centred_bias
from qcc.codegen.arm.depthwise import DepthwiseCode, NeonDepthwiseKernel, plan_widening
from qcc.codegen.arm.epilogue import MOST_SHIFT, PARAMETERS, NeonEpilogue, parameters
from qcc.codegen.arm.intrinsics import LANES, VECTOR, dot_product_of
from qcc.codegen.cpu.depthwise import DepthwiseForm, check_depthwise
from qcc.codegen.cpu.packing import TAPS, pack_bits, pack_numbers, pack_taps
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.cpu.weights import lifted
from qcc.codegen.emit import Register, constant, llvm, reinterpret, shuffle
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.ir.types import I8, I32, U8, Array

VECTORS = 2             # accumulators of a block of channels
BLOCK = VECTORS * LANES
WIDTH = 3               # columns of a window
COLUMNS = TAPS - WIDTH + 1      # outputs that four columns serve
ROWS = 2                # of outputs computed together; the accumulators of more leave the registers
MOST_TALL = 3           # rows of a window


@dataclass(frozen=True, slots=True)
class DotDepthwiseKernel(DepthwiseForm):
    """A depthwise layer with dot products.

    Attributes:
        rows: output rows computed together.
        weight_bits: in which a weight is stored (cpu/weights.py).
    """

    epilogue: NeonEpilogue | None
    rows: int
    weight_bits: int = 8

    @property
    def lift(self) -> int:
        """Accumulators are so many powers of two larger than the sums."""
        return 8 - self.weight_bits

    @property
    def blocks(self) -> int:
        return -(-self.output.shape[3] // BLOCK)

    @property
    def operands(self) -> tuple[View, ...]:
        whole = (self.blocks, self.window[0], VECTORS, LANES, TAPS)
        size = self.window[0] * VECTORS * VECTOR * self.weight_bits // 8
        weights = View.contiguous(I8, whole) if self.weight_bits == 8 else View.contiguous(U8, (self.blocks, size))
        numbers = View.contiguous(I32, (self.blocks, VECTORS, self.numbers, LANES))
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *(() if self.epilogue is None else (PARAMETERS,)), self.output)

    @property
    def tasks(self) -> int:
        return self.output.shape[0] * -(-self.output.shape[1] // self.rows) * self.blocks

    def emit(self, target: Target) -> Any:
        return _DotCode(self, target).emit()


class _DotCode(DepthwiseCode):
    """The code of one kernel."""

    kernel: DotDepthwiseKernel
    vectors = VECTORS

    def __init__(self, kernel: DotDepthwiseKernel, target: Target) -> None:
        super().__init__(kernel)
        self.signed = dot_product_of(target, False).signed

    def emit(self) -> Any:
        from tvm import tirx

        kernel, function = self.kernel, self.function
        _, rows, columns, channels = kernel.output.shape

        def number(value: int) -> Any:
            return tirx.const(value, "int32")

        with function.loop(function.begin, function.end) as task:
            block, line = (function.let(part(task, number(kernel.blocks))) for part in (tirx.Mod, tirx.Div))
            tile, image = (function.let(part(line, number(-(-rows // kernel.rows)))) for part in (tirx.Mod, tirx.Div))
            row = function.let(tirx.Min(tile * kernel.rows, number(rows - kernel.rows)))
            channel = function.let(tirx.Min(block * BLOCK, number(max(0, channels - BLOCK))))
            stretch = kernel.window[0] * VECTORS
            weights = block * (stretch * VECTOR * kernel.weight_bits // 8)
            vectors = list(load_weights(function, self.weights, weights, stretch, VECTOR, kernel.weight_bits))
            moved = [function.let(reinterpret(reinterpret(vector, f"int32x{LANES}") << constant(8, "int32", LANES), f"int8x{VECTOR}"))
                     for vector in vectors]
            with function.loop(0, -(-columns // COLUMNS)) as step:
                column = function.let(tirx.Min(step * COLUMNS, number(columns - COLUMNS)))
                self._tile((vectors, moved), block, image, row, column, channel)
        return function.finish()

    def _tile(self, weights: tuple[list[Any], list[Any]], block: Any, image: Any, row: Any, column: Any, channel: Any) -> None:
        kernel, function = self.kernel, self.function
        initial = [function.let(self.numbers.load(self._constants(block, vector), LANES)) for vector in range(VECTORS)]
        accumulators = [[[function.register(value) for value in initial] for _ in range(COLUMNS)] for _ in range(kernel.rows)]
        source = self._address(kernel.source, image, row * kernel.strides[0], column, channel)
        taken = [(own * kernel.strides[0] + kh * kernel.dilations[0], own, kh)
                 for own in range(kernel.rows) for kh in range(kernel.window[0])]
        for below in sorted({place for place, _, _ in taken}):
            quads = self._interleaved(source + below * kernel.source.strides[1])
            for own, kh in [(own, kh) for place, own, kh in taken if place == below]:
                for vector, quad in enumerate(quads):
                    for registers, versions in zip(accumulators[own], weights, strict=True):
                        self._add(registers[vector], quad, versions[kh * VECTORS + vector])
        for own, registers_of_row in enumerate(accumulators):
            output = self._address(kernel.output, image, row + own, column, channel)
            residual = None if kernel.residual is None else self._address(kernel.residual, image, row + own, column, channel)
            self._finish(registers_of_row, block, output, residual)

    def _interleaved(self, source: Any) -> list[Any]:
        """Four columns of eight channels as two vectors, the four bytes of a channel together."""
        function, pixel = self.function, self.kernel.source.strides[2]
        first, second, third, fourth = (function.let(self.source.load(source + index * pixel, BLOCK)) for index in range(TAPS))
        alternating = [number for pair in zip(range(BLOCK), range(BLOCK, 2 * BLOCK), strict=True) for number in pair]
        even, odd = (function.let(shuffle(pair, alternating)) for pair in ((first, third), (second, fourth)))
        quads = []
        for half in (range(BLOCK), range(BLOCK, 2 * BLOCK)):
            quad = shuffle([even, odd], [number for index in half for number in (index, VECTOR + index)])
            centred = quad ^ constant(128, "uint8", VECTOR) if self.signed else quad
            quads.append(function.let(reinterpret(centred, f"int8x{VECTOR}")))
        return quads

    def _add(self, register: Register, quad: Any, weights: Any) -> None:
        name = "llvm.aarch64.neon.sdot" if self.signed else "llvm.aarch64.neon.usdot"
        register.set(llvm(name, "int32x4", register.get(), quad, weights))

    def _sum(self, register: Register) -> Any:
        return register.get() >> constant(self.kernel.lift, "int32", LANES) if self.kernel.lift else register.get()


def plan_depthwise(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tuned: Callable[[Any], Any] = unchanged,
) -> tuple[DotDepthwiseKernel | NeonDepthwiseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands; arguments as `qcc.codegen.x86.depthwise.plan_depthwise`.

    Raises:
        CodegenError: shapes, types, strides or weights that the family does not cover.
    """
    height, width = weights.shape[1:3]
    fits = width == WIDTH and height <= MOST_TALL and strides[1] == dilations[1] == 1 and output.shape[2] >= COLUMNS
    if target.dot == "neon" or not fits or weights.min() < LEAST_WEIGHT:
        return plan_widening(source, weights, bias, strides, dilations, output, requantization, residual, target, tuned)
    check_depthwise(source, weights, strides, dilations, output, requantization, residual)
    bits, bias, requantization = lifted(weights, bias, source, requantization, MOST_SHIFT, LEAST_WEIGHT)
    epilogue = None if requantization is None else NeonEpilogue.of(requantization)
    rows = min(ROWS, output.shape[1])
    kernel = tuned(DotDepthwiseKernel(source, output, residual, (height, width), strides, dilations, epilogue, rows, bits))
    if dot_product_of(target, False).signed:
        bias = centred_bias(weights.astype(np.int64) << kernel.lift, bias)
    order = _channels(output.shape[3])
    packed = pack_taps(np.asarray(weights[..., 0]), [[(row, 0), (row, 1), (row, 2), None] for row in range(height)], order)
    if bits < 8:
        packed = pack_bits(packed.reshape(kernel.blocks, 1, -1, VECTOR), bits, height * VECTORS)
    if requantization is None:
        return kernel, (packed, pack_numbers(bias, None, order))
    return kernel, (packed, pack_numbers(bias, requantization.multiplier, order), parameters(requantization))


def _channels(channels: int) -> Array:
    """The channel of every lane: int64 [blocks, VECTORS, LANES], -1 where there is none; the last block ends with the last channel."""
    starts = np.minimum(np.arange(-(-channels // BLOCK)) * BLOCK, max(0, channels - BLOCK))
    lane = starts[:, None] + np.arange(BLOCK)
    return np.asarray(np.where(lane < channels, lane, -1)).reshape(-1, VECTORS, LANES)
