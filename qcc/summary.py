"""What the user is told about a compile: what became integers, what stayed float and what that costs, and the sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

from qcc.codegen.program import Program
from qcc.ir import Graph, Node
from qcc.ops import Dequantize, OnnxOperator, Quantize, Reshape, Transpose


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node that computes in float inside the library."""

    name: str
    operator: str
    macs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a compile.

    Attributes:
        integer_nodes, integer_macs: of integer operators.
        float_nodes: computing in float, in order (moves of float values do not count).
        crossings, crossing_bytes: border kernels, and the float bytes that they read or write.
        weight_bytes: of the constants of integer layers, as stored in the graph.
        kernels: distinct functions.
    """

    integer_nodes: int
    integer_macs: int
    float_nodes: tuple[FloatNode, ...]
    crossings: int
    crossing_bytes: int
    weight_bytes: int
    constant_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    kernels: int

    @property
    def float_macs(self) -> int:
        return sum(node.macs for node in self.float_nodes)


def is_float_node(graph: Graph, node: Node) -> bool:
    """Whether a node of an INTEGER graph computes in float (borders and moves of float values do not)."""
    if isinstance(node.op, Quantize | Dequantize | Reshape | Transpose):
        return False
    types = (*graph.input_types(node), *graph.output_types(node))
    return isinstance(node.op, OnnxOperator) or any(t.dtype.is_float for t in types)


def summarize(graph: Graph, program: Program) -> Summary:
    """Figures of an INTEGER graph and the program made from it."""
    floats = tuple(FloatNode(n.outputs[0], str(n.op), graph.node_macs(n)) for n in graph.nodes if is_float_node(graph, n))
    borders = [n for n in graph.nodes if isinstance(n.op, Quantize | Dequantize)]
    crossing = sum(graph.types[n.outputs[0] if isinstance(n.op, Dequantize) else n.inputs[0]].bytes for n in borders)
    names = {node.name for node in floats}
    integer = [n for n in graph.nodes if n.outputs[0] not in names and not isinstance(n.op, Quantize | Dequantize)]
    weights = sum(a.nbytes for name, a in graph.constants.items() if graph.types[name].dtype.is_integer)
    return Summary(
        len(integer), sum(graph.node_macs(n) for n in integer), floats, len(borders), crossing, weights, len(program.constants),
        program.arena_bytes, program.arena_lower_bound, len(program.kernels),
    )


def layers(graph: Graph, program: Program) -> list[dict[str, object]]:
    """Per kernel call: the value that it computes, operator, MACs, bits of the result, the kernel's family, and the bytes that it
    reads or writes once."""
    rows: list[dict[str, object]] = []
    for step in program.steps:
        kernel = step.kernel
        moved = sum(view.dtype.bytes * prod(view.shape) for view in kernel.operands[:len(kernel.operands) - step.scratch])
        row: dict[str, object] = {"node": step.node, "macs": kernel.macs, "kernel": type(kernel).__name__, "bytes": moved}
        tile = getattr(kernel, "tile", None)
        if tile is not None:
            row["tile"] = "x".join(str(getattr(tile, field.name)) for field in fields(tile))
        producer = graph.producers.get(step.node)
        if producer is not None:
            row["op"] = str(producer.op)
            meaning = graph.types[step.node]
            row["bits"] = meaning.encoding.dtype.bits if meaning.encoding else meaning.dtype.bits
        rows.append(row)
    return rows
