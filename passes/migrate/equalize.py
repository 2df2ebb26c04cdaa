"""Cross-layer equalization from the weights alone (Nagel et al. 2019, "Data-Free Quantization", equation 11), for tied channels, too.

Of every channel, the largest weight that makes it and the largest that reads it become equal: s = sqrt(made / read), repeated until all
layers agree, for a layer between two others changes on both sides.
"""

from __future__ import annotations

import numpy as np

from qcc.ir import Array, Graph, Node
from qcc.ops import Convolution, MatMul
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.noise import Layer
from qcc.passes.migrate.rescale import scales_of

SWEEPS = 30
SETTLED = 1e-3       # relative change of the largest step


def equalized_numbers(graph: Graph, channels: Channels) -> Array:
    """The number of every root; one where nothing makes or nothing reads its channels with weights."""
    layers = [Layer.of(graph, node) for node in graph.nodes if has_weights(graph, node)]
    numbers = np.ones(channels.count)
    for _ in range(SWEEPS):
        made, read = np.zeros(channels.count), np.zeros(channels.count)
        for layer in layers:
            before, after = channels.labels[layer.source], channels.labels[layer.result]
            rows = np.abs(layer.peaks) * layer.spread(scales_of(before, numbers)) / scales_of(after, numbers).reshape(-1, 1)
            _raise(made, read, after, rows.max(axis=1))
            outputs, inner = rows.shape
            columns = rows.reshape(layer.groups, outputs // layer.groups, inner).max(axis=1).reshape(-1)
            _raise(read, made, before, columns)
        known = (made > 0.0) & (read > 0.0)
        step = np.sqrt(np.divide(made, read, out=np.ones_like(made), where=known))
        step[0] = 1.0
        numbers *= step
        if np.abs(np.log(step)).max(initial=0.0) < SETTLED:
            break
    return numbers


def _raise(where: Array, inverse: Array, labels: Array, sizes: Array) -> None:
    """Take larger sizes into account for the roots of labels; a label that stands for 1 / x counts on the other side."""
    flat = np.broadcast_to(labels.reshape(-1), sizes.shape)
    np.maximum.at(where, flat[flat > 0], sizes[flat > 0])
    np.maximum.at(inverse, -flat[flat < 0], sizes[flat < 0])


def has_weights(graph: Graph, node: Node) -> bool:
    """Whether a node is a layer with constant weights, as `Channels` scales them."""
    if not isinstance(node.op, Convolution | MatMul) or not graph.is_constant(node.inputs[1]):
        return False
    return isinstance(node.op, Convolution) or graph.types[node.inputs[1]].rank == 2
