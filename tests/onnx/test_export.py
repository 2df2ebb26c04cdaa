"""Exporting: float graphs come back equal, QDQ graphs round values onto their grids, single operators stand alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import checker

from qcc.errors import PassError, UsageError
from qcc.ir import Encoding, Graph, GraphBuilder, Stage, TensorType, interpret
from qcc.ir.types import F32, I8, U8, DType
from qcc.models import zoo as model_zoo
from qcc.onnx import FloatRunner, evaluate_operator, export_model, export_operator, import_model
from qcc.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Convolution,
    Divide,
    Function,
    Gather,
    Interpolate,
    MatMul,
    MaxPool,
    Multiply,
    OnnxOperator,
    Pad,
    PRelu,
    ReduceMean,
    Reshape,
    Slice,
    Subtract,
    Transpose,
)
from qcc.ops.functions import FUNCTIONS

INFINITY = float("inf")
PARAMETERS = {"celu": (1.5,), "elu": (0.75,), "hardsigmoid": (0.25, 0.5), "leaky_relu": (0.125,), "pow": (2.0,), "selu": (1.5, 1.25),
              "thresholded_relu": (0.5,)}
DOMAINS = {"acosh": (1.0, 3.0), "log": (0.1, 3.0), "sqrt": (0.1, 3.0), "reciprocal": (0.5, 3.0), "acos": (-0.9, 0.9), "asin": (-0.9, 0.9),
           "atanh": (-0.9, 0.9)}


def every_operator(rng: np.random.Generator) -> Graph:
    """A graph with each float operator, and its variants that are written in different ways."""
    b = GraphBuilder("all")
    x = b.input("x", TensorType(F32, (1, 4, 6, 6)))

    def constant(*shape: int) -> str:
        return b.constant(rng.normal(size=shape).astype(np.float32))

    y = b.add(Convolution((1, 1), (1, 1, 1, 1), (1, 1), 2), [x, constant(4, 2, 3, 3), constant(4)])
    y = b.add(BatchNormalization(1e-3), [y, *(constant(4) for _ in range(3)), b.constant(np.full(4, 0.5, np.float32))])
    y = b.add(Clip((0.0,), (INFINITY,)), [b.add(Add(), [y, constant(4, 1, 1)])])
    y = b.add(Clip((-1.0, -2.0, 0.0, -0.5), (1.0, 2.0, 3.0, 4.0), 1), [b.add(Subtract(), [y, constant(4, 1, 1)])])
    y = b.add(Clip((-0.9,), (0.9,)), [b.add(Multiply(), [y, b.add(Divide(), [y, b.constant(np.float32(1.5))])])])
    y = b.add(PRelu(), [y, constant(4, 1, 1)])
    pooled = [b.add(MaxPool((3, 3), (2, 2), (1, 1, 1, 1)), [y]), b.add(AveragePool((2, 2), (2, 2)), [y]),
              b.add(AveragePool((3, 3), (2, 2), (1, 1, 1, 1), count_padding=True), [y]), b.add(MaxPool((2, 2), (2, 2), ceil=True), [y])]
    y = b.add(Concat(1), pooled)
    y = b.add(Slice((0, 2, 0, 0), (1, 15, 3, 3), (1, 3, 1, 1)), [y])
    y = b.add(Pad((0, 0, 1, 0), (0, 0, 0, 2), 0.5), [y])
    y = b.add(Gather(2), [y, b.constant(np.array([0, 0, 3, 1]))])
    weights = b.constant(np.array([0.25, 0.5], np.float32))
    y = b.add(Interpolate(3), [y, b.constant(np.array([0, 1])), b.constant(np.array([1, 2])), weights])
    y = b.add(Transpose((0, 2, 3, 1)), [y])
    y = b.add(MatMul(), [y, constant(5, 3), constant(3)])
    b.outputs["mean"] = b.add(ReduceMean((1, 2), False), [y])
    y = b.add(Reshape((8, 3)), [y])
    y = b.add(MatMul(), [y, constant(3, 3), constant(3)])
    b.outputs["soft"] = b.add(OnnxOperator("Softmax", "", 21, (("axis", 1),), (), (("f32", (8, 3)),)), [y])
    return b.build()


def test_every_operator(rng: np.random.Generator) -> None:
    graph = every_operator(rng)
    checker.check_model(export_model(graph), full_check=True)
    feeds = {"x": rng.normal(size=(1, 4, 6, 6)).astype(np.float32)}
    expected = interpret(graph, feeds, keep=None)
    got = FloatRunner(graph, tuple(graph.types), threads=1).run(feeds)
    assert set(got) == set(graph.types)
    for name, array in got.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    again = import_model(export_model(graph))
    for port, array in interpret(again, feeds).items():
        np.testing.assert_allclose(array, expected[port], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_every_function(function: str) -> None:
    b = GraphBuilder()
    low, high = DOMAINS.get(function, (-4.0, 4.0))
    x = b.input("x", TensorType(F32, (101,)))
    b.outputs["y"] = b.add(Function(function, PARAMETERS.get(function, ())), [x])
    graph = b.build()
    feeds = {"x": np.linspace(low, high, 101, dtype=np.float32)}
    np.testing.assert_allclose(FloatRunner(graph, ()).run_ports(feeds)["y"], interpret(graph, feeds)["y"], rtol=2e-5, atol=2e-6)
    assert import_model(export_model(graph)).nodes[-1].op == graph.nodes[-1].op or function == "silu"


def qdq_graph(rng: np.random.Generator, activation: DType) -> Graph:
    b = GraphBuilder("qdq")
    grid = Encoding(activation, (0.05,), (7,))
    x = b.input("x", TensorType(F32, (1, 3, 5, 5), grid))
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    scales = tuple(float(s) for s in np.abs(w).max(axis=(1, 2, 3)) / 127)
    weights = b.constant(w, "w", Encoding(I8, scales, (0,) * 4, 0))
    y = b.add(Convolution(), [x, weights, b.constant(rng.normal(size=4).astype(np.float32))], ["y"], Encoding(activation, (0.2,), (3,)))
    b.outputs["y"], b.stage = y, Stage.QDQ
    return b.build()


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_quantized_values_lie_on_their_grids(bits: int, rng: np.random.Generator) -> None:
    graph = qdq_graph(rng, DType("u", bits))
    checker.check_model(export_model(graph), full_check=True)
    feeds = {"x": rng.normal(size=(1, 3, 5, 5)).astype(np.float32)}
    got = FloatRunner(graph, ("x", "w", "y")).run(feeds)
    for name in ("x", "w", "y"):
        encoding = graph.types[name].encoding
        assert encoding is not None
        np.testing.assert_allclose(got[name], encoding.dequantize(encoding.quantize(got[name])), rtol=1e-6, atol=1e-6)
    source = graph.types["x"].encoding
    assert source is not None
    np.testing.assert_allclose(got["x"], source.dequantize(source.quantize(feeds["x"])), rtol=1e-6, atol=1e-6)
    (node,) = graph.nodes
    target = graph.types["y"].encoding
    assert target is not None
    exact = node.op.evaluate(got["x"], got["w"], graph.constants[node.inputs[2]])[0]
    assert np.abs(got["y"] - target.dequantize(target.quantize(exact))).max() <= 0.2 + 1e-6     # a tie may fall to either side
    assert np.mean(np.isclose(got["y"], target.dequantize(target.quantize(exact)), rtol=1e-5)) > 0.95


def test_qdq_export_has_integer_weights(rng: np.random.Generator) -> None:
    model = export_model(qdq_graph(rng, U8))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 2
    assert kinds.count("DequantizeLinear") == 3
    assert any(tensor.data_type == onnx.TensorProto.INT8 and tensor.dims == [4, 3, 3, 3] for tensor in model.graph.initializer)


def test_integer_graphs_have_no_onnx_form() -> None:
    b = GraphBuilder(stage=Stage.INTEGER)
    b.outputs["y"] = b.input("x", TensorType(U8, (1,)))
    with pytest.raises(PassError, match="INTEGER"):
        export_model(b.build())


@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_models_come_back(name: str, rng: np.random.Generator) -> None:
    path: Path = model_zoo.path(name)
    graph = import_model(path)
    model = export_model(graph)
    checker.check_model(model, full_check=True)
    feeds = {n: rng.normal(size=graph.types[n].shape).astype(np.float32) for n in graph.inputs}
    expected = FloatRunner(graph, ()).run_ports(feeds)
    for port, array in FloatRunner(import_model(model), ()).run_ports(feeds).items():
        np.testing.assert_allclose(array, expected[port], rtol=1e-5, atol=1e-6)


def test_runner_refuses_what_does_not_fit(rng: np.random.Generator) -> None:
    graph = every_operator(rng)
    with pytest.raises(UsageError, match="nothing"):
        FloatRunner(graph, ("nothing",))
    runner = FloatRunner(graph, ("x",))
    with pytest.raises(UsageError, match=r"expected \['x'\], got \['z'\]"):
        runner.run({"z": np.zeros((1, 4, 6, 6), np.float32)})
    with pytest.raises(UsageError, match=r"expected f32\[1, 4, 6, 6\], got f"):
        runner.run({"x": np.zeros((1, 4, 6, 6))})


def test_names_that_helpers_would_take() -> None:
    """Values may be called just what the parts of an exported operator would be called."""
    b = GraphBuilder()
    x = b.input("x", TensorType(F32, (2, 3)))
    low = b.add(Clip((-1.0,), (2.0,)), [x], ["y/low"])
    shape = b.add(Function("tanh"), [low], ["z/shape"])
    y = b.add(Clip((-0.5,), (0.5,)), [shape], ["y"])
    b.outputs["y"] = b.add(Reshape((3, 2)), [y], ["z"])
    b.outputs["x/value"] = x
    graph = b.build()
    feeds = {"x": np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)}
    got = FloatRunner(graph, tuple(graph.types)).run(feeds) | FloatRunner(graph, ()).run_ports(feeds)
    expected = interpret(graph, feeds, keep=frozenset(graph.types) - {"y"})
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6, err_msg=name)


def test_single_operators() -> None:
    op = OnnxOperator("Resize", "", 21, (("mode", "cubic"),), (1, 2), (("f32", (1, 1, 4, 4)),))
    types = (TensorType(F32, (1, 1, 2, 2)), TensorType(DType("i", 64), (4,)))
    model = export_operator(op, types)
    assert list(model.graph.node[0].input) == ["x0", "", "", "x1"]
    assert [value.name for value in model.graph.input] == ["x0", "x1"]
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    (y,) = evaluate_operator(op, x, np.array([1, 1, 4, 4]))
    assert y.shape == (1, 1, 4, 4)
    assert np.array_equal(y, op.evaluate(x, np.array([1, 1, 4, 4]))[0])
