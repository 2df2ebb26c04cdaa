"""Single ONNX nodes as models of their own: for evaluation, for ONNX's own type inference, for lowering by other front ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qcc.errors import ModelError
from qcc.ir import Array, DType, TensorType
from qcc.onnx.inputs import element_code
from qcc.ops import OnnxOperator
from qcc.ops.generic import set_evaluator

OPSET = 21             # of every graph that is written; u8 and i8 per axis, Gelu, and well supported by ONNX Runtime
IR_VERSION = 10


def plain_attribute(value: Any) -> Any:
    """An attribute as hashable data: arrays become ("tensor", element type, shape, elements)."""
    if isinstance(value, np.ndarray):
        return "tensor", str(DType.of(value.dtype)), tuple(value.shape), tuple(value.reshape(-1).tolist())
    return value


def onnx_attribute(value: Any) -> Any:
    """The inverse of `plain_attribute`."""
    if isinstance(value, tuple) and value[:1] == ("tensor",):
        _, dtype, shape, elements = value
        return numpy_helper.from_array(np.array(elements, DType.parse(dtype).numpy).reshape(shape))
    return list(value) if isinstance(value, tuple) else value


def make_node(op: OnnxOperator, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """The node; `inputs` has '' for absent optional inputs."""
    node = helper.make_node(op.type, list(inputs), list(outputs), domain=op.domain)
    schema = onnx.defs.get_schema(op.type, op.opset, op.domain)
    for name, value in op.arguments:
        # The schema decides the kind of an empty list or of a number, which the value alone does not show.
        kind = int(schema.attributes[name].type.value) if name in schema.attributes else None  # type: ignore[attr-defined]
        node.attribute.append(helper.make_attribute(name, onnx_attribute(value), attr_type=kind))
    return node


def with_absent(op: OnnxOperator, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the inputs that are there, with '' put in for those that are not."""
    result: list[str] = []
    rest = list(names)
    while rest:
        result.append("" if len(result) in op.absent else rest.pop(0))
    return tuple(result)


def node_model(
    node: onnx.NodeProto, opset: int, inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType | None],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    """A model of this node alone. Outputs of unknown type are declared without one."""
    declared = [value_info(name, type) for name, type in inputs.items()]
    results = [value_info(name, type) for name, type in outputs.items()]
    tensors = [numpy_helper.from_array(np.array(array), name) for name, array in constants.items()]
    graph = helper.make_graph([node], "operator", declared, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)


def value_info(name: str, type: TensorType | None) -> onnx.ValueInfoProto:
    """A declaration of a value in ONNX; without a type where that is not known."""
    return onnx.ValueInfoProto(name=name) if type is None else helper.make_tensor_value_info(name, element_code(type.dtype), type.shape)


def export_operator(op: OnnxOperator, input_types: Sequence[TensorType]) -> onnx.ModelProto:
    """The operator as a model with inputs x0, x1, ... (the absent ones left out) and outputs y0, y1, ..."""
    names = [f"x{i}" for i in range(len(input_types))]
    outputs = [f"y{i}" for i in range(len(op.results))]
    node = make_node(op, with_absent(op, names), outputs)
    types = dict(zip(outputs, op.infer(*input_types), strict=True))
    return node_model(node, op.opset, dict(zip(names, input_types, strict=True)), types, {})


def evaluate_operator(op: OnnxOperator, *arrays: Array) -> tuple[Array, ...]:
    """The outputs, by ONNX Runtime. `arrays` are the inputs that are there.

    Raises:
        ModelError: the runtime refuses the operator.
    """
    session = _session(op, tuple(TensorType.of(array) for array in arrays))
    names = [entry.name for entry in session.get_inputs()]
    try:
        # NumPy turns results without dimensions into bare numbers, which the runtime does not take.
        results: Sequence[Array] = session.run(None, {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)})
    except Exception as error:  # the runtime's exceptions have no common base but Exception
        raise ModelError(f"operator {op.type}: ONNX Runtime cannot evaluate it: {error}") from error
    return tuple(np.asarray(result) for result in results)


@lru_cache(maxsize=512)
def _session(op: OnnxOperator, types: tuple[TensorType, ...]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        return onnxruntime.InferenceSession(export_operator(op, types).SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common base but Exception
        raise ModelError(f"operator {op.type} (opset {op.opset}): ONNX Runtime has no kernel for it: {error}") from error


set_evaluator(evaluate_operator)
