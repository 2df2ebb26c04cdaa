"""Calibration: one streaming run that measures distributions, and the observers that take ranges from them."""

from qcc.passes.calibrate.cache import Cache
from qcc.passes.calibrate.collect import Batches, Measurements, batch_digest, collect, data_digest, fold_of, is_finite, unfit
from qcc.passes.calibrate.observers import Range, observed

__all__ = ["Batches", "Cache", "Measurements", "Range", "batch_digest", "collect", "data_digest", "fold_of", "is_finite",
           "observed", "unfit"]
