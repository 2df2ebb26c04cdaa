"""Broken graphs are refused with the line and the reason: one file per mistake in tests/golden/invalid, its message in the first line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcc.errors import GraphError
from qcc.ir import Graph, GraphBuilder, TensorType, parse, verify
from qcc.ir.types import F32
from qcc.ops import Add

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "invalid"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.qir")))
def test_broken_graph_is_refused(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    head, _, _ = text.partition("\n")
    expected = head.removeprefix("# expect: ")
    assert expected != head
    with pytest.raises(GraphError) as caught:
        verify(parse(text))
    assert expected in str(caught.value)


def test_there_are_cases() -> None:
    assert len(list(FOLDER.glob("*.qir"))) >= 50


def chain(length: int) -> Graph:
    builder = GraphBuilder("chain")
    value = builder.input("v0", TensorType(F32, (2,)))
    for number in range(1, length + 1):
        value = builder.add(Add(), [value, value], [f"v{number}"])
    builder.outputs["y"] = value
    return builder.build()


def test_message_shows_the_culprit_among_its_neighbours() -> None:
    graph = chain(6)
    broken = replace(graph, types={**graph.types, "v4": TensorType(F32, (3,))})
    with pytest.raises(GraphError) as caught:
        verify(broken)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("graph 'chain' (FLOAT): ")
    assert [line[:8] for line in lines[1:]] == ["    %v2:", "    %v3:", "  > %v4:", "    %v5:"]


def test_constants_hold_what_their_types_say() -> None:
    builder = GraphBuilder()
    builder.outputs["y"] = builder.constant(np.zeros(3, np.float32), "c")
    graph = builder.build()
    verify(graph)
    with pytest.raises(GraphError, match=r"constant %c: declared f32\[3\], holds float32\[4\]"):
        verify(replace(graph, constants={"c": np.zeros(4, np.float32)}))
    with pytest.raises(GraphError, match=r"constant %c: declared f32\[3\], holds float64\[3\]"):
        verify(replace(graph, constants={"c": np.zeros(3)}))


def test_types_and_values_belong_together() -> None:
    graph = chain(2)
    with pytest.raises(GraphError, match=r"values without a type: \['v1'\]"):
        verify(replace(graph, types={name: type for name, type in graph.types.items() if name != "v1"}))
    with pytest.raises(GraphError, match=r"types of values that do not exist: \['ghost'\]"):
        verify(replace(graph, types={**graph.types, "ghost": TensorType(F32, ())}))
