"""Integer arithmetic operators, channels last: convolution, matrix product, product, and the one requantization (qcc/arith.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from qcc.arith import requantize
from qcc.ir import INTEGER_ONLY, Array, DType, Op, TensorType, expect
from qcc.ir.types import I32, U8
from qcc.ops.pointwise import broadcast
from qcc.ops.windows import output_extent, windows


def exact_product(a: Array, b: Array) -> Array:
    """Matrix product of integers, exact: in float64 through BLAS, whose sums stay below 2**53 for 16 and 8 bits and any real depth."""
    expect(a.shape[-1] * 2**24 < 2**53, "an inner extent too long for exact float64 sums")
    return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


@dataclass(frozen=True)
class IntegerConvolution(Op):
    """acc[n,y,x,o] = bias[o] + sum x[n, y*s + i*d, x*s + j*d, c] * w[o,i,j,c], int32, no padding.

    Inputs: x u8 (or u16) N H W C, w i8 O KH KW C/groups, bias i32 O. The zero point of x is in the bias.
    """

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    name: ClassVar[str] = "integer_convolution"
    stages = INTEGER_ONLY

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(
            len(inputs) == 3 and [t.rank for t in inputs] == [4, 4, 1], "integer_convolution takes x (rank 4), w (rank 4) and bias (rank 1)"
        )
        x, w, bias = inputs
        expect(
            x.dtype.is_activation and w.dtype.kind == "i" and w.dtype.bits <= 8 and bias.dtype == I32,
            f"integer_convolution of {x.dtype}, {w.dtype}, {bias.dtype}",
        )
        expect(
            x.shape[3] == w.shape[3] * self.groups and w.shape[0] % self.groups == 0 and bias.shape == w.shape[:1],
            f"integer_convolution: {x.shape[3]} channels in {self.groups} groups, weights {list(w.shape)}, bias {list(bias.shape)}",
        )
        height, width = (output_extent(x.shape[1 + i], w.shape[1 + i], self.strides[i], self.dilations[i]) for i in (0, 1))
        return (TensorType(I32, (x.shape[0], height, width, w.shape[0])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, w, bias = inputs
        view = windows(x, (1, 2), (w.shape[1], w.shape[2]), self.strides, self.dilations)  # n h w c i j
        if self.groups == x.shape[3] == w.shape[0]:
            acc = np.einsum("nhwcij,cij->nhwc", view, w[..., 0].astype(np.int32), dtype=np.int64, casting="unsafe")
            return (acc + bias,)
        inputs_per, outputs_per = w.shape[3], w.shape[0] // self.groups
        parts = []
        for g in range(self.groups):
            patch = view[:, :, :, g * inputs_per : (g + 1) * inputs_per].transpose(0, 1, 2, 4, 5, 3)
            rows = patch.reshape(*patch.shape[:3], -1)
            parts.append(exact_product(rows, w[g * outputs_per : (g + 1) * outputs_per].reshape(outputs_per, -1).T))
        return (np.concatenate(parts, axis=-1) + bias,)

    def macs(self, inputs: tuple[TensorType, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].size * prod(inputs[1].shape[1:])

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        x, w, bias = inputs
        outputs_per = outputs[0].shape[3] // self.groups
        per = w.shape[3]
        i, j, c = (te.reduce_axis((0, int(n)), label) for n, label in zip(w.shape[1:], "ijc", strict=True))
        (sy, sx), (dy, dx) = self.strides, self.dilations
        acc = te.compute(
            outputs[0].shape,
            lambda n, y, z, o: te.sum(
                x[n, y * sy + i * dy, z * sx + j * dx, (o // outputs_per) * per + c].astype("int32") * w[o, i, j, c].astype("int32"),
                axis=[i, j, c],
            ),
        )
        return [te.compute(outputs[0].shape, lambda n, y, z, o: acc[n, y, z, o] + bias[o])]


@dataclass(frozen=True)
class IntegerMatMul(Op):
    """acc[..., n] = bias[n] + sum x[..., k] * w[n, k], int32. Inputs: x u8 (or u16) ... K, w i8 N K, bias i32 N."""

    name: ClassVar[str] = "integer_matmul"
    stages = INTEGER_ONLY

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(
            len(inputs) == 3 and inputs[0].rank >= 2 and inputs[1].rank == 2 and inputs[2].rank == 1,
            "integer_matmul takes x (rank >= 2), w (rank 2), bias (rank 1)",
        )
        x, w, bias = inputs
        expect(
            x.dtype.is_activation and w.dtype.kind == "i" and w.dtype.bits <= 8 and bias.dtype == I32,
            f"integer_matmul of {x.dtype}, {w.dtype}, {bias.dtype}",
        )
        expect(
            x.shape[-1] == w.shape[1] and bias.shape == w.shape[:1],
            f"integer_matmul of {list(x.shape)} with {list(w.shape)}, bias {list(bias.shape)}",
        )
        return (TensorType(I32, (*x.shape[:-1], w.shape[0])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (exact_product(inputs[0], inputs[1].T) + inputs[2],)

    def macs(self, inputs: tuple[TensorType, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].size * inputs[1].shape[1]

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        x, w, bias = inputs
        k = te.reduce_axis((0, int(w.shape[1])), "k")
        acc = te.compute(outputs[0].shape, lambda *i: te.sum(x(*i[:-1], k).astype("int32") * w[i[-1], k].astype("int32"), axis=k))
        return [te.compute(outputs[0].shape, lambda *i: acc(*i) + bias[i[-1]])]


@dataclass(frozen=True)
class IntegerMultiply(Op):
    """(a - zero_a) * (b - zero_b) in int32, broadcast. Inputs: two tensors of unsigned bytes, which may have different widths."""

    zero_points: tuple[int, int]
    name: ClassVar[str] = "integer_multiply"
    stages = INTEGER_ONLY
    elementwise = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 2 and all(t.dtype.is_byte for t in inputs), "integer_multiply takes two tensors of unsigned bytes")
        return (TensorType(I32, broadcast(self.name, *(replace(t, dtype=U8) for t in inputs)).shape),)    # of any widths

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        a, b = (x.astype(np.int64) - z for x, z in zip(inputs, self.zero_points, strict=True))
        return (a * b,)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import topi

        a, b = (topi.cast(x, "int32") - z for x, z in zip(inputs, self.zero_points, strict=True))
        return [topi.multiply(a, b)]


@dataclass(frozen=True)
class Requantize(Op):
    """y = clamp(((sum_i (x_i - zero_points[i]) * m_i + 2**(shift-1)) >> shift) + zero_point, low, high): int64, one rounding, half up.

    Inputs: x_1, m_1, x_2, m_2, ...; x_i integers of up to 32 bits (activations or constants), m_i constant int32; all broadcast.
    """

    zero_points: tuple[int, ...]
    shift: int
    zero_point: int
    low: int
    high: int
    dtype: DType = U8
    name: ClassVar[str] = "requantize"
    stages = INTEGER_ONLY
    elementwise = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 2 * len(self.zero_points) > 0, f"requantize of {len(self.zero_points)} terms has {len(inputs)} inputs")
        expect(all(t.dtype.is_integer and t.dtype.bits <= 32 for t in inputs), "requantize takes integers of up to 32 bits")
        expect(all(m.dtype == I32 for m in inputs[1::2]), "requantize: multipliers are int32")
        low, high = self.dtype.range
        expect(
            1 <= self.shift <= 62 and low <= self.low <= self.high <= high,
            f"requantize: shift {self.shift}, bounds {self.low}..{self.high} for {self.dtype}",
        )
        shape = tuple(np.broadcast_shapes(*(t.shape for t in inputs)))
        return (TensorType(self.dtype, shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        terms = list(zip(inputs[::2], inputs[1::2], self.zero_points, strict=True))
        return (requantize(terms, self.shift, self.zero_point, self.low, self.high).astype(self.dtype.numpy),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te, tirx, topi

        def const(value: int) -> Any:
            return tirx.const(value, "int64")

        total: Any = None
        for x, m, z in zip(inputs[::2], inputs[1::2], self.zero_points, strict=True):
            term = topi.multiply(topi.subtract(topi.cast(x, "int64"), const(z)), topi.cast(m, "int64"))
            total = term if total is None else topi.add(total, term)

        def finish(*index: Any) -> Any:
            y = ((total(*index) + const(1 << (self.shift - 1))) >> const(self.shift)) + const(self.zero_point)
            return te.max(te.min(y, const(self.high)), const(self.low)).astype(str(self.dtype.numpy))

        return [te.compute(outputs[0].shape, finish, name="requantize")]


@dataclass(frozen=True)
class Clamp(Op):
    """min(max(x, low), high) of integers, with bounds per channel. Inputs: x, low, high (constants of x's type that broadcast)."""

    name: ClassVar[str] = "clamp"
    stages = INTEGER_ONLY
    elementwise = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 3 and inputs[0].dtype.is_integer, "clamp takes x, low and high")
        return (broadcast(self.name, *inputs),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.minimum(np.maximum(inputs[0], inputs[1]), inputs[2]),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import topi

        return [topi.minimum(topi.maximum(inputs[0], inputs[1]), inputs[2])]


@dataclass(frozen=True)
class Lookup(Op):
    """table[x]: any function of one 8-bit value. Inputs: x u8, table of 256 (for all) or C x 256 (one per index of the last axis)."""

    name: ClassVar[str] = "lookup"
    stages = INTEGER_ONLY

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, table = inputs
        expect(
            x.dtype.is_byte and table.dtype.is_integer and table.shape in ((256,), (*x.shape[-1:], 256)),
            f"lookup of {x.dtype}{list(x.shape)} in {list(table.shape)}",
        )
        return (TensorType(table.dtype, x.shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, table = inputs
        return (table[x] if table.ndim == 1 else table[np.arange(x.shape[-1]), x],)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        x, table = inputs
        if len(table.shape) == 1:
            return [te.compute(outputs[0].shape, lambda *i: table[x(*i).astype("int32")], name="lookup")]
        return [te.compute(outputs[0].shape, lambda *i: table[i[-1], x(*i).astype("int32")], name="lookup")]

    def transposed(self, permutation: tuple[int, ...]) -> Op | None:
        return self
