"""Convolution, pointwise convolution and matrix products on ARM: the implicit matrix product of codegen/cpu with ARM's dot products.

Loops, tails and layout of weights are those of codegen/cpu/dense.py. Activations stay unsigned in memory; where an instruction takes
signed bytes, 128 is subtracted in registers and `128 sum w` is part of the bias (see codegen/arm/intrinsics.py for why that is exact).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcc.codegen.arm.epilogue import MOST_SHIFT, PARAMETERS, NeonEpilogue, parameters
from qcc.codegen.arm.intrinsics import LANES, dot_product_of
from qcc.codegen.arm.tiles import CORES, candidates, choose, cycles
from qcc.codegen.cpu.dense import ImplicitProduct, check_dense, merge_pixels
from qcc.codegen.cpu.packing import WORD, merge_groups, pack_numbers, pack_runs, pack_weights, panel_channels, words
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.cpu.weights import lifted
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import Array

LEAST_WEIGHT = -127     # two products of it with -128 fit 16 bits


@dataclass(frozen=True, slots=True)
class NeonDenseKernel(ImplicitProduct):
    """A dense layer with the dot products of ARM.

    Attributes:
        paired: two pixels and eight bytes of a run are one row of a matrix: runs are filled up to eight bytes, and weights lie so.
    """

    epilogue: NeonEpilogue | None
    paired: bool = False

    @property
    def steps(self) -> int:
        down, along, run = self.runs
        return down * along * padded_words(run, self.paired)

    @property
    def lift(self) -> int:
        return 8 - self.weight_bits

    @property
    def stretch(self) -> int:
        return LANES * self.tile.blocks

    @property
    def parameters(self) -> tuple[View, ...]:
        return () if self.epilogue is None else (PARAMETERS,)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.arm.dense_code import NeonDenseCode

        return NeonDenseCode(self, target).emit()


def padded_words(run: int, paired: bool) -> int:
    """32-bit words that the weights of a run fill."""
    return words(run) + words(run) % 2 if paired else words(run)


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
    tuned: Callable[[NeonDenseKernel], NeonDenseKernel] = unchanged,
) -> tuple[NeonDenseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands; arguments as `qcc.codegen.x86.dense.plan_dense`.

    Raises:
        CodegenError: shapes, types, strides or weights that the family does not cover.
    """
    window = (weights.shape[1], weights.shape[2])
    check_dense(source, weights, strides, dilations, groups, output, requantization, residual)
    if weights.min() < LEAST_WEIGHT:
        raise CodegenError(f"dense layer for {target.name}: a weight is {weights.min()}, expected at least {LEAST_WEIGHT}")
    if window == (1, 1) and strides == (1, 1):
        source, output, residual = merge_pixels(source, output, residual)
        dilations = (1, 1)
    bits, bias, requantization = lifted(weights, bias, source, requantization, MOST_SHIFT, LEAST_WEIGHT)
    epilogue = None if requantization is None else NeonEpilogue.of(requantization)
    form = NeonDenseKernel(source, output, residual, window, strides, dilations, groups, epilogue, LANES, tile or Tile(1, 1, 1),
                           bits)
    kernel = tuned(_tiled(form, target, tile))
    channels = output.shape[3]
    if dot_product_of(target, kernel.paired).signed:
        bias = centred_bias(weights.astype(np.int64) << kernel.lift, bias)
    weights = merge_groups(weights, groups, groups // kernel.groups)
    order = panel_channels(channels, kernel.groups, kernel.tile.blocks, LANES)
    down, along, run = kernel.runs
    packed = _pack_weights(weights.reshape(channels, down * along, run), order, kernel)
    if requantization is None:
        return kernel, (packed, pack_numbers(bias, None, order))
    return kernel, (packed, pack_numbers(bias, requantization.multiplier, order), parameters(requantization))


def centred_bias(weights: Array, bias: Array) -> Array:
    """int32 [OC]: what activations less 128 leave out of the sums is in the bias; both wrap as int32 does."""
    left_out = 128 * weights.reshape(weights.shape[0], -1).astype(np.int64).sum(axis=1)
    return np.asarray((bias.astype(np.int64) + left_out).astype(np.int32))


def _pack_weights(runs: Array, channels: Array, kernel: NeonDenseKernel) -> Array:
    """i8 [OC, runs, bytes] -> [panels, ...] as `pack_runs` has it; in pairs, eight bytes of a channel follow each other."""
    filled = np.pad(runs, ((0, 0), (0, 0), (0, padded_words(runs.shape[2], kernel.paired) * WORD - runs.shape[2])))
    packed = pack_weights(filled, channels)
    if kernel.paired:
        panels, steps, blocks, lanes, _ = packed.shape
        halves = packed.reshape(panels, steps // 2, 2, blocks, lanes, WORD).transpose(0, 1, 3, 4, 2, 5)
        packed = np.ascontiguousarray(halves).reshape(packed.shape)
    return pack_runs(packed, runs.shape[1], kernel.weight_bits, kernel.stretch)


def _tiled(form: NeonDenseKernel, target: Target, tile: Tile | None) -> NeonDenseKernel:
    """The layer in the cheapest form: pixels in pairs or not, groups merged (few channels fill vectors badly), the tile."""
    forms, core = [], CORES[target.core]
    for paired in (False, True):
        dot = dot_product_of(target, paired)
        if dot.paired != paired or (tile is not None and paired and tile.pixels % 2):
            continue
        for factor in range(1, form.groups + 1):
            kernel = replace(form, groups=form.groups // factor, paired=paired)
            if tile is not None and factor == 1:
                forms.append((cycles(kernel.work, tile, dot, core), kernel))
            elif tile is None and form.groups % factor == 0 and any(candidates(kernel.work, dot)):
                kernel = replace(kernel, tile=choose(kernel.work, dot, core))
                forms.append((cycles(kernel.work, kernel.tile, dot, core), kernel))
    return min(forms, key=lambda entry: entry[0])[1]
