"""Float nodes of an INTEGER graph: which nodes are lowered through TVM's ONNX front end, the requests for that, and the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qcc.codegen.families import Call, Scratch, Site
from qcc.codegen.groups import Group
from qcc.codegen.island import Island, IslandRequest, lower_islands
from qcc.codegen.kernel import View
from qcc.codegen.worker import KernelCompiler
from qcc.ir import Graph, Node, Stage, TensorType
from qcc.ops import OnnxOperator


def is_island(graph: Graph, entry: Group) -> bool:
    """A node that computes in float, or that only ONNX defines."""
    return isinstance(entry.node.op, OnnxOperator) or Stage.INTEGER not in entry.node.op.stages


def island_inputs(graph: Graph, node: Node) -> tuple[str, ...]:
    """The values that the node reads, each once, constants left out."""
    return tuple(dict.fromkeys(name for name in node.inputs if name and not graph.is_constant(name)))


def make_islands(graph: Graph, compiler: KernelCompiler, export: Callable[[Graph, Node], bytes]) -> dict[str, Island]:
    """Lower every float node, in child processes.

    Args:
        export: gives a node as a serialized ONNX model.

    Returns:
        The islands by the nodes' first outputs.

    Raises:
        UnsupportedOperator: it names every node that cannot be lowered, and why.
    """
    nodes = [node for node in graph.nodes if is_island(graph, Group(node))]
    requests = []
    for node in nodes:
        inputs = [graph.types[name] for name in island_inputs(graph, node)]
        requests.append(
            IslandRequest(f"{node.op} (node {node.outputs[0]!r})", export(graph, node), _dense(inputs), _dense(graph.output_types(node)))
        )
    islands = lower_islands(compiler, requests) if requests else []
    return {node.outputs[0]: island for node, island in zip(nodes, islands, strict=True)}


def _dense(types: Iterable[TensorType]) -> tuple[View, ...]:
    return tuple(View.contiguous(type.dtype, type.shape) for type in types)


def plan_island(site: Site) -> list[Call]:
    """One call; intermediate results lie in scratch memory."""
    island = site.islands[site.label]
    sources = [site.place(name) for name in island_inputs(site.graph, site.group.node)]
    scratch = [Scratch(island.kernel.workspace_bytes)] if island.kernel.workspace_bytes else []
    outputs = [site.place(name) for name in site.group.outputs]
    return [Call(site.label, island.kernel, (*sources, *island.constants, *outputs, *scratch))]
