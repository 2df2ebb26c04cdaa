"""Graphs and their builder, the interpreter, and pipelines of passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from qcc.errors import GraphError, PassError, TypeMismatch, UsageError
from qcc.ir import (
    ALL_STAGES,
    Array,
    Graph,
    GraphBuilder,
    Node,
    Numerics,
    Op,
    Pass,
    Pipeline,
    Stage,
    TensorType,
    digest,
    interpret,
    until_stable,
)
from qcc.ir.types import F32, U8
from qcc.ops import Add, Clip, Multiply, Reshape

X = TensorType(F32, (2, 3))


def diamond() -> Graph:
    """%a = x + x; %b = a * c; %d = a + b; outputs d and a."""
    builder = GraphBuilder("diamond")
    builder.input("x", X)
    builder.constant(np.array([1, 2, 3], np.float32), "c")
    builder.add(Add(), ["x", "x"], ["a"])
    builder.add(Multiply(), ["a", "c"], ["b"])
    builder.add(Add(), ["a", "b"], ["d"])
    builder.outputs.update(first="d", second="a")
    return builder.build()


def test_readers_and_producers() -> None:
    graph = diamond()
    a, b, d = graph.nodes
    assert graph.producers == {"a": a, "b": b, "d": d}
    assert graph.users["x"] == (a,)
    assert graph.users["a"] == (b, d)
    assert graph.users["d"] == ()
    assert graph.output_values == {"d", "a"}


def test_only_user() -> None:
    graph = diamond()
    assert graph.only_user("b") is graph.nodes[2]
    assert graph.only_user("x") is None          # read twice by one node
    assert graph.only_user("a") is None          # an output, and two readers
    assert graph.only_user("d") is None          # no reader


def test_constants_are_read_only_copies() -> None:
    builder = GraphBuilder()
    array = np.zeros(3, np.float32)
    name = builder.constant(array)
    array[0] = 1.0
    assert builder.constants[name][0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        builder.constants[name][0] = 1.0


def test_unread_constants_are_dropped() -> None:
    builder = GraphBuilder()
    builder.outputs["y"] = builder.constant(np.array([1], np.float32), "kept")
    builder.constant(np.array([2], np.float32), "dropped")
    assert set(builder.build().constants) == set(builder.build().types) == {"kept"}


def test_fresh_names() -> None:
    builder = GraphBuilder()
    assert [builder.constant(np.zeros(1), "c") for _ in range(3)] == ["c", "c.1", "c.2"]
    builder.input("x", X)
    assert [builder.add(Add(), ["x", "x"]) for _ in range(2)] == ["add", "add.1"]


def test_builder_refuses() -> None:
    builder = GraphBuilder()
    builder.input("x", X)
    with pytest.raises(GraphError, match="%x = add: the name is already taken"):
        builder.add(Add(), ["x", "x"], ["x"])
    with pytest.raises(GraphError, match="add: has 1 outputs, 2 names given"):
        builder.add(Add(), ["x", "x"], ["a", "b"])
    with pytest.raises(TypeMismatch, match="add takes two inputs"):
        builder.add(Add(), ["x"], ["a"])
    assert builder.nodes == []


def test_like_keeps_inputs_and_constants() -> None:
    graph = diamond()
    builder = GraphBuilder.like(graph, Stage.QDQ)
    assert (builder.name, builder.stage, builder.inputs, set(builder.constants)) == ("diamond", Stage.QDQ, ["x"], {"c"})
    assert builder.constants["c"] is graph.constants["c"]


def test_graphs_do_not_change() -> None:
    graph = diamond()
    with pytest.raises(FrozenInstanceError):
        graph.name = "other"  # type: ignore[misc]  # wrong on purpose
    with pytest.raises(TypeError):
        graph.types["x"] = X  # type: ignore[index]  # wrong on purpose


def test_digest_covers_type_shape_and_content() -> None:
    base = np.arange(6, dtype=np.float32)
    arrays: list[Array] = [base, base.reshape(2, 3), base.astype(np.float64), base.view(np.int32), base + np.float32(1e-6), -base]
    arrays += [base[:0], base[:0].reshape(0, 2)]
    assert len({digest(a) for a in arrays}) == len(arrays)
    assert digest(base.reshape(2, 3)) == digest(np.asfortranarray(base.reshape(2, 3)))


def test_digest_of_strings_is_of_their_letters() -> None:
    first, second = (np.array(["".join(["ab", "c"]), "d"], np.object_) for _ in range(2))
    assert digest(first) == digest(second) != digest(np.array(["abc", "e"], np.object_))


def test_interpreter_computes_outputs_and_what_is_to_be_kept() -> None:
    graph = diamond()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected: Array = 2 * x + 2 * x * np.array([1, 2, 3], np.float32)
    assert set(interpret(graph, {"x": x})) == {"first", "second"}
    results = interpret(graph, {"x": x}, keep=frozenset({"b"}))
    assert set(results) == {"first", "second", "b"}
    np.testing.assert_array_equal(results["first"], expected)
    assert set(interpret(graph, {"x": x}, keep=None)) == {"first", "second", *graph.types}


def test_override_replaces_evaluation() -> None:
    graph = diamond()
    x = np.ones((2, 3), np.float32)

    def override(node: Node) -> Mapping[str, Array] | None:
        return {"b": np.zeros((2, 3), np.float32)} if node.outputs == ("b",) else None

    np.testing.assert_array_equal(interpret(graph, {"x": x}, override=override)["first"], 2 * x)


@pytest.mark.parametrize(("feeds", "message"), [
    ({}, r"expected \['x'\], got \[\]"),
    ({"x": np.zeros((2, 3), np.float32), "z": np.zeros(1)}, r"got \['x', 'z'\]"),
    ({"x": np.zeros((3, 2), np.float32)}, r"input 'x': expected f32\[2, 3\], got float32\[3, 2\]"),
    ({"x": np.zeros((2, 3))}, r"input 'x': expected f32\[2, 3\], got float64\[2, 3\]"),
])
def test_wrong_feeds(feeds: dict[str, Array], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        interpret(diamond(), feeds)


@dataclass(frozen=True)
class Off(Op):
    """An operator that does not keep its promises."""

    value: float
    as_type: str
    name: ClassVar[str] = "test_off"
    stages = ALL_STAGES

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(U8, inputs[0].shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.full(inputs[0].shape, self.value, self.as_type),)


del Op.registry[Off.name]      # no other test shall meet it


@pytest.mark.parametrize("value", [-1, 256, 2**40])
def test_interpreter_refuses_integers_outside_their_type(value: int) -> None:
    builder = GraphBuilder()
    builder.input("x", X)
    builder.outputs["y"] = builder.add(Off(value, "i8"), ["x"])
    with pytest.raises(GraphError, match=rf"value outside u8: {value}\.\.{value} in %test_off"):
        interpret(builder.build(), {"x": np.zeros((2, 3), np.float32)})


def test_interpreter_stores_integers_in_their_type() -> None:
    builder = GraphBuilder()
    builder.input("x", X)
    builder.outputs["y"] = builder.add(Off(255, "i8"), ["x"])
    assert interpret(builder.build(), {"x": np.zeros((2, 3), np.float32)})["y"].dtype == np.uint8


def test_interpreter_refuses_other_shapes() -> None:
    graph = diamond()
    broken = replace(graph, types={**graph.types, "b": TensorType(F32, (3, 2))})
    with pytest.raises(GraphError, match=r"evaluated to float32\[2, 3\], declared otherwise: %b"):
        interpret(broken, {"x": np.zeros((2, 3), np.float32)})


def rename(graph: Graph) -> Graph:
    return replace(graph, name=graph.name + "!")


def keep(graph: Graph) -> Graph:
    return graph


def break_it(graph: Graph) -> Graph:
    return replace(graph, outputs={"y": "nothing"})


def a_pass(run: Callable[[Graph], Graph], takes: Stage = Stage.FLOAT, gives: Stage = Stage.FLOAT) -> Pass:
    return Pass(run.__name__, takes, gives, Numerics.EXACT, run)


def test_pipeline_runs_in_order_and_shows_each_step() -> None:
    seen: list[tuple[str, str, str]] = []
    pipeline = Pipeline((a_pass(rename), a_pass(keep), a_pass(rename)), lambda p, a, b: seen.append((p.name, a.name, b.name)))
    assert pipeline(diamond()).name == "diamond!!"
    assert seen == [("rename", "diamond", "diamond!"), ("keep", "diamond!", "diamond!"), ("rename", "diamond!", "diamond!!")]


def test_pipeline_gives_the_graph_that_nothing_changed() -> None:
    graph = diamond()
    assert Pipeline((a_pass(keep), a_pass(keep)))(graph) is graph


def test_pipeline_sets_the_stage() -> None:
    assert Pipeline((a_pass(keep, gives=Stage.QDQ),))(diamond()).stage is Stage.QDQ


def test_pipeline_checks_stages() -> None:
    with pytest.raises(PassError, match="pass 'rename' takes a QDQ graph, got FLOAT"):
        Pipeline((a_pass(keep), a_pass(rename, takes=Stage.QDQ)))(diamond())


def test_pipeline_names_the_pass_that_broke_the_graph() -> None:
    with pytest.raises(GraphError) as caught:
        Pipeline((a_pass(rename), a_pass(break_it), a_pass(keep)))(diamond())
    assert caught.value.__notes__ == ["in pass 'break_it', after ['rename']"]


def test_until_stable() -> None:
    def shorten(graph: Graph) -> Graph:
        return replace(graph, name=graph.name[:-1]) if graph.name else graph

    assert until_stable(shorten)(diamond()).name == ""
    with pytest.raises(PassError, match="did not come to rest in 5 rounds"):
        until_stable(rename, limit=5)(diamond())


def test_transposed_operators_commute_with_transposition() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    op = Clip((1.0, 2.0, 3.0), (9.0, 12.0, 20.0), 1)
    (y,) = op.evaluate(x)
    (z,) = op.transposed((2, 0, 1)).evaluate(x.transpose(2, 0, 1))
    np.testing.assert_array_equal(z, y.transpose(2, 0, 1))
    assert Reshape((6, 4)).transposed((2, 0, 1)) is None
