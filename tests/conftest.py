"""What every test may use: golden files, real models, a seeded generator."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from qcc.models import samples as model_samples
from qcc.models import zoo as model_zoo

Found = TypeVar("Found")
GOLDEN = Path(__file__).parent / "golden"

# Compiling processes unpickle kernels that tests define, as modules of `tests`; last, so that an installed qcc stays the one tested.
sys.path.append(str(Path(__file__).parent.parent))

# Machines that run tests are shared and slow at times, and a test that failed must fail again.
settings.register_profile("qcc", deadline=None, derandomize=True)
settings.load_profile("qcc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files with what the tests produce")
    parser.addoption("--exhaustive", action="store_true", help="also run the tests that take minutes each")
    parser.addoption("--zoo", type=Path, metavar="DIR", help="folder with NAME.onnx files to use before the cache and the network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take minutes each run when they are asked for."""
    if not config.getoption("--exhaustive"):
        skipped = pytest.mark.skip(reason="NOT RUN: takes minutes; run pytest with --exhaustive")
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(skipped)


def pytest_configure() -> None:
    """Tests interrupt processes, which a shell that started the tests in the background would have told to ignore that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
        given = folder / f"{name}.onnx" if folder is not None else None
        return given if given is not None and given.exists() else model_zoo.path(name)

    return _or_skip(find)


@pytest.fixture(scope="session")
def images() -> Callable[[str], tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """`images("imagenet20")` is a set of images and their labels, as `qcc.models.zoo.images` gives it; skips like `zoo`."""
    return _or_skip(model_zoo.images)


@pytest.fixture(scope="session")
def samples() -> Callable[..., list[dict[str, npt.NDArray[Any]]]]:
    """`samples("resnet50", 8)` are batches of one for a model, as `qcc.models.samples.samples` gives them; skips like `zoo`."""
    return _or_skip(model_samples.samples)


def _or_skip(find: Callable[..., Found]) -> Callable[..., Found]:
    """The function, asked once for each thing; what cannot be had skips the test and says why."""

    @functools.cache
    def attempt(*arguments: Any) -> Found | model_zoo.ModelUnavailable:
        try:
            return find(*arguments)
        except model_zoo.ModelUnavailable as reason:
            return reason

    def found(*arguments: Any) -> Found:
        result = attempt(*arguments)
        if isinstance(result, model_zoo.ModelUnavailable):
            pytest.skip(str(result))
        return result

    return found
