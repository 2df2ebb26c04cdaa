"""Where a network can be computed more or less precisely: its layers' weights, and its values between layers.

It looks only at the graph and the placement. A group of values with one encoding is one site; the values that a sum adds are tied.
"""

from __future__ import annotations

from dataclasses import dataclass

from qcc.ir import Graph
from qcc.passes.quantize import Form, Placement
from qcc.passes.quantize.forms import data_inputs

WEIGHTS, VALUES = "weights", "values"      # kinds of sites


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one layer.

    Attributes:
        layer: the value that the layer computes.
        number: of its node.
        source: the value that it reads.
        count: of weights.
        macs: of one run.
    """

    layer: str
    number: int
    source: str
    count: int
    macs: int

    @property
    def name(self) -> str:
        return f"{WEIGHTS} {self.layer}"


@dataclass(frozen=True, slots=True)
class Values:
    """Values with one encoding.

    Attributes:
        members: in the graph's order.
        number: of the node that makes the first of them; -1: it is an input of the network.
        size: elements of all.
    """

    members: tuple[str, ...]
    number: int
    size: int

    @property
    def name(self) -> str:
        return f"{VALUES} {self.members[0]}"


def weights_of(graph: Graph, placement: Placement) -> tuple[Weights, ...]:
    """The layers with weights, in order."""
    return tuple(
        Weights(node.outputs[0], number, node.inputs[0], graph.constants[node.inputs[1]].size, graph.node_macs(node))
        for number, node in enumerate(graph.nodes) if placement.forms.get(node.outputs[0]) is Form.LINEAR)


def values_of(graph: Graph, placement: Placement) -> tuple[Values, ...]:
    """The groups of encoded values, in order."""
    made = {name: number for number, node in enumerate(graph.nodes) for name in node.outputs}
    return tuple(Values(group, min(made.get(name, -1) for name in group), sum(graph.types[name].size for name in group))
                 for group in placement.ties)


def added_values(graph: Graph, placement: Placement) -> tuple[tuple[str, ...], ...]:
    """Names of the sites of values that one sum adds: they take one width."""
    site = {name: f"{VALUES} {group[0]}" for group in placement.ties for name in group}
    ties = []
    for node in graph.nodes:
        if placement.forms.get(node.outputs[0]) is Form.SUM:
            tied = tuple(dict.fromkeys(site[name] for name in data_inputs(graph, node) if name in site))
            ties += [tied] if len(tied) > 1 else []
    return tuple(ties)
