"""Rounding of weights by their effect on results, and correction of what it does to them."""

from qcc.passes.rounding.correct import LayerReport, Options, correct, thinned

__all__ = ["LayerReport", "Options", "correct", "thinned"]
