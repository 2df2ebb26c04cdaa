"""Tiles of matrix products on GPUs, what a GPU of each compute capability can do, and the model that chooses between tiles.

The model is a roofline per wave of blocks: tensor cores, shared memory, the path from the second-level cache, and the latency of a
step. Its numbers are those of the vendor's architecture papers (dense rates, boost clocks), not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from qcc.codegen.target import Target

STEP_BYTES = 64         # of a row of the source, and of a weight column of bytes, in one step of the pipeline
GAP = 16                # bytes between rows of results in shared memory
_LATENCY = 700          # cycles from a request to its bytes
_ADDRESSES = 64         # registers of a thread beside its sums
_ENOUGH = 128           # registers; with fewer the compiler spills some at times, though it would not take all of these
_REGISTERS = 65536      # of a multiprocessor
_START = 1500           # cycles of a block outside of its loop


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Outputs of one block of threads.

    Attributes:
        rows, columns: pixels and channels.
        warps: of the block, along rows and along columns.
        stages: steps whose operands are in shared memory at the same time.
    """

    rows: int
    columns: int
    warps: tuple[int, int]
    stages: int

    @property
    def threads(self) -> int:
        return 32 * self.warps[0] * self.warps[1]

    @property
    def warp_rows(self) -> int:
        return self.rows // self.warps[0]

    @property
    def warp_columns(self) -> int:
        return self.columns // self.warps[1]


@dataclass(frozen=True, slots=True)
class Device:
    """A typical GPU of one compute capability.

    Attributes:
        name: whose numbers these are.
        processors: streaming multiprocessors.
        clock: GHz.
        macs: int8 products per cycle and multiprocessor that `mma` reaches.
        macs4: the same for 4-bit operands, 0 where there is no instruction.
        shared: bytes of shared memory of a multiprocessor.
        bandwidth: bytes per cycle of the device memory.
        tiles: to choose from.
    """

    name: str
    processors: int
    clock: float
    macs: int
    macs4: int
    shared: int
    bandwidth: float
    tiles: tuple[Tile, ...]


def _tiles(stages: int) -> tuple[Tile, ...]:
    shapes = (((128, 128), (2, 4)), ((128, 64), (4, 2)), ((64, 128), (2, 4)), ((64, 64), (2, 2)), ((128, 32), (4, 1)), ((32, 128), (1, 4)),
              ((32, 64), (1, 4)), ((64, 32), (2, 2)), ((32, 32), (2, 2)), ((64, 16), (4, 1)), ((16, 64), (1, 4)), ((16, 32), (1, 2)))
    return tuple(Tile(*shape, warps, stages) for shape, warps in shapes)


DEVICES: dict[int, Device] = {
    75: Device("T4", 40, 1.59, 1024, 2048, 64 << 10, 200.0, _tiles(2)),
    80: Device("A100", 108, 1.41, 2048, 4096, 164 << 10, 1100.0, _tiles(4)),
    86: Device("RTX 3090", 82, 1.70, 1024, 2048, 100 << 10, 550.0, _tiles(3)),
    89: Device("RTX 4090", 128, 2.52, 1024, 2048, 100 << 10, 400.0, _tiles(3)),
    90: Device("H100", 132, 1.83, 2560, 0, 228 << 10, 1830.0, _tiles(4)),
}
FAT = Device("A100 with the shared memory of smaller GPUs", 108, 1.41, 2048, 4096, 100 << 10, 1100.0, _tiles(3))


def device_of(target: Target) -> Device:
    """Whose numbers stand for the target: a library for several capabilities takes tiles that run on all of them."""
    return DEVICES[target.sms[0]] if len(target.sms) == 1 else FAT


@dataclass(frozen=True, slots=True)
class Work:
    """A matrix product as the cost model sees it: pixels, channels of a group, bytes under a pixel, groups, bits of a weight beside a byte
    of the source, and bits of the source's values."""

    rows: int
    columns: int
    depth: int
    groups: int = 1
    weight_bits: int = 8
    source_bits: int = 8


def shared_bytes(tile: Tile, weight_bits: int) -> int:
    """Shared memory of a block: the stages of the pipeline, reused for the tile of results."""
    return max(tile.stages * stage_bytes(tile, weight_bits), results_bytes(tile))


def resident_blocks(tile: Tile, shared: int, work: Work, device: Device) -> int:
    """Blocks that a multiprocessor should hold: as many as its shared memory does, and as leave each thread the registers that it needs:
    sums, addresses, a step's operands on their way, and a second set of fragments where operands of 4 bits become bytes."""
    narrow = (tile.warp_rows + tile.warp_columns) // 4 if work.source_bits == 4 else 0
    fetched = stage_bytes(tile, work.weight_bits) // (4 * tile.threads)
    registers = max(_ENOUGH, tile.warp_rows * tile.warp_columns // 32 + _ADDRESSES + narrow + fetched)
    return max(1, min(device.shared // (shared + 1024), _REGISTERS // (registers * tile.threads)))


def stage_bytes(tile: Tile, weight_bits: int) -> int:
    """Shared memory of one step's operands."""
    return tile.rows * STEP_BYTES + tile.columns * STEP_BYTES * weight_bits // 8


def results_bytes(tile: Tile) -> int:
    """Shared memory of a tile of bytes, with a gap after each row so that rows lie in different banks."""
    return tile.rows * (tile.columns + GAP)


def cycles(work: Work, tile: Tile, device: Device) -> float:
    """Estimated cycles of a layer with a tile."""
    blocks = ceil(work.rows / tile.rows) * ceil(work.columns / tile.columns) * work.groups
    fitting = max(1, min(device.shared // (shared_bytes(tile, work.weight_bits) + 1024), 1024 // tile.threads))
    waves = ceil(blocks / (device.processors * fitting))
    resident = min(fitting, ceil(blocks / device.processors))
    steps = ceil(work.depth / STEP_BYTES)
    narrow = work.source_bits == 4
    products = tile.rows * tile.columns * STEP_BYTES * (2 if narrow else 1) / (device.macs4 or device.macs if narrow else device.macs)
    fragments = (tile.rows * tile.warps[1] + tile.columns * tile.warps[0] * work.weight_bits / 8) * STEP_BYTES / 128
    loads = (tile.rows + tile.columns * work.weight_bits / 8) * STEP_BYTES / 48
    waiting = _LATENCY / max(1, tile.stages - 1)
    step = max(resident * max(products, fragments, loads), waiting)
    results = resident * tile.rows * tile.columns / 16
    return waves * (steps * step + results + _START)


def choose(work: Work, target: Target) -> Tile:
    """The tile that the model likes best."""
    device = device_of(target)
    return min(device.tiles, key=lambda tile: (cycles(work, tile, device), tile))


def ranked(work: Work, target: Target) -> list[Tile]:
    """All tiles that tuning may choose, with every depth of the pipeline up to the usual one, the model's favourites first."""
    device = device_of(target)
    every = [replace(tile, stages=stages) for tile in device.tiles for stages in range(2, tile.stages + 1)]
    return sorted(every, key=lambda tile: (cycles(work, tile, device), tile))
