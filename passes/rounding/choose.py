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


def ways(layer: Layer, rounding: str, refit: bool, rows: int) -> tuple[Way, ...]:
    """The candidates for a layer. Large layers get fewer: more would take most of a compile's time.

    Coarse inputs are noise to weights that may go anywhere: they would follow it. AdaRound's stay within a step of the given ones, and
    with fewer rows of data than weights of an output, none is learned. Where only results between bounds count, learned weights
    lose much less, so there is nothing else to choose from.
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
    if layer.coarse and rows < layer.depth:
        return plain, Way("mse", 0.0, refit)
    bounded = layer.bounded and layer.depth <= LARGE
    method = "decoupleq" if small and layer.bits <= FEW else "adaround" if small and layer.coarse and not bounded else "second-order"
    learned = tuple(Way(method, damping, refit) for damping in DAMPINGS)
    return learned if bounded else (plain, Way("mse", 0.0, refit), *learned)



def choose(layer: Layer, seen: Moments, unseen: Moments, rounding: str, refit: bool, own: Array | None = None) -> tuple[Way, Rounded]:
    """The way of rounding that errs least on unseen rows, carried out with all of them (large layers of many bits: with the seen).

    Args:
        own: the bias that the layer keeps, [groups, outputs]; without it the best one is assumed.
    """
    candidates = ways(layer, rounding, refit, seen.count)
    large = layer.depth > LARGE
    if len(candidates) == 1:
        return candidates[0], carried_out(candidates[0], layer, seen + unseen, own)
    judge = unseen.centred(own).compact() if large else unseen.centred(own)
    tries = [carried_out(way, layer, seen, own) for way in candidates]
    errors = [float(judge.error(rounded.weights).sum()) for rounded in tries]
    best = errors.index(min(errors))
    if layer.bits >= 8 and large:
        return candidates[best], tries[best]
    return candidates[best], carried_out(candidates[best], layer, seen + unseen, own)


def carried_out(way: Way, layer: Layer, moments: Moments, own: Array | None) -> Rounded:
    """A layer rounded in one way; a large one in float32."""
    problem = moments.centred(own)
    return way.round(layer.compact(), problem.compact()) if layer.depth > LARGE else way.round(layer, problem)
