"""Inputs made without any data: noise shaped like pictures, fitted to the statistics that BatchNorms remember; and how far values reach."""

from qcc.passes.synthetic.distill import Synthetic, synthesize
from qcc.passes.synthetic.reach import channel_moments, reach

__all__ = ["Synthetic", "channel_moments", "reach", "synthesize"]
