"""Convolution, pointwise convolution and matrix products on x86: the implicit matrix product of codegen/cpu/dense.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np

from qcc.codegen.cpu.dense import ImplicitProduct, check_dense, merge_pixels
from qcc.codegen.cpu.packing import GROUPS, WORD, merge_groups, pack_numbers, pack_runs, pack_weights, panel_channels, stored_bits, words
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.cpu.weights import in_bytes, lifted
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import MOST_SHIFT, PARAMETERS, HalvesEpilogue, lifted_multipliers, paired_lanes, parameters_of
from qcc.codegen.x86.tiles import choose, cycles
from qcc.ir.types import U16, Array

UNROLLED_STEPS = 4      # of the reduction, where it is a loop
WHOLE_DOTS = 320        # a reduction with no more dot products than this is not a loop at all


@dataclass(frozen=True)
class Rounds:
    """The innermost loop: `count` rounds of `steps` steps each (count 0: no loop), then the rest of the run one by one."""

    count: int
    steps: int


@dataclass(frozen=True, slots=True)
class DenseKernel(ImplicitProduct):
    """A dense layer with the dot products of x86. Weights of fewer than 8 bits make accumulators and biases 2^(8 - bits) times larger.

    Attributes:
        words_of_two: a word is two activations of 16 bits, each two bytes of `source`; weights are widened in registers, not lifted.
    """

    epilogue: HalvesEpilogue | None
    words_of_two: bool = False

    @property
    def macs(self) -> int:
        return ImplicitProduct.macs.fget(self) // (2 if self.words_of_two else 1)  # type: ignore[attr-defined, no-any-return]

    @property
    def lift(self) -> int:
        return 0 if self.words_of_two else 8 - self.weight_bits

    @property
    def vector(self) -> int:
        return self.lanes * (WORD // 2 if self.words_of_two else WORD)

    @property
    def rounds(self) -> Rounds:
        """Steps of whole groups of vectors, where weights share bytes."""
        group = GROUPS.get(self.weight_bits, 1)
        whole = group // gcd(group, self.tile.blocks)
        steps = max(1, min(UNROLLED_STEPS, WHOLE_DOTS // (self.tile.pixels * self.tile.blocks)))
        steps = max(1, steps // whole) * whole
        run = words(self.runs[2])
        return Rounds(run // steps if run >= 2 * steps else 0, steps)

    @property
    def is_whole(self) -> bool:
        """Whether the code has no loop over the reduction."""
        return self.steps * self.tile.pixels * self.tile.blocks <= WHOLE_DOTS

    @property
    def shares_words(self) -> bool:
        """Whether neighbouring pixels read the same words in different steps of a round (a first layer of few channels).

        LLVM would then keep words of unrolled steps in registers that the accumulators need, so such steps must not be unrolled.
        """
        count = self.rounds.steps if self.rounds.count else words(self.runs[2])
        step = self.strides[1] * self.source.strides[2]
        return self.merged and any(step * pixels < count * WORD and step * pixels % WORD == 0 for pixels in range(1, self.tile.columns))

    @property
    def stretch(self) -> int:
        if self.shares_words:
            return self.tile.blocks
        return self.tile.blocks * (self.rounds.steps if self.rounds.count else words(self.runs[2]))

    @property
    def parameters(self) -> tuple[View, ...]:
        return () if self.epilogue is None else (PARAMETERS,)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.x86.dense_code import DenseCode

        return DenseCode(self, target).emit()


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
    tuned: Callable[[DenseKernel], DenseKernel] = unchanged, pool: tuple[int, int] = (1, 1),
) -> tuple[DenseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands.

    Args:
        source: u8 or u16 (N, H, W, C) with channel stride 1, already padded.
        weights: i8 [OC, KH, KW, C/groups].
        bias: int32 [OC], the source's zero point folded in.
        output: (N, OH, OW, OC) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        tile: replaces the cost model's choice.
        tuned: puts another tile into the planned kernel.
        pool: rows and columns of windows, side by side, of which the output holds the maxima: no residual, no negative multiplier.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    wide, stored = source.dtype == U16, stored_bits(weights)
    if wide:
        source, weights, bias = in_bytes(source, weights, bias)
    window = (weights.shape[1], weights.shape[2])
    check_dense(source, weights, strides, dilations, groups, output, requantization, residual, pool)
    if window == (1, 1) and strides == (1, 1) and pool == (1, 1):
        source, output, residual = merge_pixels(source, output, residual)
        dilations = (1, 1)
    bits, bias, requantization = (stored, bias, requantization) if wide else lifted(weights, bias, source, requantization, MOST_SHIFT)
    epilogue = None if requantization is None else HalvesEpilogue.of(requantization)
    form = DenseKernel(source, output, residual, window, strides, dilations, groups, epilogue, target.lanes,
                       tile or Tile(*pool, 1), bits, pool, wide)
    kernel = form if tile else min((_tiled(form, factor, target) for factor in range(1, groups + 1) if groups % factor == 0),
                                   key=lambda kernel: cycles(kernel.work, kernel.tile, target))
    kernel = tuned(kernel)
    return kernel, _constants(kernel, merge_groups(weights, groups, groups // kernel.groups), bias, requantization)


def _constants(kernel: DenseKernel, weights: Array, bias: Array, requantization: Requantization | None) -> tuple[Array, ...]:
    order = panel_channels(kernel.output.shape[3], kernel.groups, kernel.tile.blocks, kernel.lanes)
    if requantization is None:
        return _pack_weights(weights, order, kernel), pack_numbers(bias, None, order)
    order = paired_lanes(order)
    packed = _pack_weights(weights, order, kernel)
    return packed, pack_numbers(bias, lifted_multipliers(requantization), order), parameters_of(requantization)


def _pack_weights(weights: Array, channels: Array, kernel: DenseKernel) -> Array:
    down, along, run = kernel.runs
    packed = pack_weights(weights.reshape(weights.shape[0], down * along, run), channels)
    packed = packed.view("<i2").astype(np.int8) if kernel.words_of_two else packed
    return pack_runs(packed, down * along, kernel.weight_bits, kernel.stretch)


def _tiled(form: DenseKernel, factor: int, target: Target) -> DenseKernel:
    """The layer with so many groups merged into one (few channels fill vectors badly), and the best tile for that."""
    kernel = replace(form, groups=form.groups // factor)
    return replace(kernel, tile=choose(kernel.work, target))
