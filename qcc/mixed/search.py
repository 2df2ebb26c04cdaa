"""Mixed precision from beginning to end: measure what sites lose and cost, solve, measure the solution, correct, solve again.

It decides when a prediction is good enough, and what a goal that bounds the loss means. Everything that it finds goes into the report;
the assignment itself becomes widths in the recipe, so that replaying it needs none of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qcc.errors import AccuracyError, BudgetError, QccError, UsageError
from qcc.ir import Array, Graph
from qcc.mixed.goals import Goal
from qcc.mixed.losses import Loss, loss_between
from qcc.mixed.model import Model, Observation
from qcc.passes.mixed import Assignment, Solution, solve
from qcc.passes.rounding.tandem import Prepare

AGREEMENT = 0.2       # of the measured loss, by which the predicted one may differ
MOST_TURNS = 4        # solutions that are measured
MOST_TRIES = 6        # evaluations while the largest bearable loss is looked for
Quantize = Callable[[Mapping[str, int], Mapping[str, int]], Graph]     # widths of weights by layer, of values by name -> QDQ graph


@dataclass
class Bench:
    """Measures assignments, each once.

    Attributes:
        graph: in float32.
        quantize: makes the QDQ graph for widths, as the compile will.
        samples: inputs to measure on.
        built: QDQ graphs and losses by what was asked for.
    """

    graph: Graph
    quantize: Quantize
    prepare: Prepare
    samples: Sequence[Mapping[str, Array]]
    wanted: list[Mapping[str, Array]] = field(default_factory=list)
    built: dict[str, tuple[Graph, Loss]] = field(default_factory=dict)

    def measure(self, model: Model, assignment: Assignment) -> tuple[Graph, float]:
        """The QDQ graph of an assignment, and its loss."""
        weights, values = model.widths(assignment)
        key = repr((sorted(weights.items()), sorted(values.items())))
        outputs = tuple(dict.fromkeys(self.graph.output_values))
        if not self.wanted:
            exact = self.prepare(self.graph, outputs)
            self.wanted = [dict(exact(sample)) for sample in self.samples]
        if key not in self.built:
            graph = self.quantize(weights, values)
            run = self.prepare(graph, outputs)
            self.built[key] = graph, loss_between(self.wanted, [run(sample) for sample in self.samples])
        graph, loss = self.built[key]
        return graph, loss.of(model.kind)

    def metric(self, graph: Graph, goal: Goal) -> float:
        """The user's measure of a network.

        Raises:
            UsageError: the function raises, or returns something that is not a finite number.
        """
        outputs = tuple(dict.fromkeys(graph.output_values))
        inner = self.prepare(graph, outputs)

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            values = inner(dict(feeds))
            return {port: values[name] for port, name in graph.outputs.items()}

        assert goal.evaluate is not None
        try:
            value = float(goal.evaluate(run))
        except QccError:
            raise
        except Exception as error:  # it is the user's code
            raise UsageError(f"the function of --eval raised {type(error).__name__}: {error}; it is called with a function that runs the "
                             "network on inputs by name and returns outputs by name, and must return a number") from error
        if not math.isfinite(value):
            raise UsageError(f"the function of --eval returned {value}, expected a finite number, more being better")
        return value


@dataclass(frozen=True)
class Turn:
    """One solution that was measured."""

    predicted: float
    measured: float

    @property
    def agrees(self) -> bool:
        return abs(self.predicted - self.measured) <= AGREEMENT * max(self.measured, 1e-30)


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        solution: predicted with the last corrections.
        model: with the corrections.
        graph: the QDQ graph of the solution.
        turn: what was predicted for it, and measured.
        turns: of the search, in order.
        budgets: largest values by measure that the solution obeys.
        drop: of the user's measure; None where there is none.
    """

    solution: Solution
    model: Model
    graph: Graph
    turn: Turn
    turns: tuple[Turn, ...]
    budgets: Mapping[str, float]
    drop: float | None = None

    @property
    def measured(self) -> float:
        return self.turn.measured


def absolute_budgets(goal: Goal, model: Model) -> dict[str, float]:
    """The budgets in their units; relative ones are of 8 bits everywhere."""
    eight = model.problem().totals(model.uniform(8))
    return {b.cost: b.amount * (eight[b.cost] if b.relative else 1.0) for b in goal.budgets}


def search(goal: Goal, model: Model, bench: Bench) -> Found:
    """The widths that serve the goal.

    Raises:
        BudgetError: budgets that cannot be met.
        AccuracyError: the loss, or the user's measure, cannot be kept.
    """
    eight = bench.measure(model, model.uniform(8))[1]
    alone = sum(model.losses[site.name]["8"].of(model.kind) for site in model.sites)
    model = replace(model, rest=max(0.0, eight - alone))
    budgets = absolute_budgets(goal, model)
    if goal.max_drop is not None:
        return _least_cost_by_metric(goal, model, bench, budgets)
    if goal.max_loss is not None:
        found = converge(goal, model, bench, {**budgets, "loss": goal.max_loss}, goal.minimize)
        if found.measured > goal.max_loss:
            raise AccuracyError(f"the loss of the best choice found is {found.measured:.4g} as measured, more than --max-loss "
                                f"{goal.max_loss:g}; with 8 bits everywhere it is {eight:.4g}; allow more, or more bits")
        return found
    return converge(goal, model, bench, budgets, "loss")


def converge(goal: Goal, model: Model, bench: Bench, budgets: Mapping[str, float], objective: str) -> Found:
    """Solve, measure the solution, correct the predictions, until both agree or MOST_TURNS are over; the best that was measured counts."""
    observations: list[Observation] = []
    turns: list[Turn] = []
    tried: list[Found] = []
    for _ in range(MOST_TURNS):
        try:
            solution = solve(model.problem(), budgets, objective, goal.gap, goal.seconds)
        except BudgetError as error:
            if tried:
                break       # with corrected losses there is none: what was measured before is judged
            if "loss" in error.reachable:
                raise AccuracyError(f"the loss cannot be kept: {error}") from error
            raise
        graph, measured = bench.measure(model, solution.assignment)
        turns.append(Turn(solution.values["loss"], measured))
        tried.append(Found(solution, model, graph, turns[-1], tuple(turns), budgets))
        if turns[-1].agrees and measured <= budgets.get("loss", math.inf):
            break
        observations.append(Observation(model.parts(solution.assignment), measured))
        model = replace(model, factors=model.corrected(observations))
    fits = [one for one in tried if one.measured <= budgets.get("loss", math.inf)] or tried
    best = min(reversed(fits), key=lambda one: one.measured if objective == "loss" else one.solution.values[objective])
    return _judged(best, tried[-1], tuple(turns))


def _judged(best: Found, last: Found, turns: tuple[Turn, ...]) -> Found:
    """The best solution as the last program sees it, which knows most: its prediction, and the gap to that program's bound."""
    values = last.model.problem().totals(best.solution.assignment)
    bound = min(values[best.solution.objective], last.solution.bound)
    solution = replace(best.solution, values=values, bound=bound)
    return replace(best, solution=solution, model=last.model, turn=Turn(values["loss"], best.measured), turns=turns)


def _least_cost_by_metric(goal: Goal, model: Model, bench: Bench, budgets: Mapping[str, float]) -> Found:
    """The least cost whose drop of the user's measure is bearable: bisection on the logarithm of the largest loss."""
    assert goal.max_drop is not None
    exact = bench.metric(bench.graph, goal)
    problem = model.problem()
    finest = solve(problem, budgets, "loss", goal.gap, goal.seconds)
    coarsest = solve(problem, budgets, goal.minimize, goal.gap, goal.seconds)
    low, high = finest.values["loss"], max(finest.values["loss"] * (1 + 1e-9), coarsest.values["loss"])
    best, largest = None, low * (1 + 1e-9)
    for number in range(MOST_TRIES):
        solution = solve(problem, {**budgets, "loss": largest}, goal.minimize, goal.gap, goal.seconds)
        graph, measured = bench.measure(model, solution.assignment)
        drop = exact - bench.metric(graph, goal)
        turn = Turn(solution.values["loss"], measured)
        if drop <= goal.max_drop:
            turns = (*(best.turns if best else ()), turn)
            best, low = Found(solution, model, graph, turn, turns, {**budgets, "loss": largest}, drop), largest
        elif number == 0:
            raise AccuracyError(f"with the most precise choice within the budgets the measure drops by {drop:.4g}, from {exact:.6g}; "
                                f"--max-drop {goal.max_drop:g} cannot be kept; allow more, relax budgets, or calibrate better")
        else:
            high = largest
        if high <= low * 1.05:
            break
        largest = high if number == 0 else math.sqrt(max(low, 1e-12) * high)
    assert best is not None
    return best


def frontier(model: Model, cost: str, goal: Goal, points: int = 9) -> list[dict[str, Any]]:
    """The best predicted loss for budgets of one cost from 8 bits everywhere down to the least that is reachable."""
    problem = model.problem()
    least = solve(problem, {}, cost, goal.gap, goal.seconds).values[cost]
    most = problem.total(model.uniform(8), cost)
    found: list[dict[str, Any]] = []
    for number in range(points):
        limit = most + (least - most) * number / (points - 1)
        solution = solve(problem, {cost: limit * (1 + 1e-9)}, "loss", goal.gap, goal.seconds)
        entry = {m: solution.values.get(m, 0.0) for m in ("loss", "size", "latency", "bitops")}
        if not found or any(entry[m] != found[-1][m] for m in entry):
            found.append(entry)
    return found
