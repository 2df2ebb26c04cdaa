"""Losses are measured on samples that rounding did not see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qcc.errors import DataError
from qcc.mixed.decide import Network, split
from qcc.mixed.trials import run_trial
from qcc.onnx import prepare
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
