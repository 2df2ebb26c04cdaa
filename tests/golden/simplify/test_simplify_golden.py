"""Every simplifying pass on small graphs: the text before it, a line of dashes, the text after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qcc.onnx  # noqa: F401  (evaluates the operators of ONNX that some files hold)
from qcc.ir import dump, interpret, parse, verify
from qcc.passes.simplify import SIMPLIFY

FOLDER = Path(__file__).parent
PASSES = {step.name: step for step in SIMPLIFY}
FILES = sorted(file.stem for file in FOLDER.glob("*.qir"))


@pytest.mark.parametrize("name", FILES)
def test_before_and_after(name: str, golden: Callable[[str, str], None], rng: np.random.Generator) -> None:
    """The first line names the pass: `# pass: sink_layout`. The results must agree, too."""
    before = (FOLDER / f"{name}.qir").read_text(encoding="utf-8").split("---\n")[0]
    step = PASSES[before.splitlines()[0].removeprefix("# pass: ")]
    graph = parse(before)
    verify(graph)
    result = step.run(graph)
    verify(result)
    golden(f"{before}---\n{dump(result)}", f"simplify/{name}.qir")
    feeds = {value: rng.normal(size=graph.types[value].shape).astype(np.float32) * 3 for value in graph.inputs}
    expected = interpret(graph, feeds)
    for port, array in interpret(result, feeds).items():
        np.testing.assert_allclose(array, expected[port], rtol=1e-5, atol=1e-5)


def test_every_pass_has_a_file() -> None:
    shown = {(FOLDER / f"{name}.qir").read_text(encoding="utf-8").splitlines()[0].removeprefix("# pass: ") for name in FILES}
    assert shown == set(PASSES)
