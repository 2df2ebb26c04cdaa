"""Calibration: observers and the streaming run that feeds them."""

from qcc.passes.calibrate.collect import Batches, collect
from qcc.passes.calibrate.observers import Range

__all__ = ["Batches", "Range", "collect"]
