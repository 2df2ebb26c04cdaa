"""What quantization and the integer form promise: each integer is the exact result of its operator on its integers, rounded once.

Every encoded value is compared with the float operators run in float64 on the integers that its operators read, so that errors do not
add up and the bound is a fraction of a step, computed from the multipliers' and the constants' resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qcc.ir import Array, Graph, Node, Stage, dump, interpret, parse, verify
from qcc.ops import Interpolate, OnnxOperator
from qcc.passes.integer import matching_values, prove, to_integer
from qcc.passes.integer.rules import CONSTANT_LEVELS
from qcc.passes.quantize import Form, Placement, Precision, encode, place
from tests.unit.graphs import measured, random_feeds, random_graph

UNIFORM = Precision()
SEEDS = st.integers(0, 2**32 - 1)


def quantized(graph: Graph, integer_io: bool, seed: int, precision: Precision = UNIFORM) -> tuple[Placement, Graph, Graph]:
    placement = place(graph, integer_io)
    ranges = measured(graph, placement.encoded, list(random_feeds(graph, seed, 3)))
    qdq = encode(graph, placement, ranges, precision)
    verify(qdq)
    integer = to_integer(qdq, placement, integer_io)
    verify(integer)
    return placement, qdq, integer


@dataclass
class Reference:
    """The QDQ graph in float64, fed with the integers that the INTEGER graph computed, one operator at a time."""

    qdq: Graph
    placement: Placement
    actual: Mapping[str, Array]                                     # every value of the INTEGER graph
    reals: dict[str, Array] = field(default_factory=dict)
    floats: dict[str, Array] = field(default_factory=dict)          # what float operators see of values that they or the caller made
    errors: dict[str, Array] = field(default_factory=dict)          # how far a value may be off before it is rounded

    def run(self, integer: Graph, feeds: Mapping[str, Array]) -> None:
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for pair in matching_values(self.qdq, integer).values():
            found.setdefault(pair.real, (pair.stored, pair.axes))
        for name, array in self.qdq.constants.items():
            self.reals[name] = array.astype(np.float64) if array.dtype.kind == "f" else array
        for name in self.qdq.inputs:
            self.reals[name] = feeds[name].astype(np.float64)
            if integer.types[name].encoding is None:      # the caller's numbers, not their integers
                self.floats[name] = self.reals[name]
            self.settle(name, found.get(name), np.array(1e-5 * np.abs(self.reals[name]).max(initial=0.0)))
        for node in self.qdq.nodes:
            self.node(node, found)

    def node(self, node: Node, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        inputs = [self.input(node, position, name) for position, name in enumerate(node.inputs)]
        (result,) = node.op.evaluate(*inputs)
        slack = self.slack(node, inputs, result)
        (name,) = node.outputs
        self.reals[name] = result.astype(np.float64)
        if name not in self.placement.forms:
            self.floats[name] = self.reals[name]
        self.settle(name, found.get(name), slack)

    def input(self, node: Node, position: int, name: str) -> Array:
        value = self.reals[name]
        if node.outputs[0] not in self.placement.forms:
            value = self.floats.get(name, value)
        encoding = self.qdq.types[name].encoding
        if name in self.qdq.constants and self.placement.forms.get(node.outputs[0]) is Form.LINEAR and position == 1:
            assert encoding is not None
            value = encoding.dequantize(encoding.quantize(value)).astype(np.float64)
        return value.astype(np.float32) if isinstance(node.op, OnnxOperator) else value

    def slack(self, node: Node, inputs: list[Array], result: Array) -> Array:
        """How far the result before rounding may be off: errors of unrounded inputs, and of constants with a finite resolution."""
        form = self.placement.forms.get(node.outputs[0])
        errors = [self.errors.get(name, np.array(0.0)) for name in node.inputs]
        own = 1e-5 * np.abs(result).max(initial=0.0)        # multipliers have about 30 bits
        if form is Form.LINEAR:
            encoding, weights = (self.qdq.types[name].encoding for name in node.inputs[:2])
            assert encoding is not None
            assert weights is not None
            own += encoding.scale[0] * max(weights.scale)
        elif form is Form.SUM:
            own += sum(np.abs(x).max(initial=0.0) / CONSTANT_LEVELS for x in inputs) + sum(np.max(e, initial=0.0) for e in errors)
        elif form is Form.SCALE:
            own += max(np.abs(x).max(initial=0.0) * np.max(e, initial=0.0) for x, e in zip(inputs, reversed(errors), strict=True))
        elif isinstance(node.op, Interpolate):
            own += np.max(errors[0], initial=0.0) + 2**-8 * (inputs[0].max() - inputs[0].min())
        else:
            own += max((np.max(e, initial=0.0) for e in errors), default=0.0)
        return np.array(own, np.float64)

    def settle(self, name: str, found: tuple[str, tuple[int, ...]] | None, slack: Array) -> None:
        """Compare a value that exists as integers, and go on with what they stand for."""
        encoding = self.qdq.types[name].encoding
        if encoding is None:
            self.errors[name] = slack
            return
        low, high = encoding.range
        wanted = np.clip(self.reals[name] / encoding.scale[0] + encoding.zero_point[0], low, high)
        if found is None:      # another name for the same integers (a transposition)
            got = np.rint(wanted)
        else:
            value, layout = found
            got = self.actual[value].transpose([layout.index(axis) for axis in range(len(layout))])
        allowed = 0.5 + 1e-3 + slack / encoding.scale[0]
        worst = float(np.abs(got - wanted).max(initial=0.0))
        assert worst <= allowed, f"%{name} is {worst} steps off, expected at most {allowed}"
        self.reals[name] = (got.astype(np.float64) - encoding.zero_point[0]) * encoding.scale[0]


def check(seed: int, integer_io: bool, precision: Precision) -> None:
    graph = random_graph(seed)
    verify(graph)
    placement, qdq, integer = quantized(graph, integer_io, seed, precision)
    bounds = prove(integer)
    feeds = next(random_feeds(graph, seed + 1, 1))
    given_feeds = {name: _fed(integer, name, array) for name, array in feeds.items()}
    actual = interpret(integer, given_feeds, keep=None)
    for bound in bounds:
        if integer.types[bound.value].dtype.bits == 32:
            assert bound.low <= int(actual[bound.value].min())
            assert int(actual[bound.value].max()) <= bound.high
    reference = Reference(qdq, placement, actual)
    reference.run(integer, feeds)
    _check_outputs(graph, integer, reference, actual)


def _fed(integer: Graph, name: str, array: Array) -> Array:
    encoding = integer.types[name].encoding
    return array if encoding is None else encoding.quantize(array)


def _check_outputs(graph: Graph, integer: Graph, reference: Reference, actual: Mapping[str, Array]) -> None:
    for port, name in graph.outputs.items():
        got, encoding = actual[port], integer.types[integer.outputs[port]].encoding
        wanted = reference.reals[name] if encoding is not None else reference.floats.get(name, reference.reals[name])
        if encoding is not None:
            got = encoding.dequantize(got)
        slack = np.max(reference.errors.get(name, np.float64(0.0)))
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=float(slack) + 1e-4 * (1e-3 + np.abs(wanted).max(initial=0.0)))


@settings(max_examples=300)
@given(seed=SEEDS, integer_io=st.booleans(), bits=st.sampled_from([(8, 8), (4, 8), (4, 4), (2, 3)]))
@example(seed=0, integer_io=False, bits=(8, 8))
@example(seed=11, integer_io=False, bits=(4, 4))      # bounds per channel
@example(seed=39, integer_io=False, bits=(4, 4))      # a product of an input of 8 bits and a value of 4
def test_each_integer_is_the_rounded_result_of_its_operator(seed: int, integer_io: bool, bits: tuple[int, int]) -> None:
    check(seed, integer_io, Precision(*bits))


@pytest.mark.parametrize("seed", range(20))
def test_integer_graphs_read_back_as_they_were_written(seed: int) -> None:
    _, qdq, integer = quantized(random_graph(seed), False, seed)
    assert qdq.stage is Stage.QDQ
    for graph in (qdq, integer):
        assert dump(parse(dump(graph), graph.constants)) == dump(graph)
