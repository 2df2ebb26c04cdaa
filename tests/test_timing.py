"""Interleaved timing: who runs when, and what the ratios say. Nothing here depends on how fast the machine is."""

from __future__ import annotations

import gc
import time

import pytest

from qcc import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a contender moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_every_contender_has_its_turn_in_every_round(clock: list[float]) -> None:
    turns: list[str] = []

    def contender(name: str, seconds: float) -> None:
        turns.append(name)
        clock[0] += seconds

    results = timing.interleaved({"a": lambda: contender("a", 0.5), "b": lambda: contender("b", 0.25)}, rounds=4, turn=0.1)
    assert turns[-8:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert results["a"].seconds == (0.5,) * 4
    assert results["b"].median == results["b"].best == 0.25
    assert results["b"].ratio(results["a"]) == 2.0


def test_short_runs_are_repeated_within_a_turn(clock: list[float]) -> None:
    runs = 0

    def short() -> None:
        nonlocal runs
        runs += 1
        clock[0] += 0.001

    result = timing.interleaved({"short": short}, rounds=3, turn=0.01)["short"]
    assert result.median == pytest.approx(0.001)
    assert runs >= 3 * 10


def test_time_of_the_thread_leaves_out_what_others_take() -> None:
    result = timing.interleaved({"waits": lambda: time.sleep(0.002)}, rounds=2, turn=0.0, cpu_time=True)["waits"]
    assert 0 <= result.median < 0.001


def test_ratio_compares_within_rounds() -> None:
    ours, theirs = timing.Timing((1.0, 10.0, 1.0)), timing.Timing((2.0, 20.0, 4.0))
    assert ours.ratio(theirs) == 2.0


def test_collection_is_switched_on_again() -> None:
    states: list[bool] = []
    with pytest.raises(ZeroDivisionError):
        timing.interleaved({"fails": lambda: states.append(gc.isenabled()) or 1 // (len(states) < 2)}, rounds=1, turn=0.0)
    assert gc.isenabled()
