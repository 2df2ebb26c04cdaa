"""The code of ARM's dense family: the loops over tiles of x86's, around a reduction that loads four words of a pixel at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.arm.epilogue import NeonRequantizer
from qcc.codegen.arm.intrinsics import DOT_PRODUCTS, LANES
from qcc.codegen.emit import Function, Memory, Register, constant, reinterpret
from qcc.codegen.target import Target
from qcc.codegen.x86.dense_code import DenseCode
from qcc.codegen.x86.packing import WORD, block_offsets, words
from qcc.errors import CodegenError

if TYPE_CHECKING:
    from qcc.codegen.arm.dense import NeonDenseKernel

VECTOR = LANES * WORD       # bytes


class NeonDenseCode(DenseCode):
    """The code of one kernel."""

    def __init__(self, kernel: NeonDenseKernel, target: Target) -> None:
        if target.dot not in DOT_PRODUCTS:
            raise CodegenError(f"a kernel planned for ARM cannot be compiled for {target.name}: plan it anew")
        self.kernel, self.product = kernel, DOT_PRODUCTS[target.dot]
        self.function = Function(kernel.operands)
        memories = list(self.function.operands)
        self.source = memories.pop(0)
        self.residual: Memory | None = memories.pop(0) if kernel.residual is not None else None
        self.weights, self.numbers = memories[:2]
        self.output = memories[-1]
        self.requantizer = None
        if kernel.epilogue is not None:
            self.requantizer = NeonRequantizer(self.function, kernel.epilogue, LANES, self.numbers, memories[2], self.output)
        self.offsets = block_offsets(kernel.output.shape[3] // kernel.groups, kernel.tile.blocks, LANES)

    def _upcoming(self, panel_group: Any, tile: Any, panel: Any) -> Any:
        """Nothing is asked for ahead of time: these cores follow streams by themselves."""
        return None

    def _reduce(self, accumulators: list[list[Register]], source: Any, weights: Any, upcoming: Any) -> None:
        """accumulators += everything under the window; `weights` is the address of the panel."""
        kernel, function = self.kernel, self.function
        down, along, run = kernel.runs
        row_bytes, column_bytes = kernel.dilations[0] * kernel.source.strides[1], kernel.dilations[1] * kernel.source.strides[2]
        word_bytes = kernel.tile.blocks * VECTOR
        whole, left = divmod(words(run), LANES)
        with function.loop(0, down) as kh, function.loop(0, along) as kw:
            here = function.let(source + (kh * row_bytes + kw * column_bytes))
            panel = function.let(weights + (kh * along + kw) * (words(run) * word_bytes))
            if whole:
                with function.loop(0, whole) as index:
                    self._words(accumulators, here + index * VECTOR, panel + index * (LANES * word_bytes), LANES)
            if left:
                self._words(accumulators, here + whole * VECTOR, panel + whole * (LANES * word_bytes), left)

    def _words(self, accumulators: list[list[Register]], source: Any, weights: Any, count: int) -> None:
        """Up to four words of every pixel; a vector that reaches beyond the run ends less than READ_SLACK behind it."""
        kernel, function = self.kernel, self.function
        activations = []
        for row, column in np.ndindex(kernel.tile.rows, kernel.tile.columns):
            offset = row * kernel.strides[0] * kernel.source.strides[1] + column * kernel.strides[1] * kernel.source.strides[2]
            stored = self.source.load(source + offset, VECTOR)
            centred = stored ^ constant(128, "uint8", VECTOR) if self.product.signed else stored
            activations.append(function.let(reinterpret(centred, f"int8x{VECTOR}")))
        for word in range(count):
            for block in range(kernel.tile.blocks):
                vector = function.let(self.weights.load(weights + (word * kernel.tile.blocks + block) * VECTOR, VECTOR))
                for pixel, activation in enumerate(activations):
                    accumulator = accumulators[pixel][block]
                    accumulator.set(self.product.emit(accumulator.get(), activation, word, vector))
