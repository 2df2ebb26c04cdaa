"""The parts of the error: they add up to what the library shows, and the remedies gain what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.artifact import Artifact
from qcc.attribution import Attribution, Cause, Part, attribute
from qcc.comparison import library_outputs
from qcc.errors import DataError
from qcc.ir import Array
from qcc.onnx import prepare
from qcc.passes.integer import matching_values
from qcc.recipe import Recipe
from qcc.remedies import Remedy, remedies, roomy_values, widths_of
from qcc.runtime import load

Samples = Callable[..., list[dict[str, Array]]]
Feeds = list[dict[str, Array]]


def split(artifact: Artifact, folder: Path, feeds: Feeds) -> Attribution:
    artifact.save(folder)
    with load(folder) as module:
        found = [library_outputs(artifact.graph, module, feed) for feed in feeds]
    return attribute(artifact.float_graph, artifact.graph, feeds, found, prepare)


def helpful(artifact: Artifact, found: Attribution) -> list[Remedy]:
    pairs = matching_values(artifact.float_graph, artifact.graph)
    widths = widths_of(artifact.graph, {pair.real: name for name, pair in pairs.items()})
    return remedies(found, artifact.recipe, widths, roomy_values(artifact.float_graph, artifact.graph, artifact.recipe, widths))


@pytest.mark.parametrize(("name", "bits"), [("lenet5_mnist", 4), ("resnet8_cifar10", 8), ("vww_mobilenetv1", 8)])
def test_parts_add_up(name: str, bits: int, tmp_path: Path, zoo: Callable[[str], Path], samples: Samples) -> None:
    feeds = samples(name, 8)
    recipe = Recipe(weight_bits=bits, activation_bits=bits, observer="percentile", percentile=99.0)
    found = split(qcc.compile(zoo(name), calibration_data=feeds[:4], recipe=recipe), tmp_path / "out", feeds[4:])
    assert found.whole > 0
    assert found.explained == pytest.approx(1, abs=0.1)
    assert sum(found.by_cause().values()) == pytest.approx(1)
    assert sum(found.by_value().values()) == pytest.approx(found.explained)
    assert {part.cause for part in found.parts} >= {Cause.WEIGHTS, Cause.CLIPPING, Cause.ROUNDING}


def test_a_remedy_gains_what_is_said(tmp_path: Path, zoo: Callable[[str], Path], samples: Samples) -> None:
    feeds = samples("resnet8_cifar10", 12)
    poor = Recipe(weight_bits=4, rounding="nearest", correction="none")
    artifact = qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds[:4], recipe=poor)
    before = split(artifact, tmp_path / "poor", feeds[4:])
    best = next(remedy for remedy in helpful(artifact, before) if remedy.change.startswith("[weights]"))
    layer = best.change.split('"')[1]
    better = Recipe(weight_bits=4, rounding="nearest", correction="none", weights={layer: 8})
    after = split(qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds[:4], recipe=better), tmp_path / "better", feeds[4:])
    assert 10 * np.log10(before.whole / after.whole) == pytest.approx(best.gain, rel=0.3)


def test_16_bits_are_offered_where_they_can_be_had(tmp_path: Path, zoo: Callable[[str], Path], samples: Samples) -> None:
    feeds = samples("resnet8_cifar10", 6)         # calibrated on what is compared: nothing is clipped, and other bits change roundings only
    plain = Recipe(observer="minmax", rounding="nearest", correction="none")
    artifact = qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds, recipe=plain)
    before = split(artifact, tmp_path / "bytes", feeds)
    offered = {remedy.change: remedy.gain for remedy in helpful(artifact, before) if remedy.change.endswith("= 16")}
    values = [change.removeprefix('[activations] "').removesuffix('" = 16') for change in offered]
    assert set(values) < {part.value for part in before.parts if part.cause is Cause.ROUNDING}
    wide = qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds, recipe=replace(plain, activations=dict.fromkeys(values[:1], 16)))
    after = split(wide, tmp_path / "wide", feeds)
    assert 10 * np.log10(before.whole / after.whole) == pytest.approx(next(iter(offered.values())), rel=0.3)
    assert f'[activations] "{values[0]}" = 16' not in {remedy.change for remedy in helpful(wide, after)}
    assert roomy_values(artifact.float_graph, artifact.graph, Recipe(target="cuda:sm_80"), {}) == frozenset()


def test_gains_follow_from_share_and_size() -> None:
    parts = (Part("a", Cause.WEIGHTS, 0.6, 0.5), Part("b", Cause.CLIPPING, 0.4, 0.4), Part("c", Cause.ROUNDING, 0.0, 0.0))
    found = Attribution(1.0, parts)
    listed = remedies(found, Recipe(observer="mse", rounding="nearest"), {"weights a": 4, "activations c": 4})
    assert [remedy.change for remedy in listed] == ['rounding = "auto"', '[weights] "a" = 8', 'observer = "minmax"']
    left = 1 / 16
    assert listed[1].gain == pytest.approx(-10 * np.log10(1 - 2 * (1 - left) * 0.6 + (1 - left) ** 2 * 0.5))
    assert remedies(found, Recipe(), {"weights a": 8}) == []


def test_no_data(zoo: Callable[[str], Path], samples: Samples) -> None:
    artifact = qcc.compile(zoo("lenet5_mnist"), calibration_data=samples("lenet5_mnist", 2))
    with pytest.raises(DataError, match="at least one sample"):
        attribute(artifact.float_graph, artifact.graph, [], [], prepare)
