"""Constants of GPU kernels in the order in which threads read them. Pure NumPy: what is decided here is layout, never a value."""

from __future__ import annotations

import numpy as np

from qcc.codegen.cuda.tiles import STEP_BYTES
from qcc.ir.types import Array


def padded(values: Array, *extents: int) -> Array:
    """Zeros behind the last axes until they have these extents."""
    kept = values.ndim - len(extents)
    return np.pad(values, [(0, 0)] * kept + [(0, extent - n) for n, extent in zip(values.shape[kept:], extents, strict=True)])


def ceil_to(count: int, step: int) -> int:
    return -(-count // step) * step


def pack_fragments(weights: Array, columns: int) -> Array:
    """i8 [groups, OC, K] -> i8 [groups, column tiles, steps, columns * 64]: the fragments of mma.m16n8k32 as lanes load them.

    A lane's 16 bytes are the two registers of channel g, then those of channel g + 8, of 16 channels and 32 values of K.
    """
    groups, outputs, depth = weights.shape
    full = padded(weights, ceil_to(outputs, columns), ceil_to(depth, STEP_BYTES))
    # n: tile, 16 channels, half, g; k: step, 32 values, register, t, byte
    parts = full.reshape(groups, -1, columns // 16, 2, 8, full.shape[2] // STEP_BYTES, 2, 2, 4, 4)
    ordered = parts.transpose(0, 1, 5, 6, 2, 4, 8, 3, 7, 9)
    return np.ascontiguousarray(ordered).reshape(groups, full.shape[1] // columns, full.shape[2] // STEP_BYTES, columns * STEP_BYTES)


def pack_nibbles(weights: Array, columns: int) -> Array:
    """The same for weights of at most 4 bits, two per byte: u8 [groups, column tiles, steps, columns * 32].

    A word holds both registers of a channel: the first in the lower halves of its bytes, the second in the upper halves. A lane's 16
    bytes are channels g and g + 8 of the first 32 values of K, then of the second.
    """
    groups, outputs, depth = weights.shape
    full = padded(weights, ceil_to(outputs, columns), ceil_to(depth, STEP_BYTES))
    parts = full.reshape(groups, -1, columns // 16, 2, 8, full.shape[2] // STEP_BYTES, 2, 2, 4, 4).astype(np.uint8) & 0xF
    words = parts[:, :, :, :, :, :, :, 0] | parts[:, :, :, :, :, :, :, 1] << 4
    ordered = words.transpose(0, 1, 5, 2, 4, 7, 6, 3, 8)
    return np.ascontiguousarray(ordered).reshape(groups, full.shape[1] // columns, full.shape[2] // STEP_BYTES, columns * STEP_BYTES // 2)


def pack_narrow_fragments(weights: Array, columns: int) -> Array:
    """The same for a source of 4-bit values, too: u8 [groups, column tiles, steps, columns * 64], fragments of mma.m16n8k64.

    A lane's 16 bytes are the two registers of channel g, then those of channel g + 8, of 16 channels and 64 values of K.
    """
    groups, outputs, depth = weights.shape
    full = padded(weights, ceil_to(outputs, columns), ceil_to(depth, 2 * STEP_BYTES))
    steps = full.shape[2] // (2 * STEP_BYTES)
    # n: tile, 16 channels, half, g; k: step, 64 values, register, t, byte, half of the byte
    parts = full.reshape(groups, -1, columns // 16, 2, 8, steps, 2, 2, 4, 4, 2).astype(np.uint8) & 0xF
    bytes = parts[..., 0] | parts[..., 1] << 4
    ordered = bytes.transpose(0, 1, 5, 6, 2, 4, 8, 3, 7, 9)
    return np.ascontiguousarray(ordered).reshape(groups, full.shape[1] // columns, steps, columns * STEP_BYTES)


def pack_numbers(columns: list[Array], groups: int, width: int) -> Array:
    """int32 arrays [OC] -> int32 [groups, channels of whole tiles, arrays]: what the epilogue needs of a channel lies side by side."""
    together = np.stack([column.astype(np.int32).reshape(groups, -1) for column in columns], axis=-1)
    return np.ascontiguousarray(padded(together, ceil_to(together.shape[1], width), len(columns)))
