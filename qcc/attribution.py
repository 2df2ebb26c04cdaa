"""Where the accuracy went: the error of a compiled model's outputs, split over layers and causes.

The float network is changed into the quantized one a step at a time, in the order of its nodes: a layer's weights, its bias, then the
clipping and the rounding of a value. Step i changes the outputs by d_i, so that the whole error is e = sum d_i, and

    |e|^2 = sum_i <d_i, e>

gives every step its share, without any assumption of independence. A share is negative where a step undoes the error of others. What
is left is what no step says: the library's integer arithmetic against this simulation in float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array, Encoding, Graph, Node
from qcc.ops import Convolution, Function, IntegerConvolution, IntegerMatMul, PRelu, Reshape
from qcc.passes.integer import matching_values
from qcc.passes.rounding.tandem import Prepare, last_reads, segment


class Cause(StrEnum):
    """Why a step changes the outputs."""

    WEIGHTS = "weight rounding"
    BIAS = "bias"                   # rounded to the accumulator's scale, or corrected
    CLIPPING = "clipping"           # of values outside of their calibrated range
    ROUNDING = "activation rounding"
    TABLE = "table"                 # rounding of a function's results
    ARITHMETIC = "integer arithmetic"


@dataclass(frozen=True, slots=True)
class Part:
    """The share of one step in the error, in units of the outputs' power.

    Attributes:
        value: the layer (by the value it computes) or the value that was changed.
        share: <d, e>.
        size: |d|^2, what the step would cost alone.
    """

    value: str
    cause: Cause
    share: float
    size: float


@dataclass(frozen=True)
class Attribution:
    """The error of all outputs, |e|^2 in units of their power, and its parts in the order of the steps."""

    whole: float
    parts: tuple[Part, ...]

    @property
    def explained(self) -> float:
        """Share of the measured error that the steps add up to; the rest is the library's arithmetic."""
        return sum(part.share for part in self.parts) / self.whole if self.whole else 1.0

    def by_cause(self) -> dict[Cause, float]:
        """Shares of the whole, 1.0 in sum."""
        shares = {cause: sum(part.share for part in self.parts if part.cause is cause) for cause in Cause}
        shares[Cause.ARITHMETIC] = self.whole - sum(part.share for part in self.parts)
        return {cause: share / self.whole if self.whole else 0.0 for cause, share in shares.items()}

    def by_value(self) -> dict[str, float]:
        """Shares of the whole by layer or value, largest first."""
        shares: dict[str, float] = {}
        for part in self.parts:
            shares[part.value] = shares.get(part.value, 0.0) + part.share / self.whole
        return dict(sorted(shares.items(), key=lambda item: -item[1]))


def attribute(
    graph: Graph, integer: Graph, samples: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]], prepare: Prepare,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Attribution:
    """Split the error of a library's outputs.

    Args:
        graph: the simplified FLOAT graph.
        integer: the artifact's INTEGER graph, with its constants.
        samples: inputs by name; all are held at once, with the values that later nodes read.
        found: the library's real outputs by port, one mapping per sample.
        prepare: makes a function that computes values of a graph.
        progress: told (nodes done, nodes in all).

    Raises:
        DataError: no samples.
    """
    if not samples:
        raise DataError("attribution needs at least one sample of data, got none")
    walk = _Walk(graph, prepare, [dict(sample) for sample in samples])
    walk.outputs = walk.finish()
    exact = walk.outputs
    encodings = {pair.real: integer.types[name].encoding for name, pair in matching_values(graph, integer).items()}
    for name in graph.inputs:
        walk.round(name, encodings.get(name), Cause.ROUNDING)
    for number, node in enumerate(graph.nodes):
        walk.compute(node, parameters(graph, integer, node))
        cause = Cause.TABLE if isinstance(node.op, Function | PRelu) else Cause.ROUNDING
        for name in node.outputs:
            walk.round(name, encodings.get(name), cause)
        progress(number + 1, len(graph.nodes))
    return _shares(graph, exact, [[sample[port] for port in graph.outputs] for sample in found], walk.steps)


def _shares(graph: Graph, exact: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]], steps: Sequence[_Step]) -> Attribution:
    power = [sum(float(np.square(sample[port], dtype=np.float64).sum()) for sample in exact) or 1.0 for port in range(len(graph.outputs))]
    errors = [[b.astype(np.float64) - a for a, b in zip(*pair, strict=True)] for pair in zip(exact, found, strict=True)]

    def product(a: Sequence[Sequence[Array]], b: Sequence[Sequence[Array]]) -> float:
        return sum(float(np.vdot(x, y)) / power[port] for one, other in zip(a, b, strict=True)
                   for port, (x, y) in enumerate(zip(one, other, strict=True)))

    parts = tuple(Part(step.value, step.cause, product(step.change, errors), product(step.change, step.change)) for step in steps)
    return Attribution(product(errors, errors), parts)


@dataclass(frozen=True)
class _Step:
    value: str
    cause: Cause
    change: list[list[Array]]      # of the outputs, by sample and port


@dataclass
class _Walk:
    """The network with its first nodes quantized: the values of all samples that the others read."""

    graph: Graph
    prepare: Prepare
    values: list[dict[str, Array]]
    outputs: list[list[Array]] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    done: int = 0
    _rest: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None

    def finish(self) -> list[list[Array]]:
        """The outputs if all other nodes compute in float."""
        rest, wanted = segment(self.graph, self.graph.nodes[self.done :]), list(self.graph.outputs.values())
        made = [name for name in dict.fromkeys(wanted) if name in rest.producers]
        if self._rest is None:
            self._rest = self.prepare(rest, made) if made else (lambda _: {})
        outputs = []
        for sample in self.values:
            results = {**sample, **self.graph.constants, **self._rest({name: sample[name] for name in rest.inputs})}
            outputs.append([results[name] for name in wanted])
        return outputs

    def compute(self, node: Node, constants: Sequence[tuple[Cause, Mapping[str, Array], Node]]) -> None:
        """The next node as it is, then, a step each, with the integer form's constants."""
        self.done, self._rest = self.done + 1, None
        self._evaluate(self.graph, node)
        for cause, arrays, changed in constants:
            types = {**self.graph.types, **{name: replace(self.graph.types[node.inputs[1]], shape=a.shape) for name, a in arrays.items()}}
            self._evaluate(replace(self.graph, constants={**self.graph.constants, **arrays}, types=types), changed)
            self._note(node.outputs[0], cause)
        last = last_reads(self.graph)
        kept = {name for name in last if last[name] >= self.done} | self.graph.output_values
        for sample in self.values:
            for name in [name for name in sample if name not in kept and name not in node.outputs]:
                del sample[name]

    def _evaluate(self, graph: Graph, node: Node) -> None:
        run = self.prepare(segment(graph, [node]), node.outputs)
        read = [name for name in dict.fromkeys(node.inputs) if name and name not in graph.constants]
        for sample in self.values:
            sample.update(run({name: sample[name] for name in read}))

    def round(self, name: str, encoding: Encoding | None, cause: Cause) -> None:
        """Bring a value into its range, then onto its grid."""
        if encoding is None:
            return
        low, high = (encoding.dequantize(np.array(end, np.int64)).astype(np.float32) for end in encoding.range)
        for step in (Cause.CLIPPING, cause):
            for sample in self.values:
                array = sample[name]
                sample[name] = np.clip(array, low, high) if step is Cause.CLIPPING else encoding.dequantize(encoding.quantize(array))
            self._note(name, step)

    def _note(self, value: str, cause: Cause) -> None:
        outputs = self.finish()
        change = [[b.astype(np.float64) - a for a, b in zip(*pair, strict=True)] for pair in zip(self.outputs, outputs, strict=True)]
        if any(np.any(array) for sample in change for array in sample):
            self.steps.append(_Step(value, cause, change))
        self.outputs = outputs


def parameters(graph: Graph, integer: Graph, node: Node) -> tuple[tuple[Cause, Mapping[str, Array], Node], ...]:
    """What a layer's integers stand for: its weights, then its bias, as constants of the float node; nothing for other nodes."""
    layer = integer.producers.get(f"{node.outputs[0]}@sum")
    if layer is None or not isinstance(layer.op, IntegerConvolution | IntegerMatMul):
        return ()
    source, weights, bias = layer.inputs
    meaning, given = integer.types[weights].encoding, integer.types[source].encoding
    assert meaning is not None
    assert given is not None
    integers = integer.constants[weights]
    scale = np.array(meaning.scale) * given.scale[0]
    sums = integers.reshape(len(integers), -1).astype(np.int64).sum(axis=1)
    real_bias = ((integer.constants[bias] + given.zero_point[0] * sums) * scale).astype(np.float32)
    real = _stored_as(graph, node, meaning.dequantize(integers))
    bias_name = f"{node.outputs[0]}@bias"
    with_bias = replace(node, inputs=(*node.inputs[:2], bias_name))
    return (Cause.WEIGHTS, {node.inputs[1]: real}, node), (Cause.BIAS, {node.inputs[1]: real, bias_name: real_bias}, with_bias)


def _stored_as(graph: Graph, node: Node, weights: Array) -> Array:
    """Integer layers' weights in the float node's order: O I H W, or K N.

    A flattened image keeps its channels last, so that K may stand for (H, W, C): of the two orders, the layer has the one that is
    nearer to the float weights.
    """
    if isinstance(node.op, Convolution):
        return np.ascontiguousarray(weights.transpose(0, 3, 1, 2))
    orders = [weights]
    producer = graph.producers.get(node.inputs[0])
    if producer is not None and isinstance(producer.op, Reshape) and graph.types[producer.inputs[0]].rank == 4:
        channels, height, width = graph.types[producer.inputs[0]].shape[1:]
        if channels * height * width == weights.shape[1]:
            orders.append(weights.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(weights.shape))
    wanted = graph.constants[node.inputs[1]].T
    return np.ascontiguousarray(min(orders, key=lambda order: float(np.square(order - wanted).sum())).T)
