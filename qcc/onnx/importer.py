"""Imports an ONNX model: one walk over its nodes, with every shape known and every constant folded on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx

import qcc.onnx.constants
import qcc.onnx.linear
import qcc.onnx.pointwise
import qcc.onnx.pool
import qcc.onnx.resize
import qcc.onnx.shape  # noqa: F401  (these register their operators)
from qcc.errors import GraphError, ModelError, TypeMismatch
from qcc.ir import Graph, GraphBuilder, verify
from qcc.onnx.conversion import TABLE, Call, Conversion, Unsupported, attribute_value, problem, tensor_array, unsupported
from qcc.onnx.generic import converted, generic, needs_conversion, refuse
from qcc.onnx.inputs import input_types
from qcc.onnx.load import Source, load_model, standard_opset
from qcc.onnx.operator import OPSET


def import_model(model: Source, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """The model as a FLOAT graph: types of all values known, functions inlined, shape arithmetic and constants folded.

    Values keep the names that they have in ONNX, where one operator makes them.

    Args:
        model: path of a file, its content, or a message; never changed.
        input_shapes: full shapes of inputs whose dimensions the model leaves open; an open first dimension alone is 1.

    Raises:
        UsageError: the file does not exist, or a dimension is open.
        ModelError: the model is damaged or invalid, or its numbers are not finite.
        UnsupportedOperator: nodes that have no counterpart, all of them listed.
    """
    loaded = load_model(model)
    name = Path(model).stem if isinstance(model, str | Path) else loaded.graph.name or "model"
    c = Conversion(GraphBuilder(name))
    for input_name, type in input_types(loaded.graph, input_shapes or {}).items():
        c.scope[input_name] = c.builder.input(input_name, type)
    c.read = _read(loaded.graph)
    with np.errstate(all="ignore"):
        _walk(c, loaded.graph, standard_opset(loaded))
    if c.problems:
        raise unsupported(f"model {name!r}", c.problems)
    for output in loaded.graph.output:
        value = c.scope[output.name]
        assert value is not None, "a value without a problem"
        c.builder.outputs[output.name] = value
    graph = _alive(c.builder)
    try:
        verify(graph)
    except GraphError as error:
        raise ModelError(f"model {name!r} is inconsistent: {error}") from error
    return graph


def _alive(builder: GraphBuilder) -> Graph:
    """The graph without the nodes that no output needs (shapes were computed from them, for example)."""
    needed = set(builder.outputs.values())
    kept = []
    for node in reversed(builder.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    builder.nodes = kept[::-1]
    made = {name for node in kept for name in node.outputs} | set(builder.inputs) | set(builder.constants)
    builder.types = {name: type for name, type in builder.types.items() if name in made}
    return builder.build()


def _read(graph: onnx.GraphProto) -> set[str]:
    """Names that are read or are outputs, in subgraphs too."""
    inner = [_read(a.g) for node in graph.node for a in node.attribute if a.HasField("g")]
    return {name for node in graph.node for name in node.input}.union((output.name for output in graph.output), *inner)


def _walk(c: Conversion, graph: onnx.GraphProto, opset: int) -> None:
    """Import initializers and nodes of a graph, or of a branch, into the scope."""
    for tensor in graph.initializer:
        c.scope[tensor.name] = c.add_constant(tensor_array(tensor), tensor.name)
    if graph.sparse_initializer:
        raise ModelError(f"initializer {graph.sparse_initializer[0].values.name!r} is sparse; write it as a dense tensor.")
    _nodes(c, graph.node, opset)


def _nodes(c: Conversion, nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    for node in nodes:
        outputs = [name for name in node.output if name]
        c.hint = outputs[0] if outputs else str(node.name)
        inputs = [c.scope[name] if name else "" for name in node.input]
        while inputs and inputs[-1] == "":
            inputs.pop()
        attributes = {a.name: attribute_value(a) for a in node.attribute}
        call = Call(node, opset, tuple(name or "" for name in inputs), attributes)
        reason = None if node.op_type == "If" and not node.domain else refuse(call)
        if reason is None and None not in inputs:
            try:
                values = _node(c, call)
                c.scope.update((name, value) for name, value in zip(node.output, values, strict=False) if name)
                continue
            except Unsupported as error:
                reason = str(error)
            except (TypeMismatch, ValueError, IndexError, ZeroDivisionError) as error:
                reason = f"its inputs do not fit: {error}"
        if reason is not None:
            c.problems.append(problem(node, opset, reason))
        c.scope.update(dict.fromkeys(outputs))


def _node(c: Conversion, call: Call) -> tuple[str, ...]:
    """Values of the node's outputs, by its own import, else as it is, else by what it is in the one opset."""
    if call.type == "If":
        return _branch(c, call)
    first = len(c.builder.nodes)
    handler = TABLE.get(call.type)
    result = handler(c, call) if handler else None
    if result is None and needs_conversion(call):
        before = len(c.problems)
        _nodes(c, converted(c, call), OPSET)
        inner, c.problems[before:] = c.problems[before:], []
        if inner:
            raise Unsupported(inner[0].rsplit("): ", 1)[-1])
        return tuple(c.scope.get(name) or "" for name in call.node.output)
    if result is None:
        result = generic(c, call)
    values = (result,) if isinstance(result, str) else result
    return c.rename_last(values, tuple(call.node.output), first)


def _branch(c: Conversion, call: Call) -> tuple[str, ...]:
    """The branch that a constant condition chooses."""
    condition = c.constant(call.inputs[0]) if call.inputs[0] else None
    if condition is None:
        raise Unsupported("control flow that depends on the data")
    graph = call.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    outside = dict(c.scope)
    _walk(c, graph, call.opset)
    values = tuple(c.scope[output.name] for output in graph.output)
    c.scope = outside
    if None in values:
        raise Unsupported("its branch holds nodes that are not supported")
    return tuple(value or "" for value in values)
