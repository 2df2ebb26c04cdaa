"""Equivalent migration: scales move between neighbouring layers such that nothing changes in real arithmetic, and rounding errs less.

MIGRATE holds the passes that need nothing but the network; `Judge` finds those that need data, and decides.
"""

from qcc.ir import Numerics, Pass, Stage
from qcc.passes.migrate.decide import JUDGED, Judge
from qcc.passes.migrate.equalize import equalize
from qcc.passes.migrate.migration import Migration
from qcc.passes.migrate.noise import Bits

__all__ = ["JUDGED", "MIGRATE", "Bits", "Judge", "Migration", "equalize"]

MIGRATE: tuple[Pass, ...] = (Pass("equalize", Stage.FLOAT, Stage.FLOAT, Numerics.CLOSE, equalize),)
