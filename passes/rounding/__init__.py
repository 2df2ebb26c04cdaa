"""Rounding of weights by their effect on results, and correction of what it does to them."""

from qcc.ir import Numerics, Pass, Stage
from qcc.passes.rounding.correct import Options, find_rounding, thinned
from qcc.passes.rounding.rounding import LayerReport, Rounding, round_weights

__all__ = ["ROUND", "LayerReport", "Options", "Rounding", "find_rounding", "round_weights", "thinned"]

ROUND = Pass("round_weights", Stage.QDQ, Stage.QDQ, Numerics.LOSSY, round_weights)
