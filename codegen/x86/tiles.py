"""How much of a layer one pass of registers computes: the candidates per register file, and the cost model that chooses among them.

A tile is `rows` x `columns` output pixels times `blocks` vectors of channels. Every step of the reduction loads `blocks` vectors of
weights and broadcasts one word per pixel. A tile that does not divide the layer overlaps its neighbour, which is wasted work.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

from qcc.codegen.cpu.epilogue import NARROWED
from qcc.codegen.cpu.tile import Tile, Work, panels
from qcc.codegen.target import Target
from qcc.codegen.x86.intrinsics import DOT_PRODUCTS

# Most pixels per number of channel blocks such that accumulators, weights and one broadcast fit in the vector registers.
MOST_PIXELS = {
    32: {1: 28, 2: 14, 3: 9, 4: 6, 5: 5, 6: 4, 7: 3, 8: 2, 10: 2, 12: 2, 13: 1, 14: 1},
    16: {1: 12, 2: 6, 3: 3, 4: 2, 6: 1, 8: 1},
}
LATENCY = 4.5           # cycles from one dot product to the next into the same accumulator
EPILOGUE = 1.8          # cycles to requantize and store one accumulator
RESIDUAL = 1.2          # more of them with a residual
CONSTANTS = 1.5         # cycles to load the constants of one block of channels, once per tile
STORE = 1.0             # cycles to store one int32 accumulator
MAXIMUM = 0.25          # cycles to take the larger of two sums
TILE_OVERHEAD = 4.0     # cycles to find the addresses of a tile and to start its loops
FIRST_LEVEL = 32768     # bytes of weights that stay in the first-level cache between tiles
STREAM = 28.0           # bytes of weights per cycle from the second-level cache
UNPACK = {2: 1.75, 3: 2.2, 4: 1.5, 8: 0.0}    # instructions to make a vector of weights from those that share bytes with others
ISSUED = 4.0            # vector instructions per cycle, of which dot products can be half
PAIR_PRODUCT = 0.575    # cycles of vpmaddwd and vpaddd where both pipes are full; of four such pipes, two multiply
PAIR_LATENCY = 2.0      # cycles from one sum to the next into the same accumulator, and of a step's loop
WIDENED = 1.2           # cycles to load, widen and store a vector of 16-bit numbers
FILTERED = 28.0         # cycles to transform nine vectors of weights
TRANSFORMED = 22.0      # and 16 vectors of a source
COLLECTED = 16.0        # and 16 sums, back to four
CROWDED = 12.0          # more of them where accumulators leave the epilogue hardly a register, of which a residual needs more:
ROOM = {32: (18, 14), 16: (12, 7)}      # the most that leave enough, per register file, without and with a residual
APART = {32: 0.4, 16: 0.0}              # cycles more per result where the four vectors that are narrowed together are not neighbours


def candidates(work: Work, target: Target) -> Iterator[Tile]:
    """Tiles that fit in the registers and in the layer."""
    most_blocks = ceil(work.channels / target.lanes)
    for blocks, most in MOST_PIXELS[target.registers].items():
        if blocks > most_blocks:
            continue
        for rows in range(work.pool[0], min(work.rows, most) + 1, work.pool[0]):
            for columns in range(work.pool[1], min(work.columns, most // rows) + 1, work.pool[1]):
                yield Tile(rows, columns, blocks)


def cycles(work: Work, tile: Tile, target: Target) -> float:
    """Estimated cycles of the whole layer on one core."""
    vector = target.lanes * 4 * work.weight_bits / 8
    streamed = tile.blocks * vector / STREAM if work.steps * work.channels * work.weight_bits / 2 > FIRST_LEVEL else 0.0
    dot = DOT_PRODUCTS[target.dot]
    products = tile.pixels * tile.blocks * dot.cycles + tile.blocks * dot.weight_cycles + tile.pixels * dot.activation_cycles
    issued = (2 * products + tile.blocks * UNPACK[work.weight_bits]) / ISSUED
    return layer_cycles(work, tile, target, max(products, issued, (tile.pixels + tile.blocks) / 2, LATENCY, streamed))


def pair_cycles(work: Work, tile: Tile, target: Target, widened: int) -> float:
    """The same where both factors are 16-bit numbers in memory, a step has two products, and so many vectors are widened for it."""
    panel = work.steps * tile.blocks * target.lanes * 4
    streamed = tile.blocks * target.lanes * 4 / STREAM if panel > FIRST_LEVEL else 0.0
    step = max(tile.pixels * tile.blocks * PAIR_PRODUCT, (tile.pixels + tile.blocks) / 2, PAIR_LATENCY, streamed)
    return layer_cycles(work, tile, target, step) + WIDENED * widened


def filtered_cycles(work: Work, tile: Tile, target: Target, filters: int, chunks: int) -> float:
    """The same of minimal filtering, of which the columns are squares of four outputs; filters and chunks of the source are transformed."""
    accumulators = tile.pixels * tile.blocks
    streamed = tile.blocks * target.lanes * 4 / STREAM
    step = max(accumulators * PAIR_PRODUCT, (tile.pixels + tile.blocks) / 2, PAIR_LATENCY, streamed)
    tiles = ceil(work.columns / tile.columns) * panels(work.channels, tile, target.lanes)
    outputs = 4 * (EPILOGUE + RESIDUAL * work.residual if work.requantized else STORE) + COLLECTED
    overhead = 16 * (TILE_OVERHEAD + accumulators * STORE) + CONSTANTS * tile.blocks
    return tiles * (work.steps * step + accumulators * outputs + overhead) + FILTERED * filters + TRANSFORMED * chunks


def layer_cycles(work: Work, tile: Tile, target: Target, step: float) -> float:
    """Cycles of a layer of which one step of the reduction takes so many."""
    accumulators = tile.pixels * tile.blocks
    store = EPILOGUE + RESIDUAL * work.residual if work.requantized else STORE
    tiles = ceil(work.rows / tile.rows) * ceil(work.columns / tile.columns) * panels(work.channels, tile, target.lanes)
    store += APART[target.registers] * (work.requantized and tile.blocks % NARROWED != 0)
    crowded = accumulators > ROOM[target.registers][work.residual]
    overhead = TILE_OVERHEAD + CONSTANTS * tile.blocks * work.requantized + CROWDED * crowded
    results = accumulators / prod(work.pool)
    return work.images * work.groups * tiles * (work.steps * step + results * store + (accumulators - results) * MAXIMUM + overhead)


def choose(work: Work, target: Target) -> Tile:
    """The candidate of least cost; among equals the widest, then the smallest (so that the choice is reproducible)."""
    return min(candidates(work, target), key=lambda tile: (cycles(work, tile, target), -tile.columns, tile))


DEPTHWISE_ROWS = {32: 4, 16: 2}    # output rows whose accumulators (four vectors each) fit in the registers
MOST_FOLD = 16                     # pixels; every one of them repeats the constants


def depthwise_rows(rows: int, target: Target) -> int:
    """Output rows computed together: as many as fit, but rather fewer than half of a strip computed twice."""
    most = min(rows, DEPTHWISE_ROWS[target.registers])
    return min(range(1, most + 1), key=lambda count: (ceil(rows / count) * (count + 1.0), -count))


def depthwise_fold(channels: int, columns: int, block: int) -> int:
    """Pixels that count as one, such that their channels fill blocks; among equals the fewest."""
    def computed(fold: int) -> int:
        return ceil(columns / fold) * ceil(fold * channels / block) * block

    return min(range(1, min(columns, MOST_FOLD) + 1), key=lambda fold: (computed(fold), fold))
