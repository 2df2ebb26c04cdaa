"""Gradient methods on a layer's quadratic problem: the gradient of w H w' - 2 w B' is 2 (w H - B), so no training framework is needed.

Shapes as in `solve`. Errors are divided by what rounding to the nearest errs, per output, so that steps and regulariser mean the same
for every layer, and a network whose layers are scaled gives the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.ir import Array
from qcc.passes.rounding.moments import Problem
from qcc.passes.rounding.solve import best_scale, nearest

ZETA, GAMMA = 1.1, -0.1          # AdaRound's stretch of the sigmoid, so that 0 and 1 are reached
STEPS = 300
WARM = 0.2                       # share of the steps before the regulariser begins
BETAS = (20.0, 2.0)              # its exponent, first and last
PRICE = 1.0                      # its weight, in units of the error of rounding to the nearest
FITS = 20                        # steps between fits of the scale


@dataclass
class Adam:
    """Kingma and Ba's steps, with their constants."""

    rate: float
    first: Array
    second: Array
    count: int = 0

    @staticmethod
    def like(array: Array, rate: float) -> Adam:
        return Adam(rate, np.zeros_like(array), np.zeros_like(array))

    def step(self, gradient: Array) -> Array:
        """What to subtract."""
        self.count += 1
        self.first += 0.1 * (gradient - self.first)
        self.second += 0.001 * (np.square(gradient) - self.second)
        root = np.sqrt(self.second / (1 - 0.999**self.count)) + 1e-12
        moved: Array = self.rate * (self.first / (1 - 0.9**self.count)) / root
        return moved


def learn_sides(problem: Problem, weights: Array, scale: Array, levels: int, steps: int = STEPS) -> Array:
    """AdaRound: integers floor(w / s) or one more, whichever is better for the results."""
    position = np.clip(weights / scale, -levels, levels)
    floor = np.floor(position)
    value = _logit((position - floor - GAMMA) / (ZETA - GAMMA))
    unit = _unit(problem, weights, scale, levels)
    adam, depth = Adam.like(value, 0.05), weights.shape[2]
    for step in range(steps):
        sigmoid = 1.0 / (1.0 + np.exp(-value))
        stretched = sigmoid * (ZETA - GAMMA) + GAMMA
        side = np.clip(stretched, 0.0, 1.0)
        slope = 2.0 * scale * (np.matmul(scale * (floor + side), problem.hessian) - problem.wanted) / unit
        progress = (step / steps - WARM) / (1 - WARM)
        if progress > 0:
            beta = BETAS[0] + (BETAS[1] - BETAS[0]) * progress
            distance = 2.0 * side - 1.0
            slope -= PRICE / depth * 2.0 * beta * np.sign(distance) * np.abs(distance) ** (beta - 1.0)
        inside = (stretched > 0.0) & (stretched < 1.0)
        value -= adam.step(slope * inside * sigmoid * (1.0 - sigmoid) * (ZETA - GAMMA))
    integers: Array = np.clip(floor + (value >= 0.0), -levels, levels)
    return integers


def learn_weights(
    problem: Problem, weights: Array, scale: Array, levels: int, free: Array, tied: bool, steps: int = STEPS
) -> tuple[Array, Array]:
    """AdaQuant: real weights w whose rounded form errs least, learned as if rounding had slope 1; the best ever seen counts.

    Args:
        free: where the scale is fitted, too, [groups, outputs, 1].

    Returns:
        Integers and scales.
    """
    moving, unit = weights / scale, _unit(problem, weights, scale, levels)
    adam = Adam.like(moving, 0.02)
    best, least = (nearest(weights, scale, levels), scale), np.full(scale.shape[:2], np.inf)
    for step in range(steps):
        integers = np.clip(np.rint(moving), -levels, levels)
        if step % FITS == FITS - 1:
            scale = np.where(free, best_scale(problem, integers, scale, tied), scale)
        product = np.matmul(scale * integers, problem.hessian)
        error = np.einsum("gok,gok->go", scale * integers, product - 2.0 * problem.wanted) + problem.variance
        better = np.broadcast_to(error.sum() < least.sum(), error.shape) if tied else error < least
        least = np.where(better, error, least)
        best = (np.where(better[:, :, None], integers, best[0]), np.where(better[:, :, None], scale, best[1]))
        adam.rate = 0.02 * (1.0 - step / steps)
        moving = np.clip(moving - adam.step(2.0 * scale * (product - problem.wanted) / unit), -levels - 0.5, levels + 0.5)
    return best


def _unit(problem: Problem, weights: Array, scale: Array, levels: int) -> Array:
    """Error of rounding to the nearest beyond the least possible with real weights near the given: positive, [groups, outputs, 1]."""
    error = problem.error(scale * nearest(weights, scale, levels))
    unit: Array = np.maximum(error, 1e-12 * problem.variance + 1e-30)[:, :, None]
    return unit


def _logit(share: Array) -> Array:
    logit: Array = np.log(share / (1.0 - share))
    return logit
