"""How far a compiled model is from the float model: end to end, and value by value.

The float side is the imported, simplified network in ONNX Runtime; the integer side is the library, step by step, dequantized by
the encodings of its graph. Values are compared where both sides have them: integers named `v`, `v@nhwc`, `v@integer`, ... stand for
the float value `v`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, log10, sqrt

import numpy as np

from qcc.ir import Array, Graph
from qcc.passes.integer import matching_values
from qcc.runtime.module import Module


@dataclass
class Distance:
    """Sums over all data from which the measures are computed; float64, constant memory."""

    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    samples: int = 0
    same_top: int = 0

    def add(self, reference: Array, found: Array) -> None:
        """Both of one shape; the first axis is the batch. The top class is the largest along the last axis."""
        a, b = reference.astype(np.float64), found.astype(np.float64)
        difference = a - b
        self.signal += float(np.vdot(a, a))
        self.noise += float(np.vdot(difference, difference))
        self.other += float(np.vdot(b, b))
        self.product += float(np.vdot(a, b))
        self.largest = max(self.largest, float(np.max(np.abs(difference), initial=0.0)))
        if a.ndim and a.shape[-1]:
            agree = a.argmax(-1) == b.argmax(-1)
            self.samples, self.same_top = self.samples + agree.size, self.same_top + int(agree.sum())

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in dB; infinite when equal."""
        if self.noise == 0.0:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal > 0.0 else -inf

    @property
    def cosine(self) -> float:
        scale = sqrt(self.signal * self.other)
        return self.product / scale if scale > 0.0 else float(self.signal == self.other)

    @property
    def agreement(self) -> float:
        """Share of samples with the same top class."""
        return self.same_top / self.samples if self.samples else 1.0


@dataclass
class Comparison:
    """Distances by output and by value, in the order in which the library computes them."""

    outputs: dict[str, Distance] = field(default_factory=dict)
    layers: dict[str, Distance] = field(default_factory=dict)
    batches: int = 0


def compare(graph: Graph, integer: Graph, module: Module, batches: Iterable[Mapping[str, Array]], layers: bool = True) -> Comparison:
    """Run both sides on all batches.

    Args:
        graph: the simplified FLOAT graph.
        integer: the artifact's graph.
        layers: also compare value by value.
    """
    from qcc.onnx import FloatRunner

    pairs = matching_values(graph, integer) if layers else {}
    ends = list(graph.outputs.values())
    runner = FloatRunner(graph, [*ends, *(pair.real for pair in pairs.values())])
    result = Comparison()
    for feeds in batches:
        reals = runner.run(feeds)
        given = _encoded(module, integer, feeds)
        outputs = module.run(given)
        for port, value in graph.outputs.items():
            result.outputs.setdefault(port, Distance()).add(reals[value], _real(integer, integer.outputs[port], outputs[port]))
        for step, read in module.trace(given) if layers else ():
            pair = pairs.get(step.node)
            if pair is not None:
                stored = read().reshape(integer.types[pair.stored].shape)
                real = _real(integer, pair.stored, stored).transpose(np.argsort(pair.axes))
                result.layers.setdefault(pair.real, Distance()).add(reals[pair.real], real)
        result.batches += 1
    return result


def library_outputs(integer: Graph, module: Module, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The real outputs of the library by port, as arrays of their own."""
    outputs = module.run(_encoded(module, integer, feeds))
    return {port: np.array(_real(integer, integer.outputs[port], array)) for port, array in outputs.items()}


def _real(integer: Graph, name: str, array: Array) -> Array:
    encoding = integer.types[name].encoding
    return array if encoding is None or not integer.types[name].dtype.is_integer else encoding.dequantize(array)


def _encoded(module: Module, integer: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The feeds as the library takes them: integers where its border is integer."""
    result = {}
    for port in module.inputs:
        encoding = integer.types[port.name].encoding
        array = feeds[port.name]
        result[port.name] = array if encoding is None or port.numpy.kind == "f" else encoding.quantize(array)
    return result
