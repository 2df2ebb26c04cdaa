"""Small float graphs and the integer graphs that they become, as text: one file per case in tests/golden/integer.

A file holds the float graph, a line of dashes, and the integer graph. `ramp` stands for a constant's numbers, which then rise evenly
through -1..1; comments `# range %name: low high` and `# io: integer` say what is not the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qcc.ir import Graph, dump, parse, verify
from qcc.passes.calibrate import Range
from qcc.passes.integer import prove, to_integer
from qcc.passes.quantize import Precision, encode, place

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "integer"
RULE = "-" * 100 + "\n"
USUAL = Range(-1.28, 1.27)
RAMP = re.compile(r"(const %\w+: f32\[([\d,]*)\] = )ramp$", re.MULTILINE)


def ramp(match: re.Match[str]) -> str:
    shape = tuple(int(n) for n in match[2].split(","))
    count = int(np.prod(shape))
    return match[1] + str((np.arange(1 - count, count, 2) / 64).reshape(shape).tolist())


def read(before: str) -> tuple[Graph, dict[str, Range], bool]:
    """The float graph, the ranges that differ from the usual one, and whether its border is integer."""
    graph = parse(RAMP.sub(ramp, before))
    given = {name: Range(float(low), float(high)) for name, low, high in re.findall(r"# range %(\w+): (\S+) (\S+)", before)}
    return graph, given, "# io: integer" in before


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.qir")))
def test_float_graph_becomes_this_integer_graph(name: str, golden: Callable[[str, str], None]) -> None:
    before = (FOLDER / name).read_text(encoding="utf-8").partition(RULE)[0]
    graph, ranges, integer_io = read(before)
    verify(graph)
    placement = place(graph, integer_io)
    assert set(ranges) <= set(placement.encoded)
    quantized = encode(graph, placement, {value: ranges.get(value, USUAL) for value in placement.encoded}, Precision())
    verify(quantized)
    integer = to_integer(quantized, placement, integer_io)
    verify(integer)
    prove(integer)
    golden(before + RULE + dump(integer), f"integer/{name}")


def test_there_are_cases() -> None:
    assert len(list(FOLDER.glob("*.qir"))) >= 30
