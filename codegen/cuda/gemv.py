"""Matrix products of a few rows (a fully connected layer of one image) on GPUs: as fast as weights come from memory.

A warp computes some output channels. Its lanes read the channel's weights in pieces of 16 bytes, multiply them by dot products of four
with the source, which the block has copied to shared memory, and add up what they have. Weights of 4 bits become bytes 16 times as
large, and the sums are divided when they are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.arith import accumulator_bounds
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cuda.dense import takes_narrow
from qcc.codegen.cuda.emit import Array as Registers
from qcc.codegen.cuda.emit import GpuFunction, at, constant, device, divide, modulo
from qcc.codegen.cuda.epilogue import PARAMETERS, Epilogue, Requantizer, epilogue_of, parameters
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.cuda.loader import pixel
from qcc.codegen.cuda.packing import ceil_to, pack_numbers, padded
from qcc.codegen.cuda.tiles import device_of
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View, unchanged
from qcc.ir.types import I8, I32, U8, Array

if TYPE_CHECKING:
    from qcc.codegen.target import Target

WARPS = 8
MOST_ROWS = 4
_CHANNELS = (4, 2, 1)
MOST_SHARED = 40 << 10
_PIECE = 512            # bytes that the lanes of a warp read at once
_UPPER = 0xF0F0F0F0


@dataclass(frozen=True, slots=True)
class GemvKernel:
    """output[m, o] = epilogue(sum over k of source[m, k] * weights[o, k]), for the few pixels m of an image.

    Operands: source, [residual], weights, bias (and multipliers), the epilogue's parameters if it has one, and the output.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1; two values in a byte if `source_bits` is 4.
        output: (N, H, W, OC), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, added in the epilogue.
        weight_bits: 8, or 4 for two weights per byte.
        channels: of one warp.
    """

    source: View
    output: View
    residual: View | None
    epilogue: Epilogue | None
    source_bits: int
    weight_bits: int
    channels: int

    @property
    def rows(self) -> int:
        return prod(self.output.shape[:3])

    @property
    def depth(self) -> int:
        """Values of a row of the source."""
        return self.source.shape[3] * 8 // self.source_bits

    @property
    def pieces(self) -> int:
        """Pieces of a channel's weights."""
        return -(-self.depth * self.weight_bits // 8 // _PIECE) if self.weight_bits == 8 else -(-self.depth // (2 * _PIECE))

    @property
    def padded_depth(self) -> int:
        return self.pieces * _PIECE * 8 // self.weight_bits

    @property
    def blocks(self) -> int:
        return -(-self.output.shape[3] // (WARPS * self.channels))

    @property
    def operands(self) -> tuple[View, ...]:
        outputs = self.blocks * WARPS * self.channels
        weights = View.contiguous(I8 if self.weight_bits == 8 else U8, (outputs, self.pieces, _PIECE))
        numbers = View.contiguous(I32, (1, outputs, 1 if self.epilogue is None else 2))
        last = (PARAMETERS,) if self.epilogue is not None else ()
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *last, self.output)

    @property
    def launch(self) -> Launch:
        return Launch((self.blocks, 1, 1), (32 * WARPS, 1, 1), self.rows * self.padded_depth)

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return self.rows * self.output.shape[3] * self.depth

    def emit(self, target: Target) -> Any:
        return _Code(self).emit()


class _Code:
    """Emits one GemvKernel."""

    def __init__(self, kernel: GemvKernel) -> None:
        self.kernel = kernel
        self.function = function = GpuFunction(kernel.operands, kernel.launch)
        rest = list(function.operands)
        self.source, self.output = rest.pop(0), rest.pop()
        self.residual = rest.pop(0) if kernel.residual is not None else None
        self.parameters = rest.pop() if kernel.epilogue is not None else None
        self.weights, self.numbers = rest

    def emit(self) -> Any:
        function, kernel = self.function, self.kernel
        self.shared = function.shared(kernel.launch.shared_bytes)
        self.lane = function.let(modulo(function.thread, 32), "lane")
        warp = function.block * WARPS + divide(function.thread, 32)
        self.channel = function.let(warp * kernel.channels, "channel")
        self._stage()
        function.barrier()
        totals = function.array(kernel.rows * kernel.channels, "int32", "totals", 0)
        self._accumulate(totals)
        with function.unrolled(kernel.rows * kernel.channels) as number:
            for distance in (16, 8, 4, 2, 1):
                other = device("int32", "qcc_shfl_xor", totals.get(number), constant(distance))
                totals.set(number, totals.get(number) + other)
        self._finish(totals)
        return function.finish()

    def _stage(self) -> None:
        """The rows of the source to shared memory, one value per byte. What lies beyond them meets weights that are zero."""
        function, kernel = self.function, self.kernel
        per_row, threads = kernel.source.shape[3], kernel.launch.threads
        with function.loop(0, kernel.rows) as row:
            first = function.let(pixel(function, kernel.source, row), "first")
            with function.loop(0, -(-per_row // threads)) as number:
                place = function.let(number * threads + function.thread, "place")
                with function.when(place < per_row):
                    value = function.let(self.source.load(first + place), "value")
                    if kernel.source_bits == 8:
                        self.shared.store(row * kernel.padded_depth + place, value)
                    else:
                        where = row * kernel.padded_depth + place * 2
                        self.shared.store(where, value & constant(15, "uint8"))
                        self.shared.store(where + 1, value >> constant(4, "uint8"))

    def _accumulate(self, totals: Registers) -> None:
        function, kernel = self.function, self.kernel
        halves = 8 // kernel.weight_bits
        weights = function.array(4 * kernel.channels, "uint32", "weights")
        values = function.array(4 * halves, "uint32", "values")
        first = function.let(self.channel * (kernel.pieces * _PIECE) + self.lane * 16, "first")
        with function.loop(0, kernel.pieces) as piece:
            with function.unrolled(kernel.channels) as channel:
                address = at(self.weights, first + channel * (kernel.pieces * _PIECE) + piece * _PIECE)
                function.call("qcc_load_16", at(weights, channel * 4), address)
            with function.unrolled(kernel.rows) as row:
                for half in range(halves):
                    place = row * kernel.padded_depth + (piece * halves + half) * _PIECE + self.lane * 16
                    function.call("qcc_load_16", at(values, half * 4), at(self.shared, place))
                with function.unrolled(kernel.channels) as channel, function.unrolled(4) as word:
                    total = row * kernel.channels + channel
                    for half, factor in enumerate(self._factors(weights.get(channel * 4 + word))):
                        product = device("int32", "qcc_dp4a_u8s8", values.get(half * 4 + word), factor, totals.get(total))
                        totals.set(total, product)

    def _factors(self, word: Any) -> Sequence[Any]:
        """A word of weights as words of bytes: of 4 bits, the lower halves and the upper ones."""
        if self.kernel.weight_bits == 8:
            return (word,)
        mask = constant(_UPPER, "uint32")
        return (word << constant(4, "uint32")) & mask, word & mask

    def _finish(self, totals: Registers) -> None:
        function, kernel = self.function, self.kernel
        requantizer = None
        if kernel.epilogue is not None:
            assert self.parameters is not None
            requantizer = Requantizer(function, kernel.epilogue, self.parameters)
        per_channel = 1 if kernel.epilogue is None else 2
        with function.unrolled(kernel.rows) as row, function.unrolled(kernel.channels) as number:
            channel = function.let(self.channel + number, "output_channel")
            with function.when((self.lane == 0) & (channel < kernel.output.shape[3])):
                total = totals.get(row * kernel.channels + number)
                total = total >> constant(4) if kernel.weight_bits == 4 else total
                result = total + self.numbers.load(channel * per_channel)
                if requantizer is not None:
                    added = self._added(self.residual, row, channel)
                    result = requantizer.finish(result, self.numbers.load(channel * per_channel + 1), added)
                self.output.store(pixel(function, kernel.output, row) + channel, cast(result, self.output.dtype))

    def _added(self, memory: Memory | None, row: Any, channel: Any) -> Any | None:
        if memory is None or self.kernel.residual is None:
            return None
        return cast(memory.load(pixel(self.function, self.kernel.residual, row) + channel), "int32")


def is_gemv(source: View, weights: Array, groups: int, strides: tuple[int, int], output: View, residual: View | None) -> bool:
    """Whether a layer (weights [OC, KH, KW, C/groups]) is a product of few rows that this kernel computes."""
    rows, depth = prod(output.shape[:3]), source.shape[3]
    plain = weights.shape[1:3] == (1, 1) and strides == (1, 1) and groups == 1
    bytes = not output.packed and (residual is None or not residual.packed)
    return plain and bytes and rows <= MOST_ROWS and rows * ceil_to(depth, 2 * _PIECE) <= MOST_SHARED


def plan_gemv(
    source: View, weights: Array, bias: Array, output: View, requantization: Requantization | None, residual: View | None, target: Target,
    weight_bits: int = 8, tuned: Callable[[GemvKernel], GemvKernel] = unchanged,
) -> tuple[GemvKernel, tuple[Array, ...]]:
    """The kernel of a layer that `is_gemv`, and its constants, in the order of its operands.

    Args:
        source: u8 (N, H, W, C) with channel stride 1.
        weights: i8 [OC, 1, 1, C].
        bias: int32 [OC], the source's zero point folded in.
        output: (N, H, W, OC) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        weight_bits: of the weights' type; those of at most 4 bits are stored two per byte.
        tuned: puts another number of channels into the planned kernel.
    """
    lowest, highest = accumulator_bounds(weights, bias, 0, 255)
    epilogue = None if requantization is None else epilogue_of(requantization, np.maximum(np.abs(lowest), np.abs(highest)))
    stored, outputs = (4 if takes_narrow(weights, weight_bits) else 8), weights.shape[0]
    kernel = tuned(GemvKernel(source.stored, output, residual, epilogue, 4 if source.packed else 8, stored, _channels(outputs, target)[0]))
    columns = [bias] if requantization is None else [bias, np.broadcast_to(requantization.multiplier, bias.shape)]
    last = () if requantization is None else (parameters(requantization),)
    return kernel, (pack_rows(weights.reshape(outputs, -1), kernel), pack_numbers(columns, 1, WARPS * kernel.channels), *last)


def _channels(outputs: int, target: Target) -> list[int]:
    """Channels of a warp: as many as leave every multiprocessor a block, then the others."""
    enough = device_of(target).processors * WARPS
    return sorted(_CHANNELS, key=lambda n: (n > 1 and outputs // n < enough, -n))


def alternatives(kernel: GemvKernel, target: Target) -> list[GemvKernel]:
    """The product with every number of channels of a warp, likely fast ones first."""
    return [replace(kernel, channels=count) for count in _channels(kernel.output.shape[3], target)]


def pack_rows(weights: Array, kernel: GemvKernel) -> Array:
    """i8 [OC, K] -> [channels of whole blocks, pieces, 512]: bytes, or of two pieces of 512 values the first in the lower halves."""
    full = padded(weights, ceil_to(weights.shape[0], WARPS * kernel.channels), kernel.padded_depth)
    if kernel.weight_bits == 8:
        return np.ascontiguousarray(full.reshape(full.shape[0], kernel.pieces, _PIECE))
    halves = full.reshape(full.shape[0], kernel.pieces, 2, _PIECE).astype(np.uint8) & 0xF
    return np.ascontiguousarray(halves[:, :, 0] | halves[:, :, 1] << 4)
