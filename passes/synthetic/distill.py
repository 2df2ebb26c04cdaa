"""Makes inputs for a network without data: noise with the spectrum of pictures, fitted to the statistics that BatchNorms remember.

A BatchNorm remembers mean and variance of its input over the training data. The inputs are moved by gradient descent until every BatchNorm
sees these moments again (the idea of ZeroQ, Cai et al. 2020). Unlike there, a BatchNorm's input is found by the graph's edges and not by
counting layers, moments are those of all inputs together and not of each one, and every channel of every layer counts the same
in units of its own deviation. Decides how many inputs, how many steps, and where the descent starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from qcc.ir import Array, Graph
from qcc.ops import BatchNormalization
from qcc.passes.synthetic.gradient import needed, pull_back
from qcc.passes.synthetic.start import CUSTOMARY, Start, inferred, noise

COUNT = 8                   # inputs that are fitted; pictures are used mirrored, too
MOST_STEPS, FEWEST_STEPS = 40, 6
WORK = 6e11                 # multiply-accumulates that all steps may take, backward passes included
MEMORY = 1 << 30            # bytes that the values of all inputs may take at once
RATE = 0.1                  # of the descent, in deviations of the input
TINY = 1e-3                 # of a layer's mean deviation: channels that hardly vary are not weighed by more

Prepare = Callable[[Graph, Sequence[str]], Callable[[Mapping[str, Array]], Mapping[str, Array]]]


@dataclass(frozen=True)
class Synthetic:
    """Inputs, and how they came about.

    Attributes:
        statistics: BatchNorms whose moments were matched; 0: the inputs are noise.
        steps: of the descent.
        before, after: root mean square distance from the moments, in deviations.
        bounds: between which an input is known to lie, by name.
    """

    batches: list[dict[str, Array]]
    statistics: int
    steps: int = 0
    before: float = 0.0
    after: float = 0.0
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Norm:
    """The moments that a BatchNorm expects of a value: float64 [channels]."""

    value: str
    mean: Array
    deviation: Array

    def loss(self, mean: Array, deviation: Array) -> float:
        return float(np.mean(np.square((mean - self.mean) / self.deviation) + np.square(deviation / self.deviation - 1.0)))


def norms_of(graph: Graph) -> list[Norm]:
    """Of every BatchNorm with constant statistics, in order."""
    found = []
    for node in graph.nodes:
        if isinstance(node.op, BatchNormalization) and all(map(graph.is_constant, node.inputs[3:])):
            mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[3:])
            deviation = np.sqrt(variance + node.op.epsilon)
            found.append(Norm(node.inputs[0], mean, np.maximum(deviation, TINY * deviation.mean())))
    return found


def synthesize(
    graph: Graph, prepare: Prepare, seed: int = 0, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Synthetic:
    """Inputs for an imported FLOAT graph, whose BatchNorms are still there.

    Args:
        prepare: makes a function that computes values of a graph.
        progress: told (steps done, steps in all).
    """
    norms = norms_of(graph)
    types = {name: graph.types[name] for name in graph.inputs}
    if not norms:
        return Synthetic([noise(types, (seed, number)) for number in range(COUNT)], 0)
    read = tuple(dict.fromkeys([*(norm.value for norm in norms), *needed(graph)]))
    size = 4 * sum(graph.types[name].size for name in read)
    count = max(2, min(COUNT, MEMORY // size))
    work = 3 * sum(map(graph.node_macs, graph.nodes)) * count
    steps = int(np.clip(WORK / max(1, work), FEWEST_STEPS, MOST_STEPS))
    with threadpool_limits(1, "blas"):      # the same sums on every machine
        first = norms[0]
        start = inferred(graph, first.value, first.mean, first.deviation, prepare(graph, (first.value,)))
        inputs = [noise(types, (seed, number), *(() if start is None else (start.exponent, start.own))) for number in range(count)]
        return _descend(Descent(graph, norms, prepare(graph, read), inputs), start, steps, progress)


@dataclass
class Descent:
    """Inputs on their way down."""

    graph: Graph
    norms: list[Norm]
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    inputs: list[dict[str, Array]]

    def measured(self, inputs: Sequence[Mapping[str, Array]]) -> tuple[float, list[Mapping[str, Array]], list[tuple[Array, Array]]]:
        """The loss per BatchNorm, all values, and mean and deviation of each BatchNorm's input over all inputs."""
        values = [self.run(sample) for sample in inputs]
        moments = []
        for norm in self.norms:
            arrays = [sample[norm.value] for sample in values]
            axes = (0, *range(2, arrays[0].ndim))
            mean = np.mean([a.mean(axis=axes, dtype=np.float64) for a in arrays], axis=0)
            square = np.mean([np.square(a - mean.reshape(1, -1, *[1] * (a.ndim - 2)).astype(np.float32)).mean(axis=axes, dtype=np.float64)
                              for a in arrays], axis=0)
            moments.append((mean, np.sqrt(square + 1e-12)))
        loss = float(np.mean([norm.loss(*found) for norm, found in zip(self.norms, moments, strict=True)]))
        return loss, values, moments

    def gradients(self, values: Mapping[str, Array], moments: Sequence[tuple[Array, Array]]) -> dict[str, Array]:
        """Of the loss, up to a factor, with respect to one of the inputs."""
        seeds: dict[str, Array] = {}
        for norm, (mean, deviation) in zip(self.norms, moments, strict=True):
            x = values[norm.value]
            shape = (1, -1, *[1] * (x.ndim - 2))
            share = 2.0 * mean.size / x.size / len(self.norms)
            slope = share / mean.size * (deviation / norm.deviation - 1.0) / (norm.deviation * deviation)
            offset = share / mean.size * (mean - norm.mean) / np.square(norm.deviation) - slope * mean
            seed = x * slope.reshape(shape).astype(np.float32) + offset.reshape(shape).astype(np.float32)
            seeds[norm.value] = seeds[norm.value] + seed if norm.value in seeds else seed
        return pull_back(self.graph, values, seeds)

    def started(self, start: Start) -> list[dict[str, Array]]:
        return [{name: start.of(x) for name, x in sample.items()} for sample in self.inputs]


def _descend(descent: Descent, start: Start | None, steps: int, progress: Callable[[int, int], None]) -> Synthetic:
    """Adam, with a rate that falls to a tenth along a cosine; the best inputs seen are taken."""
    start = start or min(CUSTOMARY, key=lambda one: descent.measured(descent.started(one)[:2])[0])
    descent.inputs = descent.started(start)
    first = [{name: np.zeros_like(x) for name, x in sample.items()} for sample in descent.inputs]
    second = [{name: np.zeros_like(x) for name, x in sample.items()} for sample in descent.inputs]
    best, lowest, before = descent.inputs, np.inf, 0.0
    for step in range(steps + 1):
        loss, values, moments = descent.measured(descent.inputs)
        before = before if step else loss
        if loss < lowest:
            best, lowest = [dict(sample) for sample in descent.inputs], loss
        if step == steps:
            break
        rate = RATE * start.deviation * (0.55 + 0.45 * np.cos(np.pi * step / steps))
        for number, sample in enumerate(descent.inputs):
            for name, slope in descent.gradients(values[number], moments).items():
                m, v = first[number], second[number]
                m[name], v[name] = 0.9 * m[name] + 0.1 * slope, 0.99 * v[name] + 0.01 * np.square(slope)
                move = (m[name] / (1 - 0.9 ** (step + 1))) / (np.sqrt(v[name] / (1 - 0.99 ** (step + 1))) + 1e-20)
                sample[name] = start.kept(sample[name] - np.float32(rate) * move.astype(np.float32))
        progress(step + 1, steps)
    bounds = {name: start.range for name in descent.graph.inputs} if np.all(np.isfinite(start.range)) else {}
    return Synthetic(list(with_mirrored(best)), len(descent.norms), steps, float(np.sqrt(before)), float(np.sqrt(lowest)), bounds)


def with_mirrored(batches: Sequence[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """Each set of inputs, and, where there are pictures among them, its mirror image."""
    for sample in batches:
        yield sample
        if any(x.ndim == 4 for x in sample.values()):
            yield {name: np.ascontiguousarray(x[..., ::-1]) if x.ndim == 4 else x for name, x in sample.items()}
