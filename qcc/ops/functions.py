"""Real functions of one variable: the meaning of `Function` nodes, and what their integer tables are computed from (in float64)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from qcc.ir import Array

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": special.erf,
    "exp": np.exp,
    "floor": np.floor,
    "log": np.log,
    "celu": lambda x, alpha: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha)),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "hardsigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "neg": np.negative,
    "pow": lambda x, exponent: np.power(x, exponent),
    "reciprocal": np.reciprocal,
    "round": np.rint,
    "selu": lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "sigmoid": special.expit,
    "sign": np.sign,
    "silu": lambda x: x * special.expit(x),
    "sin": np.sin,
    "sinh": np.sinh,
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "thresholded_relu": lambda x, alpha: np.where(x > alpha, x, 0),
}

HOMOGENEOUS = frozenset({"abs", "leaky_relu", "neg"})      # f(a x) = a f(x) for a > 0
NOT_NEGATIVE = frozenset({"abs", "exp", "hardsigmoid", "sigmoid", "softplus", "sqrt"})      # f(x) >= 0, whatever the parameters


def apply_function(function: str, parameters: tuple[float, ...], x: Array) -> Array:
    """The function in float64, rounded to the type of `x`."""
    with np.errstate(all="ignore"):
        return FUNCTIONS[function](x.astype(np.float64), *parameters).astype(x.dtype)
