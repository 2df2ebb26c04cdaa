"""Every pass of a compile, in the order in which they run: what docs/passes.md lists and tests/promise holds to its promises."""

from typing import Any

from qcc.ir import Pass
from qcc.passes.integer import TO_INTEGER
from qcc.passes.migrate import MIGRATE
from qcc.passes.quantize import ENCODE
from qcc.passes.rounding import ROUND
from qcc.passes.simplify import SIMPLIFY

PASSES: tuple[Pass[Any], ...] = (*SIMPLIFY, MIGRATE, ENCODE, ROUND, TO_INTEGER)
