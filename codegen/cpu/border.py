"""Where floats become integers and back, in any layout, with exactly the float operations of qcc/ops/border.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.cpu.transpose import Layout, LayoutKernel, read_from, write_to
from qcc.codegen.emit import Function, broadcast, cast, lanes_of
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.nest import load, store
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import F32
from qcc.ops import Dequantize, Quantize

if TYPE_CHECKING:
    from qcc.codegen.target import Target

NUMBERS = View.contiguous(F32, (4,))      # inverse scale, lowest and highest scaled value, zero point
ZERO_POINT = View.contiguous(F32, (1,))


@dataclass(frozen=True)
class QuantizeKernel(LayoutKernel):
    """Operands: source f32, four numbers f32, destination (integers of 8 or 16 bits); source and destination of one shape."""

    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, NUMBERS, self.destination

    @property
    def layout(self) -> Layout:
        return Layout.of((self.source, self.destination), self.destination.dtype.bytes)

    def emit(self, target: Target) -> Any:
        from tvm import tirx

        function, layout = Function(self.operands), self.layout
        source, numbers, destination = function.operands
        inverse, low, high, zero = (function.let(numbers.load(index)) for index in range(4))
        zero = function.let(cast(zero, "int32"))

        def read(places: Sequence[Any], lanes: int) -> Any:
            def all_lanes(scalar: Any) -> Any:
                return broadcast(scalar, lanes) if lanes > 1 else scalar

            scaled = function.let(read_from(source, layout)(places, lanes) * all_lanes(inverse))
            scaled = function.let(tirx.Select(scaled > all_lanes(low), scaled, all_lanes(low)))
            scaled = function.let(tirx.Select(scaled < all_lanes(high), scaled, all_lanes(high)))
            return cast(cast(tirx.nearbyint(scaled), "int32") + all_lanes(zero), destination.dtype)

        layout.emit(function, target.lanes, read, write_to(destination, layout.nest))
        return function.finish()


def plan_quantize(
    op: Quantize, source: View, destination: View, kind: Callable[[View, View], Kernel] = QuantizeKernel
) -> tuple[Kernel, tuple[Array, ...]]:
    """The kernel of a Quantize node, of a machine's kind, and its numbers. Source and destination have the same shape, in any layouts."""
    if source.shape != destination.shape or source.dtype != F32 or destination.dtype != op.dtype or op.dtype.bits > 16:
        raise CodegenError(f"quantize {source.dtype}{list(source.shape)} to {op.dtype}: found {destination.dtype}{list(destination.shape)}")
    return kind(source, destination), (np.array([op.inverse_scale, *op.bounds, op.zero_point], np.float32),)


@dataclass(frozen=True)
class DequantizeKernel(LayoutKernel):
    """Operands: source (integers), zero point f32, scale f32 (broadcasts to the source's shape), destination f32."""

    source: View
    scale: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, ZERO_POINT, self.scale, self.destination

    @property
    def layout(self) -> Layout:
        return Layout.of((self.source, self.scale, self.destination), self.source.dtype.bytes)

    def emit(self, target: Target) -> Any:
        function, layout = Function(self.operands), self.layout
        source, zero, scale, destination = function.operands
        zero_point = function.let(cast(zero.load(0), "int32"))

        def write(places: Sequence[Any], q: Any) -> None:
            lanes = lanes_of(q)
            zeros = broadcast(zero_point, lanes) if lanes > 1 else zero_point
            factors = load(scale, places[1], lanes, layout.nest.inner(1))
            store(destination, places[2], cast(cast(q, "int32") - zeros, "float32") * factors, layout.nest.inner(2))

        layout.emit(function, target.lanes, read_from(source, layout), write)
        return function.finish()


def plan_dequantize(
    op: Dequantize, scale: Array, source: View, destination: View, kind: Callable[[View, View, View], Kernel] = DequantizeKernel
) -> tuple[Kernel, tuple[Array, ...]]:
    """The kernel of a Dequantize node, of a machine's kind, and its constants. Source and destination have one shape, in any layouts.

    Args:
        scale: f32 that broadcasts to that shape.
    """
    if source.shape != destination.shape or destination.dtype != F32 or not source.dtype.is_integer:
        raise CodegenError(f"dequantize {source.dtype}{list(source.shape)}: found {destination.dtype}{list(destination.shape)}")
    if not -(1 << 24) <= op.zero_point <= 1 << 24:
        raise CodegenError(f"dequantize: a zero point of {op.zero_point} is not a float32; use the generic kernel")
    return kind(source, View.contiguous(F32, scale.shape), destination), (np.array([op.zero_point], np.float32), scale)
