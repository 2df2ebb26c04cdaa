"""The arena's planner: buffers that live at the same time never overlap, and plans come close to what no plan can beat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.codegen.memory import Arena, Lifetime, plan_arena
from qcc.codegen.program import ALIGNMENT

NUMBERS = st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6))
BUFFERS = st.lists(NUMBERS.map(lambda n: Lifetime(n[0], n[1], n[1] + n[2])), max_size=14)


def check(buffers: list[Lifetime], arena: Arena) -> None:
    """Every byte has at most one owner at every step."""
    assert len(arena.offsets) == len(buffers)
    steps = max((b.last for b in buffers), default=-1) + 1
    peak = 0
    for step in range(steps):
        owners = np.zeros(arena.bytes, np.int64)
        for buffer, offset in zip(buffers, arena.offsets, strict=True):
            if buffer.first <= step <= buffer.last:
                assert offset % ALIGNMENT == 0
                assert offset + buffer.bytes <= arena.bytes
                owners[offset:offset + buffer.bytes] += 1
        assert owners.max(initial=0) <= 1
        peak = max(peak, sum(-(-b.bytes // ALIGNMENT) * ALIGNMENT for b in buffers if b.first <= step <= b.last))
    assert arena.lower_bound == peak <= arena.bytes


@given(buffers=BUFFERS)
def test_living_buffers_do_not_overlap(buffers: list[Lifetime]) -> None:
    check(buffers, plan_arena(buffers))


@given(buffers=BUFFERS)
def test_plans_are_the_same_every_time(buffers: list[Lifetime]) -> None:
    assert plan_arena(buffers) == plan_arena(list(buffers))


def test_nothing_needs_nothing() -> None:
    assert plan_arena([]) == Arena((), 0, 0)


def test_a_chain_needs_two_neighbours() -> None:
    buffers = [Lifetime(size, i, i + 1) for i, size in enumerate([640, 64, 1280, 320, 640, 64])]
    arena = plan_arena(buffers)
    check(buffers, arena)
    assert arena.bytes == arena.lower_bound == 1280 + 320


def test_a_residual_lives_through_its_branch() -> None:
    buffers = [Lifetime(1000, 0, 4), Lifetime(500, 1, 2), Lifetime(700, 2, 3), Lifetime(1000, 3, 4), Lifetime(1, 4, 5)]
    arena = plan_arena(buffers)
    check(buffers, arena)
    assert arena.bytes == arena.lower_bound


@pytest.mark.parametrize("seed", range(5))
def test_random_plans_stay_near_the_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    buffers = []
    for step in range(60):
        size = int(random.integers(1, 64)) * 1024
        buffers.append(Lifetime(size, step, step + int(random.choice([1, 1, 1, 2, 4, 8]))))
    arena = plan_arena(buffers)
    check(buffers, arena)
    assert arena.bytes <= 1.25 * arena.lower_bound
