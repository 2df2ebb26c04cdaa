"""Decides the integers, scales and bias of one layer: several ways to round, and the one that errs least on samples that it did not see."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.passes.rounding.layer import Layer, Rounded
from qcc.passes.rounding.methods import METHODS
from qcc.passes.rounding.moments import Moments, Problem

DAMPINGS = (0.03, 0.5)          # candidates for the pull towards the given weights
LARGE = 1024                    # depth from which on float32 is enough, and time is dear
HUGE = 4096                     # depth from which on factors of Hessians take seconds each
LONG = 5e7                      # multiplications of a product with the Hessians from which on hundreds of them take too long
PLAIN = frozenset({"nearest", "mse"})      # methods that the data do not move


@dataclass(frozen=True)
class Way:
    """A way to round: a method's name, the pull towards the given weights, and whether scales may change."""

    method: str
    damping: float
    refit: bool

    def __str__(self) -> str:
        return self.method if self.method in PLAIN else f"{self.method}, damping {self.damping:g}"

    def round(self, layer: Layer, problem: Problem) -> Rounded:
        return METHODS[self.method](layer, problem.damped(layer.weights, self.damping), self.refit)


def ways(layer: Layer, rounding: str, refit: bool) -> tuple[Way, ...]:
    """The candidates for a layer. Large layers get fewer: more would take most of a compile's time."""
    if rounding in PLAIN:
        return (Way(rounding, 0.0, refit),)
    if rounding != "auto":
        return tuple(Way(rounding, damping, refit) for damping in DAMPINGS)
    plain = Way("nearest", 0.0, refit)
    if layer.bits >= 8:
        dampings = () if layer.depth > HUGE else DAMPINGS[-1:] if layer.depth > LARGE else DAMPINGS
        return (plain, *(Way("second-order", damping, refit) for damping in dampings))
    if layer.depth > LARGE or layer.work > LONG:
        return (plain, *(Way("second-order", damping, refit) for damping in DAMPINGS))
    learned = [Way(method, damping, refit) for method in ("decoupleq", "adaround") for damping in DAMPINGS]
    return (plain, Way("mse", 0.0, refit), *learned)


def choose(layer: Layer, seen: Moments, unseen: Moments, rounding: str, refit: bool) -> tuple[Way, Rounded]:
    """The way of rounding that errs least on unseen rows, carried out with all of them (large layers of many bits: with the seen)."""
    candidates = ways(layer, rounding, refit)
    if len(candidates) == 1:
        return candidates[0], carry_out(candidates[0], layer, seen + unseen)
    given, judge, learn = layer, unseen.centred(), seen.centred()
    if layer.depth > LARGE:
        layer, judge, learn = layer.compact(), judge.compact(), learn.compact()
    tries = [way.round(layer, learn) for way in candidates]
    errors = [float(judge.error(rounded.weights).sum()) for rounded in tries]
    best = errors.index(min(errors))
    if layer.bits >= 8 and layer.depth > LARGE:
        return candidates[best], tries[best]
    return candidates[best], carry_out(candidates[best], given, seen + unseen)


def carry_out(way: Way, layer: Layer, moments: Moments) -> Rounded:
    """Round a layer in a way that was chosen."""
    problem = moments.centred()
    return way.round(layer.compact(), problem.compact()) if layer.depth > LARGE else way.round(layer, problem)
