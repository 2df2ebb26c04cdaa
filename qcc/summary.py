"""What the user is told about a compile: what became integers, what stayed float and what that costs, and the sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

from qcc.codegen.program import Program, Space, Step
from qcc.ir import Graph, Node
from qcc.ops import Dequantize, IntegerConvolution, IntegerMatMul, OnnxOperator, Quantize, Reshape, Transpose


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
        weight_bytes: of the weights of integer layers as the library holds them: packed, filled up to whole vectors, each once.
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
    weights = sum({stored.position: stored.bytes for stored in map(stored_weights, program.steps) if stored is not None}.values())
    return Summary(
        len(integer), sum(graph.node_macs(n) for n in integer), floats, len(borders), crossing, weights, len(program.constants),
        program.arena_bytes, program.arena_lower_bound, len(program.kernels),
    )


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """The weights of a layer in the library: bits of one, where they lie among the constants, and how many bytes they take."""

    bits: int
    position: int
    bytes: int


def stored_weights(step: Step) -> StoredWeights | None:
    """The weights that a step reads; None where it is no linear layer."""
    kernel = step.kernel
    bits = getattr(kernel, "weight_bits", None)
    if bits is None and not isinstance(getattr(kernel, "op", None), IntegerConvolution | IntegerMatMul):
        return None
    for address, view in zip(step.arguments, kernel.operands, strict=True):
        if address.space is Space.CONSTANT and view.dtype.bits <= 8:
            return StoredWeights(bits or 8, address.position, prod(view.shape) * view.dtype.bytes)
    return None


def layers(graph: Graph, program: Program) -> list[dict[str, object]]:
    """Per kernel call: the value that it computes, operator, MACs, bits of the result, bits and bytes of its weights as stored, the
    kernel's family, and the bytes that it reads or writes once."""
    rows: list[dict[str, object]] = []
    for step in program.steps:
        kernel = step.kernel
        moved = sum(view.dtype.bytes * prod(view.shape) for view in kernel.operands[:len(kernel.operands) - step.scratch])
        row: dict[str, object] = {"node": step.node, "macs": kernel.macs, "kernel": type(kernel).__name__, "bytes": moved}
        tile = getattr(kernel, "tile", None)
        if tile is not None:
            row["tile"] = "x".join(str(getattr(tile, field.name)) for field in fields(tile))
        stored = stored_weights(step)
        if stored is not None:
            row["weight_bits"], row["weight_bytes"] = stored.bits, stored.bytes
        producer = graph.producers.get(step.node)
        if producer is not None:
            row["op"] = str(producer.op)
            meaning = graph.types[step.node]
            row["bits"] = meaning.encoding.dtype.bits if meaning.encoding else meaning.dtype.bits
        rows.append(row)
    return rows
