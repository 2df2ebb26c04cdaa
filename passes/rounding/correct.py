"""Rounds weights and corrects biases, layer by layer: each layer sees its inputs as the already rounded layers before it make them.

The graph's nodes stay; weights move onto the grids of their encodings, and scales and biases change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from qcc.ir import Array, Encoding, Graph, Node
from qcc.passes.quantize import Form, Placement
from qcc.passes.quantize.encode import BIAS_LIMIT, SMALLEST_SCALE
from qcc.passes.rounding.choose import Layer, Rounded, choose, round_nearest
from qcc.passes.rounding.columns import columns, positions, results, weight_rows, weights_of
from qcc.passes.rounding.moments import Moments
from qcc.passes.rounding.tandem import Prepare, Walker, live_elements

MEMORY = 3 << 29      # bytes that the values of both networks may take
CHUNK = 1 << 26       # bytes of columns that are held at once
HELD_OUT = 4          # every fourth sample judges what the others suggest


@dataclass(frozen=True)
class Options:
    """What to do.

    Attributes:
        rounding: of weights: "auto" (per layer, what errs least on held-out samples) or "nearest".
        correction: of what rounding does to each channel's results: "affine" (scale and bias), "bias" or "none"; "auto" is "bias" for
            weights of 8 bits, whose scales have little to gain, else "affine".
        rows: positions of a layer's output that are looked at, over all samples.
    """

    rounding: str = "auto"
    correction: str = "auto"
    rows: int = 65536

    @property
    def idle(self) -> bool:
        return (self.rounding, self.correction) == ("nearest", "none")

    def fits_scales(self, bits: int) -> bool:
        """Whether scales of weights of this width change."""
        return self.correction == "affine" or (self.correction == "auto" and bits < 8)


def correct(
    graph: Graph, quantized: Graph, placement: Placement, samples: Sequence[Mapping[str, Array]], prepare: Prepare, options: Options,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Graph, dict[str, str]]:
    """The QDQ graph with better integers, and how each layer was rounded.

    Args:
        graph: the FLOAT graph that `quantized` was made from.
        samples: calibration data.
        prepare: makes a function that computes values of a graph.
        progress: told (layers done, layers in all).
    """
    if options.idle or not samples:
        return quantized, {}
    layers = [i for i, node in enumerate(quantized.nodes) if placement.forms.get(node.outputs[0]) is Form.LINEAR]
    with threadpool_limits(1, "blas"):      # one thread gives the same sums on every machine, and never waits for a busy core
        return _layer_by_layer(graph, quantized, samples, prepare, options, progress, layers)


def _layer_by_layer(
    graph: Graph, quantized: Graph, samples: Sequence[Mapping[str, Array]], prepare: Prepare, options: Options,
    progress: Callable[[int, int], None], layers: Sequence[int],
) -> tuple[Graph, dict[str, str]]:
    exact = Walker.start(graph, prepare, samples)
    rounded = Walker.start(quantized, prepare, [on_grid(quantized, sample) for sample in samples])
    methods: dict[str, str] = {}
    for done, number in enumerate(layers):
        node = rounded.graph.nodes[number]
        name = node.outputs[0]
        exact.advance(number + 1, (name,))
        rounded.advance(number, (node.inputs[0],))
        pairs = [(r[node.inputs[0]], e[name]) for r, e in zip(rounded.values, exact.values, strict=True)]
        rounded.graph, methods[name] = improve(rounded.graph, number, pairs, options)
        progress(done + 1, len(layers))
    return rounded.graph, methods


def thinned(batches: Iterable[Mapping[str, Array]], graph: Graph, most: int) -> list[Mapping[str, Array]]:
    """At most `most` of the batches, evenly spread, and fewer if their values would take more than MEMORY; read once, in order."""
    size = 2 * 4 * live_elements(graph)
    most = max(1, min(most, MEMORY // max(1, size)))
    kept: list[Mapping[str, Array]] = []
    stride = 1
    for number, batch in enumerate(batches):
        if number % stride == 0:
            kept.append(batch)
        if len(kept) > most:
            kept, stride = kept[::2], 2 * stride
    return kept


def on_grid(graph: Graph, sample: Mapping[str, Array]) -> dict[str, Array]:
    """A sample with the inputs rounded that carry an encoding."""
    encodings = {name: graph.types[name].encoding for name in graph.inputs}
    return {name: sample[name] if e is None else e.dequantize(e.quantize(sample[name])) for name, e in encodings.items()}


def improve(graph: Graph, number: int, pairs: Sequence[tuple[Array, Array]], options: Options) -> tuple[Graph, str]:
    """Round one layer and put the result into the graph; `pairs` are inputs and wanted results per sample."""
    node = graph.nodes[number]
    weights, encoding = graph.constants[node.inputs[1]], graph.types[node.inputs[1]].encoding
    input_encoding = graph.types[node.inputs[0]].encoding
    assert encoding is not None
    assert input_encoding is not None
    layer = describe(node, weights, encoding)
    with np.errstate(over="ignore", invalid="ignore"):
        seen, unseen = moments(node, weights.shape, pairs, options.rows)
        everything = seen if unseen is None else seen + unseen
    if not everything.finite:
        return graph, "as it was: squares of its values are beyond float32"
    if options.rounding == "nearest" or unseen is None:
        rounded = round_nearest(layer)
    else:
        rounded = choose(layer, seen, unseen, options.fits_scales(layer.bits))
    scale = np.maximum(rounded.scale, SMALLEST_SCALE).astype(np.float32).astype(np.float64)
    given = graph.constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(scale.size, np.float32)
    problem = everything.centred()
    bias = given.astype(np.float64) if options.correction == "none" else problem.bias(scale * rounded.integers).reshape(-1)
    limit = scale.reshape(-1) * input_encoding.scale[0] * BIAS_LIMIT
    return edited(graph, number, rounded, scale, np.clip(bias, -limit, limit).astype(np.float32)), rounded.method


def describe(node: Node, weights: Array, encoding: Encoding) -> Layer:
    rows = weight_rows(node, weights)
    scale = np.array(encoding.scale).reshape(*rows.shape[:2], 1)
    levels = encoding.range[1]
    needed = np.abs(rows).max(axis=2, keepdims=True) / levels
    return Layer(rows, scale, (scale > 1.001 * needed)[:, :, 0], encoding.dtype.bits)


def moments(node: Node, kernel: tuple[int, ...], pairs: Sequence[tuple[Array, Array]], rows: int) -> tuple[Moments, Moments | None]:
    """Of the samples to learn from, and of those that judge (none if there are too few)."""
    sides: tuple[list[int], list[int]] = ([], [])
    for number in range(len(pairs)):
        sides[number % HELD_OUT == HELD_OUT - 1].append(number)
    share = -(-rows // len(pairs))
    x, y = pairs[0]
    every = np.arange(positions(node, y))
    origin = columns(node, x, kernel, every[::17]).mean(axis=1), results(node, y, every[::17]).mean(axis=1)
    seen, unseen = (gathered(node, kernel, [(n, *pairs[n]) for n in side], share, origin) if side else None for side in sides)
    assert seen is not None
    return seen, unseen


def gathered(
    node: Node, kernel: tuple[int, ...], samples: Sequence[tuple[int, Array, Array]], share: int, origin: tuple[Array, Array]
) -> Moments:
    """Moments over `share` positions of each of the numbered samples; many samples at once, because large matrix products are fast."""
    total: Moments | None = None
    held: list[tuple[Array, Array]] = []
    for place, (number, x, y) in enumerate(samples):
        count = positions(node, y)
        chosen = np.sort(np.random.default_rng(number).permutation(count)[:share]) if count > share else np.arange(count)
        held.append((columns(node, x, kernel, chosen), results(node, y, chosen)))
        if sum(c.nbytes for c, _ in held) >= CHUNK or place == len(samples) - 1:
            joined, wanted = (np.concatenate(arrays, axis=1) for arrays in zip(*held, strict=True))
            part = Moments.of(joined, wanted, origin)
            total, held = part if total is None else total + part, []
    assert total is not None
    return total


def edited(graph: Graph, number: int, rounded: Rounded, scale: Array, bias: Array) -> Graph:
    """The graph with new integers, scales and bias for one layer, under names of its own."""
    node = graph.nodes[number]
    weight, constants, types = node.inputs[1], dict(graph.constants), dict(graph.types)
    old = types[weight].encoding
    assert old is not None
    encoding = replace(old, scale=tuple(float(s) for s in scale.reshape(-1)))
    constants[weight] = frozen(weights_of(node, (scale * rounded.integers).astype(np.float32), constants[weight].shape))
    types[weight] = replace(types[weight], encoding=encoding)
    name = f"{node.outputs[0]}@corrected_bias"
    constants[name] = frozen(bias)
    types[name] = replace(types[weight], shape=bias.shape, encoding=None)
    nodes = list(graph.nodes)
    nodes[number] = replace(node, inputs=(*node.inputs[:2], name))
    return replace(graph, nodes=tuple(nodes), constants=constants, types=types)


def frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array
