"""What the integer program is compared with: the usual greedy descent, and one precision for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from qcc.passes.mixed.problem import Assignment, Border, Problem

LEAST_MOVE = 1e-12      # share of a budget or of the objective that counts as progress


def uniform(problem: Problem) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Every choice of one label per kind of sites, with the assignment that it makes.

    A site that lacks the label takes its first candidate (sites list their most precise candidate first).
    """
    kinds: dict[str, dict[str, None]] = {}
    for site in problem.sites:
        kinds.setdefault(site.kind, {}).update(dict.fromkeys(site.labels))
    for labels in product(*kinds.values()):
        chosen = dict(zip(kinds, labels, strict=True))
        wanted = {site.name: chosen[site.kind] for site in problem.sites}
        for tie in problem.ties:
            if any(wanted[name] not in problem.by_name[name].labels for name in tie):
                wanted.update({name: problem.by_name[name].labels[0] for name in tie})
        yield chosen, {s.name: wanted[s.name] if wanted[s.name] in s.labels else s.labels[0] for s in problem.sites}


def greedy(problem: Problem, budgets: Mapping[str, float], objective: str = "loss") -> dict[str, str] | None:
    """Moves one site at a time: first what buys most of the budgets per objective lost, then what gains most objective per budget used.

    Returns:
        An assignment within the budgets, or None where the moves end before.
    """
    small, leader = problem.contracted()
    start = {site.name: min(site.candidates, key=lambda c: c.values.get("loss", 0.0)).label for site in small.sites}
    state = _State(small, budgets, start, small.totals(start), _neighbours(small))
    while (excess := state.excess({})) > LEAST_MOVE:
        moves = [(gain, name, label, change) for name, label, change in state.moves()
                 if (gain := excess - state.excess(change)) > LEAST_MOVE]
        if not moves:
            return None
        _, name, label, change = min(moves, key=lambda move: (move[3].get(objective, 0.0) / move[0], -move[0]))
        state.take(name, label, change)
    while True:
        better = [(change[objective] / (LEAST_MOVE + state.used(change)), name, label, change) for name, label, change in state.moves()
                  if change.get(objective, 0.0) < -LEAST_MOVE * abs(state.totals[objective]) and state.excess(change) <= LEAST_MOVE]
        if not better:
            return {name: state.assignment[leader[name]] for name in leader}
        _, name, label, change = min(better, key=lambda move: move[0])
        state.take(name, label, change)


def _neighbours(problem: Problem) -> dict[str, list[Border]]:
    found: dict[str, list[Border]] = {site.name: [] for site in problem.sites}
    for border in problem.borders:
        found[border.first].append(border)
        found[border.second].append(border)
    return found


@dataclass
class _State:
    """An assignment on its way, with its totals."""

    problem: Problem
    budgets: Mapping[str, float]
    assignment: dict[str, str]
    totals: dict[str, float]
    borders: Mapping[str, list[Border]]
    known: dict[str, list[tuple[str, str, dict[str, float]]]] = field(default_factory=dict)

    def excess(self, change: Mapping[str, float]) -> float:
        """Sum over the budgets of the share by which they are exceeded, after a change."""
        return sum(max(0.0, (self.totals[m] + change.get(m, 0.0) - most) / max(abs(most), 1e-300)) for m, most in self.budgets.items())

    def used(self, change: Mapping[str, float]) -> float:
        """Share of the budgets that a change uses."""
        return sum(max(0.0, change.get(m, 0.0)) / max(abs(most), 1e-300) for m, most in self.budgets.items())

    def moves(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        """Every site, another label, and what changes by it."""
        for site in self.problem.sites:
            if site.name not in self.known:
                before = self.local(site.name, self.assignment)
                others = [(label, self.local(site.name, {**self.assignment, site.name: label}))
                          for label in site.labels if label != self.assignment[site.name]]
                self.known[site.name] = [(site.name, label, {m: after.get(m, 0.0) - before.get(m, 0.0) for m in {**before, **after}})
                                         for label, after in others]
            yield from self.known[site.name]

    def local(self, name: str, assignment: Assignment) -> dict[str, float]:
        """The measures of a site and of its borders."""
        total = dict(self.problem.by_name[name][assignment[name]].values)
        for border in self.borders[name]:
            for measure, value in border.values.get((assignment[border.first], assignment[border.second]), {}).items():
                total[measure] = total.get(measure, 0.0) + value
        return total

    def take(self, name: str, label: str, change: Mapping[str, float]) -> None:
        self.assignment[name] = label
        for measure, value in change.items():
            self.totals[measure] += value
        for touched in (name, *(n for border in self.borders[name] for n in (border.first, border.second))):
            self.known.pop(touched, None)
