"""The text form: what is written reads back, whatever the names, attributes, shapes and numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import GraphError
from qcc.ir import Array, DType, Encoding, Graph, GraphBuilder, Node, Op, Stage, TensorType, dump, parse, verify
from qcc.ir.types import F32, I8, U8
from qcc.ops import Add, AveragePool, Clip, Concat, OnnxOperator, Pad, Quantize, Reshape, Transpose
from tests.unit.graphs import random_graph

AWKWARD = ["a b", "", "_", '"', "%", "a) {x", 'q"), {}', "x: f32[1]", " = ", "\n", "\u2028", "\x85", "\u00e9", "\u65e5\u672c", "a,b",
           "a//b", "#c", "\\", "\ud800", "graph", "const", "output", "x" * 300, "sha256:0", "{axis=1}", "<u8>", "@nhwc"]
NAMES = st.sampled_from([n for n in AWKWARD if n]) | st.text(min_size=1, max_size=8)


def same(a: Graph, b: Graph) -> None:
    assert (a.name, a.stage, a.inputs, a.nodes, dict(a.types)) == (b.name, b.stage, b.inputs, b.nodes, dict(b.types))
    assert dict(a.outputs) == dict(b.outputs)
    assert list(a.outputs) == list(b.outputs)
    assert list(a.constants) == list(b.constants)
    for name, array in a.constants.items():
        assert array.dtype == b.constants[name].dtype
        assert array.shape == b.constants[name].shape
        assert array.tobytes() == b.constants[name].tobytes()


def round_trip(graph: Graph) -> Graph:
    text = dump(graph)
    read = parse(text, graph.constants)
    same(graph, read)
    assert dump(read) == text
    return read


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int) -> None:
    round_trip(random_graph(seed))


@given(names=st.lists(NAMES, min_size=4, max_size=7, unique=True))
def test_awkward_names(names: list[str]) -> None:
    x, c, *rest, title = names
    builder = GraphBuilder(title)
    builder.input(x, TensorType(F32, (2, 3)))
    builder.constant(np.array([1, 2, 3], np.float32), c)
    last = x
    for name in rest:
        last = builder.add(Add(), [last, c], [name])
    last = builder.add(Concat(1), [x, last, x], [builder.fresh("joined")])
    builder.outputs.update({title: last, x: x})
    verify(round_trip(builder.build()))


def test_attributes_behind_awkward_inputs() -> None:
    builder = GraphBuilder()
    builder.input("x) {axis=0} (%y", TensorType(F32, (2, 3)))
    builder.outputs["y"] = builder.add(Concat(1), ["x) {axis=0} (%y"] * 2)
    assert round_trip(builder.build()).nodes[0].op == Concat(1)


NUMBERS = st.integers() | st.floats(allow_nan=False)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text() | st.binary()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@given(arguments=st.lists(st.tuples(st.text(), VALUES), max_size=3).map(tuple))
def test_attributes_of_any_kind(arguments: tuple[tuple[str, object], ...]) -> None:
    builder = GraphBuilder()
    builder.input("x", TensorType(F32, (1,)))
    op = OnnxOperator("Softmax", "", 21, arguments, (1, 2), (("f32", (1,)), ("i64", ())))
    builder.add(op, ["x"], ["a", "b"])
    builder.outputs["y"] = "b"
    round_trip(builder.build())


@pytest.mark.parametrize("op", [
    Clip((-math.inf,), (math.inf,)), Clip((-0.0, 1e-45), (3.4e38, 0.1), 0), Reshape(()), Reshape((2,)), Transpose((0,)),
    Pad((0,), (0,), -math.inf), Quantize(0.5, 3, U8), AveragePool((1, 1), ceil=True), OnnxOperator("X", "", 1, (), (), ()),
], ids=str)
def test_special_attributes(op: Op) -> None:
    graph = Graph("g", Stage.FLOAT, ("x",), {}, (Node(op, ("x",), ("y",)),), {}, {"x": TensorType(F32, (2,)), "y": TensorType(F32, (2,))})
    (read,) = parse(dump(graph)).nodes
    assert read.op == op
    assert repr(read.op) == repr(op)      # tells -0.0 from 0.0


def test_not_a_number_as_attribute() -> None:
    op = OnnxOperator("X", "", 1, (("fill", math.nan), ("many", (1.0, math.nan))), (), (("f32", (2,)),))
    graph = Graph("g", Stage.FLOAT, ("x",), {}, (Node(op, ("x",), ("y",)),), {}, {"x": TensorType(F32, (2,)), "y": TensorType(F32, (2,))})
    (read,) = parse(dump(graph)).nodes
    assert repr(read.op) == repr(op)


@pytest.mark.parametrize("array", [
    np.array([np.inf, -np.inf, np.nan, -0.0], np.float32), np.array([-0.0], np.float32), np.array([1e-45, 0.1], np.float32),
    np.array([0.1, 1e308]), np.array([0.1, 65504], np.float16), np.zeros((0,), np.float32),
    np.zeros((2, 0, 3), np.int64), np.array(3, np.int32), np.array(True),
    np.array([2**64 - 1, 0], np.uint64), np.array([-2**63], np.int64), np.array([[True, False]]),
    np.arange(100, dtype=np.uint8).reshape(10, 10),
], ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_constants(array: Array) -> None:
    builder = GraphBuilder()
    builder.outputs["y"] = builder.constant(array, "c")
    round_trip(builder.build())


def test_constants_of_strings() -> None:
    builder = GraphBuilder()
    builder.outputs["y"] = builder.constant(np.array(["a", "bc"], np.object_), "c")
    graph = builder.build()
    assert dump(graph) == dump(parse(dump(graph), graph.constants))
    assert dump(graph) == dump(parse(dump(graph), {"c": np.array(["a", "".join("bc")], np.object_)}))


@pytest.mark.parametrize("encoding", [
    Encoding(U8, (0.1,), (3,)), Encoding(I8, (0.1, 0.2), (0, 0), 1), Encoding(I8, (0.5, 0.5), (0, 0), 1),
    Encoding(U8, (1e-30, 2e30), (1, 2), 1), Encoding(DType("u", 4), (2.0**-100,), (15,)),
], ids=str)
def test_encodings(encoding: Encoding) -> None:
    builder = GraphBuilder(stage=Stage.QDQ)
    builder.outputs["y"] = builder.input("x", TensorType(F32, (1, 2), encoding))
    verify(round_trip(builder.build()))


def test_encoding_of_one_channel() -> None:
    builder = GraphBuilder(stage=Stage.QDQ)
    builder.outputs["y"] = builder.input("x", TensorType(F32, (2, 1), Encoding(I8, (0.5,), (0,), 1)))
    round_trip(builder.build())


def test_absent_inputs() -> None:
    graph = Graph("g", Stage.FLOAT, ("_",), {"y": "y"}, (Node(Add(), ("_", "", "_"), ("y",)),), {},
                  {"_": TensorType(F32, ()), "y": TensorType(F32, ())})
    same(graph, parse(dump(graph)))


def test_digests_are_checked() -> None:
    builder = GraphBuilder()
    array = np.arange(20, dtype=np.float32)
    builder.outputs["y"] = builder.constant(array, "c")
    text = dump(builder.build())
    with pytest.raises(GraphError, match="pass its array to parse"):
        parse(text)
    with pytest.raises(GraphError, match="does not have the digest"):
        parse(text, {"c": array + 1})


def test_arrays_of_the_caller_stay_writeable() -> None:
    builder = GraphBuilder()
    array = np.arange(20, dtype=np.float32)
    builder.outputs["y"] = builder.constant(array, "c")
    graph = parse(dump(builder.build()), {"c": array})
    assert array.flags.writeable
    assert not graph.constants["c"].flags.writeable


def test_comments_and_empty_lines() -> None:
    assert parse('\n# a comment\ngraph "g" INTEGER\n\n  # another\ninput %x: f32[]\n').inputs == ("x",)
