"""The ways to round one layer, by name: from a layer and its quadratic problem to integers and scales.

Each promises that the error of its result, in the problem that it is given, is no larger than that of rounding to the nearest. All see
the inputs that the rounded layers before make, and want the exact network's results: what one layer loses the next may make up for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qcc.ir import Array
from qcc.passes.rounding.descent import learn_sides, learn_weights
from qcc.passes.rounding.layer import Layer, Rounded, round_nearest
from qcc.passes.rounding.moments import Problem
from qcc.passes.rounding.solve import Factor, best_scale, descend, nearest, search_scale, second_order

# Scales to try; with 8 bits the largest weight decides.
SHARES = {bits: tuple(np.linspace(0.98, low, steps)) for bits, low, steps in
          ((2, 0.3, 35), (3, 0.4, 30), (4, 0.5, 25), (5, 0.7, 15), (6, 0.8, 10), (7, 0.85, 7))}
SWEEPS = {2: 20, 3: 20, 4: 12, 5: 6, 6: 4}         # of coordinate descent; 1 for more bits
STARTS = (1.0, 0.9, 0.8, 0.7)                      # scales, of the searched one's, from which alternation starts
ALTERNATIONS = 8

Method = Callable[[Layer, Problem, bool], Rounded]


def round_mse(layer: Layer, problem: Problem, refit: bool) -> Rounded:
    """To the nearest, with the scale at which that errs least on the layer's results; this is a choice of scales, whatever `refit` is."""
    return _safe(layer, problem, *_mse(layer, problem, True), "mse")


def round_second_order(layer: Layer, problem: Problem, refit: bool, descents: int = 3) -> Rounded:
    """Second-order rounding (GPTQ) to the wanted results, then coordinate descent; the scale is searched before and fitted after.

    Args:
        descents: at most, each followed by a fit of the scales; most of the time goes there.
    """
    factor = Factor.of(problem.hessian)
    best = factor.solve(problem.wanted)
    scale = _searched(layer, problem, best, refit)
    integers = second_order(factor, best, scale, layer.levels)
    for _ in range(min(descents, 3 if refit and layer.bits < 6 else 1)):
        integers = descend(problem, integers, scale, layer.levels, SWEEPS.get(layer.bits, 1))
        if refit:
            scale = np.where(layer.free, best_scale(problem, integers, scale, layer.tied), scale)
    return _safe(layer, problem, integers, scale, "second-order")


def round_adaround(layer: Layer, problem: Problem, refit: bool) -> Rounded:
    """AdaRound (Nagel et al., 2020): each weight up or down from where it is, learned with a regulariser that anneals."""
    _, scale = _mse(layer, problem, refit)
    integers = learn_sides(problem.compact(), layer.weights.astype(np.float32), scale.astype(np.float32), layer.levels).astype(np.float64)
    if refit:
        scale = np.where(layer.free, best_scale(problem, integers, scale, layer.tied), scale)
    return _safe(layer, problem, integers, scale, "adaround")


def round_adaquant(layer: Layer, problem: Problem, refit: bool) -> Rounded:
    """AdaQuant (Hubara et al., 2021): all weights learned as reals through the rounding, and the scale, in closed form, with them."""
    _, scale = _mse(layer, problem, refit)
    start = layer.weights.astype(np.float32), scale.astype(np.float32)
    free = layer.free & refit
    integers, scale = learn_weights(problem.compact(), *start, layer.levels, free, layer.tied)
    return _safe(layer, problem, integers.astype(np.float64), np.where(free, scale.astype(np.float64), layer.scale), "adaquant")


def round_decoupled(layer: Layer, problem: Problem, refit: bool) -> Rounded:
    """decoupleQ (Guo et al., 2024): integers given the scale and the scale given the integers in turn, each in closed form, from several
    scales; weights are symmetric, so there is no zero point. An output takes a step only where its error falls.
    """
    factor = Factor.of(problem.hessian)
    best = factor.solve(problem.wanted)
    first = _searched(layer, problem, best, refit)
    starts = STARTS if refit and layer.bits < 6 and not layer.tied else STARTS[:1]
    many, tasks = layer.repeated(len(starts)), problem.repeated(len(starts))      # outputs are tasks of their own: all starts at once
    scale = np.concatenate([np.where(layer.free, first * start, first) for start in starts], axis=1)
    best = np.tile(best, (1, len(starts), 1))
    integers, scale, error = _alternate(many, tasks, second_order(factor, best, scale, layer.levels), scale, refit)
    groups, outputs, _ = layer.weights.shape
    least = error.reshape(groups, len(starts), outputs).argmin(axis=1)[:, None, :, None]
    integers, scale = (np.take_along_axis(array.reshape(groups, len(starts), outputs, -1), least, 1)[:, 0] for array in (integers, scale))
    return _safe(layer, problem, integers, scale, "decoupleq")


METHODS: Mapping[str, Method] = {
    "nearest": lambda layer, _problem, _refit: round_nearest(layer),
    "mse": round_mse, "second-order": round_second_order, "adaround": round_adaround, "adaquant": round_adaquant,
    "decoupleq": round_decoupled,
}


def _mse(layer: Layer, problem: Problem, refit: bool) -> tuple[Array, Array]:
    """Integers and scales of least error among those that rounding the given weights to the nearest makes."""
    scale, shares = layer.scale, SHARES.get(layer.bits)
    if refit and shares is not None:
        scale = np.where(layer.free, search_scale(problem, layer.weights, layer.peak, layer.levels, (1.0, *shares), layer.tied), scale)
    return nearest(layer.weights, scale, layer.levels), scale


def _searched(layer: Layer, problem: Problem, best: Array, refit: bool) -> Array:
    """The scale at which rounding the best real weights to the nearest errs least."""
    if not refit:
        return layer.scale
    peak = np.maximum(np.abs(best).max(axis=2, keepdims=True) / layer.levels, 1e-30)
    if layer.tied:
        peak = np.broadcast_to(peak.max(), peak.shape)
    peak = np.minimum(peak, 2.0 * layer.scale)
    shares = SHARES.get(layer.bits)
    wanted = peak if shares is None else search_scale(problem, best, peak, layer.levels, (1.0, *shares), layer.tied)
    return np.where(layer.free, wanted, layer.scale)


def _alternate(layer: Layer, problem: Problem, integers: Array, scale: Array, refit: bool) -> tuple[Array, Array, Array]:
    error = problem.error(scale * integers)
    for _ in range(ALTERNATIONS):
        integers = descend(problem, integers, scale, layer.levels, SWEEPS.get(layer.bits, 1))
        if refit:
            scale = np.where(layer.free, best_scale(problem, integers, scale, layer.tied), scale)
        before, error = error, problem.error(scale * integers)
        if not np.any(error < before * (1 - 1e-6)):
            break
    return integers, scale, error


def _safe(layer: Layer, problem: Problem, integers: Array, scale: Array, method: str) -> Rounded:
    """The result, but rounded to the nearest with the given scale where that errs less."""
    plain = round_nearest(layer)
    worse = problem.error(scale * integers) > problem.error(plain.weights)
    if layer.tied:
        worse = np.broadcast_to(problem.error(scale * integers).sum() > problem.error(plain.weights).sum(), worse.shape)
    return Rounded(*_where(worse, (plain.integers, plain.scale), (integers, scale)), method)


def _where(mask: Array, yes: tuple[Array, Array], no: tuple[Array, Array]) -> tuple[Array, Array]:
    return np.where(mask[:, :, None], yes[0], no[0]), np.where(mask[:, :, None], yes[1], no[1])
