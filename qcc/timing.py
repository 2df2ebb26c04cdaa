"""Fair timing of contenders on a shared machine: turn by turn, in bursts, so that all of them meet the same disturbances."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

WARM_UP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per run of one contender, one number per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    def ratio(self, other: Timing) -> float:
        """How many times longer `other` takes: the median over the rounds, each of which saw both under the same conditions."""
        return median(theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True))


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int = 20, turn: float = 0.01, cpu_time: bool = False
) -> dict[str, Timing]:
    """Time every contender in every round.

    Args:
        contenders: what to run, by name.
        rounds: how many times each has its turn; the order is reversed from round to round.
        turn: seconds that a turn lasts at least; short runs are repeated within it, and each counts as the mean of its turn.
        cpu_time: count the seconds that the calling thread had a core, which is the time of a contender that works on this thread alone;
            while others use the machine, it is disturbed far less.
    """
    clock = time.thread_time if cpu_time else time.perf_counter
    repeats = {name: _repeats(run, turn) for name, run in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with _no_collection():
        for number in range(rounds):
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                seconds[name].append(_burst(contenders[name], repeats[name], clock))
    return {name: Timing(tuple(numbers)) for name, numbers in seconds.items()}


def _repeats(run: Callable[[], object], turn: float) -> int:
    """Runs that fill a turn, after warming up."""
    run()
    count, elapsed = 0, 0.0
    while elapsed < WARM_UP_SECONDS:
        elapsed += _burst(run, 1, time.perf_counter)
        count += 1
    return max(1, round(turn * count / elapsed))


def _burst(run: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    """Mean seconds of a run in a burst. One run goes first, not counted: it brings back what the others drove out of the caches."""
    if count > 1:
        run()
    start = clock()
    for _ in range(count):
        run()
    return (clock() - start) / count


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
