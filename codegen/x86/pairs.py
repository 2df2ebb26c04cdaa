"""The implicit matrix product where the only exact product of an instruction is that of 16-bit numbers (AVX2's vpmaddwd).

Widening bytes in registers would take a third of the vector instructions. So both factors are widened before: the weights of the layer by
a kernel of its own (widening.py), and the source bytes under a tile of pixels, its "patch", once for all panels of channels that are
computed there. In the loop, a pair of activations is broadcast by a load, and a product is two instructions: vpmaddwd and vpaddd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from qcc.codegen.cpu.dense import LEAST_TASKS, ImplicitProduct, check_dense, merge_pixels
from qcc.codegen.cpu.packing import merge_groups, pack_numbers, pack_runs, pack_weights, panel_channels, stored_bits, words
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.kernel import Prepared, View, unchanged
from qcc.codegen.target import Target
from qcc.codegen.x86.epilogue import PARAMETERS, HalvesEpilogue, lifted_multipliers, paired_lanes, parameters_of
from qcc.codegen.x86.tiles import candidates, pair_cycles
from qcc.codegen.x86.widening import STRETCH, WidenKernel
from qcc.ir.types import I16, I32, Array

PAIR = 2                   # products of one 32-bit lane
MOST_PATCH = 48 * 1024     # bytes on the stack
LEAST_CHANNELS = 64        # of the panels that share a patch, where there are as many
UNROLLED_STEPS = 2         # of the reduction; with more, LLVM stores accumulators in the loop


def panel_group(kernel: ImplicitProduct) -> int:
    """Panels that share a patch: all, or so many that there is work for several threads."""
    least = LEAST_CHANNELS // (kernel.tile.blocks * kernel.lanes)
    return min(kernel.panels, max(1, least, kernel.panels // -(-LEAST_TASKS // prod(kernel.pixel_tiles))))


@dataclass(frozen=True, slots=True)
class PairsKernel(ImplicitProduct):
    """A dense layer on widened bytes; its weights are i16 in scratch memory."""

    epilogue: HalvesEpilogue | None

    @property
    def merged(self) -> bool:
        """Whether a row of the window is one run: pixels lie side by side in the patch."""
        return self.groups == 1 and self.dilations[1] == 1

    @property
    def steps(self) -> int:
        down, along, run = self.runs
        return down * along * words(run, PAIR)

    @property
    def vector(self) -> int:
        return self.lanes * PAIR

    @property
    def sparse(self) -> tuple[bool, bool]:
        """Whether only every so many rows, or columns, are in the patch: those that a window of one touches."""
        return self.window[0] == 1 < self.strides[0], self.window[1] == 1 < self.strides[1]

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of the patch."""
        extents = zip((self.tile.rows, self.tile.columns), self.window, self.strides, self.dilations, strict=True)
        return tuple(n if k == 1 else (n - 1) * s + (k - 1) * d + 1 for n, k, s, d in extents)  # type: ignore[return-value]

    @property
    def patch(self) -> int:
        """Numbers of the patch, and what the last vector writes and the last pair reads beyond them."""
        return prod(self.reach) * self.source.shape[3] + self.vector

    def tiles(self, target: Target) -> list[PairsKernel]:
        """The layer with every tile whose patch is small enough, best first."""
        kernels = [replace(self, tile=tile) for tile in candidates(self.work, target)]
        fitting = [kernel for kernel in kernels if kernel.patch * I16.bytes <= MOST_PATCH]
        return sorted(fitting, key=lambda kernel: (kernel.cycles(target), -kernel.tile.columns, kernel.tile))

    def cycles(self, target: Target) -> float:
        """Estimated cycles of the whole layer on one core, with what widens its weights."""
        shared = -(-self.panels // self.panel_group)
        widened = self.panels * self.steps * self.tile.blocks + prod(self.pixel_tiles) * shared * self.patch // self.vector
        return pair_cycles(self.work, self.tile, target, widened)

    @property
    def unrolled(self) -> int:
        """Steps that the code takes at once: LLVM would keep words that neighbouring pixels share in registers that accumulators need."""
        shared = self.tile.columns > 1 and (1 if self.window[1] == 1 else self.strides[1]) * self.source.shape[3] < UNROLLED_STEPS * PAIR
        return 1 if shared else UNROLLED_STEPS

    @property
    def panel_group(self) -> int:
        return panel_group(self)

    @property
    def weights(self) -> View:
        return View.contiguous(I16, (self.panels, self.steps * self.step_bytes))

    @property
    def parameters(self) -> tuple[View, ...]:
        return () if self.epilogue is None else (PARAMETERS,)

    @property
    def operands(self) -> tuple[View, ...]:
        numbers = View.contiguous(I32, (self.panels, self.tile.blocks, self.numbers, self.lanes))
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, self.weights, numbers, *self.parameters, self.output)

    def emit(self, target: Target) -> Any:
        from qcc.codegen.x86.pairs_code import PairsCode

        return PairsCode(self, target).emit()


def plan_pairs(
    source: View, weights: Array, bias: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, target: Target, tile: Tile | None = None,
    tuned: Callable[[PairsKernel], PairsKernel] = unchanged, pool: tuple[int, int] = (1, 1),
) -> tuple[PairsKernel, tuple[Array | Prepared, ...]] | None:
    """The kernel of a layer and its constants; arguments as `qcc.codegen.x86.dense.plan_dense`. None: no patch is small enough.

    Raises:
        CodegenError: shapes, types or strides that the family does not cover.
    """
    window = (weights.shape[1], weights.shape[2])
    check_dense(source, weights, strides, dilations, groups, output, requantization, residual, pool)
    if window == (1, 1) and strides == (1, 1) and pool == (1, 1):
        source, output, residual = merge_pixels(source, output, residual)
        dilations = (1, 1)
    epilogue = None if requantization is None else HalvesEpilogue.of(requantization)
    form = PairsKernel(source, output, residual, window, strides, dilations, groups, epilogue, target.lanes,
                       tile or Tile(*pool, 1), pool=pool)
    forms = [form] if tile else [replace(form, groups=groups // factor) for factor in range(1, groups + 1) if groups % factor == 0]
    fitting = [kernel for form in forms for kernel in (form.tiles(target) if tile is None else [form])]
    if not fitting:
        return None
    kernel = tuned(min(fitting, key=lambda kernel: kernel.cycles(target)))
    order = panel_channels(output.shape[3], kernel.groups, kernel.tile.blocks, target.lanes)
    order = order if requantization is None else paired_lanes(order)
    prepared = _prepared(merge_groups(weights, groups, groups // kernel.groups), order, kernel)
    if requantization is None:
        return kernel, (prepared, pack_numbers(bias, None, order))
    return kernel, (prepared, pack_numbers(bias, lifted_multipliers(requantization), order), parameters_of(requantization))


def _prepared(weights: Array, channels: Array, kernel: PairsKernel) -> Prepared:
    """The weights in the order of the kernel, in as few bits as they need, with what widens them."""
    down, along, run = kernel.runs
    vectors, bits = kernel.steps * kernel.tile.blocks, stored_bits(weights)
    packed = pack_weights(weights.reshape(weights.shape[0], down * along, run), channels, PAIR)
    stored = pack_runs(packed, 1, bits, STRETCH).reshape(kernel.panels, -1)
    return Prepared(WidenKernel(kernel.panels, vectors, kernel.vector, bits), stored)
