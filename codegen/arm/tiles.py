"""How much of a layer one pass of ARM's 32 vector registers computes: the candidates and the cost model that chooses among them.

A step is one word of every pixel of the tile (of four in a register), and `blocks` vectors of weights. The figures of the cores are those
of their makers' optimization guides, as far as they matter for the order of tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
EPILOGUE = 8.0          # vector instructions to requantize and store one accumulator
RESIDUAL = 3.0          # more of them with a residual
CONSTANTS = 2.0         # loads of the constants of one block of channels, once per tile
STORE = 1.0             # instructions to store one int32 accumulator
TILE_OVERHEAD = 6.0     # cycles to find the addresses of a tile and to start its loops
UNPACK = 1.5            # vector instructions for a vector of weights that shares bytes with others


@dataclass(frozen=True, slots=True)
class Core:
    """What the cost model knows of a CPU core.

    Attributes:
        vectors: vector instructions per cycle.
        loads: 128-bit loads per cycle.
        latency: cycles from one dot product to the next into the same accumulator.
        ordered: loads take issue slots from what follows them (a core that executes in order), so that their cycles add up.
    """

    vectors: float
    loads: float
    latency: float
    ordered: bool = False


CORES = {
    "cortex-a55": Core(1.0, 0.75, 4.0, ordered=True),
    "cortex-a510": Core(1.0, 1.0, 4.0, ordered=True),
    "cortex-a72": Core(2.0, 1.0, 4.0),
    "cortex-a76": Core(2.0, 1.0, 4.0),
    "neoverse-n1": Core(2.0, 2.0, 4.0),
    "neoverse-n2": Core(2.0, 2.0, 3.0),
    "neoverse-v1": Core(4.0, 2.0, 3.0),
}


def candidates(work: Work, dot: DotProduct) -> Iterator[Tile]:
    """Tiles that fit in the registers and in the layer; of an even number of pixels where they are taken in pairs, and of an even
    number of blocks, if there are two, where vectors of weights share bytes."""
    most_blocks = ceil(work.channels / LANES)
    for blocks, fitting in MOST_PIXELS[dot.name].items():
        most = max(1 + dot.paired, fitting - (work.weight_bits < 8))    # unpacking needs a register
        if blocks > most_blocks or (work.weight_bits < 8 and blocks % 2 and most_blocks > 1):
            continue
        for rows in range(1, min(work.rows, most) + 1):
            for columns in range(1, min(work.columns, most // rows) + 1):
                if not (dot.paired and rows * columns % 2):
                    yield Tile(rows, columns, blocks)


def cycles(work: Work, tile: Tile, dot: DotProduct, core: Core) -> float:
    """Estimated cycles of the whole layer on one core."""
    accumulators, shared = tile.pixels * tile.blocks, work.weight_bits < 8
    products = accumulators * dot.instructions + tile.pixels / LANES * (dot.signed or dot.paired) + UNPACK * tile.blocks * shared
    loads = (tile.pixels / LANES + tile.blocks * work.weight_bits / 8) / core.loads
    step = products / core.vectors + loads if core.ordered else max(products / core.vectors, loads)
    store = (EPILOGUE + RESIDUAL * work.residual if work.requantized else STORE) / core.vectors
    tiles = ceil(work.rows / tile.rows) * ceil(work.columns / tile.columns) * panels(work.channels, tile, LANES)
    overhead = TILE_OVERHEAD + CONSTANTS * tile.blocks * work.requantized / core.loads
    return work.images * work.groups * tiles * (work.steps * max(step, core.latency) + accumulators * store + overhead)


def choose(work: Work, dot: DotProduct, core: Core) -> Tile:
    """The candidate of least cost; among equals the widest, then the smallest (so that the choice is reproducible)."""
    return min(candidates(work, dot), key=lambda tile: (cycles(work, tile, dot, core), -tile.columns, tile))
