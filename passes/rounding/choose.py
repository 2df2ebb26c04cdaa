"""Decides the integers, scales and bias of one layer: several ways to round, and the one that errs least on samples that it did not see."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qcc.ir import Array
from qcc.passes.rounding.moments import Moments, Problem
from qcc.passes.rounding.solve import Factor, best_scale, descend, nearest, search_scale, second_order

DAMPINGS = (0.03, 0.5)                             # candidates for the pull towards the given weights
LARGE = 1024                                       # depth from which on float32 is enough, and time is dear
# Scales to try; with 8 bits the largest weight decides.
SHARES = {bits: tuple(np.linspace(0.98, low, steps)) for bits, low, steps in
          ((2, 0.3, 35), (3, 0.4, 30), (4, 0.5, 25), (5, 0.7, 15), (6, 0.8, 10), (7, 0.85, 7))}
HUGE = 4096                                        # depth from which on factors of Hessians take seconds each
SWEEPS = {2: 20, 3: 20, 4: 12, 5: 6, 6: 4}         # of coordinate descent; 1 for more bits


@dataclass(frozen=True)
class Layer:
    """A layer as it is given.

    Attributes:
        weights: real, [groups, outputs, depth].
        scale: of the encoding, [groups, outputs, 1].
        fixed: outputs whose scale must stay (their bias needs it), [groups, outputs].
        bits: width of the weights.
    """

    weights: Array
    scale: Array
    fixed: Array
    bits: int

    def compact(self) -> Layer:
        """The same in float32."""
        return replace(self, weights=self.weights.astype(np.float32), scale=self.scale.astype(np.float32))

    @property
    def levels(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Rounded:
    """What was chosen: integers (as float64) and scales as in `Layer`, and in words how."""

    integers: Array
    scale: Array
    method: str

    @property
    def weights(self) -> Array:
        product: Array = self.scale * self.integers
        return product


def round_nearest(layer: Layer) -> Rounded:
    return Rounded(nearest(layer.weights, layer.scale, layer.levels), layer.scale, "nearest")


def round_second_order(layer: Layer, problem: Problem, damping: float, refit: bool, descents: int = 3) -> Rounded:
    """Second-order rounding towards the wanted results, then coordinate descent, with a search for the scale before and a fit after.

    The result errs no more, in the damped problem, than rounding to the nearest with the given scale.

    Args:
        descents: at most, each followed by a fit of the scales; most of the time goes there.
    """
    damped = problem.damped(layer.weights, damping)
    factor = Factor.of(damped.hessian)
    best, free = factor.solve(damped.wanted), ~layer.fixed[:, :, None]
    scale, levels, sweeps = layer.scale, layer.levels, SWEEPS.get(layer.bits, 1)
    if refit:
        peak = np.maximum(np.abs(best).max(axis=2, keepdims=True) / levels, 1e-30)
        peak = np.minimum(peak, 2.0 * layer.scale)
        shares = SHARES.get(layer.bits)
        scale = np.where(free, peak if shares is None else search_scale(damped, best, peak, levels, (1.0, *shares)), scale)
    integers = second_order(factor, best, scale, levels)
    for _ in range(min(descents, 3 if refit and layer.bits < 6 else 1)):
        integers = descend(damped, integers, scale, levels, sweeps)
        if refit:
            scale = np.where(free, best_scale(damped, integers, scale), scale)
    plain = round_nearest(layer)
    worse = damped.error(scale * integers) > damped.error(plain.weights)
    integers = np.where(worse[:, :, None], plain.integers, integers)
    return Rounded(integers, np.where(worse[:, :, None], plain.scale, scale), f"second order, damping {damping:g}")


def choose(layer: Layer, seen: Moments, unseen: Moments, refit: bool) -> Rounded:
    """The way of rounding that errs least on unseen rows, carried out with all of them.

    Large layers of many bits try one way besides the nearest, and keep it as it is, and huge ones keep the nearest: more would take
    most of a compile's time.
    """
    if layer.bits >= 8 and layer.weights.shape[2] > HUGE:
        return round_nearest(layer)
    judge, learn = unseen.centred(), seen.centred()
    quick = large = layer.weights.shape[2] > LARGE
    if large:
        layer, judge, learn = layer.compact(), judge.compact(), learn.compact()
        quick = layer.bits >= 8
    tries = {damping: round_second_order(layer, learn, damping, refit) for damping in (DAMPINGS[-1:] if quick else DAMPINGS)}
    plain = round_nearest(layer)
    errors = {0.0: judge.error(plain.weights).sum()} | {damping: judge.error(r.weights).sum() for damping, r in tries.items()}
    damping = min(errors, key=errors.__getitem__)
    if damping == 0.0 or quick:
        return tries.get(damping, plain)
    everything = (seen + unseen).centred()
    return round_second_order(layer, everything.compact() if large else everything, damping, refit)
