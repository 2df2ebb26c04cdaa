"""The border between float and integer values: the only operators of an INTEGER graph that see both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcc.ir import INTEGER_ONLY, Array, DType, Op, TensorType, expect
from qcc.ir.types import F32


@dataclass(frozen=True)
class Quantize(Op):
    """q = int(rint(min(max(x * inverse_scale, low - zero_point), high - zero_point))) + zero_point, in float32, ties to even.

    low..high is the range of `dtype`. NaN becomes low: the comparison that keeps x is `x > low - zero_point`.
    """

    inverse_scale: float
    zero_point: int
    dtype: DType
    name: ClassVar[str] = "quantize"
    stages = INTEGER_ONLY
    elementwise = True
    float_border = True

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = self.dtype.range
        return float(low - self.zero_point), float(high - self.zero_point)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 1 and inputs[0].dtype == F32, "quantize takes one f32 tensor")
        expect(float(np.float32(self.inverse_scale)) == self.inverse_scale > 0, "quantize: the inverse scale is a positive float32")
        return (TensorType(self.dtype, inputs[0].shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        low, high = (np.float32(b) for b in self.bounds)
        with np.errstate(all="ignore"):
            scaled = inputs[0] * np.float32(self.inverse_scale)
            scaled = np.where(scaled > low, scaled, low)
            scaled = np.where(scaled < high, scaled, high)
        return ((np.rint(scaled).astype(np.int32) + self.zero_point).astype(self.dtype.numpy),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te, tirx

        low, high = (tirx.const(b, "float32") for b in self.bounds)

        def element(*index: Any) -> Any:
            scaled = inputs[0](*index) * tirx.const(self.inverse_scale, "float32")
            scaled = tirx.Select(scaled > low, scaled, low)
            scaled = tirx.Select(scaled < high, scaled, high)
            return (tirx.nearbyint(scaled).astype("int32") + self.zero_point).astype(str(self.dtype.numpy))

        return [te.compute(outputs[0].shape, element, name="quantize")]


@dataclass(frozen=True)
class Dequantize(Op):
    """float32(q - zero_point) * scale: one conversion, one product. Inputs: q, scale (constant f32, broadcasts)."""

    zero_point: int = 0
    name: ClassVar[str] = "dequantize"
    stages = INTEGER_ONLY
    elementwise = True
    float_border = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 2 and inputs[0].dtype.is_integer and inputs[1].dtype == F32, "dequantize takes integers and an f32 scale")
        expect(
            np.broadcast_shapes(inputs[0].shape, inputs[1].shape) == inputs[0].shape,
            "dequantize: the scale does not broadcast to the integers",
        )
        return (TensorType(F32, inputs[0].shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        q, scale = inputs
        return ((q.astype(np.int32) - np.int32(self.zero_point)).astype(np.float32) * scale,)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te, topi

        q, scale = inputs
        real = te.compute(q.shape, lambda *i: (q(*i).astype("int32") - self.zero_point).astype("float32"))
        return [topi.multiply(real, scale)]
