"""What a user may ask of mixed precision: budgets with units or relative to 8 bits, or one cost as small as a loss allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcc.errors import UsageError
from qcc.ir import Array
from qcc.mixed.costs import WEIGHT_BITS
from qcc.mixed.losses import KINDS

COSTS = ("size", "latency", "bitops", "arena")
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "size": _BYTES, "arena": _BYTES,
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "bitops": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
}
_AMOUNT = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)")

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Evaluate = Callable[[Run], float]      # a function that runs the network -> how good it is, more being better


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `amount` of a cost: in its unit (bytes, seconds, bit operations), or times what 8 bits everywhere cost."""

    cost: str
    amount: float
    relative: bool = False

    @staticmethod
    def parse(text: str) -> Budget:
        """From text such as "latency=3ms", "size=0.6x" or "bitops=20G".

        Raises:
            UsageError: another cost, another unit, or no positive number.
        """
        cost, equals, amount = (part.strip() for part in text.partition("="))
        if not equals or cost not in COSTS:
            raise UsageError(f"--budget {text!r}: expected COST=AMOUNT, such as size=1.2MB or latency=0.8x; costs are {', '.join(COSTS)}")
        match = _AMOUNT.fullmatch(amount)
        units = _UNITS[cost]
        if match is None or float(match[1]) <= 0.0 or (match[2] != "x" and match[2] not in units):
            named = ", ".join(unit or "(none)" for unit in units)
            raise UsageError(f"--budget {text!r}: expected a positive number in one of {named}, or with x for times what 8 bits cost")
        relative = match[2] == "x"
        return Budget(cost, float(match[1]) * (1.0 if relative else units[match[2]]), relative)


@dataclass(frozen=True)
class Goal:
    """What to look for, and how.

    Attributes:
        budgets: largest costs; without `max_loss` and `max_drop` the loss is minimised within them.
        minimize: the cost that is as small as possible where `max_loss` or `max_drop` is given.
        max_loss: largest loss of the whole network, as measured.
        max_drop: by which `evaluate` of the network may be less than that of the float network.
        evaluate: is given a function that runs the network, and returns how good it is.
        loss: "kl", "mse" or "auto" (`losses.kind_for`).
        weight_bits, activation_bits: the widths to choose from, the most precise first.
        samples: of the calibration data that losses are measured on.
        profile: file of a profile to take the latency from.
        state: file that keeps measured losses; an interrupted measurement goes on with it.
        frontier: a cost; the best loss for each of a sweep of budgets of it is reported, too.
        gap, seconds: when the integer program may stop.
        executor: runs the measurements of losses; by default threads of this process.
        at_once: measurements that wait in the executor at a time, each with the values of all samples; None: one more than cores.
    """

    budgets: tuple[Budget, ...] = ()
    minimize: str = "size"
    max_loss: float | None = None
    max_drop: float | None = None
    evaluate: Evaluate | None = None
    loss: str = "auto"
    weight_bits: tuple[int, ...] = WEIGHT_BITS
    activation_bits: tuple[int, ...] = (8,)
    samples: int = 32
    profile: Path | None = None
    state: Path | None = None
    frontier: str | None = None
    gap: float = 1e-3
    seconds: float = 60.0
    executor: Executor | None = None
    at_once: int | None = None

    @staticmethod
    def within(*budgets: str, **others: Any) -> Goal:
        """A goal with budgets as text ("size=0.6x"), and the attributes given by name.

        Raises:
            UsageError: as for `Budget.parse` and `Goal`.
        """
        return Goal(tuple(map(Budget.parse, budgets)), **others)

    def __post_init__(self) -> None:
        """Raises UsageError for goals that make no sense."""
        if not self.budgets and self.max_loss is None and self.max_drop is None:
            raise UsageError("mixed precision needs a goal: --budget COST=AMOUNT such as size=0.6x, --max-loss, or --max-drop with --eval")
        twice = sorted({b.cost for b in self.budgets if sum(other.cost == b.cost for other in self.budgets) > 1})
        if twice:
            raise UsageError(f"--budget is given twice for {', '.join(twice)}; give each cost one budget")
        if self.minimize not in COSTS or self.frontier not in (None, *COSTS) or self.loss not in KINDS:
            got = f"{self.minimize}, {self.frontier}, {self.loss}"
            raise UsageError(f"expected costs {', '.join(COSTS)} and losses {', '.join(KINDS)}, got {got}")
        if (self.max_drop is None) != (self.evaluate is None):
            raise UsageError("--max-drop and --eval go together: how much may be lost, and what says how good the network is")
        if self.max_drop is not None and self.max_loss is not None:
            raise UsageError("--max-loss and --max-drop exclude each other: give the one that matters")
        for name, value in (("--max-loss", self.max_loss), ("--max-drop", self.max_drop)):
            if value is not None and not 0.0 <= value < float("inf"):
                raise UsageError(f"{name} {value}: expected a number that is not negative")
        for widths in (self.weight_bits, self.activation_bits):
            if not widths or max(widths) != 8 or min(widths) < 2 or list(widths) != sorted(set(widths), reverse=True):
                raise UsageError(f"widths {list(widths)}: expected different numbers of bits from 8 to 2, the largest first, 8 among them")

    @property
    def costs(self) -> frozenset[str]:
        """The costs that matter to the choice."""
        asked = {budget.cost for budget in self.budgets} | ({self.frontier} if self.frontier else set())
        return frozenset(asked | ({self.minimize} if self.bounds_loss else set()))

    @property
    def bounds_loss(self) -> bool:
        return self.max_loss is not None or self.max_drop is not None
