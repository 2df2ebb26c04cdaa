"""Puts nodes, operands and constants into one order that does not depend on how the model was written."""

from __future__ import annotations

from types import MappingProxyType

from qcc.ir import Graph, Node
from qcc.ops import Add, Multiply


def canonical_order(graph: Graph) -> Graph:
    """Nodes in depth-first order from the outputs; the deeper operand of a sum or product first, constants last."""
    depth: dict[str, int] = dict.fromkeys(graph.inputs, 0) | dict.fromkeys(graph.constants, -1)
    for node in graph.nodes:
        depth.update(dict.fromkeys(node.outputs, 1 + max((depth[name] for name in node.inputs if name), default=0)))
    nodes = {name: made for node in graph.nodes for made in [_operands(node, depth)] for name in made.outputs}
    ordered = _depth_first(graph, nodes)
    read = [name for node in ordered for name in node.inputs] + list(graph.outputs.values())
    constants = {name: graph.constants[name] for name in dict.fromkeys(read) if name in graph.constants}
    if tuple(ordered) == graph.nodes and list(constants) == list(graph.constants):
        return graph
    names = (*graph.inputs, *constants, *(name for node in ordered for name in node.outputs))
    return Graph(graph.name, graph.stage, graph.inputs, graph.outputs, tuple(ordered), MappingProxyType(constants),
                 MappingProxyType({name: graph.types[name] for name in names}))


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
