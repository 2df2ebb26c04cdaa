"""The code of ARM's dense family: the loops over tiles of every CPU, around a reduction that loads four words of a pixel at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.arm.epilogue import NeonRequantizer
from qcc.codegen.arm.intrinsics import LANES, VECTOR, dot_product_of
from qcc.codegen.cpu.dense_code import ImplicitProductCode
from qcc.codegen.cpu.epilogue import Requantizer
from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.emit import Function, Memory, Register, cast, constant, reinterpret, shuffle
from qcc.codegen.target import Target

if TYPE_CHECKING:
    from qcc.codegen.arm.dense import NeonDenseKernel


MOST_UNROLLED = 20      # accumulators that leave registers for a second round of matrix products, which are but a few instructions


class NeonDenseCode(ImplicitProductCode):
    """The code of one kernel."""

    kernel: NeonDenseKernel

    def __init__(self, kernel: NeonDenseKernel, target: Target) -> None:
        self.product = dot_product_of(target, kernel.paired)

        def requantizing(function: Function, *memories: Memory) -> Requantizer:
            assert kernel.epilogue is not None
            return NeonRequantizer(function, kernel.epilogue, *memories)

        super().__init__(kernel, requantizing)

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        """accumulators += everything under the window; `weights` is the address of the panel."""
        kernel, function = self.kernel, self.function
        down, along, _ = kernel.runs
        row_bytes, column_bytes = kernel.dilations[0] * kernel.source.strides[1], kernel.dilations[1] * kernel.source.strides[2]
        word_bytes = kernel.step_bytes
        count = kernel.steps // (down * along)
        whole, left = divmod(count, LANES)
        if self.product.paired:
            self._exchange(accumulators)
        with function.loop(0, down) as kh, function.loop(0, along) as kw:
            here = function.let(cast(source + (kh * row_bytes + kw * column_bytes), "int64"))
            panel = function.let(cast(weights + (kh * along + kw) * (count * word_bytes), "int64"))
            rounds = 2 if kernel.paired and whole % 2 == 0 and kernel.tile.pixels * kernel.tile.blocks <= MOST_UNROLLED else 1
            if whole:
                with function.loop(0, whole // rounds) as index:
                    for part in range(rounds):
                        place = cast(index, "int64") * rounds + part
                        self._words(accumulators, here + place * VECTOR, panel + place * (LANES * word_bytes), LANES)
            if left:
                self._words(accumulators, here + whole * VECTOR, panel + whole * (LANES * word_bytes), left)
        if self.product.paired:
            self._exchange(accumulators)

    def _words(self, accumulators: list[list[Register]], source: Any, weights: Any, count: int) -> None:
        """Up to four words of every pixel; a vector that reaches beyond the run ends less than READ_SLACK behind it."""
        kernel, function = self.kernel, self.function
        activations = []
        for row, column in np.ndindex(kernel.tile.rows, kernel.tile.columns):
            offset = row * kernel.strides[0] * kernel.source.strides[1] + column * kernel.strides[1] * kernel.source.strides[2]
            stored = self.source.load(source + offset, VECTOR)
            centred = stored ^ constant(128, "uint8", VECTOR) if self.product.signed else stored
            activations.append(function.let(reinterpret(centred, f"int8x{VECTOR}")))
        if self.product.paired:
            self._pairs(accumulators, activations, weights, count)
            return
        for (word, block), vector in zip(np.ndindex(count, kernel.tile.blocks), self._weights(weights, count), strict=True):
            for pixel, activation in enumerate(activations):
                accumulator = accumulators[pixel][block]
                accumulator.set(self.product.emit(accumulator.get(), activation, word, vector))

    def _weights(self, weights: Any, count: int) -> Iterator[Any]:
        """The vectors of `count` words of weights, in the order in which they lie in memory."""
        return load_weights(self.function, self.weights, weights, count * self.kernel.tile.blocks, VECTOR, self.kernel.weight_bits)

    def _exchange(self, accumulators: list[list[Register]]) -> None:
        """Two pixels of four channels <-> two channels of two pixels, twice: the same exchange there and back."""
        for first, second in zip(accumulators[::2], accumulators[1::2], strict=True):
            for one, other in zip(first, second, strict=True):
                pair = [self.function.let(one.get()), self.function.let(other.get())]
                one.set(shuffle(pair, [0, 1, 4, 5]))
                other.set(shuffle(pair, [2, 3, 6, 7]))

    def _pairs(self, accumulators: list[list[Register]], activations: list[Any], weights: Any, count: int) -> None:
        """Rows of two pixels and eight bytes times columns of two channels."""
        function, vectors = self.function, self._weights(weights, count)
        for half in range(count // 2):
            rows = [function.let(shuffle(pair, [*range(half * 8, half * 8 + 8), *range(VECTOR + half * 8, VECTOR + half * 8 + 8)]))
                    for pair in zip(activations[::2], activations[1::2], strict=True)]
            for block in range(self.kernel.tile.blocks):
                columns = [next(vectors), next(vectors)]
                for pair, row in enumerate(rows):
                    for part, column in enumerate(columns):
                        accumulator = accumulators[2 * pair + part][block]
                        accumulator.set(self.product.emit(accumulator.get(), row, 0, column))
