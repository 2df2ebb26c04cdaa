"""Imports elementwise operators: arithmetic, bounds and real functions."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from qcc.ir import Array
from qcc.onnx.conversion import Call, Conversion, converts
from qcc.ops import Add, Binary, Clip, Divide, Function, Multiply, PRelu, Reshape, Subtract

INFINITY = float("inf")

BINARY: dict[str, type[Binary]] = {"Add": Add, "Sub": Subtract, "Mul": Multiply, "Div": Divide}

# ONNX operator -> name in functions.py, and its attributes with ONNX's defaults in the order of the function's parameters
FUNCTIONS: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    **{name: (name.lower(), ()) for name in (
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "HardSwish", "Log", "Mish",
        "Neg", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh")},
    "Celu": ("celu", (("alpha", 1.0),)),
    "Elu": ("elu", (("alpha", 1.0),)),
    "HardSigmoid": ("hardsigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "Selu": ("selu", (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "ThresholdedRelu": ("thresholded_relu", (("alpha", 1.0),)),
}


@converts(*BINARY)
def binary(c: Conversion, call: Call) -> str | None:
    # Integers are computed here only when they are constants: shape arithmetic.
    if c.is_float(*call.inputs) or all(c.constant(v) is not None for v in call.inputs):
        return c.emit(BINARY[call.type](), *call.inputs)
    return None


@converts("Sum")
def total(c: Conversion, call: Call) -> str | None:
    return reduce(lambda a, b: c.emit(Add(), a, b), call.inputs) if c.is_float(*call.inputs) else None


@converts(*FUNCTIONS)
def function(c: Conversion, call: Call) -> str | None:
    name, attributes = FUNCTIONS[call.type]
    parameters = tuple(float(call.get(attribute, default)) for attribute, default in attributes)
    return c.emit(Function(name, parameters), call.inputs[0]) if c.is_float(call.inputs[0]) else None


@converts("Gelu")
def gelu(c: Conversion, call: Call) -> str | None:
    name = "gelu_tanh" if call.get("approximate", "none") == "tanh" else "gelu"
    return c.emit(Function(name), call.inputs[0]) if c.is_float(call.inputs[0]) else None


@converts("Swish")
def swish(c: Conversion, call: Call) -> str | None:
    """x * sigmoid(alpha * x)."""
    x, alpha = call.inputs[0], call.get("alpha", 1.0)
    if not c.is_float(x):
        return None
    if alpha == 1.0:
        return c.emit(Function("silu"), x)
    scaled = c.emit(Multiply(), x, c.add_constant(np.array(alpha, c.type(x).dtype.numpy)))
    return c.emit(Multiply(), x, c.emit(Function("sigmoid"), scaled))


@converts("Pow")
def power(c: Conversion, call: Call) -> str | None:
    exponent = c.scalar(call.inputs[1])
    if exponent is None or not c.is_float(call.inputs[0]) or len(c.shape(call.inputs[1])) > len(c.shape(call.inputs[0])):
        return None
    return call.inputs[0] if exponent == 1.0 else c.emit(Function("pow", (exponent,)), call.inputs[0])


@converts("PRelu")
def prelu(c: Conversion, call: Call) -> str | None:
    """Before opset 7 a list of slopes is one per channel; the conversion to opset 7 leaves it so."""
    x, slope = call.inputs
    if not c.is_float(x, slope):
        return None
    shape, slopes = c.shape(x), c.shape(slope)
    if len(slopes) == 1 and len(shape) > 2 and slopes[0] == shape[1] and slopes[0] not in (1, shape[-1]):
        slope = c.emit(Reshape((slopes[0], *[1] * (len(shape) - 2))), slope)
    return c.emit(PRelu(), x, slope)


@converts("Relu")
def relu(c: Conversion, call: Call) -> str | None:
    return c.emit(Clip((0.0,), (INFINITY,)), call.inputs[0]) if c.is_float(call.inputs[0]) else None


@converts("Clip")
def clip(c: Conversion, call: Call) -> str | None:
    """Bounds are attributes up to opset 10, inputs from 11 on."""
    bounds: list[Any] = [call.get("min", -INFINITY), call.get("max", INFINITY)]
    for index in (1, 2):
        if call.has(index):
            bounds[index - 1] = c.scalar(call.inputs[index])
    if None in bounds or not c.is_float(call.inputs[0]):
        return None
    dtype = c.type(call.inputs[0]).dtype.numpy
    low, high = (float(np.array(bound, dtype)) for bound in bounds)
    return c.emit(Clip((min(low, high),), (high,)), call.inputs[0])     # ONNX: low > high makes everything high


@converts("Max", "Min")
def bound(c: Conversion, call: Call) -> str | None:
    """The larger (smaller) of one tensor and constants is a clip."""
    if len(call.inputs) == 1:
        return call.inputs[0]
    variable = [v for v in call.inputs if c.constant(v) is None]
    if not c.is_float(*call.inputs) or len(variable) != 1:
        return None
    combine = np.maximum if call.type == "Max" else np.minimum
    limit: Array = reduce(combine, [array for v in call.inputs if (array := c.constant(v)) is not None])
    shape = c.shape(variable[0])
    wide = [axis for axis, extent in enumerate((1,) * (len(shape) - limit.ndim) + limit.shape) if extent != 1]
    if limit.ndim > len(shape) or len(wide) > 1 or (wide and limit.size != shape[wide[0]]):
        return None
    values = tuple(float(n) for n in limit.reshape(-1))
    open_end = (-INFINITY if call.type == "Min" else INFINITY,) * len(values)
    low, high = (values, open_end) if call.type == "Max" else (open_end, values)
    return c.emit(Clip(low, high, wide[0] if wide else None), variable[0])
