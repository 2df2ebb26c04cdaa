"""Reads a model file safely and decides whether it is ONNX that may be imported: format, external data, validity, opset."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import checker, external_data_helper, inliner, shape_inference, version_converter

from qcc.errors import ModelError, UsageError
from qcc.onnx.conversion import problem, unsupported

OLDEST_OPSET = 7       # older ones broadcast by other rules, and are converted to this one
Source = str | Path | bytes | onnx.ModelProto


def load_model(source: Source) -> onnx.ModelProto:
    """The model, valid, with its data in memory and its functions inlined. Neither the file nor a given message is changed.

    Raises:
        UsageError: the file does not exist or cannot be read.
        UnsupportedOperator: nodes that are not ONNX's in the model's opset, all of them listed.
        ModelError: not an ONNX model, damaged, invalid, of an opset too old, or with external data that is missing or elsewhere.
    """
    label, model = _read(source)
    external = [tensor for tensor in _tensors(model.graph) if external_data_helper.uses_external_data(tensor)]
    if external:
        _load_external(label, model, external, source)
    _check(label, _with_output_shapes(model))
    opset = standard_opset(model)
    if opset < OLDEST_OPSET:
        model = _modernized(label, model, opset)
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:  # the inliner raises bare RuntimeErrors from C++
            raise ModelError(f"{label}: its local functions cannot be inlined ({_first_line(error)}). "
                             "The model is not valid ONNX.") from error
    return model


def _modernized(label: str, model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in the oldest opset that is imported as it is."""
    try:
        return version_converter.convert_version(shape_inference.infer_shapes(model), OLDEST_OPSET)
    except Exception as error:  # C++ errors of several kinds
        raise ModelError(f"{label}: uses opset {opset} of ONNX and cannot be converted to opset {OLDEST_OPSET} "
                         f"({_first_line(error).rsplit(': ', 1)[-1]}). Export the model again with a newer opset.") from error


def standard_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model asks for."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _read(source: Source) -> tuple[str, onnx.ModelProto]:
    if isinstance(source, onnx.ModelProto):
        return "model", source
    if isinstance(source, bytes):
        return "model", _decode("model", source)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"model file {str(path)!r} does not exist. Check the path.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"model file {str(path)!r} cannot be read: {error.strerror}.") from error
    return str(path), _decode(str(path), content)


def _decode(label: str, content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{label}: expected an ONNX model, got {len(content)} bytes that are not one, or only a part of one. "
                         "Check that the file is complete and is ONNX.") from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{label}: expected an ONNX model, got a file without a graph or an opset ({len(content)} bytes). "
                         "Check that the file is complete and is ONNX.")
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that may hold data: initializers and attributes, in subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _load_external(label: str, model: onnx.ModelProto, tensors: list[onnx.TensorProto], source: Source) -> None:
    """Read the tensors' data into `model`, which was read here: files must lie in the model's folder, links followed."""
    if not isinstance(source, str | Path):
        raise ModelError(f"{label}: tensor {tensors[0].name!r} keeps its data in another file, whose folder is not known here. "
                         "Give the path of the model file instead, or load the data with onnx.load.")
    folder = Path(source).resolve().parent
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise ModelError(f"{label}: tensor {tensor.name!r} keeps its data in {location!r}, outside the model's folder. "
                             "Only files in that folder are read; save the model again with its data beside it.")
        if not file.is_file():
            raise ModelError(f"{label}: tensor {tensor.name!r} keeps its data in {location!r}, which does not exist in {str(folder)!r}. "
                             "Copy the data file there too.")
        end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        if end > file.stat().st_size:
            raise ModelError(f"{label}: tensor {tensor.name!r} ends at byte {end} of {location!r}, which has {file.stat().st_size}. "
                             "The data file is incomplete: copy it again.")
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _with_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """For the checker, which wants a shape on every output; exporters leave it out where they do not know it, and it is not needed."""
    outputs = [output for output in model.graph.output if output.type.HasField("tensor_type")]
    if all(output.type.tensor_type.HasField("shape") for output in outputs):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for output in copy.graph.output:
        output.type.tensor_type.shape.SetInParent()
    return copy


def _check(label: str, model: onnx.ModelProto) -> None:
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        unknown = list(_unknown(model.graph, standard_opset(model), {(function.domain, function.name) for function in model.functions}))
        if unknown:
            raise unsupported(label, unknown) from error
        raise ModelError(f"{label}: is not a valid ONNX model: {_first_line(error)} Export it again, or ask its author.") from error
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{label}: cannot be checked: {_first_line(error)}") from error


def _unknown(graph: onnx.GraphProto, opset: int, functions: Set[tuple[str, str]]) -> Iterator[str]:
    """The nodes whose operators are neither ONNX's, in this opset, nor functions of the model, in subgraphs too."""
    latest = max(1, min(opset, onnx.defs.onnx_opset_version()))      # a broken model may ask for a number that is no C integer
    for node in graph.node:
        standard = node.domain in ("", "ai.onnx")
        if (node.domain, node.op_type) not in functions and not (standard and onnx.defs.has(node.op_type, latest, "")):
            reason = f"opset {opset} of ONNX has no such operator" if standard else f"operators of domain {node.domain!r} are not known"
            yield problem(node, opset, reason)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _unknown(inner, opset, functions)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:500] or type(error).__name__
