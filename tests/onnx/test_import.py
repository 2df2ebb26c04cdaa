"""Importing: real models against ONNX Runtime, shapes, opsets, subgraphs, functions; the user's model is never touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcc.errors import UsageError
from qcc.ir import Array, Graph, Stage, dump, interpret, parse, verify
from qcc.models import zoo as model_zoo
from qcc.onnx import FloatRunner, import_model
from qcc.ops import Clip, Convolution, OnnxOperator, Reshape

SHAPE_ARITHMETIC = {"Shape", "Gather", "Concat", "Slice", "Cast", "ConstantOfShape", "Range", "Size"}


def model_of(nodes: list[onnx.NodeProto], shape: tuple[int | str | None, ...] = (1, 2, 4, 4), *, opset: int = 17,
             constants: dict[str, Array] | None = None, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A model with the float input x."""
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def by_runtime(model: onnx.ModelProto | Path, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_of(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    return {name: rng.normal(size=graph.types[name].shape).astype(np.float32) for name in graph.inputs}


def operators(graph: Graph) -> list[str]:
    return [str(node.op) for node in graph.nodes]


def agree(model: onnx.ModelProto | Path, graph: Graph, rng: np.random.Generator) -> None:
    feeds = feeds_of(graph, rng)
    expected, got = by_runtime(model, feeds), interpret(graph, feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(array).max())))


@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_models(name: str, rng: np.random.Generator) -> None:
    path = model_zoo.path(name)
    graph = import_model(path)
    assert graph.stage is Stage.FLOAT
    assert not SHAPE_ARITHMETIC.intersection(operators(graph))
    assert parse(dump(graph), graph.constants).nodes == graph.nodes
    agree(path, graph, rng)


@pytest.mark.parametrize("name", ["light_shufflenet", "light_densenet121", "light_inception_v2"])
def test_light_models(name: str, rng: np.random.Generator) -> None:
    """Their constant weights make huge values, so only the same kernels give the same results: the runtime's on both sides."""
    path = model_zoo.path(name)
    graph = import_model(path)
    feeds = feeds_of(graph, rng)
    expected, got = by_runtime(path, feeds), FloatRunner(graph, ()).run_ports(feeds)
    for output, array in expected.items():
        np.testing.assert_allclose(got[output], array, rtol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite0_bn", "squeezenet1_1", "lenet5_mnist"])
def test_published_models(name: str, zoo: Callable[[str], Path], rng: np.random.Generator) -> None:
    graph = import_model(zoo(name))
    assert not SHAPE_ARITHMETIC.intersection(operators(graph))
    agree(zoo(name), graph, rng)


def test_sources_are_equal_and_untouched(tmp_path: Path) -> None:
    path = model_zoo.path("resnet8_cifar10")
    content = path.read_bytes()
    message = onnx.ModelProto.FromString(content)
    graphs = [import_model(source) for source in (path, str(path), content, message)]
    assert len({dump(graph).split("\n", 1)[1] for graph in graphs}) == 1
    assert path.read_bytes() == content
    assert message.SerializeToString() == onnx.ModelProto.FromString(content).SerializeToString()


@pytest.mark.parametrize("opset", range(7, 23))
def test_every_opset(opset: int, rng: np.random.Generator) -> None:
    """One network, written for opset 17, in all of them: bounds, axes, pads and sizes move between attributes and inputs."""
    constants = {"w": rng.normal(size=(4, 2, 3, 3)).astype(np.float32), "zero": np.float32(0), "six": np.float32(6)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER"),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    model = model_of(nodes, constants=constants)
    if opset < 11:
        model.graph.node[1].CopyFrom(helper.make_node("Clip", ["a"], ["b"], min=0.0, max=6.0))
    model.opset_import[0].version = opset
    graph = import_model(model)
    assert [str(node.op) for node in graph.nodes][:3] == ["convolution", "clip", "max_pool"]
    agree(model, graph, rng)


def test_softmax_before_13_flattens(rng: np.random.Generator) -> None:
    model = model_of([helper.make_node("Softmax", ["x"], ["y"], axis=1)], opset=11)
    agree(model, import_model(model), rng)


def test_batch_is_one_and_other_open_dimensions_are_asked_for() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    assert import_model(model_of([node], ("N", 3, 8))).types["x"].shape == (1, 3, 8)
    assert import_model(model_of([node], (None, 3, 8)), {"x": (5, 3, 8)}).types["x"].shape == (5, 3, 8)
    with pytest.raises(UsageError, match=r"input 'x' axis 1 \(height\).*--input-shape NAME:1x3x224x224"):
        import_model(model_of([node], ("N", "height", 8)))
    assert import_model(model_of([node], ("N", "height", 8)), {"x": (1, 7, 8)}).types["x"].shape == (1, 7, 8)


@pytest.mark.parametrize(("shapes", "words"), [
    ({"z": (1,)}, "no such input. Its inputs: 'x'"), ({"x": (1, 3)}, "give 3 positive extents"),
    ({"x": (1, 4, 8)}, "only open dimensions can be chosen"), ({"x": (0, 3, 8)}, "positive"),
])
def test_wrong_shapes(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        import_model(model_of([helper.make_node("Relu", ["x"], ["y"])], ("N", 3, 8)), shapes)


def test_named_dimensions_are_shared() -> None:
    model = model_of([helper.make_node("Add", ["x", "z"], ["y"])], ("N", 3))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", 3)))
    assert import_model(model, {"x": (4, 3)}).types["z"].shape == (4, 3)


def test_shape_arithmetic_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "first"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]), helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {"first": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    graph = import_model(model_of(nodes, constants=constants))
    assert [node.op for node in graph.nodes] == [Reshape((1, 32))]


def test_constant_condition_chooses_its_branch(rng: np.random.Generator) -> None:
    inner = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = {name: helper.make_graph([helper.make_node(kind, ["x"], ["inner"])], name, [], [inner])
                for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))}
    nodes = [helper.make_node("If", ["condition"], ["a"], **branches), helper.make_node("If", ["condition"], ["b"], **branches),
             helper.make_node("Add", ["a", "b"], ["y"])]
    model = model_of(nodes, constants={"condition": np.array(True)})
    graph = import_model(model)
    assert sum(isinstance(node.op, Clip) for node in graph.nodes) == 2
    agree(model, graph, rng)


def test_functions_are_inlined(rng: np.random.Generator) -> None:
    model = model_of([helper.make_node("Twice", ["x"], ["y"], domain="mine")])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    graph = import_model(model)
    assert operators(graph) == ["add"]
    agree(model, graph, rng)


def test_initializers_that_are_inputs_are_constants(rng: np.random.Generator) -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], constants={"w": rng.normal(size=(1, 2, 1, 1)).astype(np.float32)})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (1, 2, 1, 1)))
    graph = import_model(model)
    assert graph.inputs == ("x",)
    assert isinstance(graph.nodes[0].op, Convolution)


def test_other_operators_stay_as_they_are(rng: np.random.Generator) -> None:
    nodes = [helper.make_node("LRN", ["x"], ["a"], size=3), helper.make_node("TopK", ["a", "k"], ["y", "indices"], axis=1)]
    model = model_of(nodes, constants={"k": np.array([1])}, outputs=("y",))
    graph = import_model(model)
    assert all(isinstance(node.op, OnnxOperator) for node in graph.nodes)
    verify(graph)
    agree(model, graph, rng)


def test_names_of_values_are_kept() -> None:
    graph = import_model(model_of([helper.make_node("Relu", ["x"], ["middle"]), helper.make_node("Neg", ["middle"], ["y"])]))
    assert [node.outputs for node in graph.nodes] == [("middle",), ("y",)]
    assert graph.outputs == {"y": "y"}
