"""Every network of the zoo compiles for GPUs, as a user types it, at each width: its machine code is complete, integer kernels have no
floats, and on an emulated GPU every layer equals the interpreter, tolerance 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import qcc
from qcc import verification
from qcc.cli import main
from qcc.models import zoo as model_zoo
from qcc.runtime import Manifest
from tests.cuda.fake import VARIABLES, FakeDriver

Samples = Callable[..., list[dict[str, npt.NDArray[Any]]]]
SMS = {"8": 75, "w4a8": 86, "4": 90}     # that are emulated, by width
NETWORKS = (*model_zoo.BUNDLED, *model_zoo.PUBLISHED, *model_zoo.BUILT, *model_zoo.LIGHT)
NOT_RUN = ("light_vgg19",)      # 20 G multiply-accumulates
ROUNDING = ("--rounding", "nearest", "--correction", "none")      # seconds instead of minutes, and the same kernels


def command(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.mark.exhaustive
@pytest.mark.network
@pytest.mark.parametrize("bits", SMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(
    name: str, bits: str, driver: FakeDriver, cuda_compiler: str, zoo: Callable[[str], Path], samples: Samples, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feeds = samples(name, 2)
    np.savez(tmp_path / "data.npz", **{key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]})
    out = tmp_path / "out"
    data = ("--calibration-data", tmp_path / "data.npz")
    command("compile", zoo(name), "--target", "cuda", "--bits", bits, *data, *ROUNDING, "-o", out, "-q")
    assert Manifest.read(out).sms == (75, 80, 86, 89, 90)
    command("verify", "--static", out)
    if name in NOT_RUN:
        return
    driver.prepare(out, SMS[bits])
    monkeypatch.setenv(f"{VARIABLES}SM", str(SMS[bits]))
    with qcc.load(out) as module:
        layers = list(verification.check_layers(module, verification.load_graph(out), feeds[0]))
    assert not [layer for layer in layers if not layer.good]
    assert sum(layer.error is not None for layer in layers) >= len(layers) // 2
