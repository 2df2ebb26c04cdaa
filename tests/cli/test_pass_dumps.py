"""`qcc compile --dump-passes`: the network between the passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qcc.passes.registry import PASSES


def test_every_change_is_written(qcc: Callable[..., Any], shared: Any, tmp_path: Path) -> None:
    folder, common = tmp_path / "passes", ("--calibration-data", shared.data, "--dump-passes", tmp_path / "passes", "-q")
    result = qcc("compile", shared.model, "-o", tmp_path / "out", *common)
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in folder.iterdir())
    names = [name.removesuffix(".qir").partition("-")[2] for name in files]
    assert [name[:3] for name in files] == [f"{number:02}-" for number in range(len(files))]
    assert names[0] == "imported"
    assert names[-3:] == ["encode", "round_weights", "to_integer"]
    assert set(names[1:]) <= {step.name for step in PASSES}
    texts = [(folder / name).read_text("utf-8") for name in files]
    assert all(before != after for before, after in itertools.pairwise(texts))
    assert texts[-1] == (tmp_path / "out" / "graph.qir").read_text("utf-8")
    again = qcc("compile", shared.model, "-o", tmp_path / "other", *common)
    assert (again.exit_code, (tmp_path / "other").exists()) == (2, False)
    assert "choose another folder" in again.output
