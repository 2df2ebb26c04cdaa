"""Decides how weights are rounded and biases corrected, layer by layer: each layer sees its inputs as the already rounded layers before
it make them. `rounding.round_weights` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from qcc.ir import Array, Encoding, Graph, Node
from qcc.passes.quantize import Form, Placement
from qcc.passes.quantize.encode import BIAS_LIMIT, SMALLEST_SCALE
from qcc.passes.rounding.choose import DAMPINGS, LARGE, PLAIN, Way, carried_out, choose
from qcc.passes.rounding.columns import weight_rows, weights_of
from qcc.passes.rounding.layer import Layer, Rounded, round_nearest
from qcc.passes.rounding.moments import Moments, Problem
from qcc.passes.rounding.rounding import LayerConstants, LayerReport, Rounding, round_weights
from qcc.passes.rounding.rows import Rows, Sample
from qcc.passes.rounding.solve import best_scale
from qcc.passes.rounding.sums import Sum, sum_of
from qcc.passes.rounding.tandem import Prepare, Walker, live_elements

MEMORY = 3 << 29      # bytes that the values of both networks may take
TURNS = 2             # of looking behind bounds: each costs about as much as the first solution


@dataclass(frozen=True)
class Options:
    """What to do.

    Attributes:
        rounding: of weights: "auto" (per layer, what errs least on held-out samples) or the name of a method (methods.METHODS).
        correction: of what rounding does to each channel's results: "affine" (scale and bias), "bias", "none", or "auto".
        tied: all outputs of a layer have one weight scale.
        rows: positions of a layer's output that are looked at, over all samples.
    """

    rounding: str = "auto"
    correction: str = "auto"
    tied: bool = False
    rows: int = 65536

    @property
    def idle(self) -> bool:
        return (self.rounding, self.correction) == ("nearest", "none")

    def correction_of(self, bits: int) -> str:
        """What is corrected in a layer whose weights have so many bits: "auto" leaves scales of 8 bits, which have little to gain."""
        return self.correction if self.correction != "auto" else "affine" if bits < 8 else "bias"


def find_rounding(
    graph: Graph, quantized: Graph, placement: Placement, samples: Sequence[Mapping[str, Array]], prepare: Prepare, options: Options,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rounding:
    """Better integers for the QDQ graph, and how each layer was rounded.

    Args:
        graph: the FLOAT graph that `quantized` was made from.
        samples: calibration data.
        prepare: makes a function that computes values of a graph.
        progress: told (layers done, layers in all).
    """
    if options.idle or not samples:
        return Rounding()
    layers = [i for i, node in enumerate(quantized.nodes) if placement.forms.get(node.outputs[0]) is Form.LINEAR]
    with threadpool_limits(1, "blas"):      # one thread gives the same sums on every machine, and never waits for a busy core
        return _layer_by_layer(graph, quantized, samples, prepare, options, progress, layers)


def _layer_by_layer(
    graph: Graph, quantized: Graph, samples: Sequence[Mapping[str, Array]], prepare: Prepare, options: Options,
    progress: Callable[[int, int], None], layers: Sequence[int],
) -> Rounding:
    exact = Walker.start(graph, prepare, samples)
    rounded = Walker.start(quantized, prepare, [on_grid(quantized, sample) for sample in samples])
    found: dict[str, LayerConstants] = {}
    reports: dict[str, LayerReport] = {}
    for done, number in enumerate(layers):
        node = rounded.graph.nodes[number]
        name = node.outputs[0]
        total = sum_of(rounded.graph, number)
        exact.advance(number + 1, (name, *total.others))
        rounded.advance(number, (node.inputs[0], *total.others))
        data = [sample_of(node, total, r, e) for r, e in zip(rounded.values, exact.values, strict=True)]
        constants, reports[name] = improve(rounded.graph, number, data, options, total.bounds)
        if constants is not None:
            found[name] = constants
            rounded.graph = round_weights(rounded.graph, Rounding({name: constants}))
        progress(done + 1, len(layers))
    return Rounding(found, reports)


def sample_of(node: Node, total: Sum, rounded: Mapping[str, Array], exact: Mapping[str, Array]) -> Sample:
    """What a layer reads and should compute, such that the sum that its results are a part of is exact."""
    added, wanted = total.offset(rounded), exact[node.outputs[0]]
    return rounded[node.inputs[0]], wanted if added is None else wanted + (total.offset(exact) - added), added


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


def improve(
    graph: Graph, number: int, samples: Sequence[Sample], options: Options, bounds: tuple[Array, Array] | None = None
) -> tuple[LayerConstants | None, LayerReport]:
    """Round one layer; None leaves it as it is. Beyond `bounds`, [groups, 1, outputs] each, errors of the results do not count."""
    node = graph.nodes[number]
    weights, encoding = graph.constants[node.inputs[1]], graph.types[node.inputs[1]].encoding
    input_encoding = graph.types[node.inputs[0]].encoding
    assert encoding is not None
    assert input_encoding is not None
    layer = replace(describe(node, weights, encoding, options.tied), coarse=input_encoding.dtype.bits < 8,
                    bounded=bounds is not None)
    correction = options.correction_of(layer.bits)
    given = graph.constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(len(encoding.scale), np.float32)
    rows = Rows(node, weights.shape, samples, options.rows)
    with np.errstate(over="ignore", invalid="ignore"):
        seen, unseen = rows.moments()
    if not seen.finite or (unseen is not None and not unseen.finite):
        return None, LayerReport("as it was: squares of its values are beyond float32", "none")
    own = None if correction != "none" else given.reshape(layer.weights.shape[:2]).astype(np.float64)
    if unseen is None:
        rounded, method = round_nearest(layer), "nearest"
        bias = seen.centred().bias(rounded.weights) if own is None else own
    else:
        way, found = settle(layer, (seen, unseen), options.rounding, correction == "affine", own)
        if bounds is not None and way.method not in PLAIN and layer.depth <= LARGE:
            found = behind(bounds, rows, way, layer, (seen, unseen), own, found)
        (rounded, bias), method = found, str(way)
    scale = np.maximum(rounded.scale, SMALLEST_SCALE).astype(np.float32).astype(np.float64)
    limit = scale.reshape(-1) * input_encoding.scale[0] * BIAS_LIMIT
    bias = np.clip(bias.reshape(-1), -limit, limit).astype(np.float32)
    grid = frozen(weights_of(node, (scale * rounded.integers).astype(np.float32), weights.shape))
    constants = LayerConstants(grid, replace(encoding, scale=tuple(float(s) for s in scale.reshape(-1))), frozen(bias))
    return constants, LayerReport(method, correction)


def settle(
    layer: Layer, moments: tuple[Moments, Moments], rounding: str, refit: bool, own: Array | None
) -> tuple[Way, tuple[Rounded, Array]]:
    """How a layer is rounded; integers with scales, and bias [groups, outputs].

    Args:
        own: the bias to keep, if it is not to be corrected.
    """
    way, rounded = choose(layer, *moments, rounding, refit, own)
    problem = (moments[0] + moments[1]).centred()
    if way.method in PLAIN and refit:
        rounded = fitted(layer, rounded, problem)
    return way, (rounded, problem.bias(rounded.weights) if own is None else own)


def behind(
    bounds: tuple[Array, Array], rows: Rows, way: Way, layer: Layer, moments: tuple[Moments, Moments], own: Array | None,
    found: tuple[Rounded, Array],
) -> tuple[Rounded, Array]:
    """Better integers, scales and bias where only what lies between bounds counts: found again and again, the best ever seen."""
    least, best = np.inf, found
    for turn in range(TURNS + 1):
        error, moments = rows.within(moments, found[0].weights, found[1], bounds)
        if error < least:
            least, best = error, found
        if turn < TURNS:
            rounded = carried_out(way, layer, moments[0] + moments[1], own)
            found = rounded, (moments[0] + moments[1]).centred().bias(rounded.weights) if own is None else own
    return best


def fitted(layer: Layer, rounded: Rounded, problem: Problem) -> Rounded:
    """The same integers with the scales of least error: the gain of each channel, corrected."""
    problem = problem.damped(layer.weights, DAMPINGS[0])
    return replace(rounded, scale=np.where(layer.free, best_scale(problem, rounded.integers, rounded.scale, layer.tied), rounded.scale))


def describe(node: Node, weights: Array, encoding: Encoding, tied: bool = False) -> Layer:
    rows = weight_rows(node, weights)
    scale = np.array(encoding.scale).reshape(*rows.shape[:2], 1)
    layer = Layer(rows, scale, np.zeros(scale.shape[:2], bool), encoding.dtype.bits, tied)
    return replace(layer, fixed=(scale > 1.001 * layer.peak)[:, :, 0])


def frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array
