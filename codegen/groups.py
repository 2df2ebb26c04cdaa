"""Groups: which nodes become one kernel. An accumulator that only one requantization reads never reaches memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from qcc.ir import Graph, Node
from qcc.ir.types import I32
from qcc.ops import IntegerBatchMatMul, IntegerConvolution, IntegerMatMul, IntegerMultiply, ReduceSum, Requantize, WindowMax, WindowSum

ANCHORS = (IntegerBatchMatMul, IntegerConvolution, IntegerMatMul, IntegerMultiply, ReduceSum, WindowSum)


@dataclass(frozen=True)
class Group:
    """One kernel's nodes: `node`, and the requantization fused behind it, if any, and the maximum over windows behind that."""

    node: Node
    requantize: Node | None = None
    maximum: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for node in (self.node, self.requantize, self.maximum) if node is not None)

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.nodes[-1].outputs

    @property
    def label(self) -> str:
        """The value that names the group in reports."""
        return self.outputs[0]

    def inputs(self, graph: Graph) -> tuple[str, ...]:
        """What the kernel reads and is not constant, each once."""
        inner = {name for node in self.nodes[:-1] for name in node.outputs}
        names = dict.fromkeys(name for node in self.nodes for name in node.inputs if name and name not in inner)
        return tuple(name for name in names if not graph.is_constant(name))


def never(graph: Graph, entry: Group, maximum: Node) -> bool:
    """No maximum is fused."""
    return False


def group(graph: Graph, fuses: Callable[[Graph, Group, Node], bool] = never) -> tuple[Group, ...]:
    """The graph's nodes as groups, in an order in which they can run.

    Args:
        fuses: whether the kernel of a group can also take the maximum over windows, if nothing else reads the group's result.
    """
    fused: dict[int, Node] = {}
    for node in graph.nodes:
        reader = graph.only_user(node.outputs[0]) if isinstance(node.op, ANCHORS) else None
        if reader is not None and isinstance(reader.op, Requantize) and _fusable(graph, node, reader) and id(reader) not in fused:
            fused[id(reader)] = node
    anchors = {id(node) for node in fused.values()}
    groups = []
    for node in graph.nodes:
        if id(node) in fused:
            groups.append(Group(fused[id(node)], node))
        elif id(node) not in anchors:
            groups.append(Group(node))
    return _with_maxima(graph, groups, fuses)


def _with_maxima(graph: Graph, groups: list[Group], fuses: Callable[[Graph, Group, Node], bool]) -> tuple[Group, ...]:
    maxima: dict[str, Node] = {}
    for entry in groups:
        reader = graph.only_user(entry.label) if entry.requantize is not None else None
        if reader is not None and isinstance(reader.op, WindowMax) and fuses(graph, entry, reader):
            maxima[entry.label] = reader
    gone = {id(node) for node in maxima.values()}
    return tuple(replace(entry, maximum=maxima.get(entry.label)) if entry.label in maxima else entry
                 for entry in groups if id(entry.node) not in gone)


def _fusable(graph: Graph, anchor: Node, requantize: Node) -> bool:
    """Whether the kernel families can compute the requantization on the anchor's accumulators."""
    value = anchor.outputs[0]
    if requantize.inputs[0] != value or graph.types[value].shape != graph.types[requantize.outputs[0]].shape:
        return False
    others = [name for name in requantize.inputs[2::2]]
    if isinstance(anchor.op, IntegerConvolution | IntegerMatMul):
        channels = graph.types[value].shape[-1]
        per_channel = graph.types[requantize.inputs[1]].shape in ((), (1,), (channels,))
        scalar = all(graph.types[m].size == 1 for m in requantize.inputs[3::2])
        return per_channel and scalar and len(others) <= 1 and all(_residual(graph, name, value) for name in others)
    return not others


def _residual(graph: Graph, name: str, value: str) -> bool:
    """A second term of the accumulator's own shape; constants are no residuals."""
    type = graph.types[name]
    return type.shape == graph.types[value].shape and type.dtype != I32 and not graph.is_constant(name)
