"""Integer windows and sums, channels last. A mean is a sum followed by a requantization that also divides by the count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcc.ir import INTEGER_ONLY, Array, Op, TensorType, expect
from qcc.ir.types import I32
from qcc.ops.pool import reduced_shape
from qcc.ops.windows import output_extent, windows


@dataclass(frozen=True)
class Window(Op):
    """Base of operators over windows of N H W C, without padding."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    stages = INTEGER_ONLY

    def output_shape(self, x: TensorType) -> tuple[int, ...]:
        expect(x.rank == 4 and x.dtype.is_integer, f"{self.name} takes integers N H W C")
        height, width = (output_extent(x.shape[1 + i], self.kernel[i], self.strides[i], self.dilations[i]) for i in (0, 1))
        return x.shape[0], height, width, x.shape[3]

    def view(self, x: Array) -> Array:
        return windows(x, (1, 2), self.kernel, self.strides, self.dilations)

    def expression(self, x: Any, outputs: tuple[TensorType, ...], combine: Any, dtype: str) -> list[Any]:
        from tvm import te

        i, j = (te.reduce_axis((0, n), label) for n, label in zip(self.kernel, "ij", strict=True))
        (sy, sx), (dy, dx) = self.strides, self.dilations
        return [
            te.compute(outputs[0].shape, lambda n, y, z, c: combine(x[n, y * sy + i * dy, z * sx + j * dx, c].astype(dtype), axis=[i, j]))
        ]


@dataclass(frozen=True)
class WindowMax(Window):
    """The largest integer of each window."""

    name: ClassVar[str] = "window_max"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(inputs[0].dtype, self.output_shape(inputs[0])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (self.view(inputs[0]).max(axis=(-2, -1)),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        return self.expression(inputs[0], outputs, te.max, str(outputs[0].dtype.numpy))


@dataclass(frozen=True)
class WindowSum(Window):
    """The sum of each window, int32."""

    name: ClassVar[str] = "window_sum"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(I32, self.output_shape(inputs[0])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (self.view(inputs[0]).sum(axis=(-2, -1), dtype=np.int64),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        return self.expression(inputs[0], outputs, te.sum, "int32")


@dataclass(frozen=True)
class ReduceSum(Op):
    """The sum over `axes`, int32."""

    axes: tuple[int, ...]
    keep: bool = True
    name: ClassVar[str] = "reduce_sum"
    stages = INTEGER_ONLY

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(
            inputs[0].dtype.is_integer and all(0 <= a < inputs[0].rank for a in self.axes),
            f"reduce_sum over {self.axes} of {inputs[0].dtype} of rank {inputs[0].rank}",
        )
        return (TensorType(I32, reduced_shape(inputs[0].shape, self.axes, self.keep)),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0].sum(axis=self.axes, keepdims=self.keep, dtype=np.int64),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import topi

        return [topi.sum(topi.cast(inputs[0], "int32"), self.axes, self.keep)]

    def transposed(self, permutation: tuple[int, ...]) -> Op | None:
        return ReduceSum(tuple(sorted(permutation.index(a) for a in self.axes)), True) if self.keep else None
