"""How far values reach where inputs were made: made inputs meet means and deviations, but hold none of the rare things that photographs do.

Decides ranges by moments: every channel reaches as far from its mean as the farthest number of SAMPLES samples would if its numbers were
normal, at most DEVIATIONS, or to what made inputs reached if that is farther, but not beyond what clips, functions, pools
and products make of the ranges that they read. An average over places reaches as far as what it is taken of.
Data-free quantization (Nagel et al. 2019, section 5) takes six deviations from BatchNorms' own parameters; moments over made inputs are
the same where a BatchNorm is, and exist for sums, pools and inputs, too. Five were nearest to the ranges of photographs among 3, 4, 4.5,
5, 6 and 7 on EfficientNet-Lite0 (7 percent in width, root mean square; 13 with six).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, log, sqrt

import numpy as np

from qcc.ir import Array, Graph
from qcc.ops import AveragePool, Clip, Function, MaxPool, Multiply, ReduceMean
from qcc.passes.calibrate import Range
from qcc.passes.calibrate.collect import Evaluate

DEVIATIONS = 5.0
SAMPLES = 1000
POINTS = 4097       # of a function's curve, from which its bounds are taken

Moments = tuple[Array, Array]      # mean and standard deviation per channel: float64 [channels]


def channel_moments(values: Sequence[str], evaluate: Evaluate, batches: Iterable[Mapping[str, Array]]) -> dict[str, Moments]:
    """Mean and deviation of every channel of the values over all batches.

    Channels are the second axis of values of rank 4, the last one of others.
    """
    sums: dict[str, Array] = {}
    count = 0
    for feeds in batches:
        count += 1
        results = evaluate(feeds)
        for name in values:
            rows = channel_rows(results[name])
            found = np.stack([rows.mean(axis=1), np.square(rows).mean(axis=1)])
            sums[name] = sums[name] + found if name in sums else found
    means = {name: total / count for name, total in sums.items()}
    return {name: (mean, np.sqrt(np.maximum(square - mean * mean, 0.0))) for name, (mean, square) in means.items()}


def channel_rows(array: Array) -> Array:
    """float64 [channels, numbers of one channel]."""
    if array.ndim == 0:
        return array.astype(np.float64).reshape(1, 1)
    rows: Array = np.moveaxis(array.astype(np.float64), 1 if array.ndim == 4 else -1, 0)
    return rows.reshape(rows.shape[0], -1)


def reach(
    graph: Graph, seen: Mapping[str, Range], moments: Mapping[str, Moments], known: Mapping[str, tuple[float, float]]
) -> dict[str, Range]:
    """Ranges of values from what they took and from their channels' moments. A value that never was negative, or positive, stays so.

    Args:
        seen: what each value took, in the graph's order.
        known: ranges that need not be found.
    """
    found: dict[str, Range] = {}
    for name, range in seen.items():
        pooled = averaged(graph, name)
        if name in known or pooled in found:
            found[name] = Range(*known[name]) if name in known else found[pooled]
            continue
        mean, deviation = moments[name]
        far = farthest(graph.types[name].size / mean.size) * deviation
        least, most = bounds(graph, name, found)
        low = min(range.low, float((mean - far).min())) if range.low < 0 else range.low
        high = max(range.high, float((mean + far).max())) if range.high > 0 else range.high
        found[name] = Range(max(low, least), min(high, most))
    return found


def averaged(graph: Graph, name: str) -> str:
    """What a value is an average of, over the places of a picture; "" if it is none.

    It reaches as far as this does: what an object makes fires all over it, and made inputs hold no objects.
    """
    node = graph.producers.get(name)
    if node is None or not isinstance(node.op, AveragePool | ReduceMean) or graph.types[node.inputs[0]].rank != 4:
        return ""
    return node.inputs[0] if isinstance(node.op, AveragePool) or set(node.op.axes) <= {2, 3} else ""


def farthest(numbers: float) -> float:
    """Deviations between a channel's mean and its farthest number, with so many numbers per sample: sqrt(2 ln n) of n normal ones."""
    return min(DEVIATIONS, sqrt(2.0 * log(SAMPLES * max(1.0, numbers))))


def bounds(graph: Graph, name: str, found: Mapping[str, Range]) -> tuple[float, float]:
    """Between which numbers a value must lie, by the operator that makes it and the ranges of what this reads."""
    node = graph.producers.get(name)
    if node is None:
        return -inf, inf
    if isinstance(node.op, Clip):
        return min(node.op.low), max(node.op.high)
    ranges = [found[n] for n in node.inputs if n in found]
    if len(ranges) < len(node.inputs):
        return -inf, inf
    if isinstance(node.op, Function):
        (results,) = node.op.evaluate(np.linspace(ranges[0].low, ranges[0].high, POINTS, dtype=np.float32))
        return float(results.min()), float(results.max())
    if isinstance(node.op, MaxPool):
        return min(ranges[0].low, 0.0), max(ranges[0].high, 0.0)      # 0: what pads
    if isinstance(node.op, Multiply):
        corners = [a * b for a in (ranges[0].low, ranges[0].high) for b in (ranges[-1].low, ranges[-1].high)]
        return min(corners), max(corners)
    return -inf, inf
