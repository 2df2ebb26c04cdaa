"""Where floats become integers and back on GPUs, with exactly the float operations of qcc/ops/border.py. One thread per element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.codegen.cuda.elements import Elementwise, each
from qcc.codegen.cuda.emit import GpuFunction
from qcc.codegen.emit import cast
from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import F32, I32
from qcc.ops import Dequantize, Quantize


@dataclass(frozen=True)
class QuantizeKernel(Elementwise):
    """Operands: source f32, four numbers f32 (inverse scale, bounds, zero point), destination (integers of up to 16 bits)."""

    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, View.contiguous(F32, (4,)), self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        return self.source, self.destination

    def body(self, function: GpuFunction) -> None:
        from tvm import tirx

        source, numbers, destination = function.operands
        inverse, low, high, zero = (function.let(numbers.load(index), "number") for index in range(4))

        def element(places: Sequence[Any]) -> None:
            scaled = function.let(source.load(places[0]) * inverse, "scaled")
            scaled = function.let(tirx.Select(scaled > low, scaled, low), "scaled")
            scaled = function.let(tirx.Select(scaled < high, scaled, high), "scaled")
            destination.store(places[1], cast(cast(tirx.nearbyint(scaled), "int32") + cast(zero, "int32"), destination.dtype))

        each(function, self.nest, element)


def plan_quantize(op: Quantize, source: View, destination: View) -> tuple[QuantizeKernel, tuple[Array, ...]]:
    """The kernel of a Quantize node, and its numbers. Source and destination have the same shape, in any layouts."""
    if source.shape != destination.shape or source.dtype != F32 or destination.dtype != op.dtype or op.dtype.bits > 16:
        raise CodegenError(f"quantize {source.dtype}{list(source.shape)} to {op.dtype}: found {destination.dtype}{list(destination.shape)}")
    return QuantizeKernel(source, destination), (np.array([op.inverse_scale, *op.bounds, op.zero_point], np.float32),)


@dataclass(frozen=True)
class DequantizeKernel(Elementwise):
    """Operands: source (integers), zero point i32, scale f32 (broadcasts to the source's shape), destination f32."""

    source: View
    scale: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, View.contiguous(I32, (1,)), self.scale, self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        return self.source, self.scale, self.destination

    def body(self, function: GpuFunction) -> None:
        source, zero, scale, destination = function.operands
        zero_point = function.let(zero.load(0), "zero_point")

        def element(places: Sequence[Any]) -> None:
            centred = cast(source.load(places[0]), "int32") - zero_point
            destination.store(places[2], cast(centred, "float32") * scale.load(places[1]))

        each(function, self.nest, element)


def plan_dequantize(op: Dequantize, scale: Array, source: View, destination: View) -> tuple[DequantizeKernel, tuple[Array, ...]]:
    """The kernel of a Dequantize node, and its constants. Source and destination have the same shape, in any layouts.

    Args:
        scale: f32 that broadcasts to that shape.
    """
    if source.shape != destination.shape or destination.dtype != F32 or not source.dtype.is_integer:
        raise CodegenError(f"dequantize {source.dtype}{list(source.shape)}: found {destination.dtype}{list(destination.shape)}")
    return DequantizeKernel(source, View.contiguous(F32, scale.shape), destination), (np.array([op.zero_point], np.int32), scale)
