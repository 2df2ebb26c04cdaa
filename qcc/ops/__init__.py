"""The operators. Importing this package registers every operator with the text form."""

from qcc.ops.border import Dequantize, Quantize
from qcc.ops.generic import OnnxOperator
from qcc.ops.integer import Clamp, IntegerConvolution, IntegerMatMul, IntegerMultiply, Lookup, Requantize
from qcc.ops.integer_batch import IntegerBatchMatMul
from qcc.ops.integer_pool import ReduceSum, WindowMax, WindowSum
from qcc.ops.interpolate import IntegerInterpolate, Interpolate
from qcc.ops.linear import Convolution, MatMul
from qcc.ops.pointwise import Add, BatchNormalization, Binary, Clip, Divide, Function, Multiply, PRelu, Subtract
from qcc.ops.pool import AveragePool, MaxPool, ReduceMean
from qcc.ops.shape import Concat, Gather, Pad, Reshape, Slice, Transpose

__all__ = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Binary",
    "Clamp",
    "Clip",
    "Concat",
    "Convolution",
    "Dequantize",
    "Divide",
    "Function",
    "Gather",
    "IntegerBatchMatMul",
    "IntegerConvolution",
    "IntegerInterpolate",
    "IntegerMatMul",
    "IntegerMultiply",
    "Interpolate",
    "Lookup",
    "MatMul",
    "MaxPool",
    "Multiply",
    "OnnxOperator",
    "PRelu",
    "Pad",
    "Quantize",
    "ReduceMean",
    "ReduceSum",
    "Requantize",
    "Reshape",
    "Slice",
    "Subtract",
    "Transpose",
    "WindowMax",
    "WindowSum",
]
