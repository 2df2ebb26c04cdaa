"""The integer program of one network: its sites, what their candidates lose and cost, and how measured losses correct predicted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import lsq_linear

from qcc.ir import Graph
from qcc.mixed.costs import Costs
from qcc.mixed.losses import Loss
from qcc.passes.mixed import Assignment, Border, Candidate, Problem, Site
from qcc.passes.mixed.sites import VALUES, WEIGHTS, Values, Weights, added_values
from qcc.passes.quantize import Placement

PULL = 1e-3                    # of corrections towards none
FACTORS = (0.02, 50.0)         # between which a correction may be
OTHERS = "others"              # the loss of everything that is not chosen
Class = tuple[str, str]        # kind of site and label


@dataclass(frozen=True)
class Observation:
    """An assignment whose loss was measured: parts of the predicted loss by class, and the measured one."""

    parts: Mapping[Class, float]
    measured: float


@dataclass(frozen=True)
class Model:
    """What is known of a network.

    Attributes:
        weights, values: the sites; of values only those that have a choice.
        ties: between values.
        losses: by site and label, each site alone.
        kind: of loss.
        costs: of kernels.
        rest: loss of what is not chosen.
        factors: corrections of losses by class.
        activation_bits: of values that have no choice.
    """

    weights: tuple[Weights, ...]
    values: tuple[Values, ...]
    ties: tuple[tuple[str, ...], ...]
    losses: Mapping[str, Mapping[str, Loss]]
    kind: str
    costs: Costs
    labels: Mapping[str, tuple[str, ...]]
    rest: float = 0.0
    factors: Mapping[Class, float] = field(default_factory=dict)
    activation_bits: int = 8

    @property
    def sites(self) -> tuple[Weights | Values, ...]:
        return (*self.weights, *self.values)

    def loss(self, site: str, kind: str, label: str) -> float:
        return self.losses[site][label].of(self.kind) * self.factors.get((kind, label), 1.0)

    def problem(self) -> Problem:
        sites, borders = [], []
        own = {name: values for values in self.values for name in values.members}
        for layer in self.weights:
            source = own.get(layer.source)
            candidates = []
            for label in self.labels[WEIGHTS]:
                bits = int(label)
                numbers = {"loss": self.loss(layer.name, WEIGHTS, label), "size": self.costs.size[layer.layer][bits],
                           "latency": self.costs.latency[layer.layer][bits]}
                if source is None:
                    numbers["bitops"] = float(layer.macs * bits * self.activation_bits)
                candidates.append(Candidate(label, numbers))
            sites.append(Site(layer.name, tuple(candidates), WEIGHTS))
            if source is not None:
                borders.append(Border(layer.name, source.name, {
                    (w, a): {"bitops": float(layer.macs * int(w) * int(a))} for w in self.labels[WEIGHTS] for a in self.labels[VALUES]}))
        for values in self.values:
            widths = (Candidate(a, {"loss": self.loss(values.name, VALUES, a)}) for a in self.labels[VALUES])
            sites.append(Site(values.name, tuple(widths), VALUES))
        fixed = {"loss": self.rest, "size": self.costs.fixed_size, "latency": self.costs.fixed_latency, "arena": float(self.costs.arena)}
        return Problem(tuple(sites), tuple(borders), self.ties, fixed)

    def parts(self, assignment: Assignment) -> dict[Class, float]:
        """The predicted loss without corrections, by class."""
        parts: dict[Class, float] = {(OTHERS, ""): self.rest}
        for site in self.sites:
            key = (WEIGHTS if isinstance(site, Weights) else VALUES, assignment[site.name])
            parts[key] = parts.get(key, 0.0) + self.losses[site.name][assignment[site.name]].of(self.kind)
        return parts

    def corrected(self, observations: Sequence[Observation]) -> dict[Class, float]:
        """Factors of the losses by class with which the measured losses are met best, and which differ least from 1."""
        classes = sorted({key for one in observations for key in one.parts if key[0] != OTHERS})
        rows = [[one.parts.get(key, 0.0) / one.measured for key in classes] for one in observations if one.measured > 0.0]
        wanted = [1.0 - one.parts.get((OTHERS, ""), 0.0) / one.measured for one in observations if one.measured > 0.0]
        pull = np.sqrt(PULL)
        matrix = np.concatenate([np.array(rows).reshape(-1, len(classes)), pull * np.eye(len(classes))])
        found = lsq_linear(matrix, np.concatenate([wanted, np.full(len(classes), pull)]), FACTORS)
        return dict(zip(classes, (float(x) for x in found.x), strict=True))

    def uniform(self, weight_bits: int, activation_bits: int = 8) -> Assignment:
        """The assignment of one width for weights and one for values."""
        values = {v.name: str(activation_bits) for v in self.values}
        return {**{w.name: str(weight_bits) for w in self.weights}, **values}

    def widths(self, assignment: Assignment) -> tuple[dict[str, int], dict[str, int]]:
        """Bits of weights by layer, and of values by name, where they are not 8."""
        weights = {w.layer: int(assignment[w.name]) for w in self.weights}
        values = {v.members[0]: int(assignment[v.name]) for v in self.values}
        return {n: b for n, b in weights.items() if b != 8}, {n: b for n, b in values.items() if b != 8}


def chosen_values(graph: Graph, groups: Sequence[Values], placement: Placement) -> tuple[tuple[Values, ...], tuple[tuple[str, ...], ...]]:
    """The groups of values that may be narrower than 8 bits, and the ties among them: the network's inputs keep theirs."""
    fixed = {v.name for v in groups if set(graph.inputs) & set(v.members)}
    ties, before = added_values(graph, placement), -1
    while before != len(fixed):
        before = len(fixed)
        fixed |= {name for tie in ties if fixed & set(tie) for name in tie}
    return tuple(v for v in groups if v.name not in fixed), tuple(tie for tie in ties if not fixed & set(tie))
