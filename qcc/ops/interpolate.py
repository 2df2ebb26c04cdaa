"""Linear interpolation along one axis: bilinear resizing is two of these, first height, then width."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from qcc.ir import FLOATING, INTEGER_ONLY, Array, Op, TensorType, expect
from qcc.ir.types import I32


def _check(op: Op, axis: int, inputs: tuple[TensorType, ...]) -> TensorType:
    expect(len(inputs) == 4, f"{op.name} takes x, lower, upper and weight")
    x, lower, upper, weight = inputs
    expect(
        0 <= axis < x.rank and lower.shape == upper.shape == weight.shape and lower.rank == 1,
        f"{op.name}: axis {axis}, {lower.shape} positions",
    )
    return TensorType(x.dtype, (*x.shape[:axis], lower.shape[0], *x.shape[axis + 1 :]))


def _column(values: Array, axis: int, rank: int) -> Array:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


@dataclass(frozen=True)
class Interpolate(Op):
    """x[lower] * (1 - weight) + x[upper] * weight along `axis`. Inputs: x, lower and upper (positions), weight (float in 0..1)."""

    axis: int
    name: ClassVar[str] = "interpolate"
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (_check(self, self.axis, inputs),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, lower, upper, weight = inputs
        w = _column(weight, self.axis, x.ndim)
        return ((np.take(x, lower, self.axis) * (1 - w) + np.take(x, upper, self.axis) * w).astype(x.dtype),)


@dataclass(frozen=True)
class IntegerInterpolate(Op):
    """x[lower] * (2**bits - weight) + x[upper] * weight along `axis`, in int32; weight is an integer in 0..2**bits."""

    axis: int
    bits: int
    name: ClassVar[str] = "integer_interpolate"
    stages = INTEGER_ONLY

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (replace(_check(self, self.axis, inputs), dtype=I32),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, lower, upper, weight = inputs
        w = _column(weight.astype(np.int64), self.axis, x.ndim)
        wide = x.astype(np.int64)
        return (np.take(wide, lower, self.axis) * ((1 << self.bits) - w) + np.take(wide, upper, self.axis) * w,)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te, tirx

        x, lower, upper, weight = inputs

        def element(*index: Any) -> Any:
            place = index[self.axis]

            def at(position: Any) -> Any:
                return x(*index[: self.axis], position, *index[self.axis + 1 :]).astype("int32")

            one = tirx.const(1 << self.bits, "int32")
            return at(lower[place]) * (one - weight[place]) + at(upper[place]) * weight[place]

        return [te.compute(outputs[0].shape, element, name="interpolate")]
