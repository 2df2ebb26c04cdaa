"""Imports a node that has no operator class: as `OnnxOperator`, with the types that ONNX's inference gives it, at the one opset."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference, version_converter

from qcc.errors import ModelError
from qcc.ir import Array, TensorType
from qcc.ir.types import STRING
from qcc.onnx.constants import cast_constant
from qcc.onnx.conversion import Call, Conversion, Unsupported
from qcc.onnx.inputs import element_type, type_name
from qcc.onnx.operator import OPSET, evaluate_operator, node_model, plain_attribute
from qcc.ops import OnnxOperator

CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
RUNTIME_TYPES = {"tensor(float)": "f32", "tensor(double)": "f64", "tensor(float16)": "f16", "tensor(bool)": "bool",
                 **{f"tensor({sign}int{bits})": f"{sign or 'i'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}
SMALL = 4096           # constants up to this many elements are shown to type inference, which may need their values


def operator_version(type: str, opset: int) -> int | None:
    """The opset in which this operator's definition, as of `opset`, appeared; None if there is no such operator."""
    try:
        return int(onnx.defs.get_schema(type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def refuse(call: Call) -> str | None:
    """Why a node cannot be imported whatever its inputs are, or None."""
    if call.node.domain not in ("", "ai.onnx"):
        return f"operators of domain {call.node.domain!r} are not known"
    if operator_version(call.type, call.opset) is None:
        return f"opset {call.opset} of ONNX has no such operator"
    if call.type in CONTROL_FLOW:
        return "control flow that depends on the data"
    if call.type in RANDOM:
        return "a random result"
    if call.type.startswith(("Sequence", "Optional")) or call.type in ("ConcatFromSequence", "SplitToSequence"):
        return "sequences and optional values"
    return None


def needs_conversion(call: Call) -> bool:
    """Whether the operator's definition differs between its opset and the one that graphs have.

    Operators that are newer than that opset stay as they are: a graph with one of them is written in the newer opset.
    """
    return operator_version(call.type, OPSET) not in (None, operator_version(call.type, call.opset))


def converted(c: Conversion, call: Call) -> list[onnx.NodeProto]:
    """The node in the one opset, as one node or a few; their inputs and outputs keep their ONNX names.

    Raises:
        Unsupported: there is no conversion.
    """
    names = {onnx_name: value for onnx_name, value in zip(call.node.input, call.inputs, strict=False) if onnx_name}
    constants = {name: array for name, value in names.items() if (array := c.constant(value)) is not None and array.size <= SMALL}
    inputs = {name: c.type(value) for name, value in names.items() if name not in constants}
    model = node_model(call.node, call.opset, inputs, dict.fromkeys(filter(None, call.node.output)), constants)
    try:
        model = shape_inference.infer_shapes(model, data_prop=True)
        result = version_converter.convert_version(model, OPSET)
    except Exception as error:  # C++ errors of several kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unsupported(f"cannot be converted from opset {call.opset} to {OPSET}: {reason.rsplit(': ', 1)[-1]}") from error
    tensors = [helper.make_node("Constant", [], [t.name], value=t) for t in result.graph.initializer if t.name not in names]
    return [*tensors, *result.graph.node]


def generic(c: Conversion, call: Call) -> tuple[str, ...]:
    """The operator as it is; evaluated right away when all of its inputs are constant.

    Raises:
        Unsupported: its types cannot be known or are not supported.
    """
    arrays = [c.constant(v) for v in call.inputs if v]
    if call.type == "Cast" and arrays and arrays[0] is not None:
        return (c.add_constant(cast_constant(arrays[0], _cast_type(call))),)
    opset = OPSET if operator_version(call.type, OPSET) is not None else call.opset
    absent = tuple(i for i, v in enumerate(call.inputs) if not v)
    op = OnnxOperator(call.type, "", opset, _arguments(call), absent, _results(c, call, opset))
    if arrays and all(array is not None for array in arrays):
        try:
            return tuple(c.add_constant(np.asarray(result)) for result in evaluate_operator(op, *(a for a in arrays if a is not None)))
        except ModelError as error:
            raise Unsupported(f"cannot be evaluated: {error}") from error
    return c.emit_all(op, call.inputs, len(op.results))


def _cast_type(call: Call) -> np.dtype[Any]:
    dtype = element_type(call.get("to", 0))
    if dtype is None or dtype == STRING:
        raise Unsupported(f"a cast to {type_name(call.get('to', 0))}")
    return dtype.numpy


def _arguments(call: Call) -> tuple[tuple[str, Any], ...]:
    for name, value in call.attributes.items():
        if isinstance(value, onnx.GraphProto | onnx.SparseTensorProto | onnx.TypeProto):
            raise Unsupported(f"attribute {name!r} is a {type(value).__name__}")
    return tuple(sorted((name, plain_attribute(value)) for name, value in call.attributes.items()))


def _results(c: Conversion, call: Call, opset: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Element types and shapes of the outputs by ONNX's own inference, which sees the values of small constants."""
    node = onnx.NodeProto()
    node.CopyFrom(call.node)
    node.domain = ""
    node.output[:] = [f"y{i}" for i in range(len(node.output))]
    node.input[:] = [f"x{i}" if v else "" for i, v in enumerate(call.inputs)]
    given: dict[str, Array | None] = {f"x{i}": c.constant(v) for i, v in enumerate(call.inputs) if v}
    constants = {name: array for name, array in given.items() if array is not None and array.size <= SMALL}
    inputs = {f"x{i}": c.type(v) for i, v in enumerate(call.inputs) if v and f"x{i}" not in constants}
    model = node_model(node, opset, inputs, dict.fromkeys(node.output), constants)
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # C++ errors of several kinds
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise Unsupported(f"its inputs do not fit: {lines[-1] if lines else error}") from error
    if any(not value.type.tensor_type.HasField("shape") for value in inferred.graph.output):
        return runtime_types(inferred)      # some operators have no inference in ONNX
    return tuple(_result(value) for value in inferred.graph.output)


def runtime_types(model: onnx.ModelProto) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Types of a model's outputs as ONNX Runtime infers them.

    Raises:
        Unsupported: it cannot.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Unsupported("the type of its result is not known") from error
    results = []
    for entry in session.get_outputs():
        dtype = RUNTIME_TYPES.get(entry.type)
        # No extents: the runtime does not tell a number from a tensor of unknown rank.
        if dtype is None or not entry.shape or any(not isinstance(n, int) for n in entry.shape):
            raise Unsupported("the shape of its result depends on the data")
        results.append((dtype, tuple(entry.shape)))
    return tuple(results)


def _result(value: onnx.ValueInfoProto) -> tuple[str, tuple[int, ...]]:
    if value.type.WhichOneof("value") not in ("tensor_type", None):
        raise Unsupported(f"a result that is not a tensor ({value.type.WhichOneof('value')})")
    tensor = value.type.tensor_type
    type: TensorType | None = None
    dtype = element_type(tensor.elem_type)
    if dtype is None and tensor.elem_type:
        raise Unsupported(f"a result of type {type_name(tensor.elem_type)}")
    if dtype is not None and tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
        type = TensorType(dtype, tuple(int(d.dim_value) for d in tensor.shape.dim))
    if type is None:
        raise Unsupported("the shape of its result depends on the data")
    return str(type.dtype), type.shape
