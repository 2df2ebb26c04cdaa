"""Chooses the scales of channels: for every set of values whose channels depend on each other, the member of several families that the
predicted noise prefers.

`balance`: width of the channel ** alpha / largest weight that reads it ** (1 - alpha) (SmoothQuant, Xiao et al. 2023, equation 4;
cross-layer equalization, Nagel et al. 2019, with the weights' ranges in place of the channel's). `cut`: max(1, width / threshold)
(Outlier Suppression+, Wei et al. 2023, equation 8), with thresholds relative to the widest channel. Nothing depends on how large
numbers are as such.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np

from qcc.ir import Array
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.noise import Layer, Noise
from qcc.passes.migrate.rescale import scales_of

ALPHAS = tuple(float(a) for a in np.linspace(0.1, 1.0, 10))
THRESHOLDS = tuple(float(t) for t in 2.0 ** -np.arange(0.5, 6.5, 0.5))
FLOOR = 2.0**-10            # of a channel's width or weights, relative to the largest: what was never seen to move is not blown up
SWEEPS = 2                  # over all sets, where layers with one scale make sets depend on each other


@dataclass(frozen=True, eq=False)
class Choice:
    """The number of every root (index: root), and how each set of roots was chosen (for reports)."""

    numbers: Array
    methods: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Chooser:
    """The choice for one network."""

    channels: Channels
    noise: Noise

    def choose(self, alphas: Iterable[float] = ALPHAS, thresholds: Iterable[float] = THRESHOLDS) -> Choice:
        """For every set the family member of least predicted noise; its numbers stay one if none is better than that."""
        families = [("none", 0.0), *(("balance", a) for a in alphas), *(("cut", t) for t in thresholds)]
        numbers = np.ones(self.channels.count)
        methods: dict[int, str] = {}
        for _ in range(SWEEPS if self.noise.bits.per_tensor else 1):
            for position, roots in enumerate(self.sets):
                errors = []
                for family, parameter in families:
                    numbers[roots] = self.number(roots, family, parameter)
                    errors.append(self._error(*self.members[position], numbers))
                family, parameter = families[int(np.argmin(errors))]
                numbers[roots] = self.number(roots, family, parameter)
                methods[position] = family if family == "none" else f"{family} {parameter:.3g}"
        return Choice(numbers, tuple(methods[position] for position in range(len(self.sets))))

    def number(self, roots: Array, family: str, parameter: float) -> Array:
        width, weight = self.widths[roots], self.weights[roots]
        if family == "balance":      # where no weight counts, only the value itself gains or loses
            return np.asarray(np.where(weight > 0.0, width**parameter / np.maximum(weight, FLOOR) ** (1.0 - parameter), width))
        return np.maximum(1.0, width / parameter) if family == "cut" else np.ones(len(roots))

    def _error(self, values: tuple[str, ...], layers: tuple[Layer, ...], numbers: Array) -> float:
        names = {*values, *(layer.source for layer in layers), *(layer.result for layer in layers)}
        scales = {name: scales_of(self.channels.labels[name], numbers) for name in names}
        noises = [self.noise.of_value(name, scales[name]) for name in values]
        return sum(noises) + sum(self.noise.of_layer(layer, scales) for layer in layers)

    @cached_property
    def sets(self) -> tuple[Array, ...]:
        """Roots that meet in some value."""
        joined: nx.Graph[int] = nx.Graph()
        for name in self.channels.graph.types:
            roots = self.channels.roots(name)
            nx.add_path(joined, roots) if len(roots) > 1 else joined.add_nodes_from(roots)
        return tuple(np.array(group) for group in sorted(sorted(group) for group in nx.connected_components(joined)))

    @cached_property
    def members(self) -> tuple[tuple[tuple[str, ...], tuple[Layer, ...]], ...]:
        """Per set: the encoded values whose noise it changes, and the layers."""
        home = {int(root): position for position, roots in enumerate(self.sets) for root in roots}
        values: list[list[str]] = [[] for _ in self.sets]
        layers: list[list[Layer]] = [[] for _ in self.sets]
        for name in self.noise.shares:
            for root in self.channels.roots(name)[:1]:
                values[home[root]].append(name)
        for layer in self.noise.layers:
            ends = (layer.source, layer.result) if self.noise.bits.per_tensor else (layer.source,)
            for position in sorted({home[root] for name in ends for root in self.channels.roots(name)[:1]}):
                layers[position].append(layer)
        return tuple((tuple(v), tuple(n)) for v, n in zip(values, layers, strict=True))

    @cached_property
    def widths(self) -> Array:
        """Per root: the width of its channels, relative to the widest channel of the value; at least FLOOR, one where nothing is known."""
        found = self._largest(1)
        return np.where(found > 0.0, np.maximum(found, FLOOR), 1.0)

    @cached_property
    def weights(self) -> Array:
        """Per root: the largest weight that reads it, relative, 0 if none does; values that are divided where others are multiplied
        count as weights, too."""
        found = self._largest(-1)
        for layer in self.noise.layers:
            if layer.groups > 1 and not self.noise.bits.per_tensor and layer.weights.shape[1] == 1:
                continue      # every channel has weights and a scale of its own
            columns = layer.columns(self.noise.bits.per_tensor)
            labels = np.broadcast_to(self.channels.labels[layer.source].reshape(-1), columns.shape)
            np.maximum.at(found, np.abs(labels), columns)
        found[0] = 0.0
        return found

    def _largest(self, sign: int) -> Array:
        found = np.zeros(self.channels.count)
        for name in self.noise.shares:
            labels, width = self.channels.labels[name], self.noise.statistics[name].width
            relative = np.broadcast_to(width / max(float(width.max(initial=0.0)), 1e-300), labels.shape)
            chosen = labels * sign > 0
            np.maximum.at(found, np.abs(labels[chosen]), relative[chosen])
        return found

