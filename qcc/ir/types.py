"""Types of values: element type, shape and, for quantized values, what the integers mean.

Everything here is immutable and hashable and holds no arrays, so types compare, print and serve as dictionary keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np
import numpy.typing as npt

from qcc.errors import TypeMismatch

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, order=True)
class DType:
    """An element type: kind 'i' signed, 'u' unsigned, 'f' float, 'b' boolean, 's' string; `bits` as stored in the type's name.

    Integer types narrower than a byte hold one value per byte in arrays; packing is a matter of code generation.
    """

    kind: str
    bits: int

    def __str__(self) -> str:
        return {"b": "bool", "s": "str"}.get(self.kind, f"{self.kind}{self.bits}")

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_byte(self) -> bool:
        """Whether it is an unsigned integer of up to 8 bits, the type of activations."""
        return self.kind == "u" and self.bits <= 8

    @property
    def is_activation(self) -> bool:
        """Whether linear layers read it: an unsigned integer of up to 8 bits, or of 16."""
        return self.is_byte or (self.kind == "u" and self.bits == 16)

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest value of an integer type."""
        if self.kind == "i":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if self.kind in "ub":
            return 0, (1 << self.bits) - 1
        raise TypeMismatch(f"{self} has no integer range")

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy type that holds one element."""
        if self.kind == "b":
            return np.dtype(np.bool_)
        if self.kind == "s":
            return np.dtype(np.object_)
        width = max(8, 1 << (self.bits - 1).bit_length())
        return np.dtype(f"{self.kind}{width // 8}")

    @property
    def bytes(self) -> int:
        return self.numpy.itemsize

    @staticmethod
    def of(dtype: npt.DTypeLike) -> DType:
        """The type of a NumPy array's elements."""
        kind = np.dtype(dtype)
        if kind.kind == "b":
            return BOOL
        if kind.kind in "OUS":
            return STRING
        if kind.kind not in "iuf":
            raise TypeMismatch(f"NumPy type {kind} has no counterpart in the IR")
        return DType(kind.kind, kind.itemsize * 8)

    @staticmethod
    def parse(text: str) -> DType:
        if text in ("bool", "str"):
            return BOOL if text == "bool" else STRING
        match = re.fullmatch(r"([iuf])(\d+)", text)
        if match is None:
            raise TypeMismatch(f"{text!r} is not an element type (expected for example i8, u4, f32)")
        return DType(match[1], int(match[2]))


BOOL, STRING = DType("b", 1), DType("s", 0)
F32, F16, F64 = DType("f", 32), DType("f", 16), DType("f", 64)
I4, I8, I16, I32, I64 = (DType("i", bits) for bits in (4, 8, 16, 32, 64))
U4, U8, U16, U32, U64 = (DType("u", bits) for bits in (4, 8, 16, 32, 64))


@dataclass(frozen=True, slots=True)
class Encoding:
    """What integers mean: real = scale * (q - zero_point), with q of `dtype` within [low, high].

    Per tensor when `axis` is None (tuples of one element), else one scale and zero point per index of `axis`.
    """

    dtype: DType
    scale: tuple[float, ...]
    zero_point: tuple[int, ...] = (0,)
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or (self.axis is None and len(self.scale) != 1):
            raise TypeMismatch(f"encoding with {len(self.scale)} scales, {len(self.zero_point)} zero points, axis {self.axis}")
        if not all(0.0 < s < float("inf") for s in self.scale):
            raise TypeMismatch(f"an encoding's scales must be positive and finite, got {min(self.scale)}..{max(self.scale)}")

    @property
    def range(self) -> tuple[int, int]:
        """The integers in use: weights (per axis) are symmetric, without the lowest value; all others use the whole type."""
        low, high = self.dtype.range
        return (-high, high) if self.dtype.kind == "i" and self.zero_point == (0,) * len(self.zero_point) else (low, high)

    def arrays(self, rank: int) -> tuple[Array, Array]:
        """Scale (float64) and zero point (int64), shaped to broadcast against an array of `rank` dimensions."""
        scale, zero = np.array(self.scale, np.float64), np.array(self.zero_point, np.int64)
        if self.axis is None:
            return scale.reshape(()), zero.reshape(())
        shape = [1] * rank
        shape[self.axis] = -1
        return scale.reshape(shape), zero.reshape(shape)

    def quantize(self, real: Array) -> Array:
        """Round to the nearest integer (ties to even), clamped to `range`; computed in float64."""
        scale, zero = self.arrays(real.ndim)
        integers: Array = np.clip(np.rint(real.astype(np.float64) / scale) + zero, *self.range).astype(self.dtype.numpy)
        return integers

    def dequantize(self, integers: Array) -> Array:
        """The float32 numbers that the integers stand for."""
        scale, zero = self.arrays(integers.ndim)
        real: Array = ((integers.astype(np.int64) - zero) * scale).astype(np.float32)
        return real


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and static shape of a value; `encoding` says what an integer value means.

    On a float value an encoding is a promise of the QDQ stage: the value is rounded onto that grid.
    """

    dtype: DType
    shape: tuple[int, ...]
    encoding: Encoding | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes

    @staticmethod
    def of(array: Array, encoding: Encoding | None = None) -> TensorType:
        return TensorType(DType.of(array.dtype), tuple(int(n) for n in array.shape), encoding)
