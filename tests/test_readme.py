"""What README.md shows works as it stands there, and so do the commands of the other pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qcc.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


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


def test_commands_work_as_typed(tmp_path: Path, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Any]]]) -> None:
    """All but those that are tested at length elsewhere: other runtimes, and widths that are chosen."""
    shutil.copyfile(zoo("resnet8_cifar10"), tmp_path / "model.onnx")
    feeds = np.concatenate([sample["input"] for sample in samples("resnet8_cifar10", 8)])
    np.savez(tmp_path / "test.npz", input=feeds)
    np.save(tmp_path / "x.npy", feeds[:1])
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate((feeds * 128 + 128).astype(np.uint8).transpose(0, 2, 3, 1)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    commands = [line.partition("#")[0].split() for line in blocks("sh")[1].splitlines()]
    for _, *arguments in (words for words in commands if not {"bench", "mixed"} & set(words)):
        done = subprocess.run([sys.executable, "-m", "qcc", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "y.npz")["output"].shape == (1, 10)


def test_commands_have_these_options() -> None:
    """Every line of the shell examples, in the README and on the pages of docs/, names a command and options that exist."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "examples" / "README.md"]
    texts = [(page.name, page.read_text("utf-8")) for page in pages]
    lines = [(name, line) for name, text in texts for block in re.findall(r"```\w*\n(.*?)```|^(    .*?)$", text, re.DOTALL | re.MULTILINE)
             for line in re.findall(r"^ *qcc (.*)$", "\n".join(block), re.MULTILINE)]
    assert len(lines) >= 20
    helps: dict[str, str] = {}
    for page, line in lines:
        command, *arguments = line.partition(" #")[0].split()
        if command not in helps:
            done = subprocess.run([sys.executable, "-m", "qcc", command, "--help"], capture_output=True, text=True, check=True)
            helps[command] = done.stdout
        for option in (a for a in arguments if a.startswith("-")):
            assert re.search(rf"(^|[\s,]){re.escape(option)}\b", helps[command]), f"{page}: qcc {command} has no option {option}"


def test_every_command_is_listed() -> None:
    for name in COMMANDS:
        assert f"`qcc {name}" in README, f"README does not list {name}"
