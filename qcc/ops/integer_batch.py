"""The integer product of two activations, as attention has it: both operands are computed, neither is a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcc.ir import INTEGER_ONLY, Array, Op, TensorType, expect
from qcc.ir.types import I32

DEEPEST = (2**31 - 1) // 255**2      # products of bytes less their zero points that any int32 holds the sum of


@dataclass(frozen=True)
class IntegerBatchMatMul(Op):
    """acc[..., m, n] = sum_k (a[..., m, k] - zero_a) * (b[..., k, n] - zero_b), int32; leading axes broadcast as in NumPy.

    Inputs: a u8 ... M K, b u8 ... K N.
    """

    zero_points: tuple[int, int]
    name: ClassVar[str] = "integer_batch_matmul"
    stages = INTEGER_ONLY

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 2 and all(t.rank >= 2 for t in inputs), "integer_batch_matmul takes two tensors of rank 2 or more")
        a, b = inputs
        bytes_each = all(t.dtype.kind == "u" and t.dtype.bits <= 8 for t in inputs)
        expect(bytes_each, f"integer_batch_matmul of {a.dtype} and {b.dtype}: expected u8")
        expect(
            a.shape[-1] == b.shape[-2] <= DEEPEST,
            f"integer_batch_matmul of {list(a.shape)} and {list(b.shape)}: the inner extents must be equal and at most {DEEPEST}",
        )
        try:
            batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            expect(False, f"integer_batch_matmul: leading axes of {list(a.shape)} and {list(b.shape)} do not broadcast")
        return (TensorType(I32, (*(int(n) for n in batch), a.shape[-2], b.shape[-1])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        a, b = (x.astype(np.float64) - z for x, z in zip(inputs, self.zero_points, strict=True))      # exact: sums stay below 2**31
        return (np.rint(a @ b).astype(np.int64),)

    def macs(self, inputs: tuple[TensorType, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].size * inputs[0].shape[-1]

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        a, b = inputs
        k = te.reduce_axis((0, int(a.shape[-1])), "k")

        def operand(x: Any, index: tuple[Any, ...], last: tuple[Any, Any], zero: int) -> Any:
            """An element less its zero point; axes of extent 1 are read at 0."""
            leading = index[len(index) - 2 - (len(x.shape) - 2) : -2]
            position = (i if int(n) > 1 else 0 for i, n in zip(leading, x.shape[:-2], strict=True))
            return x(*position, *last).astype("int32") - zero

        def element(*index: Any) -> Any:
            left = operand(a, index, (index[-2], k), self.zero_points[0])
            return te.sum(left * operand(b, index, (k, index[-1]), self.zero_points[1]), axis=k)

        return [te.compute(outputs[0].shape, element, name="batch_matmul")]
