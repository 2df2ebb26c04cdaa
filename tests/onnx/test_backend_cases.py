"""ONNX's own test cases: every operator that qcc has a class for, imported, evaluated by the interpreter, compared with ONNX's results."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from qcc.errors import ModelError, UsageError
from qcc.ir import Graph, interpret
from qcc.onnx import import_model
from qcc.onnx.conversion import TABLE

TestCase.__test__ = False       # it is a data class of onnx, not a test

# Cases that are refused, and the words of the refusal.
REFUSED = {
    "bfloat16": "BFLOAT16", "BFLOAT16": "BFLOAT16", "FLOAT8": "FLOAT8", "FLOAT4": "FLOAT4", "INT2": "INT2", "INT4": "INT4",
    "training": "training mode", "train_": "training mode", "optional": "dimensions", "sequence": "dimensions", "_opt": "dimensions",
}
# Cases whose expectation qcc does not follow, and why.
DIFFERENT = {
    "test_resize_downsample_scales_linear_align_corners": "ONNX aligns to a fractional extent; qcc and ONNX Runtime to the rounded one",
    "test_resize_downsample_scales_cubic_align_corners": "the same",
    "test_split_zero_size_splits_opset13": "an extent of 0 in an input's shape means an open dimension",
    "test_split_zero_size_splits_opset18": "an extent of 0 in an input's shape means an open dimension",
    "test_max_int16": "ONNX Runtime has no kernel", "test_max_uint16": "ONNX Runtime has no kernel",
    "test_min_int16": "ONNX Runtime has no kernel", "test_min_uint16": "ONNX Runtime has no kernel",
    "test_pow_types_float32_uint64": "ONNX Runtime has no kernel", "test_pow_types_float32_uint32": "ONNX Runtime has no kernel",
    "test_constantofshape_int_shape_zero": "an extent of 0 in an input's shape means an open dimension",
    "test_reshape_allowzero_reordered": "an extent of 0 in an input's shape means an open dimension",
}


def cases() -> list[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = load_model_tests(kind="node")
        models = [case for kind in ("pytorch-converted", "pytorch-operator") for case in load_model_tests(kind=kind)]
    return [case for case in nodes if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in TABLE] + models


CASES = {case.name: case for case in cases()}


def data_sets(case: TestCase) -> list[tuple[Sequence[Any], Sequence[Any]]]:
    if case.data_sets is not None:
        return [([_array(v) for v in inputs], [_array(v) for v in outputs]) for inputs, outputs in case.data_sets]
    folders = sorted(Path(case.model_dir).glob("test_data_set_*"))
    return [tuple([_read(file) for file in sorted(folder.glob(f"{kind}_*.pb"))] for kind in ("input", "output")) for folder in folders]


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read(file: Path) -> Any:
    return numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


def load(case: TestCase) -> onnx.ModelProto:
    return case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")


def check(case: TestCase, graph: Graph, model: onnx.ModelProto) -> None:
    for inputs, outputs in data_sets(case):
        named = zip(model.graph.input, inputs, strict=False)       # behind the inputs proper come those that are initializers
        results = interpret(graph, {value.name: np.asarray(array) for value, array in named if value.name in graph.inputs})
        for value, expected in zip(model.graph.output, outputs, strict=True):
            np.testing.assert_allclose(results[value.name], expected, rtol=case.rtol, atol=max(case.atol, 1e-6))
            assert results[value.name].dtype == expected.dtype


def refusal(name: str) -> str | None:
    return next((text for part, text in REFUSED.items() if part in name), None)


@pytest.mark.parametrize("name", sorted(CASES))
def test_case(name: str) -> None:
    if name in DIFFERENT:
        pytest.skip(DIFFERENT[name])
    case = CASES[name]
    model = load(case)
    words = refusal(name)
    if words is not None:
        with pytest.raises((ModelError, UsageError), match=words):
            import_model(with_constants(case, model))
        return
    check(case, import_model(with_constants(case, model)), model)


def with_constants(case: TestCase, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all inputs but the first as constants: that is how axes, pads and weights stand in real models.

    ConstantOfShape and Range get the first as a constant, too.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    if case.data_sets is not None:
        inputs = data_sets(case)[0][0]
        first = 0 if model.graph.node[0].op_type in ("ConstantOfShape", "Range") else 1
        for value, array in list(zip(model.graph.input, inputs, strict=True))[first:]:
            if isinstance(array, np.ndarray | np.generic):
                fixed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    return fixed
