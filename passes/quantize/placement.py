"""Decides which nodes become integers and which values carry an encoding. It looks only at the graph, never at data.

A value inside a group (convolution, then residual add, then clip) carries none: it stays an exact sum until the group's one rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from qcc.ir import Graph, Node
from qcc.ir.types import F32
from qcc.passes.quantize.forms import ACCUMULATING, SINGLE, TIED, Form, data_inputs, form_of


@dataclass(frozen=True)
class Placement:
    """What is to be quantized.

    Attributes:
        forms: integer form by the first output's name, for the nodes that become integers.
        encoded: values that carry an encoding, in the graph's order.
        ties: groups of encoded values that must share one encoding (each value in exactly one group).
    """

    forms: Mapping[str, Form]
    encoded: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]


def place(graph: Graph, integer_outputs: bool = False) -> Placement:
    """Choose nodes, values and ties.

    Args:
        integer_outputs: outputs of the graph must be encoded, too (no float leaves the library).
    """
    forms = _integer_nodes(graph, integer_outputs)
    chains = _fused(graph, forms)
    values = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs)]
    encoded = tuple(name for name in values if name not in chains and _wants_encoding(graph, forms, chains, name, integer_outputs))
    return Placement(forms, encoded, _ties(graph, forms, encoded))


def _integer_nodes(graph: Graph, integer_outputs: bool) -> dict[str, Form]:
    """Nodes with an integer form, less those that would only be islands among float neighbours."""
    forms = {node.outputs[0]: form for node in graph.nodes if (form := form_of(graph, node)) is not None}
    before = -1
    while before != len(forms):
        before = len(forms)
        for node in graph.nodes:
            name = node.outputs[0]
            if name in forms and forms[name] not in (Form.LINEAR, Form.CONTRACTION) and _stays_float(graph, node, forms, integer_outputs):
                del forms[name]
    return forms


def _stays_float(graph: Graph, node: Node, forms: Mapping[str, Form], integer_outputs: bool) -> bool:
    produced = [graph.producers.get(name) for name in data_inputs(graph, node)]
    users = [user.outputs[0] in forms for user in graph.users[node.outputs[0]]]
    form, is_output = forms[node.outputs[0]], node.outputs[0] in graph.output_values
    if form is Form.SUM and not any(users) and not (is_output and integer_outputs) and any(_is_float(p, forms) for p in produced):
        return True      # float readers want a float operand and another: as floats they need not be rounded
    if all(_is_float(p, forms) for p in produced):
        return not (form in TIED and users and all(users) and not is_output)    # rounding before a move or after it is the same
    return form is Form.MOVE and not (is_output and integer_outputs) and not any(users)


def _is_float(producer: Node | None, forms: Mapping[str, Form]) -> bool:
    """Whether a value comes from a node that computes in float (inputs of the graph do not)."""
    return producer is not None and producer.outputs[0] not in forms


def _wants_encoding(graph: Graph, forms: Mapping[str, Form], fused: frozenset[str], name: str, integer_outputs: bool) -> bool:
    if graph.types[name].dtype != F32:
        return False
    read = any(user.outputs[0] in forms for user in graph.users[name])
    producer = graph.producers.get(name)
    if producer is None or producer.outputs[0] not in forms:
        return read
    direct = _is_single(graph, forms, fused, name) and not read      # the border converts the accumulator, unrounded
    return not direct or (integer_outputs and name in graph.output_values)


def _is_single(graph: Graph, forms: Mapping[str, Form], fused: frozenset[str], name: str) -> bool:
    """Whether a value is one int32 accumulator with one scale or one per channel, maybe times a number."""
    node = graph.producers[name]
    if forms[node.outputs[0]] is Form.SCALE:
        (source,) = data_inputs(graph, node)
        numbers = (graph.types[n].size for n in node.inputs if n != source)
        return source in fused and all(size == 1 for size in numbers) and _is_single(graph, forms, fused, source)
    return forms[node.outputs[0]] in SINGLE


def _fused(graph: Graph, forms: Mapping[str, Form]) -> frozenset[str]:
    """Values that are never rounded because their only reader takes the exact sum."""
    fused: set[str] = set()
    for node in graph.nodes:
        form = forms.get(node.outputs[0])
        if form is None:
            continue
        shape = graph.types[node.outputs[0]].shape
        names = [name for name in data_inputs(graph, node)
                 if graph.only_user(name) is node and _form(graph, forms, name) in ACCUMULATING
                 and (graph.types[name].shape == shape or form is Form.BLEND)]
        if form in (Form.CLIP, Form.SCALE) or (form is Form.SUM and len(data_inputs(graph, node)) == 1):
            fused.update(names)
        elif form is Form.SUM:
            linear = [name for name in names if _form(graph, forms, name) is Form.LINEAR]
            fused.update(sorted(linear, key=lambda name: graph.nodes.index(graph.producers[name]))[-1:])
        elif form is Form.BLEND:
            fused.update(name for name in names if _form(graph, forms, name) is Form.BLEND and not _blends_before(graph, forms, name))
    return frozenset(fused)


def _form(graph: Graph, forms: Mapping[str, Form], name: str) -> Form | None:
    producer = graph.producers.get(name)
    return None if producer is None else forms.get(producer.outputs[0])


def _blends_before(graph: Graph, forms: Mapping[str, Form], name: str) -> bool:
    """Two interpolations in a row fit int32; a third would not."""
    return _form(graph, forms, graph.producers[name].inputs[0]) is Form.BLEND


def _ties(graph: Graph, forms: Mapping[str, Form], encoded: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Connected components of values that moving operators join."""
    order = {name: number for number, name in enumerate(encoded)}
    joined: nx.Graph[str] = nx.Graph()
    joined.add_nodes_from(encoded)
    for node in graph.nodes:
        if forms.get(node.outputs[0]) in TIED:
            joined.add_edges_from((node.outputs[0], name) for name in data_inputs(graph, node))
    groups = (tuple(sorted(group & order.keys(), key=order.__getitem__)) for group in nx.connected_components(joined))
    return tuple(sorted((group for group in groups if group), key=lambda group: order[group[0]]))
