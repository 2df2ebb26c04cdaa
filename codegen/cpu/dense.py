"""Convolution, pointwise convolution and matrix products as one family: an implicit matrix product over NHWC bytes.

A kernel computes, for every tile of output pixels, panels of output channels: the accumulators of a tile stay in registers while
the reduction runs over stretches of source bytes without gaps ("runs"), four bytes a step. Padding was materialised before.
Tails are overlapped tiles: computing an output twice writes the same value twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from qcc.codegen.cpu.epilogue import Epilogue
from qcc.codegen.cpu.packing import WORD, words
from qcc.codegen.cpu.requantization import Requantization, is_bytes
from qcc.codegen.cpu.tile import Tile, Work, panels
from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir.types import I8, I32, U8, Array

PANEL_GROUP_BYTES = 384 * 1024    # weights that stay in the second-level cache while pixels stream past them
LEAST_TASKS = 64                  # to share among threads, where a layer has as many panels and tiles


@dataclass(frozen=True, slots=True)
class ImplicitProduct:
    """output[n, y, x, o] = epilogue(sum over kh, kw, c of source[n, y*sh + kh*dh, x*sw + kw*dw, c] * weights[o, kh, kw, c]).

    With a `pool`, the epilogue's input is the maximum of such sums over a window of it; these windows lie side by side.

    Operands: source, [residual], weights, bias (and multipliers), the epilogue's parameters if it has one, and the output.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1.
        output: (N, OH, OW, OC), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, channel stride 1, added in the epilogue.
        window, strides, dilations: of rows and columns.
        groups: the channels of source and output fall into so many parts; a planned kernel may have merged some of the layer's.
        epilogue: the code of the requantization; None writes int32 accumulators with the bias added.
        lanes: 32-bit lanes of a vector, which fixes the layout of the constants.
        tile: sums that one pass of the registers computes; with a pool, whole windows of it.
        weight_bits: in which a weight is stored (`packing.stored_bits`); weights of fewer than 8 share bytes.
        pool: rows and columns of sums of which the maximum counts.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    groups: int
    epilogue: Epilogue | None
    lanes: int
    tile: Tile
    weight_bits: int = 8
    pool: tuple[int, int] = (1, 1)

    @property
    def sums(self) -> tuple[int, int]:
        """Rows and columns of the sums of an image."""
        return self.output.shape[1] * self.pool[0], self.output.shape[2] * self.pool[1]

    @property
    def merged(self) -> bool:
        """Whether the bytes under a row of the window have no gaps: (kw, c) is one run."""
        return self.groups == 1 and self.dilations[1] == 1 and self.source.strides[2] == self.source.shape[3]

    @property
    def runs(self) -> tuple[int, int, int]:
        """Runs down the window, runs along it, and the bytes of one."""
        channels = self.source.shape[3] // self.groups
        return (self.window[0], 1, self.window[1] * channels) if self.merged else (*self.window, channels)

    @property
    def steps(self) -> int:
        down, along, run = self.runs
        return down * along * words(run)

    @property
    def work(self) -> Work:
        """The layer as the cost model sees it."""
        images, _, _, channels = self.output.shape
        own = channels // self.groups
        return Work(*self.sums, own, self.steps, images, self.groups, self.epilogue is not None, self.residual is not None,
                    self.weight_bits, self.pool)

    @property
    def numbers(self) -> int:
        """Constants per channel: bias and multiplier."""
        return 1 if self.epilogue is None else 2

    @property
    def vector(self) -> int:
        """Weights of one vector."""
        return self.lanes * WORD

    @property
    def lift(self) -> int:
        """Accumulators are so many powers of two larger than the sums."""
        return 0

    @property
    def stretch(self) -> int:
        """Vectors of weights of a run that the code takes at once, where a run has more."""
        raise NotImplementedError

    @property
    def step_bytes(self) -> int:
        """Bytes of weights per step."""
        return self.tile.blocks * self.vector * self.weight_bits // 8

    @property
    def panels(self) -> int:
        """Panels of all groups."""
        return self.groups * panels(self.output.shape[3] // self.groups, self.tile, self.lanes)

    @property
    def panel_group(self) -> int:
        """Panels that are computed for a tile of pixels before the next tile."""
        cached = PANEL_GROUP_BYTES // (self.steps * self.step_bytes)
        shared = self.panels // -(-LEAST_TASKS // prod(self.pixel_tiles))
        return max(1, min(self.panels, cached, shared))

    @property
    def parameters(self) -> tuple[View, ...]:
        """The epilogue's numbers for the whole layer, if it has one."""
        raise NotImplementedError

    @property
    def operands(self) -> tuple[View, ...]:
        blocks = (self.panels, self.tile.blocks)
        whole = (self.panels, self.steps, self.tile.blocks, self.lanes, self.vector // self.lanes)
        packed = (self.panels, self.steps * self.step_bytes)
        weights = View.contiguous(U8, packed) if self.weight_bits < 8 else View.contiguous(I8, whole)
        numbers = View.contiguous(I32, (*blocks, self.numbers, self.lanes))
        residual = () if self.residual is None else (self.residual,)
        return (self.source, *residual, weights, numbers, *self.parameters, self.output)

    @property
    def extents(self) -> tuple[int, int]:
        """Rows and columns that tiles cover: those of the sums."""
        return self.sums

    @property
    def pixel_tiles(self) -> tuple[int, int, int]:
        rows, columns = self.extents
        return self.output.shape[0], -(-rows // self.tile.rows), -(-columns // self.tile.columns)

    @property
    def tasks(self) -> int:
        images, rows, columns = self.pixel_tiles
        return -(-self.panels // self.panel_group) * images * rows * columns

    @property
    def macs(self) -> int:
        images, _, _, channels = self.output.shape
        return images * prod(self.sums) * channels * self.window[0] * self.window[1] * (self.source.shape[3] // self.groups)


def _flatten(view: View, images: bool) -> View:
    """Rows (and images) of a view as one row of pixels."""
    n, h, w, c = view.shape
    shape = (1, 1, n * h * w, c) if images else (n, 1, h * w, c)
    return View(view.dtype, shape, (view.strides[0], view.strides[1], view.strides[2], view.strides[3]))


def merge_pixels(source: View, output: View, residual: View | None) -> tuple[View, View, View | None]:
    """For a pointwise layer: (n, h, w) -> (n, 1, h*w) -> (1, 1, n*h*w) where no view has gaps there."""
    views = [source, output] + ([residual] if residual is not None else [])

    def dense(outer: int) -> bool:
        inner = outer + 1
        return all(v.shape[outer] == 1 or v.strides[outer] == v.shape[inner] * v.strides[inner] for v in views)

    if dense(1):
        whole = all(v.shape[0] == 1 or v.strides[0] == v.shape[1] * v.shape[2] * v.strides[2] for v in views)
        views = [_flatten(view, whole) for view in views]
    return views[0], views[1], views[2] if residual is not None else None


def check_dense(
    source: View, weights: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int, output: View,
    requantization: Requantization | None, residual: View | None, pool: tuple[int, int] = (1, 1),
) -> None:
    """Raises CodegenError for shapes, types or strides that the family does not cover."""
    extents = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(source.shape[1:3], weights.shape[1:3], dilations, strides, strict=True)]
    shape = (source.shape[0], *(n // p for n, p in zip(extents, pool, strict=True)), weights.shape[0])
    kind, typed = ("i32", output.dtype == I32) if requantization is None else ("u8", is_bytes(output))
    grouped = source.shape[3] == weights.shape[3] * groups and weights.shape[0] % groups == 0
    views = [source, output] + ([residual] if residual is not None else [])
    unit = all(view.strides[3] == 1 for view in views)
    added = residual is None or (requantization is not None and residual.shape == output.shape and is_bytes(residual))
    pooled = pool == (1, 1) or (requantization is not None and residual is None and int(requantization.multiplier.min()) >= 0)
    if not (grouped and unit and added and pooled and is_bytes(source) and typed and output.shape == shape):
        raise CodegenError(
            f"dense layer of source {source}, weights {weights.shape}, strides {strides}, dilations {dilations}, groups {groups}, "
            f"pool {pool}: expected an output of {kind} {shape} and views whose channels lie side by side, with a pool neither a residual "
            f"nor negative multipliers, got output {output}, residual {residual}")
