"""Real networks for ARM under an emulator, with weights of 8 and of 4 bits: every layer equals the interpreter's, and the outputs those
of this machine's library.

A network is quantized once; its integer graph is compiled for this machine and for every ARM target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import qcc
from qcc import verification
from qcc.artifact import Artifact
from qcc.models import zoo as model_zoo
from qcc.recipe import Recipe
from tests.exact.emulated import CPUS, Trace, needed, retargeted, run_emulated

Array = npt.NDArray[Any]
Feed = dict[str, Array]
LARGE = (*model_zoo.PUBLISHED, *model_zoo.BUILT, *model_zoo.LIGHT)
ONE_INPUT = ("light_vgg19",)       # 20 G multiply-accumulates
QUICK = ("resnet8_cifar10", "kws_dscnn")


@dataclass(frozen=True)
class Network:
    """A network on this machine: by bits of weights, the artifact and its outputs for each of the feeds."""

    feeds: Sequence[Feed]
    hosts: Mapping[int, Artifact]
    expected: Mapping[int, Sequence[Feed]]


@pytest.fixture(scope="module")
def network(
    request: pytest.FixtureRequest, zoo: Callable[[str], Path], samples: Callable[..., list[Feed]], tmp_path_factory: pytest.TempPathFactory
) -> Network:
    """Of two weights' widths, each compared layer by layer on this machine; a real input, and noise beyond the calibrated range."""
    name, rng = request.param, np.random.default_rng(20_261_123)
    data = samples(name, 2)
    feeds = [data[0], {key: (rng.normal(size=x.shape) * 2 * np.abs(x).max()).astype(x.dtype) for key, x in data[0].items()}]
    feeds = feeds[1:] if name in ONE_INPUT else feeds
    hosts, expected = {}, {}
    for bits in (8, 4):
        recipe = Recipe(weight_bits=bits, rounding="nearest", correction="none")      # which weights they are does not matter here
        hosts[bits] = qcc.compile(zoo(name), calibration_data=data, recipe=recipe)
        folder = tmp_path_factory.mktemp("host") / "out"
        hosts[bits].save(folder)
        with qcc.load(folder) as module:
            for feed in feeds:
                assert_layers_equal(module, hosts[bits], feed)
            expected[bits] = [module.run(feed) for feed in feeds]
    return Network(feeds, hosts, expected)


@needed
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize("network", [
    *QUICK, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in model_zoo.BUNDLED if name not in QUICK),
    *(pytest.param(name, marks=[pytest.mark.exhaustive, pytest.mark.network]) for name in LARGE)], indirect=True)
def test_layers(network: Network, target: str, bits: int, tmp_path: Path) -> None:
    (artifact,) = retargeted([network.hosts[bits]], target)
    traces = run_emulated(artifact, tmp_path / "out", network.feeds, CPUS[target], selftest=False)
    for trace, feed, here in zip(traces, network.feeds, network.expected[bits], strict=True):
        assert_layers_equal(trace, artifact, feed)
        for port, array in trace.outputs.items():      # float operators behind the integers may differ as much as the self-test allows
            bound = artifact.texts.output_bounds.get(port, 0.0)
            np.testing.assert_allclose(array, here[port], rtol=0, atol=bound, err_msg=port)


def assert_layers_equal(module: qcc.Module | Trace, artifact: Artifact, feed: Feed) -> None:
    found = [layer for layer in verification.check_layers(module, artifact.graph, feed) if layer.error is not None]  # type: ignore[arg-type]
    assert len(found) >= len(artifact.program.steps) // 2, "too few layers were compared"
    assert [layer for layer in found if not layer.good] == []

