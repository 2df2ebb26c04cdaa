"""How far outputs are from those in float32, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from qcc.ir import Array, Graph

KINDS = ("auto", "kl", "mse")
SMALLEST = 1e-12      # probability


@dataclass(frozen=True, slots=True)
class Loss:
    """Averages over samples and outputs.

    Attributes:
        kl: divergence of the probabilities from the float network's, in nats, with the last axis as classes.
        mse: squared error over the squares of the float outputs.
    """

    kl: float
    mse: float

    def of(self, kind: str) -> float:
        return self.kl if kind == "kl" else self.mse


def kind_for(graph: Graph, kind: str) -> str:
    """"kl" or "mse"; "auto" takes "kl" where every output is a vector of fewer numbers than the inputs have, as a classifier's is."""
    if kind != "auto":
        return kind
    inputs = sum(graph.types[name].size for name in graph.inputs)
    types = [graph.types[name] for name in graph.output_values]
    vectors = all(t.rank >= 2 and t.size == t.shape[0] * t.shape[-1] and t.shape[-1] >= 2 and 2 * t.size <= inputs for t in types)
    return "kl" if vectors else "mse"


def log_probabilities(outputs: Array) -> Any:
    """Of the classes along the last axis: the outputs' logarithms if they are probabilities, else their log-softmax."""
    values = outputs.astype(np.float64)
    if np.all(values >= 0.0) and np.allclose(values.sum(-1), 1.0, atol=1e-3):
        return np.log(np.maximum(values, SMALLEST))
    return log_softmax(values, axis=-1)


def loss_between(wanted: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> Loss:
    """Of outputs by name, one mapping per sample; an output that is not among the found ones did not change."""
    divergences, errors = [], []
    for name in wanted[0]:
        if name not in found[0]:
            divergences.append(0.0)
            errors.append(0.0)
            continue
        pairs = [(w[name], f[name]) for w, f in zip(wanted, found, strict=True)]
        divergences.append(float(np.mean([_divergence(w, f) for w, f in pairs])))
        signal = sum(float(np.square(w, dtype=np.float64).sum()) for w, _ in pairs)
        noise = sum(float(np.square(w.astype(np.float64) - f).sum()) for w, f in pairs)
        errors.append(noise / max(signal, 1e-30))
    return Loss(float(np.mean(divergences)), float(np.mean(errors)))


def _divergence(wanted: Array, found: Array) -> float:
    if not wanted.ndim or not wanted.size:
        return 0.0
    p, q = log_probabilities(wanted), log_probabilities(found)
    return float(max(0.0, np.mean(np.sum(np.exp(p) * (p - q), axis=-1))))
