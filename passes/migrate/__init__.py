"""Equivalent migration: scales move between neighbouring layers such that nothing changes in real arithmetic, and rounding errs less.

`Judge` decides what is moved, MIGRATE moves it.
"""

from qcc.ir import Numerics, Pass, Stage
from qcc.passes.migrate.decide import Judge
from qcc.passes.migrate.migration import Migration, migrate
from qcc.passes.migrate.noise import Bits

__all__ = ["MIGRATE", "Bits", "Judge", "Migration", "migrate"]

MIGRATE = Pass("migrate", Stage.FLOAT, Stage.FLOAT, Numerics.CLOSE, migrate)
