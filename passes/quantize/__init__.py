"""Quantization: where integers go (placement) and what they mean (encodings)."""

from qcc.passes.quantize.encode import activation_encoding, encode, weight_encoding
from qcc.passes.quantize.forms import Form
from qcc.passes.quantize.placement import Placement, place

__all__ = ["Form", "Placement", "activation_encoding", "encode", "place", "weight_encoding"]
