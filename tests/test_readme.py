"""What README.md shows works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.cli import COMMANDS

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Any]]]
) -> None:
    shutil.copyfile(zoo("resnet8_cifar10"), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    feeds = samples("resnet8_cifar10", 4)
    (name,) = feeds[0]
    names: dict[str, Any] = {"batches": feeds, "x": feeds[0][name]}
    exec(example.replace('{"x": x}', f'{{"{name}": x}}'), names)
    assert names["outputs"]["output"].shape == (1, 10)
    assert abs(float(np.sum(names["outputs"]["output"])) - 1.0) < 1e-3
    assert (tmp_path / "out" / "libmodel.so").exists()


def test_commands_have_these_options() -> None:
    """Every line of the shell examples names a command and options that exist."""
    lines = [line.partition("#")[0].split() for block in blocks("sh") for line in block.splitlines() if line.startswith("qcc ")]
    assert len(lines) >= 5
    for _, command, *arguments in lines:
        done = subprocess.run([sys.executable, "-m", "qcc", command, "--help"], capture_output=True, text=True, check=True)
        for option in (a for a in arguments if a.startswith("-")):
            assert re.search(rf"(^|[\s,]){re.escape(option)}\b", done.stdout), f"qcc {command} has no option {option}"


def test_every_command_is_listed() -> None:
    for name in COMMANDS:
        assert f"`qcc {name}" in README, f"README does not list {name}"
