"""Losses are measured on samples that rounding did not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qcc.errors import DataError
from qcc.mixed.decide import Network, split, subjects_of
from qcc.mixed.goals import Budget, Goal
from qcc.mixed.trials import rounded, run_trial
from qcc.onnx import prepare
from qcc.passes.calibrate import Range
from qcc.passes.mixed.sites import weights_of
from qcc.passes.quantize import place
from qcc.recipe import Recipe
from tests.unit.test_mixed import data, network, subjects


def known() -> Network:
    graph = network()
    return Network(graph, place(graph), {}, None, Recipe())


def test_every_third_sample_is_kept_apart() -> None:
    samples = data(30)
    learned, judged = split(samples, known(), 32)
    assert (len(learned), len(judged)) == (20, 10)
    assert all(one is samples[3 * number + 2] for number, one in enumerate(judged))
    assert not {id(one) for one in learned} & {id(one) for one in judged}


def test_few_samples_serve_both() -> None:
    assert [len(part) for part in split(data(5), known(), 32)] == [0, 5]


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="there is none"):
        split((), known(), 32)


def test_a_trial_is_judged_by_the_others() -> None:
    """Values: the loss is that of the later samples. Weights: what the first samples make of them, on the later ones."""
    graph, samples = network(), data(8)
    layer = next(subject for subject in subjects(graph) if subject.is_layer)       # it reads the input of the network
    whole = layer.trial(graph, samples)
    apart, later = run_trial(replace(whole, learn=5)), run_trial(replace(whole, feeds=whole.feeds[5:]))
    assert apart["2"].mse != pytest.approx(later["2"].mse, rel=1e-6)      # the latter was fitted to what judges it
    run = prepare(graph, ["first"])
    values = next(subject for subject in subjects(graph) if not subject.is_layer)
    trial = values.trial(graph, [{**sample, **run(sample)} for sample in samples])
    apart, later = run_trial(replace(trial, learn=5)), run_trial(replace(trial, feeds=trial.feeds[5:]))
    assert apart["4"].mse == pytest.approx(later["4"].mse, rel=1e-9)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_trials_have_the_scales_of_the_recipe(granularity: str) -> None:
    """One per layer or one per output: what a layer loses at few bits depends on it much."""
    graph, samples = network(), data(8)
    placement = place(graph)
    ranges = dict.fromkeys(placement.encoded, Range(-4.0, 4.0))
    known = Network(graph, placement, ranges, samples, Recipe(weight_granularity=granularity))
    trial = subjects_of(Goal((Budget("size", 0.6, True),)), known, weights_of(graph, placement), ())[0].trial(graph, samples)
    assert trial.layer is not None
    run = prepare(graph, ["first"])
    weights, _ = rounded(trial.layer, [(sample["x"], run(sample)["first"]) for sample in samples])["4"]
    steps = weights / np.abs(weights[weights != 0]).min()
    assert np.allclose(steps, np.rint(steps), atol=1e-3) == (granularity == "tensor")
