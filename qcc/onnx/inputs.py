"""Decides the types of a model's inputs: element types from the model, dynamic dimensions from the caller, the batch 1 by default."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from qcc.errors import ModelError, UsageError
from qcc.ir import DType, TensorType
from qcc.ir.types import BOOL

Dim = int | str | None      # fixed, named, or unknown

_ELEMENTS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "f32", onnx.TensorProto.DOUBLE: "f64", onnx.TensorProto.FLOAT16: "f16", onnx.TensorProto.BOOL: "bool",
    **{getattr(onnx.TensorProto, f"{sign}INT{bits}"): f"{'u' if sign else 'i'}{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
_CODES = {name: code for code, name in _ELEMENTS.items()}


def element_type(code: int) -> DType | None:
    """The element type for a code of TensorProto, or None where the IR has none: strings, complex, bfloat16, float8, int4."""
    return DType.parse(_ELEMENTS[code]) if code in _ELEMENTS else None


def element_code(dtype: DType) -> int:
    """The code of TensorProto for an element type.

    Raises:
        ModelError: ONNX has no such type.
    """
    name = "bool" if dtype == BOOL else str(dtype)
    if name not in _CODES:
        raise ModelError(f"element type {dtype} has no counterpart in ONNX")
    return _CODES[name]


def type_name(code: int) -> str:
    known = onnx.TensorProto.DataType
    return str(known.Name(code)) if code in known.values() else f"number {code}"


def input_types(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorType]:
    """Types of the inputs that are not initializers, all dimensions fixed.

    Raises:
        UsageError: `shapes` names no input or contradicts the model; a dimension other than the batch is unknown.
        ModelError: an input is not a tensor of a supported element type.
    """
    constants = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    names = [value.name for value in inputs]
    for name in shapes:
        if name not in names:
            raise UsageError(f"--input-shape {name}: the model has no such input. Its inputs: {', '.join(map(repr, names)) or 'none'}.")
    dims = {value.name: _dims(value, shapes.get(value.name)) for value in inputs}
    symbols = _symbols(dims, shapes)
    missing: list[str] = []
    types = {}
    for value in inputs:
        fixed = tuple(_fix(dim, axis, symbols) for axis, dim in enumerate(dims[value.name]))
        shape: tuple[int | None, ...] = shapes.get(value.name, fixed)
        if None in shape:
            missing.append(_describe(value.name, dims[value.name], shape))
        types[value.name] = TensorType(_element(value), tuple(int(n or 0) for n in shape))
    if missing:
        raise UsageError(f"the model leaves dimensions of its inputs open: {'; '.join(missing)}. Fix them with "
                         "--input-shape NAME:1x3x224x224, once per input.")
    return types


def _element(value: onnx.ValueInfoProto) -> DType:
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input {value.name!r} is not a tensor ({value.type.WhichOneof('value')}). Only tensors can be inputs.")
    dtype = element_type(value.type.tensor_type.elem_type)
    if dtype is None:
        raise ModelError(f"input {value.name!r} holds elements of type {type_name(value.type.tensor_type.elem_type)}; expected one of "
                         f"{', '.join(_CODES)}. Export the model with another input type.")
    return dtype


def _dims(value: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> list[Dim]:
    """The dimensions as the model declares them; the caller's must agree."""
    if not value.type.tensor_type.HasField("shape"):
        if given is None:
            raise UsageError(f"the model does not say how many dimensions input {value.name!r} has. Give its shape, for example "
                             f"--input-shape {value.name}:1x3x224x224.")
        return list(given)
    declared = [_dim(d) for d in value.type.tensor_type.shape.dim]
    if given is None:
        return declared
    option = f"--input-shape {value.name}:{'x'.join(map(str, given))}"
    shown = "x".join(str(d) if d is not None else "?" for d in declared)
    if len(given) != len(declared) or any(n < 1 for n in given):
        raise UsageError(f"{option}: the input has shape {shown}; give {len(declared)} positive extents.")
    if any(isinstance(d, int) and d != n for d, n in zip(declared, given, strict=True)):
        raise UsageError(f"{option}: the model fixes the shape {shown}; only open dimensions can be chosen.")
    return declared


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    # Some exporters write 0 or -1 for an open dimension, or "?" as the name of all of them.
    return str(dim.dim_param) if any(letter.isalnum() for letter in dim.dim_param) else None


def _symbols(dims: Mapping[str, list[Dim]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Values of named dimensions: what the caller's shapes say; else, where a name stands first anywhere, a batch of 1."""
    known = {dim: n for name, shape in shapes.items() for dim, n in zip(dims[name], shape, strict=True) if isinstance(dim, str)}
    batches = {d[0]: 1 for d in dims.values() if d and isinstance(d[0], str)}
    return batches | known


def _fix(dim: Dim, axis: int, symbols: Mapping[str, int]) -> int | None:
    if isinstance(dim, int):
        return dim
    return symbols.get(dim or "", 1 if axis == 0 else None)


def _describe(name: str, dims: list[Dim], shape: tuple[int | None, ...]) -> str:
    axes = ", ".join(f"axis {axis}" + (f" ({dims[axis]})" if dims[axis] else "") for axis, n in enumerate(shape) if n is None)
    return f"input {name!r} {axes}"
