"""What every test may use: golden files, real models, a seeded generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qcc.models import zoo as model_zoo

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files with what the tests produce")
    parser.addoption("--zoo", type=Path, metavar="DIR", help="folder with NAME.onnx files to use before the cache and the network")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of random numbers that is the same in every run."""
    return np.random.default_rng(20_261_123)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(text, "folder/name.txt")` compares text with tests/golden/folder/name.txt; `--update-golden` rewrites the file."""

    def check(text: str, name: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"golden file {path} does not exist: look at the output, then run once with --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"differs from {path}; if the change is meant, run with --update-golden"

    return check


@pytest.fixture(scope="session")
def zoo(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """`zoo("squeezenet1_1")` is the path of that model's file; the test is skipped, with the reason, when it cannot be had."""
    folder: Path | None = request.config.getoption("--zoo")

    def find(name: str) -> Path:
        if folder is not None and (folder / f"{name}.onnx").exists():
            return folder / f"{name}.onnx"
        try:
            return model_zoo.path(name)
        except model_zoo.ModelUnavailable as reason:
            pytest.skip(str(reason))

    return find
