"""Convolution, pointwise convolution and matrix products on x86: the implicit matrix product of codegen/cpu/dense.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qcc.codegen.cpu.dense import ImplicitProduct, check_dense, merge_pixels
from qcc.codegen.cpu.packing import merge_groups, pack_numbers, pack_weights, panel_channels
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import PARAMETERS, HalvesEpilogue, lifted_multipliers, paired_lanes, parameters_of
from qcc.codegen.x86.tiles import choose, cycles
from qcc.ir.types import Array


@dataclass(frozen=True, slots=True)
class DenseKernel(ImplicitProduct):
    """A dense layer with the dot products of x86."""

    epilogue: HalvesEpilogue | None

    @property
    def parameters(self) -> tuple[View, ...]:
        return () if self.epilogue is None else (PARAMETERS,)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.x86.dense_code import DenseCode

        return DenseCode(self, target).emit()


def plan_dense(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
    tuned: Callable[[DenseKernel], DenseKernel] = unchanged,
) -> tuple[DenseKernel, tuple[Array, ...]]:
    """The kernel of a layer and its constants, in the order of its operands.

    Args:
        source: u8 (N, H, W, C) with channel stride 1, already padded.
        weights: i8 [OC, KH, KW, C/groups].
        bias: int32 [OC], the source's zero point folded in.
        output: (N, OH, OW, OC) with channel stride 1: u8 when requantized, else i32.
        residual: u8 view of the output's shape, added by the requantization.
        tile: replaces the cost model's choice.
        tuned: puts another tile into the planned kernel.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    window = (weights.shape[1], weights.shape[2])
    check_dense(source, weights, strides, dilations, groups, output, requantization, residual)
    if window == (1, 1) and strides == (1, 1):
        source, output, residual = merge_pixels(source, output, residual)
        dilations = (1, 1)
    epilogue = None if requantization is None else HalvesEpilogue.of(requantization)
    form = DenseKernel(source, output, residual, window, strides, dilations, groups, epilogue, target.lanes, tile or Tile(1, 1, 1))
    kernel = form if tile else min((_tiled(form, factor, target) for factor in range(1, groups + 1) if groups % factor == 0),
                                   key=lambda kernel: cycles(kernel.work, kernel.tile, target))
    kernel = tuned(kernel)
    weights, groups = merge_groups(weights, groups, groups // kernel.groups), kernel.groups
    channels = output.shape[3]
    order = panel_channels(channels, groups, kernel.tile.blocks, target.lanes)
    order = order if requantization is None else paired_lanes(order)
    down, along, run = kernel.runs
    packed = pack_weights(weights.reshape(channels, down * along, run), order)
    if requantization is None:
        return kernel, (packed, pack_numbers(bias, None, order))
    return kernel, (packed, pack_numbers(bias, lifted_multipliers(requantization), order), parameters_of(requantization))


def _tiled(form: DenseKernel, factor: int, target: Target) -> DenseKernel:
    """The layer with so many groups merged into one (few channels fill vectors badly), and the best tile for that."""
    kernel = replace(form, groups=form.groups // factor)
    return replace(kernel, tile=choose(kernel.work, target))
