"""Depthwise convolution on ARM: sixteen channels of some output pixels in registers, two taps at a time.

The products of two taps are added in 16 bits (at most 2 * 128 * 127, since activations are taken less 128 and weights are not below
-127) before they are widened to the accumulators; `128 sum w` is part of the bias, as in codegen/arm/dense.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.codegen.arm.dense import LEAST_WEIGHT, centred_bias
from qcc.codegen.arm.epilogue import PARAMETERS, NeonEpilogue, NeonRequantizer, parameters
from qcc.codegen.arm.intrinsics import LANES
from qcc.codegen.cpu.depthwise import DepthwiseForm, check_depthwise
from qcc.codegen.cpu.epilogue import Output
from qcc.codegen.cpu.packing import pack_bits, pack_numbers, stored_bits, take_channels
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.emit import Function, Memory, Register, cast, constant, llvm, reinterpret, shuffle, store_first
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, U8, Array

VECTORS = 4             # accumulators of a block of channels
BLOCK = VECTORS * LANES
COLUMNS = 3             # output pixels computed together: their accumulators, and the weights of nine taps, stay in registers
UNROLLED = 25           # taps; rows of larger windows are a loop


@dataclass(frozen=True, slots=True)
class NeonDepthwiseKernel(DepthwiseForm):
    """A depthwise layer with widening products.

    Attributes:
        weight_bits: in which a weight is stored (`packing.stored_bits`); weights of two taps share bytes.
    """

    epilogue: NeonEpilogue | None
    weight_bits: int = 8

    @property
    def blocks(self) -> int:
        return -(-self.output.shape[3] // BLOCK)

    @property
    def rows_of_taps(self) -> tuple[int, int]:
        """Rows of weights, of which the code loops over those of tall windows, and the vectors of one."""
        down, along = self.window
        return (1, down * along) if down * along <= UNROLLED else (down, along)

    @property
    def columns(self) -> int:
        return min(COLUMNS, self.output.shape[2])

    @property
    def operands(self) -> tuple[View, ...]:
        rows, taps = self.rows_of_taps
        packed = (self.blocks, rows * taps * BLOCK * self.weight_bits // 8)
        weights = View.contiguous(U8, packed) if self.weight_bits < 8 else View.contiguous(I8, (self.blocks, rows, taps, BLOCK))
        numbers = View.contiguous(I32, (self.blocks, VECTORS, self.numbers, LANES))
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *(() if self.epilogue is None else (PARAMETERS,)), self.output)

    @property
    def tasks(self) -> int:
        return self.output.shape[0] * self.output.shape[1] * self.blocks

    def emit(self, target: Target) -> Any:
        return _WideningCode(self).emit()


class DepthwiseCode:
    """What the code of all kernels of depthwise layers has; `vectors` accumulators are a block of channels."""

    vectors = VECTORS

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.function = kernel, Function(kernel.operands)
        memories = list(self.function.operands)
        self.source = memories.pop(0)
        self.residual: Memory | None = memories.pop(0) if kernel.residual is not None else None
        self.weights, self.numbers = memories[:2]
        self.output = memories[-1]
        self.requantizer = None
        if kernel.epilogue is not None:
            self.requantizer = NeonRequantizer(self.function, kernel.epilogue, self.numbers, memories[2], self.output)

    def _address(self, view: View, image: Any, row: Any, column: Any, channel: Any) -> Any:
        return self.function.let(image * view.strides[0] + row * view.strides[1] + column * view.strides[2] + channel)

    def _constants(self, block: Any, vector: int) -> Any:
        """Where the bias of a vector lies; its multipliers follow."""
        return (block * self.vectors + vector) * (self.kernel.numbers * LANES)

    def _finish(self, accumulators: list[list[Register]], block: Any, output: Any, residual: Any) -> None:
        """Requantize and store a row of pixels."""
        kernel = self.kernel
        outputs = []
        for pixel, registers in enumerate(accumulators):
            address = self.function.let(output + pixel * kernel.output.strides[2])
            for vector, register in enumerate(registers):
                channel, width = vector * LANES, max(0, min(LANES, kernel.output.shape[3] - vector * LANES))
                if self.requantizer is None:
                    store_first(self.output, address + channel, self._sum(register), width)
                    continue
                added = None
                if self.residual is not None and kernel.residual is not None:
                    added = self.residual.load(residual + pixel * kernel.residual.strides[2] + channel, LANES)
                outputs.append(Output(register.get(), self._constants(block, vector) + LANES, address, channel, width, added))
        if self.requantizer is not None:
            self.requantizer.store(outputs)

    def _sum(self, register: Register) -> Any:
        """What is stored of an accumulator without a requantization."""
        return register.get()


class _WideningCode(DepthwiseCode):
    """The code of one kernel with widening products."""

    kernel: NeonDepthwiseKernel

    def emit(self) -> Any:
        from tvm import tirx

        kernel, function = self.kernel, self.function
        _, rows, columns, channels = kernel.output.shape

        def number(value: int) -> Any:
            return tirx.const(value, "int32")

        with function.loop(function.begin, function.end) as task:
            block, line = (function.let(part(task, number(kernel.blocks))) for part in (tirx.Mod, tirx.Div))
            row, image = (function.let(part(line, number(rows))) for part in (tirx.Mod, tirx.Div))
            channel = function.let(tirx.Min(block * BLOCK, number(max(0, channels - BLOCK))))
            with function.loop(0, -(-columns // kernel.columns)) as step:
                column = function.let(tirx.Min(step * kernel.columns, number(columns - kernel.columns)))
                self._tile(block, image, row, column, channel)
        return function.finish()

    def _tile(self, block: Any, image: Any, row: Any, column: Any, channel: Any) -> None:
        kernel, function = self.kernel, self.function
        initial = [function.let(self.numbers.load(self._constants(block, vector), LANES)) for vector in range(VECTORS)]
        accumulators = [[function.register(value) for value in initial] for _ in range(kernel.columns)]
        source = self._address(kernel.source, image, row * kernel.strides[0], column * kernel.strides[1], channel)
        down, along = kernel.window
        rows, taps = kernel.rows_of_taps
        tap_bytes = BLOCK * kernel.weight_bits // 8
        steps = [distance * stride for distance, stride in zip(kernel.dilations, kernel.source.strides[1:3], strict=True)]
        with ExitStack() as loops:
            first = 0 if rows == 1 else loops.enter_context(function.loop(0, down))
            offsets = [kh * steps[0] + kw * steps[1] for kh in range(down // rows) for kw in range(along)]
            weights = (block * rows + first) * (taps * tap_bytes)
            for start in range(0, len(offsets), 2):
                self._pair(accumulators, source + first * steps[0], weights + start * tap_bytes, offsets[start : start + 2])
        output = self._address(kernel.output, image, row, column, channel)
        residual = None if kernel.residual is None else self._address(kernel.residual, image, row, column, channel)
        self._finish(accumulators, block, output, residual)

    def _pair(self, accumulators: list[list[Register]], source: Any, weights: Any, offsets: Sequence[int]) -> None:
        """Add the products of one or two taps, whose weights follow each other."""
        kernel, function = self.kernel, self.function
        factors = list(load_weights(function, self.weights, weights, len(offsets), BLOCK, kernel.weight_bits))
        if kernel.weight_bits < 8:
            factors = [function.let(factor >> constant(8 - kernel.weight_bits, "int8", BLOCK)) for factor in factors]
        for pixel, registers in enumerate(accumulators):
            place = source + pixel * kernel.strides[1] * kernel.source.strides[2]
            taken = [self.source.load(place + offset, BLOCK) ^ constant(128, "uint8", BLOCK) for offset in offsets]
            signed = [function.let(reinterpret(vector, f"int8x{BLOCK}")) for vector in taken]
            for half in range(2):
                lanes = range(half * 8, half * 8 + 8)
                products = [llvm("llvm.aarch64.neon.smull", "int16x8", shuffle([x], lanes), shuffle([w], lanes))
                            for x, w in zip(signed, factors, strict=True)]
                total = function.let(products[0] if len(products) == 1 else products[0] + products[1])
                for quarter in range(2):
                    register = registers[half * 2 + quarter]
                    register.set(register.get() + cast(shuffle([total], range(quarter * 4, quarter * 4 + 4)), "int32"))


def plan_widening(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None, target: Target,
    tuned: Callable[[Any], Any] = unchanged,
) -> tuple[NeonDepthwiseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands; arguments as `qcc.codegen.x86.depthwise.plan_depthwise`.

    Raises:
        CodegenError: shapes, types, strides or weights that the family does not cover.
    """
    check_depthwise(source, weights, strides, dilations, output, requantization, residual)
    if weights.min() < LEAST_WEIGHT:
        raise CodegenError(f"depthwise layer for {target.name}: a weight is {weights.min()}, expected at least {LEAST_WEIGHT}")
    epilogue = None if requantization is None else NeonEpilogue.of(requantization)
    kernel = tuned(NeonDepthwiseKernel(source, output, residual, (weights.shape[1], weights.shape[2]), strides, dilations, epilogue,
                                       stored_bits(weights)))
    order = _channels(output.shape[3])
    packed = _pack_weights(take_channels(weights[..., 0], order).transpose(0, 2, 3, 1), kernel)
    order, bias = order.reshape(-1, VECTORS, LANES), centred_bias(weights, bias)
    if requantization is None:
        return kernel, (packed, pack_numbers(bias, None, order))
    return kernel, (packed, pack_numbers(bias, requantization.multiplier, order), parameters(requantization))


def _pack_weights(windows: Array, kernel: NeonDepthwiseKernel) -> Array:
    """i8 [blocks, KH, KW, BLOCK] -> i8 [blocks, *rows_of_taps, BLOCK], or u8 [blocks, bytes]."""
    taps = np.ascontiguousarray(windows).reshape(kernel.blocks, *kernel.rows_of_taps, BLOCK)
    return taps if kernel.weight_bits == 8 else pack_bits(taps, kernel.weight_bits, 2)


def _channels(channels: int) -> Array:
    """The channel of every lane: int64 [blocks, BLOCK], -1 where there is none; the last block ends with the last channel."""
    starts = np.minimum(np.arange(-(-channels // BLOCK)) * BLOCK, max(0, channels - BLOCK))
    lane = starts[:, None] + np.arange(BLOCK)
    return np.asarray(np.where(lane < channels, lane, -1))
