"""Integers for the weights of one layer: given the quadratic error that a choice causes, choose well.

All functions are vectorised over groups and outputs (each output is a problem of its own) and deterministic. Shapes: weights, integers and
`wanted` [groups, outputs, depth], scales [groups, outputs, 1], Hessians [groups, depth, depth].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from qcc.ir import Array
from qcc.passes.rounding.moments import Problem

BLOCK = 64          # weights that are decided before the others are told: a matrix product instead of many small updates


def nearest(weights: Array, scale: Array, levels: int) -> Array:
    """The nearest integers within [-levels, levels], as float64."""
    return np.clip(np.rint(weights / scale), -levels, levels)


@dataclass(frozen=True)
class Factor:
    """The Cholesky factor L of a Hessian whose rows and columns were put in order: H = L L'.

    Attributes:
        order: [groups, depth]; inputs that carry most energy come last.
        lower: L, [groups, depth, depth].
    """

    order: Array
    lower: Array

    @staticmethod
    def of(hessian: Array) -> Factor:
        order = np.argsort(np.einsum("gkk->gk", hessian), axis=1, kind="stable")
        ordered = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
        return Factor(order, np.linalg.cholesky(ordered))

    def sorted(self, rows: Array) -> Array:
        return np.take_along_axis(rows, self.order[:, None, :], 2)

    def restored(self, rows: Array) -> Array:
        result = np.empty_like(rows)
        np.put_along_axis(result, np.broadcast_to(self.order[:, None, :], rows.shape), rows, 2)
        return result

    def solve(self, wanted: Array) -> Array:
        """The real weights of least error, w = B / H."""
        rows = self.sorted(wanted)
        if len(rows) > 1:
            halfway = np.linalg.solve(self.lower, rows.transpose(0, 2, 1))
            return self.restored(np.linalg.solve(self.lower.transpose(0, 2, 1), halfway).transpose(0, 2, 1))
        return self.restored(linalg.cho_solve((self.lower[0], True), rows[0].T, check_finite=False).T[None])


def second_order(factor: Factor, weights: Array, scale: Array, levels: int) -> Array:
    """GPTQ's rounding: each weight in turn to the nearest integer, after the errors of those before it were passed on to the rest.

    With the Cholesky factor this is Babai's nearest plane: weights are decided from the last to the first, and no inverse is needed.

    Args:
        weights: the real weights of least error.
    """
    unit = factor.lower / np.einsum("gkk->gk", factor.lower)[:, None, :]          # unit diagonal
    moved = factor.sorted(weights)
    integers, errors = np.empty_like(moved), np.empty_like(moved)
    depth = moved.shape[2]
    for stop in range(depth, 0, -BLOCK):
        start = max(0, stop - BLOCK)
        target = moved[:, :, start:stop] + np.matmul(errors[:, :, stop:], unit[:, stop:, start:stop])
        for i in range(stop - 1, start - 1, -1):
            wish = target[:, :, i - start]
            integers[:, :, i] = np.clip(np.rint(wish / scale[:, :, 0]), -levels, levels)
            errors[:, :, i] = moved[:, :, i] - scale[:, :, 0] * integers[:, :, i]
            if i > start:
                target[:, :, : i - start] += errors[:, :, i, None] * unit[:, None, i, start:i]
    return factor.restored(integers)


def descend(problem: Problem, integers: Array, scale: Array, levels: int, sweeps: int) -> Array:
    """Coordinate descent: each weight in turn to the integer that is best given all others. The error never grows."""
    hessian, diagonal = problem.hessian, np.einsum("gkk->gk", problem.hessian)
    integers = integers.copy()
    depth = integers.shape[2]
    for _ in range(sweeps):
        before = integers.copy()
        slope = problem.wanted - np.matmul(scale * integers, hessian)
        for start in range(0, depth, BLOCK):
            stop = min(depth, start + BLOCK)
            inner = slope[:, :, start:stop]
            first = integers[:, :, start:stop].copy()
            for i in range(start, stop):
                wish = integers[:, :, i] + inner[:, :, i - start] / (scale[:, :, 0] * diagonal[:, None, i])
                step = np.clip(np.rint(wish), -levels, levels) - integers[:, :, i]
                if not step.any():
                    continue
                integers[:, :, i] += step
                inner -= (step * scale[:, :, 0])[:, :, None] * hessian[:, None, i, start:stop]
            if stop < depth:
                change = scale * (integers[:, :, start:stop] - first)
                slope[:, :, stop:] -= np.matmul(change, hessian[:, start:stop, stop:])
        if np.array_equal(before, integers):
            break
    return integers


def best_scale(problem: Problem, integers: Array, scale: Array, tied: bool = False) -> Array:
    """The scale of least error for these integers, in closed form; the given one where they are all zero or it would turn negative.

    Args:
        tied: all outputs have one scale.
    """
    energy = np.einsum("gok,gok->go", integers, np.matmul(integers, problem.hessian))
    match = np.einsum("gok,gok->go", integers, problem.wanted)
    if tied:
        energy, match = (np.broadcast_to(array.sum(), array.shape) for array in (energy, match))
    good = (energy > 0) & (match > 0)
    fitted = np.where(good, match / np.where(good, energy, 1.0), scale[:, :, 0])
    return fitted[:, :, None]


def search_scale(
    problem: Problem, weights: Array, scale: Array, levels: int, shares: tuple[float, ...], tied: bool = False
) -> Array:
    """Of the given scale times each share, per output (or for all, if they are tied) the one whose nearest integers err least."""
    chosen, least = scale.copy(), np.full(scale.shape[:2], np.inf)
    for share in shares:
        candidate = scale * share
        error = problem.error(candidate * nearest(weights, candidate, levels))
        if tied:
            error = np.broadcast_to(error.sum(), error.shape)
        better = error < least
        least = np.where(better, error, least)
        chosen = np.where(better[:, :, None], candidate, chosen)
    return chosen
