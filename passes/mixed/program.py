"""The assignment of least loss (or cost) under budgets, found by integer programming, with a bound that no assignment can beat.

One binary variable per site and candidate. A border's table is linearised by one variable per pair of classes (labels of a site that
the border does not tell apart are one class), whose sums over either side equal the sums of that side's variables: the tightest
linear form of a product of one-hot choices. HiGHS solves it; what it returns is evaluated anew from the tables.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from qcc.errors import BudgetError, UsageError
from qcc.passes.mixed.baselines import greedy
from qcc.passes.mixed.problem import Assignment, Border, Candidate, Problem, Site

GAP = 1e-3
SECONDS = 60.0
SLACK = 1e-9            # share of a budget that rounding of sums may exceed
LARGEST = 1e4           # coefficient of the scaled objective, far above the solver's tolerances
RETRIES = 5


@dataclass(frozen=True)
class Solution:
    """An assignment and how good it is.

    Attributes:
        values: every measure of the whole network.
        bound: no assignment within the budgets has a smaller objective.
        seconds: that the solver took.
    """

    assignment: Assignment
    objective: str
    values: Mapping[str, float]
    bound: float
    seconds: float

    @property
    def gap(self) -> float:
        """Share of the objective that another assignment might save at most."""
        value = self.values[self.objective]
        return max(0.0, value - self.bound) / max(abs(value), 1e-300)


def solve(problem: Problem, budgets: Mapping[str, float], objective: str = "loss", gap: float = GAP, seconds: float = SECONDS) -> Solution:
    """Minimise one measure while others stay within budgets.

    Args:
        budgets: largest total by measure, any number of them.
        gap: relative distance to the bound at which the search may stop.
        seconds: after which the best assignment found so far is taken; its gap says how good it is.

    Raises:
        BudgetError: no assignment meets the budgets; says which budget binds, and what could be reached.
        UsageError: a measure that nothing has.
    """
    unknown = sorted({objective, *budgets} - set(problem.measures))
    if unknown:
        raise UsageError(f"nothing is known of {', '.join(unknown)}: expected some of {', '.join(problem.measures)}")
    start = time.perf_counter()
    small, leader = problem.contracted()
    found, bound = _search(small, budgets, objective, gap, seconds)
    if found is None and bound is None:
        raise _explanation(small, budgets, gap, seconds)
    other = greedy(small, budgets, objective)
    known = [one for one in (found, other) if one is not None]
    if not known:
        raise BudgetError(f"no assignment within {_listed(budgets)} was found in {seconds:g} s, nor is it proved that there is none; "
                          "give the search more time or relax a budget")
    best = min(known, key=lambda assignment: small.total(assignment, objective))
    assignment = {name: best[leader[name]] for name in leader}
    values = problem.totals({site.name: assignment[site.name] for site in problem.sites})
    limit = -np.inf if bound is None else bound
    return Solution({site.name: assignment[site.name] for site in problem.sites}, objective, values, min(values[objective], limit),
                    time.perf_counter() - start)


def _search(
    problem: Problem, budgets: Mapping[str, float], objective: str, gap: float, seconds: float
) -> tuple[dict[str, str] | None, float | None]:
    """The best assignment and the proved bound; (None, None) where there is none, (None, bound) where time ran out."""
    model = _Model.of(problem)
    tightened = dict(budgets)
    for _ in range(RETRIES):
        found, bound = model.minimise(objective, tightened, gap, seconds)
        if found is None:
            return None, bound
        beyond = {m: problem.total(found, m) for m, most in budgets.items() if problem.total(found, m) > most + SLACK * abs(most)}
        if not beyond:
            return found, bound
        for measure, value in beyond.items():       # the solver's tolerance let it through
            tightened[measure] -= 2.0 * (value - budgets[measure])
    return None, bound


def _explanation(problem: Problem, budgets: Mapping[str, float], gap: float, seconds: float) -> BudgetError:
    """Which budgets cannot be met: alone, or because of the others."""
    least = {}
    for measure in budgets:
        alone, _ = _search(problem, {}, measure, gap, seconds)
        assert alone is not None
        least[measure] = problem.total(alone, measure)
    hopeless = [m for m, most in budgets.items() if least[m] > most + SLACK * abs(most)]
    if hopeless:
        parts = [f"{m} cannot be at most {budgets[m]:.6g}: the least that any choice reaches is {least[m]:.6g}" for m in hopeless]
        return BudgetError("; ".join(parts) + "; relax that budget or allow more candidates", {m: least[m] for m in hopeless})
    reach = {}
    for measure in budgets:
        others = {m: most for m, most in budgets.items() if m != measure}
        best, _ = _search(problem, others, measure, gap, seconds)
        if best is not None:
            reach[measure] = problem.total(best, measure)
    parts = [f"with the other budgets met, {m} reaches {value:.6g} at best, but {budgets[m]:.6g} is asked for"
             for m, value in reach.items()]
    if not parts:
        parts = [f"any one of them can be met, but not even all without one of {', '.join(budgets)}"]
    return BudgetError(f"the budgets {_listed(budgets)} contradict each other: " + "; ".join(parts) + "; relax one of them", reach)


def _listed(budgets: Mapping[str, float]) -> str:
    return ", ".join(f"{measure} <= {most:.6g}" for measure, most in budgets.items())


@contextmanager
def _silenced() -> Iterator[None]:
    """HiGHS prints some lines to the process's standard output whatever it is told; there they would mix with a command's own."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@dataclass
class _Rows:
    """Sparse rows of equalities, as they are collected."""

    entries: list[tuple[int, int, float]] = field(default_factory=list)
    right: list[float] = field(default_factory=list)

    def add(self, entries: Sequence[tuple[int, float]], right: float) -> None:
        self.entries += [(len(self.right), column, value) for column, value in entries]
        self.right.append(right)


@dataclass(frozen=True)
class _Model:
    """The problem as arrays: variables of sites first, then of borders.

    Attributes:
        first: number of each site's first variable.
        costs: by measure, a coefficient per variable.
        equal, right: one label per site, and what ties borders' variables to sites'.
    """

    problem: Problem
    first: Mapping[str, int]
    costs: Mapping[str, Any]
    equal: Any
    right: Any
    binaries: int

    @staticmethod
    def of(problem: Problem) -> _Model:
        first, rows, count = {}, _Rows(), 0
        for site in problem.sites:
            first[site.name] = count
            rows.add([(count + i, 1.0) for i in range(len(site.candidates))], 1.0)
            count += len(site.candidates)
        binaries = count
        terms: list[tuple[int, Mapping[str, float]]] = [
            (first[site.name] + i, candidate.values) for site in problem.sites for i, candidate in enumerate(site.candidates)]
        for border in _joined(problem.borders):
            sides = [problem.by_name[border.first], problem.by_name[border.second]]
            rows_of, columns_of = _classes(border, *sides)
            for i, members in enumerate(rows_of):
                rows.add([(count + i * len(columns_of) + j, 1.0) for j in range(len(columns_of))]
                         + [(first[border.first] + k, -1.0) for k in members], 0.0)
            for j, members in enumerate(columns_of):
                rows.add([(count + i * len(columns_of) + j, 1.0) for i in range(len(rows_of))]
                         + [(first[border.second] + k, -1.0) for k in members], 0.0)
            for i, these in enumerate(rows_of):
                for j, those in enumerate(columns_of):
                    pair = (sides[0].candidates[these[0]].label, sides[1].candidates[those[0]].label)
                    terms.append((count + i * len(columns_of) + j, border.values.get(pair, {})))
            count += len(rows_of) * len(columns_of)
        costs = {measure: np.zeros(count) for measure in problem.measures}
        for column, values in terms:
            for measure, value in values.items():
                costs[measure][column] += value
        row, column_numbers, data = (np.array(part) for part in zip(*rows.entries, strict=True))
        equal = csr_array((data, (row, column_numbers)), shape=(len(rows.right), count))
        return _Model(problem, first, costs, equal, np.array(rows.right), binaries)

    def minimise(
        self, objective: str, budgets: Mapping[str, float], gap: float, seconds: float
    ) -> tuple[dict[str, str] | None, float | None]:
        """The assignment that the solver finds, and the bound that it proves; (None, None) where it proves that there is none."""
        cost = self.costs[objective]
        scale = LARGEST / max(np.abs(cost).max(initial=0.0), 1e-300)
        constraints = [LinearConstraint(self.equal, self.right, self.right)]
        for measure, most in budgets.items():
            unit = max(np.abs(self.costs[measure]).max(initial=0.0), abs(most), 1e-300)
            left = most - self.problem.fixed.get(measure, 0.0)
            constraints.append(LinearConstraint(self.costs[measure][None] / unit, -np.inf, left / unit))
        integrality = np.zeros(len(cost), np.uint8)
        integrality[: self.binaries] = 1
        with _silenced():
            result = milp(cost * scale, integrality=integrality, bounds=Bounds(0.0, 1.0), constraints=constraints,
                          options={"mip_rel_gap": gap, "time_limit": seconds})
        if result.status == 2:
            return None, None
        dual = getattr(result, "mip_dual_bound", None)
        bound = self.problem.fixed.get(objective, 0.0) + (-np.inf if dual is None else float(dual) / scale)
        if result.x is None:
            return None, bound
        return {site.name: site.labels[int(np.argmax(result.x[self.first[site.name]:][: len(site.candidates)]))]
                for site in self.problem.sites}, bound


def _joined(borders: Sequence[Border]) -> list[Border]:
    """Borders between the same two sites as one."""
    tables: dict[tuple[str, str], dict[tuple[str, str], dict[str, float]]] = {}
    for border in borders:
        turned = (border.second, border.first) in tables
        table = tables.setdefault((border.second, border.first) if turned else (border.first, border.second), {})
        for pair, values in border.values.items():
            total = table.setdefault(pair[::-1] if turned else pair, {})
            for measure, value in values.items():
                total[measure] = total.get(measure, 0.0) + value
    return [Border(*names, table) for names, table in tables.items()]


def _classes(border: Border, first: Site, second: Site) -> tuple[list[list[int]], list[list[int]]]:
    """Numbers of the candidates of either side that the border does not tell apart."""

    def split(own: tuple[Candidate, ...], key: Any) -> list[list[int]]:
        groups: dict[Any, list[int]] = {}
        for number, candidate in enumerate(own):
            groups.setdefault(key(candidate.label), []).append(number)
        return list(groups.values())

    def fact(pair: tuple[str, str]) -> tuple[tuple[str, float], ...]:
        return tuple(sorted((m, v) for m, v in border.values.get(pair, {}).items() if v))

    return (split(first.candidates, lambda label: tuple(fact((label, other)) for other in second.labels)),
            split(second.candidates, lambda label: tuple(fact((other, label)) for other in first.labels)))
