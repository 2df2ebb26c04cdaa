"""Inputs made without any data: noise shaped like pictures, fitted to the statistics that BatchNorms remember of the training data."""

from qcc.passes.synthetic.distill import Synthetic, synthesize

__all__ = ["Synthetic", "synthesize"]
