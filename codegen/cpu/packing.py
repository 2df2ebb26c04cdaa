"""Constants in the order in which the kernels read them. Pure NumPy: what is decided here is layout, never a value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc.ir.types import Array

WORD = 4    # products of one 32-bit lane
TAPS = WORD
VECTORS = 4    # of one block of channels in a depthwise layer, as many as the epilogue narrows together
GROUPS = {2: 4, 3: 8, 4: 2}    # bits of a stored weight -> vectors that are stored together, in as many bytes as their bits fill


def words(run: int, word: int = WORD) -> int:
    """32-bit words that hold a run of so many factors, `word` of them in one."""
    return -(-run // word)


def panel_channels(channels: int, groups: int, blocks: int, lanes: int) -> Array:
    """The output channel of every lane: int64 [panels, blocks, lanes], -1 where there is none.

    The panels of a group follow each other; the last one is moved back so that it ends with the group's last channel. In a group
    with fewer channels than a panel has lanes, the last block is moved back; with fewer than one block has, lanes stay empty.
    """
    own = channels // groups
    width = blocks * lanes
    count = max(1, -(-own // width))
    starts = np.minimum(np.arange(count) * width, max(0, own - width))
    offsets = np.array(block_offsets(own, blocks, lanes))
    lane = starts[:, None, None] + offsets[None, :, None] + np.arange(lanes)
    lane = np.where(lane < own, lane, -1)
    every = lane[None] + np.arange(groups)[:, None, None, None] * own
    return np.asarray(np.where(lane[None] < 0, -1, every).reshape(groups * count, blocks, lanes))


def block_offsets(channels: int, blocks: int, lanes: int) -> tuple[int, ...]:
    """Where the blocks of a panel begin, relative to the panel."""
    last = max(0, channels - lanes)
    return tuple(min(block * lanes, last) for block in range(blocks))


def merge_groups(weights: Array, groups: int, factor: int) -> Array:
    """i8 [OC, KH, KW, C/groups] -> [OC, KH, KW, C/groups * factor]: `factor` groups become one, with zeros between them."""
    outputs, height, width, inner = weights.shape
    slot = np.arange(outputs) // (outputs // groups) % factor
    merged = np.zeros((outputs, height, width, factor, inner), weights.dtype)
    merged[np.arange(outputs), :, :, slot] = weights
    return merged.reshape(outputs, height, width, factor * inner)


def take_channels(values: Array, channels: Array) -> Array:
    """values[channels] along the first axis, zero where there is no channel."""
    taken = values[np.maximum(channels, 0)]
    return np.asarray(np.where((channels >= 0).reshape(channels.shape + (1,) * (values.ndim - 1)), taken, 0).astype(values.dtype))


def pack_weights(runs: Array, channels: Array, word: int = WORD) -> Array:
    """i8 [OC, runs, bytes] -> i8 [panels, runs * words, blocks, lanes, word]: a run is a stretch of the source without gaps."""
    outputs, count, run = runs.shape
    padded = np.zeros((outputs, count, words(run, word) * word), np.int8)
    padded[:, :, :run] = runs
    lanes = take_channels(padded.reshape(outputs, count * words(run, word), word), channels)
    return np.ascontiguousarray(lanes.transpose(0, 3, 1, 2, 4))


def stored_bits(weights: Array) -> int:
    """The bits in which kernels store weights of these values: 2, 3 or 4 where all fit, else 8."""
    low, high = int(weights.min(initial=0)), int(weights.max(initial=0))
    return next((bits for bits in sorted(GROUPS) if low >= -(1 << bits >> 1) and high < 1 << bits >> 1), 8)


def parts(count: int, group: int) -> list[int]:
    """A number of vectors as groups, then as powers of two: fewer vectors than a group has are packed as a group of shorter slices."""
    sizes = [group] * (count // group)
    return sizes + [size for size in (1 << bit for bit in reversed(range(group.bit_length()))) if count % group & size]


def pack_bits(vectors: Array, bits: int, stretch: int) -> Array:
    """i8 [panels, runs, vectors, bytes] -> u8 [panels, bytes]: every weight in its own bits and no more.

    Code that unpacks begins at stretches of a run. In a stretch, groups of vectors share bytes: the first has the lowest bits. Of a
    group of eight 3-bit vectors a..h, three are stored: `a b g' | c d h' | e f gh`, where two bits each are left for g and h.
    """
    panels, runs, count, vector = vectors.shape
    stored = []
    for start in range(0, count, stretch):
        place = start
        for size in parts(min(stretch, count - start), GROUPS[bits]):
            slices = vectors[:, :, place : place + size].reshape(panels, runs, GROUPS[bits], size * vector // GROUPS[bits])
            stored.append(_together(np.moveaxis(slices, 2, 0).astype(np.uint8) & np.uint8((1 << bits) - 1), bits))
            place += size
    return np.ascontiguousarray(np.concatenate(stored, axis=-1).reshape(panels, -1))


def pack_runs(packed: Array, runs: int, bits: int, stretch: int) -> Array:
    """i8 [panels, steps, blocks, lanes, 4] as it is for 8 bits, else u8 [panels, bytes]; `runs` of equal numbers of steps."""
    panels, steps, blocks, lanes, word = packed.shape
    vectors = packed.reshape(panels, runs, steps // runs * blocks, lanes * word)
    return packed if bits == 8 else pack_bits(vectors, bits, stretch)


def _together(slices: Array, bits: int) -> Array:
    """u8 [group, ..., bytes] -> u8 [..., stored bytes]."""
    if bits == 3:
        a, b, c, d, e, f, g, h = slices
        rest = (g >> 1, h >> 1, (g & 1) << 1 | h & 1)
        return np.concatenate([first << 5 | second << 2 | last for first, second, last in zip((a, c, e), (b, d, f), rest, strict=True)], -1)
    shifts = np.arange(len(slices), dtype=np.uint8).reshape(-1, *(1,) * (slices.ndim - 1)) * np.uint8(bits)
    return np.asarray(np.bitwise_or.reduce(slices << shifts, axis=0))


def pack_numbers(bias: Array, multipliers: Array | None, channels: Array) -> Array:
    """int32 [panels, blocks, 1 or 2, lanes]: the bias, then the multipliers (one or one per channel) if there is a requantization."""
    parts = [bias.astype(np.int32)]
    if multipliers is not None:
        parts.append(np.broadcast_to(multipliers.astype(np.int32), bias.shape))
    return np.ascontiguousarray(np.stack([take_channels(part, channels) for part in parts], axis=-2))


def interleaved_channels(channels: int, fold: int, lanes: int) -> Array:
    """The channel of every lane of a depthwise block: int64 [blocks, 4, lanes], -1 where there is none.

    Unpacking bytes twice leaves, of the 16 channels of every 128 bits, four consecutive ones in each of the four vectors.
    """
    block, total = 4 * lanes, fold * channels
    starts = np.minimum(np.arange(-(-total // block)) * block, max(0, total - block))
    vector, group, lane = np.ogrid[:4, : lanes // 4, :4]
    position = starts[:, None, None] + (group * 16 + vector * 4 + lane).reshape(4, lanes)
    return np.asarray(np.where(position < total, position % channels, -1))


def pack_taps(windows: Array, quads: Sequence[Sequence[tuple[int, int] | None]], channels: Array) -> Array:
    """i8 [C, KH, KW] -> i8 [blocks, quads, 4, lanes, 4]: four taps of a channel in every lane, zeros where a quad takes none."""
    taps = np.zeros((windows.shape[0], len(quads), TAPS), np.int8)
    for number, quad in enumerate(quads):
        for tap, position in enumerate(quad):
            if position is not None:
                taps[:, number, tap] = windows[:, position[0], position[1]]
    return np.ascontiguousarray(take_channels(taps, channels).transpose(0, 3, 1, 2, 4))
