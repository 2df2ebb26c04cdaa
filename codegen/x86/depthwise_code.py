"""The code of the depthwise family: a column of output pixels at a time, one block of channels, several rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from qcc.codegen.cpu.epilogue import Output, Requantizer
from qcc.codegen.cpu.packing import TAPS, VECTORS
from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.emit import Function, Memory, Register, constant, reinterpret, shuffle, store_first
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import PAIRED, HalvesRequantizer
from qcc.codegen.x86.intrinsics import dot_product_for

if TYPE_CHECKING:
    from qcc.codegen.x86.depthwise import DepthwiseKernel, Quad


class DepthwiseCode:
    """The code of one kernel."""

    def __init__(self, kernel: DepthwiseKernel, target: Target) -> None:
        self.kernel, self.dot = kernel, dot_product_for(target, kernel.lanes)
        self.function = Function(kernel.operands)
        memories = list(self.function.operands)
        self.source = memories.pop(0)
        self.residual: Memory | None = memories.pop(0) if kernel.residual is not None else None
        self.packed, self.numbers = memories[:2]
        self.weights = self.packed
        self.output = memories[-1]
        self.requantizer = None
        if kernel.epilogue is not None:
            self.requantizer = HalvesRequantizer(self.function, kernel.epilogue, kernel.lanes, self.numbers, memories[2], self.output)

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
            weights = self._block_of_weights(block)
            channel = function.let(tirx.Min(block * kernel.block, number(max(0, kernel.channels - kernel.block))))
            with function.loop(0, -(-columns // kernel.fold)) as step:
                column = function.let(tirx.Min(step * kernel.fold, number(columns - kernel.fold)))
                self._tile(block, weights, image, row, column, channel)
        return function.finish()

    def _block_of_weights(self, block: Any) -> Any:
        """Where the weights of a block lie in `self.weights`. Those that share bytes are unpacked onto the stack, once for a strip of
        pixels; where a window is tall, they are unpacked row by row instead."""
        kernel, function = self.kernel, self.function
        address = function.let(block * kernel.block_bytes)
        if kernel.weight_bits == 8 or kernel.is_tall:
            return address
        unpacked = function.scratch("int8", kernel.stretch * kernel.vector)
        for number, vector in enumerate(load_weights(function, self.packed, address, kernel.stretch, kernel.vector, kernel.weight_bits)):
            unpacked.store(number * kernel.vector, vector)
        self.weights = unpacked
        return 0

    def _address(self, view: View, image: Any, row: Any, column: Any, channel: Any) -> Any:
        return self.function.let(image * view.strides[0] + row * view.strides[1] + column * view.strides[2] + channel)

    def _tile(self, block: Any, weights: Any, image: Any, row: Any, column: Any, channel: Any) -> None:
        kernel = self.kernel
        source = self._address(kernel.source, image, row * kernel.strides[0], column * kernel.strides[1], channel)
        accumulators = [[self._initial(block, vector) for vector in range(VECTORS)] for _ in range(kernel.rows)]
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
        kernel, function = self.kernel, self.function
        step, apart = kernel.strides[0], kernel.dilations[0]
        pitch = kernel.source.strides[1]
        if kernel.is_tall:
            chunks = len(kernel.quads) // kernel.window[0]
            with function.loop(0, kernel.window[0]) as kh:
                here = function.let(weights + kh * (kernel.block_bytes // kernel.window[0]))
                if kernel.weight_bits == 8:
                    vectors = [vector for number in range(chunks) for vector in self._weights(here, number)]
                else:
                    vectors = list(load_weights(function, self.packed, here, kernel.stretch, kernel.vector, kernel.weight_bits))
                for row, (number, quad) in product(range(kernel.rows), enumerate(kernel.quads[:chunks])):
                    place = function.let(source + kh * (apart * pitch) + row * step * pitch)
                    own = vectors[number * VECTORS : (number + 1) * VECTORS]
                    self._quad(self._pixels(place, quad, quad.takes), [(accumulators[row], own)])
            return
        uses: dict[tuple[int, bool, int], list[tuple[int, int]]] = {}    # where pixels are interleaved -> (output row, quad)
        for row, (number, quad) in product(range(kernel.rows), enumerate(kernel.quads)):
            uses.setdefault((row * step + quad.row * apart, quad.down, quad.column), []).append((row, number))
        for (top, _, _), users in sorted(uses.items()):
            quads = [kernel.quads[number] for _, number in users]
            taken = tuple(any(quad.takes[i] for quad in quads) for i in range(TAPS))
            pixels = self._pixels(source + top * pitch, quads[0], taken)
            self._quad(pixels, [(accumulators[row], self._weights(weights, number)) for row, number in users])

    def _weights(self, weights: Any, number: int) -> list[Any]:
        """The vectors of a quad, as loads that become part of the products."""
        vector = self.kernel.vector
        return [self.weights.load(weights + (number * VECTORS + index) * vector, vector) for index in range(VECTORS)]

    def _pixels(self, source: Any, quad: Quad, taken: Sequence[bool]) -> list[Any]:
        """The vectors of a quad from an address in its first row on. Where none is taken another repeats, since its weights are 0."""
        kernel = self.kernel
        apart = kernel.dilations[0] * kernel.source.strides[1] if quad.down else kernel.dilations[1] * kernel.source.strides[2]
        column = quad.column * kernel.dilations[1] * kernel.source.strides[2]
        loaded = {i: self.function.let(self.source.load(source + (column + i * apart), kernel.block)) for i in range(TAPS) if taken[i]}
        half = TAPS // 2 if max(loaded) < TAPS // 2 else TAPS      # two repeat both
        return [loaded[min(loaded, key=lambda other: (abs(other - i % half), other))] for i in range(TAPS)]

    def _quad(self, pixels: Sequence[Any], users: Sequence[tuple[list[Register], list[Any]]]) -> None:
        """Four products for every channel of a block, for every output row that they count for: (accumulators, weights)."""
        for vector, interleaved in enumerate(self._interleave(pixels)):
            for accumulators, weights in users:
                accumulators[vector].set(self.dot.emit(accumulators[vector].get(), interleaved, weights[vector]))

    def _interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Four vectors of bytes -> four int32xL, whose lanes hold a channel's bytes."""
        block = self.kernel.block
        first = self._unpack(pixels[0], pixels[1], 8, f"uint16x{block // 2}")
        same = pixels[2] is pixels[0] and pixels[3] is pixels[1]
        second = first if same else self._unpack(pixels[2], pixels[3], 8, f"uint16x{block // 2}")
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
                added[row] = self._widen(self._unpaired(vector))
        scaled: list[list[Any]] = [[] for _ in range(kernel.rows)]
        for vector in range(VECTORS):
            for row in range(kernel.rows):
                multipliers = self._numbers(block, vector) + kernel.lanes
                item = Output(accumulators[row][vector].get(), multipliers, output, 0, kernel.lanes, added[row][vector])
                scaled[row].append(requantizer.scale(item))
        for row in range(kernel.rows):
            address = output + row * kernel.output.strides[1]
            store_first(self.output, address, self._unpaired(requantizer.narrow(scaled[row])), min(kernel.block, kernel.channels))

    def _unpaired(self, packed: Any) -> Any:
        """Unpacking leaves lanes in the order of the channels, from which the requantization has made another."""
        return self.function.let(shuffle([packed], [start + lane for start in range(0, self.kernel.block, 4) for lane in PAIRED]))

    def _widen(self, vector: Any) -> list[Any]:
        """Bytes -> four int32xL in the order of the block."""
        block = self.kernel.block
        words = self._unpack(vector, constant(0, "uint8", block), 8, f"uint16x{block // 2}")
        return [wide for half in words for wide in self._unpack(half, constant(0, "uint16", block // 2), 4, f"int32x{block // 4}")]

    def _store_accumulators(self, accumulators: list[list[Register]], output: Any) -> None:
        kernel = self.kernel
        lanes = kernel.lanes
        for row in range(kernel.rows):
            vectors = [self.function.let(register.get() >> constant(kernel.lift, "int32", lanes)) for register in accumulators[row]]
            for part in range(lanes // 4):    # 16 channels: the same 128 bits of all vectors
                left = min(16, kernel.channels - part * 16)
                if left > 0:
                    order = [vector * lanes + part * 4 + lane for vector in range(VECTORS) for lane in range(4)]
                    ordered = self.function.let(shuffle(vectors, order))
                    store_first(self.output, output + row * kernel.output.strides[1] + part * 16, ordered, left)
