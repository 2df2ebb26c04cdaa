"""The dyadic rewrite: from encodings to integer operators with one rounding each."""

from qcc.passes.integer.convert import to_integer

__all__ = ["to_integer"]
