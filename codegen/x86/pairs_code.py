"""The code of a dense layer on widened bytes: the patch of a tile, and its reduction in registers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cpu.dense_code import ImplicitProductCode, Requantizing
from qcc.codegen.cpu.epilogue import Requantizer
from qcc.codegen.cpu.packing import words
from qcc.codegen.emit import Function, Memory, Register, broadcast, cast, llvm, reinterpret
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import HalvesRequantizer
from qcc.codegen.x86.intrinsics import dot_product_for

if TYPE_CHECKING:
    from qcc.codegen.x86.pairs import PairsKernel
    from qcc.codegen.x86.winograd import WinogradKernel
    from qcc.codegen.x86.winograd_code import WinogradCode

PAIR = 2    # products of one 32-bit lane


def requantizing(kernel: PairsKernel | WinogradKernel, target: Target) -> Requantizing:
    """What makes the kernel's requantizer.

    Raises:
        CodegenError: the kernel was planned for another kind of target.
    """
    dot_product_for(target, kernel.lanes)

    def make(function: Function, *memories: Memory) -> Requantizer:
        assert kernel.epilogue is not None
        return HalvesRequantizer(function, kernel.epilogue, kernel.lanes, *memories)

    return make


class PairsCode(ImplicitProductCode):
    """The code of one kernel."""

    kernel: PairsKernel

    def __init__(self, kernel: PairsKernel, target: Target) -> None:
        super().__init__(kernel, requantizing(kernel, target))
        self.patch = self.function.scratch("int16", kernel.patch)
        self.pixel = kernel.source.shape[3]           # numbers of a pixel of the patch, and of a row
        self.row = kernel.reach[1] * self.pixel

    def _begin_tile(self, image: Any, row: Any, column: Any) -> None:
        """Widen the patch. Vectors may write beyond a stretch: what follows it is written after it."""
        kernel, function, source = self.kernel, self.function, self.kernel.source
        start = self._address(source, image, row * kernel.strides[0], column * kernel.strides[1], 0)
        rows, columns = kernel.reach
        down, along = (step if sparse else 1 for step, sparse in zip(kernel.strides, kernel.sparse, strict=True))
        dense = columns == 1 or (along == 1 and source.strides[2] == self.pixel)
        with function.loop(0, rows) as line, function.loop(0, 1 if dense else columns) as place:
            here = function.let(start + line * (down * source.strides[1]) + place * (along * source.strides[2]))
            there = function.let(line * self.row + place * self.pixel)
            with function.loop(0, words(self.row if dense else self.pixel, kernel.vector)) as number:
                values = cast(self.source.load(here + number * kernel.vector, kernel.vector), "int16")
                self.patch.store(there + number * kernel.vector, values)

    def _source(self, image: Any, row: Any, column: Any, channel: Any) -> Any:
        return channel

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        kernel, function = self.kernel, self.function
        down, along, run = kernel.runs
        steps = words(run, PAIR)
        looped = steps // kernel.unrolled * kernel.unrolled
        with ExitStack() as loops:
            kh, kw = (loops.enter_context(function.loop(0, extent)) if extent > 1 else 0 for extent in (down, along))
            here = function.let(source + kh * (kernel.dilations[0] * self.row) + kw * (kernel.dilations[1] * self.pixel))
            panel = function.let(weights + (kh * along + kw) * (steps * kernel.step_bytes))
            offsets = self._offsets()
            with function.loop(0, looped, kernel.unrolled) as step:
                add_products(self, accumulators, here + step * PAIR, offsets, panel + step * kernel.step_bytes, kernel.unrolled)
            if steps > looped:
                rest = steps - looped
                add_products(self, accumulators, here + looped * PAIR, offsets, panel + looped * kernel.step_bytes, rest)

    def _offsets(self) -> list[int]:
        """Where the pixels of a tile begin in the patch."""
        down, along = (1 if sparse else step for step, sparse in zip(self.kernel.strides, self.kernel.sparse, strict=True))
        places = np.ndindex(self.kernel.tile.rows, self.kernel.tile.columns)
        return [row * down * self.row + column * along * self.pixel for row, column in places]


def add_products(
    code: PairsCode | WinogradCode, accumulators: list[list[Register]], source: Any, offsets: Sequence[int], weights: Any, count: int
) -> None:
    """Two products for every accumulator in each of `count` steps; a row of accumulators reads the patch at each of the offsets."""
    kernel, function, lanes = code.kernel, code.function, code.kernel.lanes
    for step in range(count):
        places = [weights + (step * kernel.step_bytes + block * kernel.vector) for block in range(kernel.tile.blocks)]
        vectors = [function.let(code.weights.load(place, kernel.vector)) for place in places]
        for row, offset in zip(accumulators, offsets, strict=True):
            pair = reinterpret(code.patch.load(source + (offset + step * PAIR), PAIR), "int32")
            activation = function.let(reinterpret(broadcast(pair, lanes), f"int16x{kernel.vector}"))
            for accumulator, vector in zip(row, vectors, strict=True):
                product = llvm("llvm.x86.avx2.pmadd.wd", f"int32x{lanes}", activation, vector)
                accumulator.set(accumulator.get() + product)
