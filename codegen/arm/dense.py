"""Convolution, pointwise convolution and matrix products on ARM: the implicit matrix product of x86 with ARM's dot products.

Loops, tails and layout of weights are those of codegen/x86/dense.py. Activations stay unsigned in memory; where an instruction takes
signed bytes, 128 is subtracted in registers and `128 sum w` is part of the bias (see codegen/arm/intrinsics.py for why that is exact).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcc.codegen.arm.epilogue import PARAMETERS, Requantization, epilogue_of, parameters
from qcc.codegen.arm.intrinsics import DOT_PRODUCTS, LANES
from qcc.codegen.arm.tiles import choose, cycles
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.codegen.x86.dense import DenseKernel, _check, _merge_pixels
from qcc.codegen.x86.packing import merge_groups, pack_weights, panel_channels, take_channels
from qcc.codegen.x86.tiles import Tile
from qcc.errors import CodegenError
from qcc.ir.types import Array

LEAST_WEIGHT = -127     # two products of it with -128 fit 16 bits


@dataclass(frozen=True, slots=True)
class NeonDenseKernel(DenseKernel):
    """A dense layer on ARM; attributes and operands as the x86 kernel has them, but for the epilogue's parameters."""

    @property
    def operands(self) -> tuple[View, ...]:
        *others, output = DenseKernel.operands.__get__(self)
        return (*(others if self.epilogue is None else others[:-1]), *(() if self.epilogue is None else (PARAMETERS,)), output)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.arm.dense_code import NeonDenseCode

        return NeonDenseCode(self, target).emit()


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
) -> tuple[NeonDenseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands; arguments as `qcc.codegen.x86.dense.plan_dense`.

    Raises:
        CodegenError: shapes, types, strides or weights that the family does not cover.
    """
    window = (weights.shape[1], weights.shape[2])
    _check(source, weights, strides, dilations, groups, output, requantization, residual)
    if weights.min() < LEAST_WEIGHT:
        raise CodegenError(f"dense layer for {target.name}: a weight is {weights.min()}, expected at least {LEAST_WEIGHT}")
    if window == (1, 1) and strides == (1, 1):
        source, output, residual = _merge_pixels(source, output, residual)
        dilations = (1, 1)
    epilogue = None if requantization is None else epilogue_of(requantization)
    form = NeonDenseKernel(source, output, residual, window, strides, dilations, groups, epilogue, LANES, tile or Tile(1, 1, 1))
    kernel = form if tile else min((_tiled(form, factor, target) for factor in range(1, groups + 1) if groups % factor == 0),
                                   key=lambda kernel: cycles(kernel.work, kernel.tile, target))
    channels = output.shape[3]
    if DOT_PRODUCTS[target.dot].signed:
        bias = centred_bias(weights, bias)
    weights = merge_groups(weights, groups, groups // kernel.groups)
    order = panel_channels(channels, kernel.groups, kernel.tile.blocks, LANES)
    down, along, run = kernel.runs
    packed = pack_weights(weights.reshape(channels, down * along, run), order)
    constants = () if requantization is None else (parameters(requantization),)
    return kernel, (packed, pack_numbers(bias, requantization, order), *constants)


def centred_bias(weights: Array, bias: Array) -> Array:
    """int32 [OC]: what activations less 128 leave out of the sums is in the bias; both wrap as int32 does."""
    left_out = 128 * weights.reshape(weights.shape[0], -1).astype(np.int64).sum(axis=1)
    return np.asarray((bias.astype(np.int64) + left_out).astype(np.int32))


def pack_numbers(bias: Array, requantization: Requantization | None, channels: Array) -> Array:
    """int32 [panels, blocks, 1 or 2, lanes]: the bias, then the multipliers if there is a requantization."""
    parts = [bias.astype(np.int32)]
    if requantization is not None:
        parts.append(np.broadcast_to(requantization.multiplier.astype(np.int32), bias.shape))
    return np.ascontiguousarray(np.stack([take_channels(part, channels) for part in parts], axis=-2))


def _tiled(form: NeonDenseKernel, factor: int, target: Target) -> NeonDenseKernel:
    """The layer with so many groups merged into one (few channels fill vectors badly), and the best tile for that."""
    kernel = replace(form, groups=form.groups // factor)
    return replace(kernel, tile=choose(kernel.work, target))
