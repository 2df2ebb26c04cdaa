"""Predicts how much rounding errs in a network whose channels were rescaled: the objective that scales are chosen by.

Rounding a value adds noise of step**2 / 12 to every element, which a reader passes on with the squares of its weights; rounding weights
adds noise that grows with the mean squares of what they are multiplied with. Every reader counts relative to its own signal, so that
neither the scale of a network nor its depth matters. Ranges and mean squares are those measured, divided by the scales at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcc.ir import Array, Graph, Node
from qcc.ops import Convolution
from qcc.passes.migrate.statistics import ChannelRange
from qcc.passes.quantize.forms import TIED, Form
from qcc.passes.quantize.placement import Placement

Scales = Mapping[str, Array]


@dataclass(frozen=True)
class Bits:
    """Widths that the prediction is made for; `per_tensor`: one scale for all of a layer's weights."""

    weights: int = 8
    activations: int = 8
    per_tensor: bool = False

    @property
    def plain(self) -> bool:
        """Bytes, and scales per channel: where most networks lose little, whatever is done."""
        return min(self.weights, self.activations) >= 8 and not self.per_tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with constant weights: its input and output values, and its weights as [outputs, inputs per group, taps]."""

    source: str
    result: str
    weights: Array
    groups: int

    @staticmethod
    def of(graph: Graph, node: Node) -> Layer:
        weights = graph.constants[node.inputs[1]].astype(np.float64)
        if isinstance(node.op, Convolution):
            return Layer(node.inputs[0], node.outputs[0], weights.reshape(*weights.shape[:2], -1), node.op.groups)
        return Layer(node.inputs[0], node.outputs[0], weights.T[:, :, None], 1)

    def spread(self, per_channel: Array) -> Array:
        """A number per input channel (or one for all), as [outputs, inputs per group]."""
        outputs, inner, _ = self.weights.shape
        full = np.broadcast_to(per_channel.reshape(-1), (self.groups * inner,)).reshape(self.groups, inner)
        return np.repeat(full, outputs // self.groups, axis=0)

    def gathered(self, per_weight: Array) -> Array:
        """Sums over the outputs: [outputs, inputs per group] -> per input channel."""
        outputs, inner, _ = self.weights.shape
        return np.asarray(per_weight.reshape(self.groups, outputs // self.groups, inner).sum(axis=1).reshape(-1))

    @cached_property
    def peaks(self) -> Array:
        return np.asarray(np.abs(self.weights).max(axis=2))

    @cached_property
    def powers(self) -> Array:
        return np.asarray(np.square(self.weights).sum(axis=2))

    def columns(self, per_tensor: bool) -> Array:
        """The largest weight of every input channel, relative to the largest in its row (or of all)."""
        largest = self.peaks.max(initial=0.0) if per_tensor else self.peaks.max(axis=1, keepdims=True)
        relative = self.peaks / np.maximum(largest, 1e-30)
        outputs, inner, _ = self.weights.shape
        return np.asarray(relative.reshape(self.groups, outputs // self.groups, inner).max(axis=1).reshape(-1))


@dataclass(frozen=True, eq=False)
class Noise:
    """The prediction for one network."""

    graph: Graph
    placement: Placement
    statistics: Mapping[str, ChannelRange]
    bits: Bits

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        forms = self.placement.forms
        return tuple(Layer.of(self.graph, n) for n in self.graph.nodes
                     if forms.get(n.outputs[0]) is Form.LINEAR and n.inputs[0] in self.statistics)

    @cached_property
    def shares(self) -> Mapping[str, Array]:
        """Per encoded value and channel: noise-to-signal ratio that a unit of noise power causes, all readers together."""
        return {name: self._share(name) for name in self.statistics if name in self.placement.encoded}

    def _share(self, name: str) -> Array:
        square, shape = self.statistics[name].square, self.statistics[name].square.shape
        own = [layer for layer in self.layers if layer.source == name]
        total = np.zeros(shape)
        for layer in own:
            passed = layer.gathered(layer.powers)
            extent = square.size
            passed = passed.reshape(shape) if passed.size == extent else np.full(shape, passed.sum() / extent)
            total = total + passed / max(float((passed * square).sum()), 1e-300)
        for user in self.graph.users[name]:
            form = self.placement.forms.get(user.outputs[0])
            if form not in TIED and form is not Form.LINEAR:
                passed = self._passed(user, name)
                total = total + passed / max(float((passed * square).sum()), 1e-300)
        return np.asarray(total)

    def _passed(self, user: Node, name: str) -> Array:
        """What a reader multiplies noise power with, per channel: in a product of two activations, the other's mean square."""
        shape = self.statistics[name].square.shape
        if self.placement.forms.get(user.outputs[0]) is Form.CONTRACTION:
            other = user.inputs[1 - user.inputs.index(name)]
            if other in self.statistics:
                turned = self.statistics[other].square.swapaxes(-1, -2)
                if turned.shape == shape:
                    return np.asarray(turned)
        return np.ones(shape)

    def of_value(self, name: str, scale: Array) -> float:
        """The noise that rounding a value adds."""
        seen = self.statistics[name]
        high, low = max(0.0, float((seen.high / scale).max())), min(0.0, float((seen.low / scale).min()))
        step = (high - low) / ((1 << self.bits.activations) - 1)
        return step**2 / 12 * float((self.shares[name] * np.square(scale)).sum())

    def of_layer(self, layer: Layer, scales: Scales) -> float:
        """The noise that rounding a layer's weights adds."""
        square = self.statistics[layer.source].square
        before, after = layer.spread(scales.get(layer.source, np.ones(1))), scales.get(layer.result, np.ones(1)).reshape(-1, 1)
        rows = layer.peaks * before / after
        largest = np.full((len(rows), 1), rows.max(initial=0.0)) if self.bits.per_tensor else rows.max(axis=1, keepdims=True)
        step = largest * after / ((1 << (self.bits.weights - 1)) - 1)
        inputs = layer.spread(square) / np.square(before)
        signal = max(float((layer.powers * layer.spread(square)).sum()), 1e-300)
        return float((np.square(step) / 12 * inputs).sum() * layer.weights.shape[2] / signal)
