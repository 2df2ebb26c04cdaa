"""Float elementwise operators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcc.ir import FLOATING, Array, Op, TensorType, expect
from qcc.ops.functions import FUNCTIONS, apply_function


def broadcast(name: str, *inputs: TensorType) -> TensorType:
    """The type of an elementwise result: equal element types, shapes broadcast as in NumPy."""
    expect(len({t.dtype for t in inputs}) == 1, f"{name} of {' and '.join(str(t.dtype) for t in inputs)}")
    try:
        return TensorType(inputs[0].dtype, tuple(np.broadcast_shapes(*(t.shape for t in inputs))))
    except ValueError:
        expect(False, f"{name}: shapes {' and '.join(str(list(t.shape)) for t in inputs)} do not broadcast")
        raise


class Binary(Op):
    """Base of elementwise operators of two tensors."""

    stages = FLOATING
    elementwise = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 2, f"{self.name} takes two inputs, got {len(inputs)}")
        return (broadcast(self.name, *inputs),)


@dataclass(frozen=True)
class Add(Binary):
    name: ClassVar[str] = "add"

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0] + inputs[1],)


@dataclass(frozen=True)
class Subtract(Binary):
    name: ClassVar[str] = "subtract"

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0] - inputs[1],)


@dataclass(frozen=True)
class Multiply(Binary):
    name: ClassVar[str] = "multiply"

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0] * inputs[1],)


@dataclass(frozen=True)
class Divide(Binary):
    """a / b; integers truncate toward zero, as in ONNX."""

    name: ClassVar[str] = "divide"

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        a, b = inputs
        if a.dtype.kind in "iu":
            return (np.trunc(a / b).astype(a.dtype),)
        with np.errstate(all="ignore"):
            return (a / b,)


@dataclass(frozen=True)
class Clip(Op):
    """min(max(x, low), high); ReLU is low 0 and high infinity. Bounds are for all (axis None) or one per index of `axis`."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    axis: int | None = None
    name: ClassVar[str] = "clip"
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 1 and inputs[0].dtype.is_float, "clip takes one float tensor")
        count = 1 if self.axis is None else inputs[0].shape[self.axis]
        expect(len(self.low) == len(self.high) == count, f"clip: {len(self.low)} lower and {len(self.high)} upper bounds, expected {count}")
        return (TensorType(inputs[0].dtype, inputs[0].shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        shape = [1] * x.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        low, high = (np.array(bound, x.dtype).reshape(shape if self.axis is not None else ()) for bound in (self.low, self.high))
        return (np.minimum(np.maximum(x, low), high),)

    def transposed(self, permutation: tuple[int, ...]) -> Op:
        return self if self.axis is None else replace(self, axis=permutation.index(self.axis))


@dataclass(frozen=True)
class Function(Op):
    """A real function of each element, by name (functions.py), with its parameters."""

    function: str
    parameters: tuple[float, ...] = ()
    name: ClassVar[str] = "function"
    stages = FLOATING
    elementwise = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(self.function in FUNCTIONS, f"function {self.function!r} is not in the table")
        expect(len(inputs) == 1 and inputs[0].dtype.is_float, f"{self.function} takes one float tensor")
        return (TensorType(inputs[0].dtype, inputs[0].shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (apply_function(self.function, self.parameters, inputs[0]),)


@dataclass(frozen=True)
class PRelu(Op):
    """x where x >= 0, else x * slope (slope broadcasts to x)."""

    name: ClassVar[str] = "prelu"
    stages = FLOATING
    elementwise = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 2, "prelu takes x and slope")
        result = broadcast("prelu", *inputs)
        expect(result.shape == inputs[0].shape, f"prelu: slope {list(inputs[1].shape)} does not broadcast to {list(inputs[0].shape)}")
        return (result,)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, slope = inputs
        return (np.where(x >= 0, x, x * slope),)


@dataclass(frozen=True)
class BatchNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta along axis 1. Inputs: x, gamma, beta, mean, variance."""

    epsilon: float
    name: ClassVar[str] = "batch_normalization"
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 5 and inputs[0].rank >= 2, "batch normalization takes x, gamma, beta, mean and variance")
        channels = inputs[0].shape[1]
        expect(all(t.shape == (channels,) for t in inputs[1:]), f"batch normalization: parameters must have shape [{channels}]")
        return (TensorType(inputs[0].dtype, inputs[0].shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, gamma, beta, mean, variance = inputs
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = gamma / np.sqrt(variance + self.epsilon)
        return ((x * scale.reshape(shape) + (beta - mean * scale).reshape(shape)).astype(x.dtype),)
