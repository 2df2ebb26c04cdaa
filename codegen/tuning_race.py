"""Which of several contenders is fastest, on a machine that disturbs the clock: heats that drop the hopeless, then a duel.

All contenders run turn by turn, so that they meet the same disturbances; a slow turn proves nothing, hence medians. The first
contender defends: another one replaces it only if a duel, whose turns were not used to select it, shows a gain above the noise.
This module decides from the times alone and can be given any clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from statistics import median


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a race lasts.

    Attributes:
        heats: turns before the first contender may be dropped.
        turns: turns of those that are not dropped.
        hopeless: a best turn so many times that of the fastest ends the race for a contender.
        duel: turns of the defender and of the best of the others.
        least_gain: share of the time that a change of contenders must save.
    """

    heats: int = 3
    turns: int = 9
    hopeless: float = 1.1
    duel: int = 15
    least_gain: float = 0.01


@dataclass(frozen=True, slots=True)
class Result:
    """The winner's number, how many times faster than the defender it is, and of every contender the median and the least seconds."""

    winner: int
    gain: float
    seconds: tuple[float, ...]
    least: tuple[float, ...] = ()


def race(count: int, turn: Callable[[int], float], rules: Rules = Rules()) -> Result:
    """Find the fastest of `count` contenders; number 0 defends.

    Args:
        turn: lets a contender run and returns its seconds per run.
    """
    seconds: list[list[float]] = [[] for _ in range(count)]
    running = list(range(count))
    for number in range(rules.turns):
        for contender in running[:: -1 if number % 2 else 1]:
            seconds[contender].append(turn(contender))
        if number + 1 >= rules.heats:
            limit = rules.hopeless * min(min(seconds[contender]) for contender in running)
            running = [contender for contender in running if contender == 0 or min(seconds[contender]) <= limit]
    medians, least = tuple(map(median, seconds)), tuple(map(min, seconds))
    challenger = min(running, key=lambda contender: (medians[contender], contender))
    if challenger == 0:
        return Result(0, 1.0, medians, least)
    gain, noise = _duel(challenger, turn, rules.duel)
    wins = gain > 1.0 + max(rules.least_gain, noise)
    return Result(challenger if wins else 0, gain if wins else 1.0, medians, least)


def _duel(challenger: int, turn: Callable[[int], float], turns: int) -> tuple[float, float]:
    """How many times longer the defender takes: the median over the rounds, and twice its standard error.

    The error of a median of n numbers is 1.25 deviations / sqrt(n), and a deviation 1.48 median absolute deviations, both as for a
    normal distribution; single wild turns do not count.
    """
    ratios = []
    for number in range(turns):
        times = {contender: turn(contender) for contender in ((0, challenger) if number % 2 else (challenger, 0))}
        ratios.append(times[0] / times[challenger])
    middle = median(ratios)
    deviation = 1.48 * median(abs(ratio - middle) for ratio in ratios)
    return middle, 2 * 1.25 * deviation / sqrt(turns)
