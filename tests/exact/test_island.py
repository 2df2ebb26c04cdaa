"""Float operators through TVM's front end agree with ONNX Runtime, and what cannot be lowered is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from qcc.codegen.island import IslandRequest, lower_islands
from qcc.codegen.kernel import View
from qcc.codegen.target import find_target
from qcc.codegen.worker import KernelCompiler
from qcc.errors import UnsupportedOperator
from qcc.ir import Array, TensorType
from qcc.ir.types import F32
from qcc.onnx.operator import export_operator
from qcc.ops import OnnxOperator
from tests.exact.runner import library

Case = tuple[onnx.ModelProto, list[Array]]


def node(
    type: str, inputs: list[Array], *, opset: int = 18, constants: dict[int, Array] | None = None, outputs: int = 1, **attributes: Any
) -> Case:
    """A model of one node and what to feed it; constants are given by their position among the inputs."""
    fixed = {f"c{position}": array for position, array in (constants or {}).items()}
    rest, names = iter(range(len(inputs))), []
    for position in range(len(inputs) + len(fixed)):
        names.append(f"c{position}" if f"c{position}" in fixed else f"x{next(rest)}")
    declared = [helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for i, a in enumerate(inputs)]
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    made = helper.make_node(type, names, [f"y{i}" for i in range(outputs)], **attributes)
    tensors = [numpy_helper.from_array(array, name) for name, array in fixed.items()]
    graph = helper.make_graph([made], "node", declared, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), inputs


def reference(model: onnx.ModelProto, inputs: list[Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, {f"x{i}": array for i, array in enumerate(inputs)})
    return results


def request(label: str, case: Case, results: list[Array]) -> IslandRequest:
    types = [[TensorType.of(array) for array in arrays] for arrays in (case[1], results)]
    views = [tuple(View.contiguous(t.dtype, t.shape) for t in group) for group in types]
    return IslandRequest(label, case[0].SerializeToString(), views[0], views[1])


def f32(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


POSITIVE = np.abs(f32(2, 5, 7)) + np.float32(0.1)
CASES: dict[str, Case] = {
    "softmax": node("Softmax", [f32(2, 3, 50)], axis=-1),
    "softmax in the middle": node("Softmax", [f32(2, 9, 5)], axis=1),
    "softmax of 1000": node("Softmax", [f32(1, 1000)], axis=1),
    "log softmax": node("LogSoftmax", [f32(2, 9)], axis=1),
    "lrn": node("LRN", [f32(1, 8, 5, 5)], size=5, alpha=0.01, beta=0.75, bias=1.5),
    "layer normalization": node("LayerNormalization", [f32(2, 8, 16), f32(16, seed=1), f32(16, seed=2)]),
    "instance normalization": node("InstanceNormalization", [f32(1, 3, 8, 9), f32(3), f32(3, seed=1)]),
    "gelu": node("Gelu", [f32(3, 33)], opset=20),
    "erf": node("Erf", [f32(3, 33)]),
    "exp": node("Exp", [f32(3, 33)]), "sqrt": node("Sqrt", [POSITIVE]), "log": node("Log", [POSITIVE]),
    "tanh": node("Tanh", [f32(65)]), "sigmoid": node("Sigmoid", [f32(65)]), "reciprocal": node("Reciprocal", [POSITIVE]),
    "floor": node("Floor", [f32(3, 4) * 5]), "round": node("Round", [np.array([0.5, 1.5, -0.5, 2.4], np.float32)]),
    "add": node("Add", [f32(2, 5, 7), f32(5, 1)]), "mul": node("Mul", [f32(2, 5, 7), f32(7)]),
    "sub": node("Sub", [f32(2, 5, 7), f32(1)]), "div": node("Div", [f32(2, 5, 7), POSITIVE]),
    "pow": node("Pow", [POSITIVE, np.array(1.5, np.float32)]),
    "max": node("Max", [f32(6), f32(6, seed=1), f32(6, seed=2)]),
    "less": node("Less", [f32(19), f32(19, seed=1)]), "and": node("And", [f32(9) > 0, f32(9, seed=1) > 0]),
    "not": node("Not", [f32(9) > 0]),
    "where": node("Where", [f32(3, 1) > 0, f32(3, 5), f32(5)]),
    "cast": node("Cast", [f32(17) * 9], to=onnx.TensorProto.INT32),
    "cast of booleans": node("Cast", [f32(9) > 0], to=onnx.TensorProto.FLOAT),
    "arg max": node("ArgMax", [f32(4, 10)], axis=1), "arg max of 1000": node("ArgMax", [f32(1, 1000)], axis=1, keepdims=0),
    "reduce max": node("ReduceMax", [f32(2, 5, 7)], constants={1: np.array([1])}),
    "reduce mean": node("ReduceMean", [f32(2, 5, 7)], constants={1: np.array([-1])}),
    "reduce sum": node("ReduceSum", [f32(2, 5, 7)], constants={1: np.array([0, 2])}, keepdims=0),
    "matmul": node("MatMul", [f32(2, 5, 7), f32(2, 7, 9)]), "gemm": node("Gemm", [f32(3, 7), f32(9, 7), f32(9)], transB=1),
    "matmul by a constant": node("MatMul", [f32(5, 7)], constants={1: f32(7, 900)}),
    "transpose": node("Transpose", [f32(2, 5, 7)], perm=[2, 0, 1]),
    "reshape": node("Reshape", [f32(2, 5, 7)], constants={1: np.array([5, -1])}),
    "slice": node("Slice", [f32(9, 7)], constants={1: np.array([1, 0]), 2: np.array([8, 6]), 3: np.array([0, 1]), 4: np.array([2, 3])}),
    "pad": node("Pad", [f32(4, 5)], constants={1: np.array([1, 0, 2, 3]), 2: np.array(0.5, np.float32)}, mode="constant"),
    "concat": node("Concat", [f32(2, 3), f32(2, 4)], axis=1), "identity": node("Identity", [f32(2, 3)]),
    "split": node("Split", [f32(4, 10)], axis=1, num_outputs=2, outputs=2),
    "convolution": node("Conv", [f32(1, 6, 9, 9), f32(4, 6, 3, 3), f32(4)], pads=[1, 1, 1, 1], strides=[2, 2]),
    "average pool": node("AveragePool", [f32(1, 3, 9, 9)], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "resize": node(
        "Resize", [f32(1, 2, 4, 4)], constants={1: np.zeros(0, np.float32), 2: np.array([1, 1, 2, 2], np.float32)}, mode="linear"),
    "gather": node("Gather", [f32(9, 4), np.array([3, 0, 8])], axis=0),
    "expand": node("Expand", [f32(3, 1)], constants={1: np.array([2, 3, 4])}),
    "large intermediate": node("LogSoftmax", [f32(40, 3000)], axis=1),
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[KernelCompiler]:
    with KernelCompiler(find_target("host"), 2) as started:
        yield started


def test_agrees_with_onnx_runtime(compiler: KernelCompiler, tmp_path: Path) -> None:
    references = {label: reference(*case) for label, case in CASES.items()}
    islands = lower_islands(compiler, [request(label, case, references[label]) for label, case in CASES.items()])
    built = library([island.kernel for island in islands], compiler, tmp_path)
    for (label, case), island in zip(CASES.items(), islands, strict=True):
        results = built.run(island.kernel, [*case[1], *island.constants])
        for result, expected in zip(results, references[label], strict=False):
            assert result.dtype == expected.dtype
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5, err_msg=label)


def test_operators_of_the_graph(compiler: KernelCompiler, tmp_path: Path) -> None:
    """As a compiler does it: the operator's own export, constants by position."""
    clip = OnnxOperator("Clip", "", 13, (), (1,), (("f32", (3, 40)),))
    tile = OnnxOperator("Tile", "", 13, (), (), (("f32", (6, 40)),))
    x, high, repeats = f32(3, 40), np.array(0.3, np.float32), np.array([2, 1])
    expected = [np.minimum(x, high), np.tile(x, (2, 1))]
    requests = []
    for op, value, result in ((clip, high, expected[0]), (tile, repeats, expected[1])):
        model = export_operator(op, [TensorType.of(x), TensorType.of(value)]).SerializeToString()
        views = [View.contiguous(F32, array.shape) for array in (x, result)]
        requests.append(IslandRequest(op.type, model, (views[0],), (views[1],), ((1, value.tobytes()),)))
    islands = lower_islands(compiler, requests)
    built = library([island.kernel for island in islands], compiler, tmp_path)
    for island, result in zip(islands, expected, strict=True):
        assert np.array_equal(built.run(island.kernel, [x, *island.constants])[0], result)


def test_every_unsupported_node_is_named(compiler: KernelCompiler) -> None:
    good, bad = node("Exp", [f32(4)]), node("Det", [f32(3, 3)])
    scalar = np.zeros((), np.float32)
    requests = [request("first", bad, [scalar]), request("fine", good, [f32(4)]), request("last", bad, [scalar])]
    with pytest.raises(UnsupportedOperator, match=r"first: .*Det.*last: .*Det") as caught:
        lower_islands(compiler, requests)
    assert "fine: " not in str(caught.value)
