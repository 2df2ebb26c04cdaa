"""How much of a layer one pass of ARM's 32 vector registers computes: the candidates and the cost model that chooses among them.

A step is four words of every pixel of the tile, in one register each, and for each word `blocks` vectors of weights. The figures are
those of a core with two vector pipes (Cortex-A76, Neoverse N1), but with one load a cycle: smaller cores order tiles alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from qcc.codegen.arm.intrinsics import LANES, DotProduct
from qcc.codegen.cpu.tile import Tile, Work, panels

# Most pixels per number of channel blocks such that the innermost loop touches no stack.
_WORDS = {1: 13, 2: 9, 3: 7, 4: 6, 5: 5, 6: 4, 8: 3, 10: 2, 12: 2}
MOST_PIXELS = {
    "sdot": _WORDS,
    "usdot": _WORDS,
    "usmmla": {1: 12, 2: 8, 3: 6, 4: 4, 5: 4, 6: 4, 8: 2, 10: 2, 12: 2},
    "neon": {1: 8, 2: 5, 3: 3, 4: 3, 5: 2, 6: 2, 8: 1},
}
LOAD = 1.0              # cycles of a vector of weights or activations
LATENCY = 4.0           # cycles from one dot product to the next into the same accumulator
EPILOGUE = 4.0          # cycles to requantize and store one accumulator
RESIDUAL = 1.5          # more of them with a residual
CONSTANTS = 1.0         # cycles to load the constants of one block of channels, once per tile
STORE = 0.5             # cycles to store one int32 accumulator
TILE_OVERHEAD = 6.0     # cycles to find the addresses of a tile and to start its loops


def candidates(work: Work, dot: DotProduct) -> Iterator[Tile]:
    """Tiles that fit in the registers and in the layer; of an even number of pixels where they are taken in pairs, and of an even
    number of blocks, if there are two, where vectors of weights share bytes."""
    most_blocks = ceil(work.channels / LANES)
    for blocks, most in MOST_PIXELS[dot.name].items():
        if blocks > most_blocks or (work.weight_bits < 8 and blocks % 2 and most_blocks > 1):
            continue
        for rows in range(1, min(work.rows, most) + 1):
            for columns in range(1, min(work.columns, most // rows) + 1):
                if not (dot.paired and rows * columns % 2):
                    yield Tile(rows, columns, blocks)


def cycles(work: Work, tile: Tile, dot: DotProduct) -> float:
    """Estimated cycles of the whole layer on one core."""
    accumulators = tile.pixels * tile.blocks
    products = accumulators * dot.cycles + tile.pixels / LANES * 0.5 * (dot.signed or dot.paired)
    step = max(products, (tile.pixels / LANES + tile.blocks) * LOAD, LATENCY)
    store = EPILOGUE + RESIDUAL * work.residual if work.requantized else STORE
    tiles = ceil(work.rows / tile.rows) * ceil(work.columns / tile.columns) * panels(work.channels, tile, LANES)
    overhead = TILE_OVERHEAD + CONSTANTS * tile.blocks * work.requantized
    return work.images * work.groups * tiles * (work.steps * step + accumulators * store + overhead)


def choose(work: Work, dot: DotProduct) -> Tile:
    """The candidate of least cost; among equals the widest, then the smallest (so that the choice is reproducible)."""
    return min(candidates(work, dot), key=lambda tile: (cycles(work, tile, dot), -tile.columns, tile))
