"""The interpreter: runs a graph by its operators' `evaluate`, and checks that every integer stays inside its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qcc.errors import GraphError, UsageError
from qcc.ir.graph import Graph, Node
from qcc.ir.text import format_node
from qcc.ir.types import Array, TensorType

Override = Callable[[Node], Mapping[str, Array] | None]


def interpret(
    graph: Graph, feeds: Mapping[str, Array], keep: frozenset[str] | None = frozenset(), override: Override | None = None
) -> dict[str, Array]:
    """Outputs by port name, and the values named in `keep` (all if None) by value name.

    Memory holds only values that are still needed.

    Args:
        feeds: one array per input, of the declared type and shape.
        override: asked before a node is evaluated; may return the node's outputs itself (float islands run elsewhere).

    Raises:
        UsageError: a feed is missing or has the wrong type.
        GraphError: an operator left its declared type or range.
    """
    check_feeds(graph, feeds)
    values: dict[str, Array] = {**graph.constants, **{name: feeds[name] for name in graph.inputs}}
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    wanted = graph.output_values | (set(graph.types) if keep is None else keep)
    for index, node in enumerate(graph.nodes):
        given = override(node) if override else None
        if given is None:
            with np.errstate(all="ignore"):      # infinities in float nodes are the model's (attention masks) and no warning
                results = node.op.evaluate(*(values[name] for name in node.inputs if name))
            given = dict(zip(node.outputs, results, strict=True))
        for name in node.outputs:
            values[name] = _checked(graph, node, given[name], graph.types[name])
        for name in {n for n in (*node.inputs, *node.outputs) if n}:
            if name not in wanted and name not in graph.constants and last.get(name, -1) <= index:
                del values[name]
    kept = {name: values[name] for name in (graph.types if keep is None else keep)}
    return {**kept, **{port: values[name] for port, name in graph.outputs.items()}}


def check_feeds(graph: Graph, feeds: Mapping[str, Array]) -> None:
    """Raises UsageError unless there is an array of the declared type and shape for each input, and no other."""
    if set(feeds) != set(graph.inputs):
        raise UsageError(f"inputs of {graph.name!r}: expected {sorted(graph.inputs)}, got {sorted(feeds)}")
    for name in graph.inputs:
        want, got = graph.types[name], feeds[name]
        if got.shape != want.shape or got.dtype != want.dtype.numpy:
            raise UsageError(f"input {name!r}: expected {want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}")


def _checked(graph: Graph, node: Node, value: Array, type: TensorType) -> Array:
    if value.shape != type.shape or (type.dtype.is_float and value.dtype != type.dtype.numpy):
        raise GraphError(f"evaluated to {value.dtype}{list(value.shape)}, declared otherwise: {format_node(graph, node)}")
    if type.dtype.is_integer and value.size:
        low, high = type.dtype.range
        if int(value.min()) < low or int(value.max()) > high:
            raise GraphError(f"value outside {type.dtype}: {value.min()}..{value.max()} in {format_node(graph, node)}")
    return value.astype(type.dtype.numpy, copy=False) if type.dtype.kind != "s" else np.asarray(value, np.object_)
