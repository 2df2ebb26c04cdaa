"""Plans of real networks: steps find what they read, and the arena is near the size that no plan can go below."""

from __future__ import annotations

import pytest

from qcc.codegen.plan import plan
from qcc.ir import Graph, Pipeline, verify
from qcc.models import zoo
from qcc.onnx import import_model
from qcc.passes.calibrate import Range
from qcc.passes.integer import prove, to_integer
from qcc.passes.quantize import Precision, encode, place
from qcc.passes.simplify import SIMPLIFY
from tests.unit.test_placing import TARGET, Machine, islands

MOST_OF_THE_BOUND = 1.15


def integer_model(name: str, integer_io: bool) -> Graph:
    """The model as integers; ranges do not matter to its plan."""
    graph = Pipeline(SIMPLIFY)(import_model(zoo.path(name)))
    placement = place(graph, integer_io)
    quantized = encode(graph, placement, dict.fromkeys(placement.encoded, Range(-3.0, 5.0)), Precision())
    verify(quantized)
    integer = to_integer(quantized, placement, integer_io)
    verify(integer)
    assert all(bound.holds for bound in prove(integer))
    return integer


@pytest.mark.parametrize("integer_io", [False, True])
@pytest.mark.parametrize("name", zoo.BUNDLED)
def test_bundled_models(name: str, integer_io: bool) -> None:
    graph = integer_model(name, integer_io)
    program = plan(graph, TARGET, "model", islands(graph))
    Machine(graph, program).run()
    assert program.arena_lower_bound <= program.arena_bytes <= MOST_OF_THE_BOUND * program.arena_lower_bound
