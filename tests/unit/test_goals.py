"""Goals of mixed precision as a user states them: read, or refused with what was expected."""

from __future__ import annotations

import math
from typing import Any

import pytest

import qcc
from qcc.errors import UsageError
from qcc.mixed.goals import Budget, Goal


@pytest.mark.parametrize(("text", "budget"), [
    ("size=0.6x", Budget("size", 0.6, True)), ("size=1.2MB", Budget("size", 1.2e6)), ("latency=3ms", Budget("latency", 3e-3)),
    ("latency = 0.8 x", Budget("latency", 0.8, True)), ("bitops=2.5G", Budget("bitops", 2.5e9)),
    ("arena=300KiB", Budget("arena", 307200.0)),
])
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["size", "size=", "size=12", "size=3ms", "latency=2MB", "speed=2x", "size=-1MB", "size=0x",
                                  "latency=nanms", "=2x"])
def test_budgets_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget .*expected"):
        Budget.parse(text)


@pytest.mark.parametrize(("options", "message"), [
    ({}, "needs a goal"),
    ({"budgets": (Budget("size", 1.0), Budget("size", 2.0))}, "given twice for size"),
    ({"max_drop": 0.1}, "--max-drop and --eval go together"),
    ({"max_loss": 0.1, "max_drop": 0.1, "evaluate": lambda run: 1.0}, "exclude each other"),
    ({"max_loss": math.nan}, "--max-loss nan"),
    ({"max_loss": 1.0, "weight_bits": (4, 8)}, "the largest first"),
    ({"max_loss": 1.0, "weight_bits": (4, 2)}, "8 among them"),
])
def test_goals_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Goal(**options)


def test_mixed_needs_a_goal_and_a_goal_needs_mixed() -> None:
    for options in ({"bits": "mixed"}, {"bits": 8, "goal": Goal.within("size=0.5x")}):
        with pytest.raises(UsageError, match="go together"):
            qcc.compile(b"", **options)
