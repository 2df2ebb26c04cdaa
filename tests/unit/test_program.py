"""The integer program: equal to brute force, obeys ties and budgets, says what binds, and is never worse than greedy or uniform choices."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.errors import BudgetError, UsageError
from qcc.passes.mixed import Assignment, Border, Candidate, Problem, Site, greedy, solve, uniform

SEEDS = st.integers(0, 2**32 - 1)
TOLERANCE = 1e-7


def random_problem(seed: int, most: int = 12) -> Problem:
    """Up to `most` sites of up to 3 candidates in a chain with some longer borders and ties, few enough to try every assignment."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, most + 1))
    labels = ("w8", "w4", "w2")[: 3 if count <= 8 else 2]
    sites = []
    for number in range(count):
        own = [label for label in labels if label == "w8" or rng.random() < 0.85]
        values = [{"loss": float(rng.exponential()), "size": float(rng.exponential()), "latency": float(rng.exponential())} for _ in own]
        sites.append(Site(f"s{number}", tuple(map(Candidate, own, values)), "even" if number % 2 else "odd"))
    pairs = [(a, a + 1) for a in range(count - 1)] + [tuple(map(int, rng.integers(0, count, 2))) for _ in range(count // 3)]
    borders = [Border(f"s{a}", f"s{b}", {(x, y): {"latency": float(rng.exponential()), "loss": float(rng.normal() * 0.1)}
                                         for x in labels for y in labels if x != y and rng.random() < 0.8}) for a, b in pairs if a != b]
    ties = [tuple(f"s{n}" for n in rng.choice(count, 2, replace=False)) for _ in range(count // 5)]
    return Problem(tuple(sites), tuple(borders), tuple(ties), {"latency": 0.5})


def assignments(problem: Problem) -> list[Assignment]:
    small, leader = problem.contracted()
    chosen = (dict(zip((s.name for s in small.sites), labels, strict=True)) for labels in product(*(s.labels for s in small.sites)))
    return [{name: one[leader[name]] for name in leader} for one in chosen]


def table(problem: Problem, every: list[Assignment]) -> dict[str, np.ndarray]:
    """All measures of all assignments, summed by site and border instead of by assignment."""
    totals = {m: np.full(len(every), problem.fixed.get(m, 0.0)) for m in problem.measures}
    for m, total in totals.items():
        for site in problem.sites:
            lookup = {c.label: c.values.get(m, 0.0) for c in site.candidates}
            total += np.array([lookup[a[site.name]] for a in every])
        for border in problem.borders:
            total += np.array([border.values.get((a[border.first], a[border.second]), {}).get(m, 0.0) for a in every])
    return totals


@given(seed=SEEDS, tight=st.floats(0.0, 1.0), objective=st.sampled_from(["loss", "latency"]))
@settings(deadline=None, max_examples=60)
def test_the_optimum_is_that_of_brute_force(seed: int, tight: float, objective: str) -> None:
    problem = random_problem(seed)
    every = assignments(problem)
    totals = table(problem, every)
    other = "latency" if objective == "loss" else "loss"
    budgets = {m: float(np.quantile(totals[m], tight)) for m in ("size", other)}
    fits = np.all([totals[m] <= most for m, most in budgets.items()], axis=0)
    if not fits.any():
        with pytest.raises(BudgetError):
            solve(problem, budgets, objective, gap=0.0)
        return
    found = solve(problem, budgets, objective, gap=0.0)
    best = totals[objective][fits].min()
    assert found.values[objective] == pytest.approx(best, rel=TOLERANCE, abs=TOLERANCE)
    assert found.bound <= best + TOLERANCE
    assert found.gap <= TOLERANCE
    assert all(found.values[m] <= most * (1 + 1e-8) for m, most in budgets.items())
    assert all(len({found.assignment[name] for name in tie}) == 1 for tie in problem.ties)
    assert found.values == pytest.approx(problem.totals(found.assignment))


@given(seed=SEEDS, tight=st.floats(0.2, 1.0))
@settings(deadline=None, max_examples=40)
def test_baselines_meet_the_budgets_and_are_never_better(seed: int, tight: float) -> None:
    problem = random_problem(seed, 8)
    totals = table(problem, assignments(problem))
    budgets = {m: float(np.quantile(totals[m], tight)) for m in ("size", "latency")}
    other = greedy(problem, budgets)
    if other is None:
        return
    found = solve(problem, budgets, gap=0.0)
    assert all(problem.total(other, m) <= most * (1 + 1e-8) for m, most in budgets.items())
    assert all(len({other[name] for name in tie}) == 1 for tie in problem.ties)
    assert found.values["loss"] <= problem.total(other, "loss") + TOLERANCE
    for labels, one in uniform(problem):
        assert set(labels) <= {"even", "odd"}
        if all(problem.total(one, m) <= most for m, most in budgets.items()) and all(len({one[n] for n in t}) == 1 for t in problem.ties):
            assert found.values["loss"] <= problem.total(one, "loss") + TOLERANCE


def chain(*losses: float) -> Problem:
    """Sites that lose `loss` and shrink from 8 to 4 where they take w4."""
    return Problem(tuple(Site(f"s{i}", (Candidate("w8", {"size": 8.0, "loss": 0.0, "time": 1.0}),
                                        Candidate("w4", {"size": 4.0, "loss": loss, "time": 2.0})), "weights")
                         for i, loss in enumerate(losses)))


def test_the_cheapest_losses_are_taken() -> None:
    found = solve(chain(3.0, 1.0, 2.0), {"size": 16.0})
    assert found.assignment == {"s0": "w8", "s1": "w4", "s2": "w4"}
    assert (found.values["loss"], found.values["size"], found.gap) == (3.0, 16.0, 0.0)


def test_least_cost_under_a_bound_on_the_loss() -> None:
    found = solve(chain(3.0, 1.0, 2.0), {"loss": 3.5}, "size")
    assert (found.values["size"], found.values["loss"]) == (16.0, 3.0)


def test_a_tie_decides_for_both() -> None:
    problem = chain(3.0, 1.0, 2.0)
    tied = Problem(problem.sites, ties=(("s0", "s1"),))
    assert solve(tied, {"size": 20.0}).assignment == {"s0": "w8", "s1": "w8", "s2": "w4"}


def test_a_border_keeps_neighbours_together() -> None:
    problem = chain(1.0, 1.1, 1.2)
    borders = tuple(Border(a.name, b.name, {("w8", "w4"): {"loss": 5.0}, ("w4", "w8"): {"loss": 5.0}}) for a, b in pairwise(problem.sites))
    assert set(solve(Problem(problem.sites, borders), {"size": 23.0}).assignment.values()) == {"w4"}


def test_a_budget_out_of_reach_is_named_with_what_is_reachable() -> None:
    with pytest.raises(BudgetError, match=r"size cannot be at most 10: the least that any choice reaches is 12") as caught:
        solve(chain(1.0, 1.0, 1.0), {"size": 10.0, "time": 100.0})
    assert caught.value.reachable == {"size": 12.0}
    assert caught.value.exit_code == 2


def test_budgets_that_contradict_each_other_are_explained() -> None:
    with pytest.raises(BudgetError, match=r"contradict each other.*with the other budgets met, size reaches 20 at best") as caught:
        solve(chain(1.0, 1.0, 1.0), {"size": 13.0, "time": 4.0})
    assert caught.value.reachable == {"size": 20.0, "time": 6.0}


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nothing is known of energy: expected some of loss, size, time"):
        solve(chain(1.0), {"energy": 1.0})


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UsageError, match=r"site s0, candidate w4: loss is nan"):
        chain(float("nan"))


def test_ties_without_a_common_candidate_are_refused() -> None:
    sites = (Site("a", (Candidate("w8", {}),)), Site("b", (Candidate("w4", {}),)))
    with pytest.raises(UsageError, match="no candidate in common"):
        solve(Problem(sites, ties=(("a", "b"),), fixed={"loss": 1.0}), {})


def test_a_large_network_is_solved_to_a_thousandth() -> None:
    """150 layers of 8 candidates with borders; how long it takes is measured in benchmarks/integer_program.py."""
    network = run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "integer_program.py"))["network"]
    problem = network(150, 0)
    for share in (0.25, 0.6):
        budgets = {}
        for measure in ("size", "latency"):
            ends = [sum(f(c.values[measure] for c in site.candidates) for site in problem.sites) for f in (min, max)]
            budgets[measure] = ends[0] + share * (ends[1] - ends[0])
        found = solve(problem, budgets, gap=1e-3, seconds=60.0)
        assert found.gap <= 1.001e-3
        other = greedy(problem, budgets)
        assert other is not None
        assert found.values["loss"] <= problem.total(other, "loss")
