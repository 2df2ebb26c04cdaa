"""One node of a graph as a model of its own, for front ends that lower float operators."""

from __future__ import annotations

from dataclasses import replace

from qcc.ir import Graph, GraphBuilder, Node
from qcc.onnx.exporter import export_model


def export_node(graph: Graph, node: Node) -> bytes:
    """A serialized ONNX model with the node's inputs x0, x1, ... (each once, constants as initializers) and outputs y0, y1, ...

    Equal nodes with equal constants give equal bytes, whatever their values are called.
    """
    builder = GraphBuilder("operator")
    names: dict[str, str] = {"": ""}
    for name in dict.fromkeys(n for n in node.inputs if n):
        if graph.is_constant(name):
            names[name] = builder.constant(graph.constants[name], f"c{len(names)}")
        else:
            names[name] = builder.input(f"x{len(builder.inputs)}", replace(graph.types[name], encoding=None))
    outputs = [f"y{number}" for number in range(len(node.outputs))]
    builder.add(node.op, [names[name] for name in node.inputs], outputs)
    builder.outputs.update({name: name for name in outputs})
    serialized: bytes = export_model(builder.build()).SerializeToString(deterministic=True)
    return serialized
