"""What register tiles and layers are to the cost models of dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    rows: int
    columns: int
    blocks: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Work:
    """What the cost model needs to know of a layer: output extents, channels of one group, reduction steps (4 products each), and
    the bits in which a weight is stored; rows and columns are those of sums, of which each result is the maximum of a window."""

    rows: int
    columns: int
    channels: int
    steps: int
    images: int = 1
    groups: int = 1
    requantized: bool = True
    residual: bool = False
    weight_bits: int = 8
    pool: tuple[int, int] = (1, 1)


def panels(channels: int, tile: Tile, lanes: int) -> int:
    """Panels of `tile.blocks` vectors that cover the channels of one group."""
    return max(1, ceil(channels / (tile.blocks * lanes)))
