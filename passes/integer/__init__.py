"""The dyadic rewrite: from encodings to integer operators with one rounding each, and the proof that nothing overflows."""

from qcc.ir import Numerics, Pass, Stage
from qcc.passes.integer.convert import to_integer
from qcc.passes.integer.naming import Pair, matching_values
from qcc.passes.integer.proof import Bound, prove

__all__ = ["TO_INTEGER", "Bound", "Pair", "matching_values", "prove", "to_integer"]

TO_INTEGER = Pass("to_integer", Stage.QDQ, Stage.INTEGER, Numerics.LOSSY, to_integer)
