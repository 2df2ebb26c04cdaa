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
    numbers = {value: (rng.normal(size=graph.types[value].shape) * 3).astype(np.float16) for value in graph.inputs}
    expected, got = (interpret(g, {value: array.astype(g.types[value].dtype.numpy) for value, array in numbers.items()})
                     for g in (graph, result))
    tolerance = 2e-3 if step.name == "widen_halves" else 1e-5
    for port, array in got.items():
        np.testing.assert_allclose(array, expected[port], rtol=tolerance, atol=tolerance)


def test_every_pass_has_a_file() -> None:
    shown = {(FOLDER / f"{name}.qir").read_text(encoding="utf-8").splitlines()[0].removeprefix("# pass: ") for name in FILES}
    assert shown == set(PASSES)
