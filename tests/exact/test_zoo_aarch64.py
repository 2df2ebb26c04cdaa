"""Real networks for ARM under an emulator, with weights of 8 and of 4 bits: the bits of the interpreter and of this machine's library.

A network is quantized once; its integer graph is compiled for this machine and for every ARM target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import qcc
from qcc.artifact import Artifact
from qcc.codegen.cpu.dense import ImplicitProduct
from qcc.codegen.cpu.depthwise import DepthwiseForm
from qcc.codegen.program import Space
from qcc.ir import interpret
from qcc.models import zoo as model_zoo
from qcc.recipe import Recipe
from tests.exact.emulated import CPUS, needed, retargeted, run_whole

Array = npt.NDArray[Any]
LARGE = (*model_zoo.PUBLISHED, *model_zoo.BUILT, *model_zoo.LIGHT)
QUICK = ("resnet8_cifar10", "kws_dscnn")
HALF = 0.52     # of the bytes that weights of 8 bits take


def weight_bytes(artifact: Artifact) -> int:
    """Of the packed weights of linear layers, each array once."""
    found = {}
    for step in artifact.program.steps:
        if isinstance(step.kernel, ImplicitProduct | DepthwiseForm):
            constants = [n for n, address in enumerate(step.arguments) if address.space is Space.CONSTANT]
            view = step.kernel.operands[constants[0]]
            found[step.arguments[constants[0]].position] = view.span * view.dtype.bytes
    return sum(found.values())


@needed
@pytest.mark.parametrize("name", [
    *QUICK, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in model_zoo.BUNDLED if name not in QUICK),
    *(pytest.param(name, marks=[pytest.mark.exhaustive, pytest.mark.network]) for name in LARGE)])
def test_networks(
    name: str,
    tmp_path: Path,
    rng: np.random.Generator,
    zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    data = samples(name, 2)
    feeds = [data[0], {key: (rng.normal(size=x.shape) * 2 * np.abs(x).max()).astype(x.dtype) for key, x in data[0].items()}]
    hosts, expected = [], []
    for bits in (8, 4):
        recipe = Recipe(weight_bits=bits, rounding="nearest", correction="none")      # which weights they are does not matter here
        hosts.append(qcc.compile(zoo(name), calibration_data=data, recipe=recipe))
        hosts[-1].save(tmp_path / f"host{bits}")
        with qcc.load(tmp_path / f"host{bits}") as module:
            expected.append([(module.run(feed), interpret(hosts[-1].graph, feed)) for feed in feeds])
    for target, cpu in CPUS.items():
        artifacts = retargeted(hosts, target)
        if name not in model_zoo.LIGHT:     # their weights are constant, so that layers share arrays at one width and not at the other
            assert weight_bytes(artifacts[1]) <= HALF * weight_bytes(artifacts[0]), target
        for number, artifact in enumerate(artifacts):
            outputs = run_whole(artifact, tmp_path / f"{target}{number}", feeds, cpu)
            for found, (here, right) in zip(outputs, expected[number], strict=True):
                assert_equal(artifact, found, right, f"{target}, interpreter")
                assert_equal(artifact, found, here, f"{target}, this machine")


def assert_equal(artifact: Artifact, found: Mapping[str, Array], right: Mapping[str, Array], where: str) -> None:
    """Bit for bit but for float operators behind the integers, which the artifact gives a bound."""
    for port, array in found.items():
        bound = artifact.texts.output_bounds.get(port, 0.0)
        np.testing.assert_allclose(array, right[port], rtol=0, atol=bound, err_msg=f"{where}, {port}")
