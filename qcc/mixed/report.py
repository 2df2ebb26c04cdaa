"""What a search found, as plain values: per layer its bits and why, what it costs and loses, and the choices that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcc.mixed.goals import Goal
from qcc.mixed.model import Model
from qcc.mixed.search import AGREEMENT, Found, frontier
from qcc.passes.mixed import Assignment, Problem, greedy, uniform
from qcc.passes.mixed.sites import VALUES, WEIGHTS

FORMAT = 1


def report_of(goal: Goal, found: Found) -> dict[str, Any]:
    """Everything, for the artifact and for the terminal."""
    model, problem = found.model, found.model.problem()
    solution = found.solution
    other = greedy(problem, found.budgets, solution.objective)
    values = {"loss": found.measured, **{m: v for m, v in solution.values.items() if m != "loss"}}
    return {
        "format": FORMAT, "loss": model.kind, "objective": solution.objective, "budgets": dict(found.budgets), "totals": values,
        "predicted_loss": solution.values["loss"], "measured_loss": found.measured,
        "agrees": found.turn.agrees, "agreement": AGREEMENT,
        "turns": [{"predicted": turn.predicted, "measured": turn.measured} for turn in found.turns],
        "gap": solution.gap, "bound": solution.bound,
        "latency_from": model.costs.profile.origin, "measured_latency": model.costs.profile.measured,
        "drop": found.drop, "layers": _layers(model, solution.assignment, problem),
        "values": [{"value": v.members[0], "bits": int(solution.assignment[v.name])} for v in model.values],
        "greedy": None if other is None else {**problem.totals(other), "widths": _widths(model, other)},
        "uniform": _uniform(problem, found.budgets),
        "frontier": [] if goal.frontier is None else frontier(model, goal.frontier, goal),
    }


def _widths(model: Model, assignment: Assignment) -> dict[str, dict[str, int]]:
    weights, values = model.widths(assignment)
    return {"weights": weights, "activations": values}


def _uniform(problem: Problem, budgets: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = []
    for labels, assignment in uniform(problem):
        totals = problem.totals(assignment)
        name = f"w{labels.get(WEIGHTS, '8')}a{labels.get(VALUES, '8')}"
        rows.append({"bits": name, **totals, "within_budgets": all(totals[m] <= most for m, most in budgets.items())})
    return rows


def _layers(model: Model, assignment: Assignment, problem: Problem) -> list[dict[str, Any]]:
    own = {member: values.name for values in model.values for member in values.members}
    total = max(problem.total(assignment, "loss"), 1e-30)
    rows = []
    for layer in model.weights:
        label = assignment[layer.name]
        loss = model.loss(layer.name, WEIGHTS, label)
        rows.append({
            "layer": layer.layer, "weight_bits": int(label),
            "input_bits": int(assignment.get(own.get(layer.source, ""), model.activation_bits)),
            "weights": layer.count, "macs": layer.macs, "size": model.costs.size[layer.layer][int(label)],
            "latency": model.costs.latency[layer.layer][int(label)], "loss": loss, "loss_share": loss / total,
            "why": _reason(model, layer.name, layer.layer, label, total),
        })
    return rows


def _reason(model: Model, site: str, layer: str, label: str, total: float) -> str:
    """What the next narrower width would save and lose, or what the wider one would have."""
    widths = sorted(map(int, model.labels[WEIGHTS]), reverse=True)
    place = widths.index(int(label))
    if place + 1 < len(widths):
        other = widths[place + 1]
        saved = model.costs.size[layer][int(label)] - model.costs.size[layer][other]
        lost = model.loss(site, WEIGHTS, str(other)) - model.loss(site, WEIGHTS, label)
        return f"{other} would save {saved:.0f} B and lose {lost / total:+.1%} of the loss"
    other = widths[place - 1] if place else int(label)
    saved = model.costs.size[layer][other] - model.costs.size[layer][int(label)]
    lost = model.loss(site, WEIGHTS, label) - model.loss(site, WEIGHTS, str(other))
    return f"saves {saved:.0f} B against {other} for {lost / total:+.1%} of the loss"
