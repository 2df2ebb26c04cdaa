"""Decides the integers, scales and bias of one layer: several ways to round, and the one that errs least on samples that it did not see."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.ir import Array
from qcc.passes.rounding.layer import Layer, Rounded
from qcc.passes.rounding.methods import METHODS
from qcc.passes.rounding.moments import Moments, Problem

DAMPINGS = (0.03, 0.5)          # candidates for the pull towards the given weights
LARGE = 1024                    # depth from which on float32 is enough, and time is dear
HUGE = 4096                     # depth from which on factors of Hessians take seconds each
LONG = 5e7                      # multiplications of a product with the Hessians from which on hundreds of them take too long
FEW = 3                         # bits up to which alternating between integers and scales pays
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
    """The candidates for a layer. Large layers get fewer: more would take most of a compile's time.

    Coarse inputs are noise to weights that may go anywhere: they would follow it. AdaRound's stay within a step of the given ones.
    """
    if rounding in PLAIN:
        return (Way(rounding, 0.0, refit),)
    if rounding != "auto":
        return tuple(Way(rounding, damping, refit) for damping in DAMPINGS)
    plain = Way("nearest", 0.0, refit)
    if layer.bits >= 8:
        dampings = () if layer.depth > HUGE else DAMPINGS[-1:] if layer.depth > LARGE else DAMPINGS
        return (plain, *(Way("second-order", damping, refit) for damping in dampings))
    small = layer.depth <= LARGE and layer.work <= LONG
    methods = ("decoupleq",) if small and layer.bits <= FEW else ("adaround",) if small and layer.coarse else ("second-order",)
    return (plain, Way("mse", 0.0, refit), *(Way(method, damping, refit) for method in methods for damping in DAMPINGS))


def choose(layer: Layer, seen: Moments, unseen: Moments, rounding: str, refit: bool, own: Array | None = None) -> tuple[Way, Rounded]:
    """The way of rounding that errs least on unseen rows, carried out with all of them (large layers of many bits: with the seen).

    Args:
        own: the bias that the layer keeps, [groups, outputs]; without it the best one is assumed.
    """
    candidates = ways(layer, rounding, refit)
    large = layer.depth > LARGE
    judge, learn, everything = (moments.centred(own) for moments in (unseen, seen, seen + unseen))
    if large:
        layer, judge, learn, everything = layer.compact(), judge.compact(), learn.compact(), everything.compact()
    if len(candidates) == 1:
        return candidates[0], candidates[0].round(layer, everything)
    tries = [way.round(layer, learn) for way in candidates]
    errors = [float(judge.error(rounded.weights).sum()) for rounded in tries]
    best = errors.index(min(errors))
    if layer.bits >= 8 and large:
        return candidates[best], tries[best]
    return candidates[best], candidates[best].round(layer, everything)
