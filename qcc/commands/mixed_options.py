"""Options of mixed precision, the goal that they make, and the tables that tell what came of it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import count_text, size_text, table, time_text
from qcc.errors import UsageError

if TYPE_CHECKING:
    from qcc.mixed.goals import Evaluate, Goal

Command = Callable[..., Any]
_NAMES = ("budgets", "minimize", "max_loss", "max_drop", "evaluate", "loss", "profile", "state", "pareto")


def mixed_options(function: Command) -> Command:
    """--budget and what else --bits mixed takes."""
    costs = click.Choice(["size", "latency", "bitops", "arena"])
    options = (
        click.option("--budget", "budgets", multiple=True, metavar="COST=AMOUNT",
                     help="With --bits mixed (repeatable): size=1.2MB, latency=3ms, bitops=2G, arena=300kB; size=0.6x is of 8 bits' size."),
        click.option("--max-loss", type=float, help="With --bits mixed: minimise a cost while the loss is at most this."),
        click.option("--max-drop", type=float, help="With --bits mixed and --eval: minimise a cost; the measure drops by at most this."),
        click.option("--eval", "evaluate", metavar="MODULE:FUNCTION",
                     help="A Python function that gets a function which runs the network, and returns how good it is."),
        click.option("--minimize", type=costs, default="size", show_default=True,
                     help="The cost to minimise under --max-loss or --max-drop."),
        click.option("--loss", type=click.Choice(["auto", "kl", "mse"]), default="auto", show_default=True,
                     help="How losses are measured against float32: divergence of probabilities (kl), or squared error (mse)."),
        click.option("--profile", type=click.Path(path_type=Path),
                     help="Measured kernels (see 'qcc profile') to take the latency from."),
        click.option("--state", type=click.Path(path_type=Path),
                     help="File that keeps measured losses; an interrupted run goes on with it."),
        click.option("--pareto", type=costs, default=None, help="Print the best loss for a sweep of budgets of this cost, too."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def goal_of(options: Mapping[str, Any], given: set[str]) -> Goal | None:
    """The goal if --bits mixed is given, else none.

    Raises:
        UsageError: options of mixed precision without it, or a goal that makes no sense.
    """
    if options["bits"] != "mixed":
        stray = sorted(given.intersection(_NAMES))
        if stray:
            named = ", ".join("--" + {"budgets": "budget", "evaluate": "eval"}.get(name, name.replace("_", "-")) for name in stray)
            raise UsageError(f"{named} without --bits mixed: widths are given, so there is nothing to choose")
        return None
    from qcc.mixed.goals import Budget, Goal

    budgets = tuple(map(Budget.parse, options["budgets"]))
    evaluate = None if options["evaluate"] is None else function_of(options["evaluate"])
    narrow = any(b.cost == "bitops" for b in budgets) or "bitops" in (options["minimize"], options["pareto"])
    return Goal(
        budgets=budgets, minimize=options["minimize"], max_loss=options["max_loss"], max_drop=options["max_drop"], evaluate=evaluate,
        loss=options["loss"], profile=options["profile"], state=options["state"], frontier=options["pareto"],
        activation_bits=(8, 4) if narrow else (8,))


def function_of(text: str) -> Evaluate:
    """MODULE:FUNCTION, imported as python would from the current folder.

    Raises:
        UsageError: there is no such module or function.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name.isidentifier():
        raise UsageError(f"--eval {text!r}: expected MODULE:FUNCTION, such as checks:accuracy for the function accuracy of checks.py")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs the user's code
        raise UsageError(f"--eval {text!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        raise UsageError(f"--eval {text!r} is no function, but {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def mixed_text(report: Mapping[str, Any]) -> str:
    """What was chosen layer by layer, beside the optimum, greedy and uniform choices."""
    rows = [(r["layer"], r["weight_bits"], r["input_bits"], size_text(r["size"]), time_text(r["latency"]), f"{r['loss_share']:.1%}",
             r["why"]) for r in report["layers"]]
    layers = table(("layer", "weights", "input", "size", "latency", "of the loss", "why"), rows)
    chosen = {**report["totals"], "loss": report["predicted_loss"]}
    others = [("chosen", chosen, "yes"), ("greedy", report["greedy"], "yes")]
    others += [(u["bits"], u, "yes" if u["within_budgets"] else "no") for u in report["uniform"]]
    totals = table(("choice", "predicted loss", "size", "latency", "bit operations", "within budgets"),
                   [(name, *_numbers(values), fits) if values else (name, "none found", "", "", "", "") for name, values, fits in others])
    said = "agree" if report["agrees"] else "DO NOT AGREE"
    lines = [
        layers, "", totals, "",
        f"loss ({report['loss']}): predicted {report['predicted_loss']:.4g}, measured {report['measured_loss']:.4g} after "
        f"{len(report['turns'])} solutions; they {said} within {report['agreement']:.0%}; gap to the optimum {report['gap']:.2%}",
        f"measured on {report['held_out']} samples that the rounding did not see" if report["held_out"] else
        "measured on samples that the rounding has seen, as there are few: rather too good",
        f"latency: {report['latency_from']}",
    ]
    if report["frontier"]:
        lines += ["", table(("predicted loss", "size", "latency", "bit operations"), [_numbers(entry) for entry in report["frontier"]])]
    return "\n".join(lines)


def _numbers(values: Mapping[str, float]) -> tuple[str, str, str, str]:
    return (f"{values['loss']:.4g}", size_text(values["size"]), time_text(values["latency"]), count_text(values["bitops"]))
