"""The golden pair in a library: which bytes are embedded, which inputs are written by a formula, and how outputs are compared.

A library must stay small, so a large input is best a `Pattern`, which costs a few numbers; a large exact output is reduced to
its checksum. The formulas here and in runtime/csrc/qcc_selftest.h are the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.codegen.program import Port
from qcc.errors import CodegenError
from qcc.ir.types import F32, F64, Array, TensorType

EMBEDDED_OUTPUT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Pattern:
    """Numbers that look random: element i is low + hash(i) modulo span, for a float32 tensor times `scale` (a float32)."""

    seed: int
    low: int
    span: int
    scale: float = 1.0

    def array(self, type_: TensorType) -> Array:
        """The values for a tensor of float32 or of any integer type; the shape is the type's."""
        if not (type_.dtype == F32 or type_.dtype.is_integer):
            raise CodegenError(f"a golden pattern makes float32 or integer values, not {type_.dtype}: give the array itself")
        hashed = np.arange(type_.size, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(self.seed)
        hashed = (hashed ^ hashed >> np.uint32(16)) * np.uint32(0x85EBCA6B)
        hashed = (hashed ^ hashed >> np.uint32(13)) * np.uint32(0xC2B2AE35)
        hashed = (hashed ^ hashed >> np.uint32(16)) % np.uint32(self.span)
        values = self.low + hashed.astype(np.int64)
        if type_.dtype == F32:
            return (np.float32(self.scale) * values.astype(np.float32)).reshape(type_.shape)
        return values.astype(type_.dtype.numpy).reshape(type_.shape)


def golden_pattern(port: Port, low: float, high: float, seed: int = 1) -> Pattern:
    """A pattern that covers [low, high] in 256 steps (float32 inputs) or all integers in between (integer inputs)."""
    if port.type.dtype.is_integer:
        return Pattern(seed, int(low), int(high) - int(low) + 1)
    scale = float(np.float32((high - low) / 255.0)) or 1.0
    return Pattern(seed, round(low / scale), 256, scale)


def checksum(data: bytes) -> int:
    """The sum, modulo 2**64, of the little-endian 64-bit words (the last one filled with zeros), word i times 2*i + 1."""
    words = np.frombuffer(data + bytes(-len(data) % 8), "<u8").astype(np.uint64)
    factors = np.arange(len(words), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return int(np.sum(words * factors, dtype=np.uint64))


@dataclass(frozen=True, slots=True)
class Golden:
    """One array of the golden pair as the library keeps it: the bytes, a pattern (inputs), or only a checksum (outputs)."""

    data: bytes | None
    checksum: int
    pattern: Pattern | None = None
    bound: float = 0.0


def _fitting(port: Port, array: Array) -> bytes:
    if array.dtype != port.type.dtype.numpy or array.shape != port.type.shape:
        raise CodegenError(
            f"golden array of {port.name!r}: expected {port.type.dtype}{list(port.type.shape)}, got {array.dtype}{list(array.shape)}"
        )
    return np.ascontiguousarray(array).tobytes()


def golden_input(port: Port, array: Array, pattern: Pattern | None) -> Golden:
    """How an input is kept. Raises CodegenError when the array has another type than the port, or is not the pattern's."""
    data = _fitting(port, array)
    if pattern is None:
        return Golden(data, checksum(data))
    if pattern.array(port.type).tobytes() != data:
        raise CodegenError(f"golden input {port.name!r} is not what its pattern makes: pass the array that Pattern.array returned")
    return Golden(None, checksum(data), pattern)


def golden_output(port: Port, array: Array, bound: float) -> Golden:
    """How an output is kept: as a checksum where it is large and must be equal byte for byte."""
    data = _fitting(port, array)
    if bound and port.type.dtype not in (F32, F64):
        raise CodegenError(f"golden output {port.name!r} is {port.type.dtype}: only float32 and float64 outputs may have a bound")
    keep = bound > 0 or len(data) <= EMBEDDED_OUTPUT_BYTES
    return Golden(data if keep else None, checksum(data), None, bound)
