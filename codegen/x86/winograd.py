"""3x3 convolutions on 16-bit products by minimal filtering: 16 products for 2x2 outputs instead of 36, and not one bit of difference.

With the matrices of F(2x2, 3x3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1), whose halves of
the filter's are left out and made up for by doubling the source's first and last row,

    V = B^T d B,  U = G g G^T,  4 y = A^T (sum over channels of U * V) A
    B^T = 2 0 -2 0 / 0 1 1 0 / 0 -1 1 0 / 0 2 0 -2    G = 1 0 0 / 1 1 1 / 1 -1 1 / 0 0 1    A^T = 1 1 1 0 / 0 1 -1 -1

everything is an integer: |V| <= 2040 and |U| <= 1152 fit 16 bits. Sums wrap as int32 does, and 4 y fits, so 4 y is exact; the
requantization shifts the factor away (`Requantization.scaled`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from qcc.arith import INT32_MAX, accumulator_bounds
from qcc.codegen.cpu.dense import ImplicitProduct, check_dense
from qcc.codegen.cpu.packing import pack_numbers, pack_runs, pack_weights, panel_channels, stored_bits
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.tile import Tile, Work
from qcc.codegen.kernel import Prepared, View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import MOST_SHIFT, PARAMETERS, HalvesEpilogue, lifted_multipliers, paired_lanes, parameters_of
from qcc.codegen.x86.pairs import PAIR, panel_group
from qcc.codegen.x86.tiles import candidates, filtered_cycles
from qcc.codegen.x86.winograd_filter import APART, POINTS, TAPS, FilterKernel
from qcc.ir.types import I16, I32, Array

LIFT = 2                   # sums are four times the accumulators
MOST_PATCH = 66 * 1024     # bytes of transformed source on the stack
SIDE = 2                   # outputs of a square
LEAST_CHANNELS = 16        # of a vector of the source


@dataclass(frozen=True, slots=True)
class WinogradKernel(ImplicitProduct):
    """A 3x3 layer, stride 1: its weights are transformed, i16 in scratch memory. The columns of a tile are squares of 2x2 outputs, counted
    row by row and over all images; the last of a row or column overlaps its neighbour. A pool is that of a square."""

    epilogue: HalvesEpilogue | None

    @property
    def channels(self) -> int:
        return self.source.shape[3]

    @property
    def squares(self) -> tuple[int, int, int]:
        """Of the images, down and along."""
        rows, columns = self.sums
        return self.output.shape[0], -(-rows // SIDE), -(-columns // SIDE)

    @property
    def extents(self) -> tuple[int, int]:
        return 1, prod(self.squares)

    @property
    def pixel_tiles(self) -> tuple[int, int, int]:
        return 1, 1, -(-prod(self.squares) // self.tile.columns)

    @property
    def pairs(self) -> int:
        return self.channels // PAIR

    @property
    def steps(self) -> int:
        return POINTS * self.pairs

    @property
    def vector(self) -> int:
        return self.lanes * PAIR

    @property
    def lift(self) -> int:
        return LIFT

    @property
    def work(self) -> Work:
        return Work(*self.extents, self.output.shape[3], self.steps, requantized=self.epilogue is not None,
                    residual=self.residual is not None)

    @property
    def panel_group(self) -> int:
        return panel_group(self)

    @property
    def patch(self) -> int:
        """Numbers of the transformed source of a tile: [points, squares, channels] with gaps between points."""
        return POINTS * (self.tile.columns * self.channels + APART)

    def filters(self, weight_bits: int) -> FilterKernel:
        """What makes the weights."""
        return FilterKernel(self.panels, self.pairs * self.tile.blocks, self.vector, weight_bits)

    @property
    def parameters(self) -> tuple[View, ...]:
        return () if self.epilogue is None else (PARAMETERS,)

    @property
    def operands(self) -> tuple[View, ...]:
        weights = self.filters(8).operands[-1]
        numbers = View.contiguous(I32, (self.panels, self.tile.blocks, self.numbers, self.lanes))
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *self.parameters, self.output)

    def tiles(self, target: Target) -> list[WinogradKernel]:
        """The layer with every tile whose patch is small enough, best first."""
        kernels = [replace(self, tile=tile) for tile in candidates(self.work, target)]
        fitting = [kernel for kernel in kernels if kernel.patch * I16.bytes <= MOST_PATCH]
        return sorted(fitting, key=lambda kernel: (kernel.cycles(target), -kernel.tile.columns, kernel.tile))

    def cycles(self, target: Target) -> float:
        """Estimated cycles of the whole layer on one core, with what transforms its weights."""
        chunks = prod(self.pixel_tiles) * self.tile.columns * -(-self.channels // self.vector)
        filters = self.panels * self.pairs * self.tile.blocks
        return filtered_cycles(self.work, self.tile, target, filters, chunks * -(-self.panels // self.panel_group))

    def emit(self, target: Target) -> Any:
        from qcc.codegen.x86.winograd_code import WinogradCode

        return WinogradCode(self, target).emit()


def plan_winograd(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
    tuned: Callable[[WinogradKernel], WinogradKernel] = unchanged, pool: tuple[int, int] = (1, 1),
) -> tuple[WinogradKernel, tuple[Array | Prepared, ...]] | None:
    """The kernel of a layer and its constants; arguments as `qcc.codegen.x86.dense.plan_dense`. None: the layer is not of this kind.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    check_dense(source, weights, strides, dilations, groups, output, requantization, residual, pool)
    if pool not in ((1, 1), (SIDE, SIDE)) or not _fits(source, weights, bias, (*strides, *dilations, groups), requantization):
        return None
    bias = bias << LIFT
    requantization = None if requantization is None else requantization.scaled(LIFT)
    epilogue = None if requantization is None else HalvesEpilogue.of(requantization)
    form = WinogradKernel(source, output, residual, (3, 3), strides, dilations, groups, epilogue, target.lanes, tile or Tile(1, 1, 1),
                          pool=pool)
    fitting = form.tiles(target) if tile is None else [form]
    if not fitting:
        return None
    kernel = tuned(fitting[0])
    order = panel_channels(output.shape[3], 1, kernel.tile.blocks, target.lanes)
    order = order if requantization is None else paired_lanes(order)
    prepared = _prepared(weights, order, kernel)
    if requantization is None:
        return kernel, (prepared, pack_numbers(bias, None, order))
    return kernel, (prepared, pack_numbers(bias, lifted_multipliers(requantization), order), parameters_of(requantization))


def _fits(
    source: View, weights: Array, bias: Array, steps: tuple[int, ...], requantization: Requantization | None
) -> bool:
    """Whether shapes allow it, and accumulators leave the bits that sums have more."""
    if weights.shape[1:3] != (3, 3) or set(steps) != {1} or min(source.shape[1:3]) < SIDE + 2:
        return False
    if source.shape[3] % PAIR or source.shape[3] < LEAST_CHANNELS:
        return False
    lowest, highest = accumulator_bounds(weights, bias, 0, source.dtype.range[1])
    reach = int(np.maximum(-lowest, highest).max(initial=0))
    return reach << LIFT <= INT32_MAX and (requantization is None or requantization.shift + LIFT <= MOST_SHIFT)


def _prepared(weights: Array, channels: Array, kernel: WinogradKernel) -> Prepared:
    """i8 [OC, 3, 3, C] as [panels, pairs, blocks, taps, lanes, 2] in as few bits as they need, with what transforms them."""
    bits, blocks = stored_bits(weights), kernel.tile.blocks
    packed = pack_weights(weights.reshape(weights.shape[0], TAPS, kernel.channels), channels, PAIR)
    apart = packed.reshape(kernel.panels, TAPS, kernel.pairs, blocks, kernel.lanes, PAIR).transpose(0, 2, 3, 1, 4, 5)
    ordered = np.ascontiguousarray(apart).reshape(kernel.panels, kernel.pairs * blocks * TAPS, 1, kernel.lanes, PAIR)
    stored = pack_runs(ordered, 1, bits, TAPS).reshape(kernel.panels, -1)
    return Prepared(kernel.filters(bits), stored)
