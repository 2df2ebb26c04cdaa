"""Puts nodes, operands and constants into one order that does not depend on how the model was written, and gives values plain names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from types import MappingProxyType

from qcc.ir import Array, Graph, Node
from qcc.ops import Add, Multiply


def canonical_order(graph: Graph) -> Graph:
    """Nodes in depth-first order from the outputs; the deeper operand of a sum or product first, constants last.

    The values that passes have moved get back the names that they had in the model; constants that passes have made are called after
    the value that they serve.
    """
    depth: dict[str, int] = dict.fromkeys(graph.inputs, 0) | dict.fromkeys(graph.constants, -1)
    for node in graph.nodes:
        depth.update(dict.fromkeys(node.outputs, 1 + max((depth[name] for name in node.inputs if name), default=0)))
    nodes = {name: made for node in graph.nodes for made in [_operands(node, depth)] for name in made.outputs}
    ordered = _depth_first(graph, nodes)
    read = [name for node in ordered for name in node.inputs] + list(graph.outputs.values())
    constants = {name: graph.constants[name] for name in dict.fromkeys(read) if name in graph.constants}
    names = plain_names(graph, ordered)
    if not names and tuple(ordered) == graph.nodes and list(constants) == list(graph.constants):
        return graph
    ordered = [Node(node.op, *(tuple(names.get(n, n) for n in part) for part in (node.inputs, node.outputs))) for node in ordered]
    return _ordered(graph, ordered, {names.get(name, name): array for name, array in constants.items()}, names)


MADE = re.compile(r"(?:/(?:untransposed|before|scaled|negative|rows|reshaped|mean)(?:\.\d+)?)+$")
SERVING = re.compile(r"/(weights|bias|constant|factor|offset|order)(?:\.\d+)?$")


def plain_names(graph: Graph, nodes: list[Node]) -> dict[str, str]:
    """New names for the values and constants whose names show that a pass made them."""
    made = [name for node in nodes for name in node.outputs if MADE.search(name)]
    served = {name: (found[1], node.outputs[0]) for node in reversed(nodes) for name in node.inputs
              if name in graph.constants and (found := SERVING.search(name))}
    taken = set(graph.types).difference(made, served)
    result = {}
    for name in made:
        plain = MADE.sub("", name)
        result[name] = name if plain in taken else plain
        taken.add(result[name])
    for name, (part, value) in reversed(served.items()):
        wanted = plain = f"{result.get(value, value)}/{part}"
        for number in count(1):
            if wanted not in taken:
                break
            wanted = f"{plain}.{number}"
        result[name] = wanted
        taken.add(wanted)
    return {old: new for old, new in result.items() if old != new}


def _ordered(graph: Graph, nodes: list[Node], constants: dict[str, Array], names: Mapping[str, str]) -> Graph:
    """The graph with these nodes and constants, its types in their order."""
    old = {new: name for name, new in names.items()}
    values = (*graph.inputs, *constants, *(name for node in nodes for name in node.outputs))
    outputs = {port: names.get(name, name) for port, name in graph.outputs.items()}
    return Graph(graph.name, graph.stage, graph.inputs, MappingProxyType(outputs), tuple(nodes), MappingProxyType(constants),
                 MappingProxyType({name: graph.types[old.get(name, name)] for name in values}))


def _operands(node: Node, depth: dict[str, int]) -> Node:
    if not isinstance(node.op, Add | Multiply):
        return node
    return Node(node.op, tuple(sorted(node.inputs, key=lambda name: -depth[name])), node.outputs)


def _depth_first(graph: Graph, nodes: dict[str, Node]) -> list[Node]:
    """Each node right after the last of its inputs, without recursion: networks are deeper than Python's stack."""
    ordered: dict[str, Node] = {}
    stack = [(name, False) for name in reversed(list(graph.outputs.values()))]
    while stack:
        name, inputs_done = stack.pop()
        node = nodes.get(name)
        if node is None or node.outputs[0] in ordered:
            continue
        if inputs_done:
            ordered[node.outputs[0]] = node
        else:
            stack.append((name, True))
            stack += [(value, False) for value in reversed(node.inputs)]
    return list(ordered.values())
