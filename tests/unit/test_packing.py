"""Weights that share bytes: how many bytes they take, and that each of them can be found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.codegen.cpu.packing import GROUPS, pack_bits, parts, stored_bits
from qcc.ir.types import Array


def unpack_group(stored: Array, bits: int) -> list[Array]:
    """The layout by its description: u8 [stored, bytes] -> values of a group, sign extended."""
    if bits == 3:
        a, b, c, d, e, f = (stored[row // 2] >> shift & 7 for row, shift in zip(range(6), (5, 2) * 3, strict=True))
        g, h = (stored[0] & 3) << 1 | stored[2] >> 1 & 1, (stored[1] & 3) << 1 | stored[2] & 1
        fields = [a, b, c, d, e, f, g, h]
    else:
        fields = [stored[0] >> shift & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return [np.where(field >> (bits - 1), field.astype(np.int16) - (1 << bits), field).astype(np.int8) for field in fields]


@given(st.sampled_from(sorted(GROUPS)), st.integers(1, 3), st.integers(1, 21), st.integers(1, 12), st.sampled_from((16, 32, 64)), st.data())
def test_every_weight_is_found_again(bits: int, panels: int, count: int, stretch: int, vector: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    vectors = rng.integers(-(1 << bits - 1), 1 << bits - 1, (panels, 2, count, vector)).astype(np.int8)
    packed = pack_bits(vectors, bits, stretch)
    assert packed.shape == (panels, 2 * count * vector * bits // 8)    # its own bits and no more
    runs, group = packed.reshape(panels, 2, -1), GROUPS[bits]
    for panel, run in np.ndindex(panels, 2):
        found, place = [], 0
        for start in range(0, count, stretch):
            for size in parts(min(stretch, count - start), group):
                length = size * vector * bits // 8
                slices = unpack_group(runs[panel, run, place : place + length].reshape(group * bits // 8, -1), bits)
                found.append(np.concatenate(slices))
                place += length
        np.testing.assert_array_equal(np.concatenate(found), vectors[panel, run].reshape(-1))


@pytest.mark.parametrize(("low", "high", "bits"), [
    (0, 0, 2), (-1, 1, 2), (-2, 1, 2), (-1, 2, 3), (-4, 3, 3), (-7, 7, 4), (0, 8, 8), (-127, 1, 8)
])
def test_bits_follow_from_values(low: int, high: int, bits: int) -> None:
    assert stored_bits(np.array([low, 0, high], np.int8)) == bits
