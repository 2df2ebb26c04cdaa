"""Libraries for 64-bit ARM, run under an emulator: the same bits as the interpreter computes, and as the library of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import qcc
from qcc.ir import interpret
from qcc.models import zoo as model_zoo
from tests.exact.emulated import CPUS, needed, run_emulated

Array = npt.NDArray[Any]


@needed
@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_networks(
    name: str,
    target: str,
    tmp_path: Path,
    rng: np.random.Generator,
    zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    data = samples(name, 2)
    feeds = [*data, {key: (rng.normal(size=x.shape) * 2 * np.abs(x).max()).astype(x.dtype) for key, x in data[0].items()}]
    artifact = qcc.compile(zoo(name), target=target, calibration_data=data)
    artifact.save(tmp_path / "arm")
    found = run_emulated(artifact, tmp_path / "arm", feeds, CPUS[target])
    for feed, outputs in zip(feeds, found, strict=True):
        expected = interpret(artifact.graph, feed)
        for port, array in outputs.items():
            np.testing.assert_array_equal(array, expected[port], err_msg=f"{port} differs from the interpreter's")
