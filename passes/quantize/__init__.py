"""Quantization: where integers go (placement) and what they mean (encodings)."""

from qcc.ir import Numerics, Pass, Stage
from qcc.passes.quantize.encode import activation_encoding, encode, weight_encoding
from qcc.passes.quantize.forms import Form
from qcc.passes.quantize.placement import Placement, place
from qcc.passes.quantize.precision import WIDE, Precision, widens

__all__ = ["ENCODE", "WIDE", "Form", "Placement", "Precision", "activation_encoding", "encode", "place", "weight_encoding", "widens"]

ENCODE = Pass("encode", Stage.FLOAT, Stage.QDQ, Numerics.LOSSY, encode)
