"""One rounding of a network as data, and the pass that carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qcc.ir import Array, Encoding, Graph


@dataclass(frozen=True, eq=False)
class LayerConstants:
    """What a layer computes with.

    Attributes:
        weights: on the grid of `encoding`, in the layer's own shape, float32.
        bias: one number per output channel, float32.
    """

    weights: Array
    encoding: Encoding
    bias: Array


@dataclass(frozen=True)
class LayerReport:
    """How one layer was rounded, and what was corrected."""

    method: str
    correction: str


@dataclass(frozen=True, eq=False)
class Rounding:
    """What was found for a network, by the names of its layers' results.

    Attributes:
        layers: the constants of those that change.
        reports: of all that were looked at.
    """

    layers: Mapping[str, LayerConstants] = field(default_factory=dict)
    reports: Mapping[str, LayerReport] = field(default_factory=dict)


def round_weights(graph: Graph, found: Rounding) -> Graph:
    """Weights move onto grids of least error on the results, biases take up the mean error.

    before: %y = convolution(%x, %w <i4 ...>, %b)    after: %y = convolution(%x, %w <i4, other scales>, %y@corrected_bias)
    """
    if not found.layers:
        return graph
    constants, types, nodes = dict(graph.constants), dict(graph.types), []
    for node in graph.nodes:
        if node.outputs[0] in found.layers:
            layer, weight, name = found.layers[node.outputs[0]], node.inputs[1], f"{node.outputs[0]}@corrected_bias"
            constants[weight], constants[name] = layer.weights, layer.bias
            types[weight] = replace(types[weight], encoding=layer.encoding)
            types[name] = replace(types[weight], shape=layer.bias.shape, encoding=None)
            node = replace(node, inputs=(*node.inputs[:2], name))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants, types=types)
