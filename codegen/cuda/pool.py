"""Windows over channels-last images on GPUs: maximum, and sum with the requantization behind it. One thread per output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qcc.codegen.cpu.pool import Geometry, check_sum, whole_image
from qcc.codegen.cuda.elements import Elementwise, each
from qcc.codegen.cuda.emit import GpuFunction, constant
from qcc.codegen.cuda.scale import Scale, Scaler, numbers_view, scale_of
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize
from qcc.ops.integer_pool import Window


def _origins(geometry: Geometry, source: View, destination: View) -> View:
    """Where the windows of the outputs begin."""
    n, h, w, c = source.strides
    return View(source.dtype, destination.shape, (n, h * geometry.strides[0], w * geometry.strides[1], c))


def _each_tap(function: GpuFunction, geometry: Geometry, source: View, memory: Memory, first: Any, body: Callable[[Any], None]) -> None:
    """`body(value)` for each element of a window."""
    down, along = (d * s for d, s in zip(geometry.dilations, source.strides[1:3], strict=True))
    with function.loop(0, geometry.kernel[0]) as i, function.loop(0, geometry.kernel[1]) as j:
        body(memory.load(first + i * down + j * along))


@dataclass(frozen=True)
class WindowMaxKernel(Elementwise):
    """The largest integer of each window. Operands: source, destination; N H W C, of one type.

    Attributes:
        packed: both are views of bytes that hold two values of 4 bits each.
    """

    geometry: Geometry
    source: View
    destination: View
    packed: bool = False

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        return _origins(self.geometry, self.source, self.destination), self.destination

    def body(self, function: GpuFunction) -> None:
        from tvm import tirx

        source, destination = function.operands

        def element(places: Sequence[Any]) -> None:
            first = function.let(places[0], "first")
            parts = [constant(mask) for mask in (0x0F, 0xF0)] if self.packed else []
            best = function.array(max(1, len(parts)), "int32" if parts else source.dtype, "best", 0 if parts else None)
            if not parts:
                best.set(0, source.load(first))

            def tap(value: Any) -> None:
                value = function.let(cast(value, best.dtype), "value")
                for number in range(max(1, len(parts))):
                    best.set(number, tirx.Max(best.get(number), value & parts[number] if parts else value))

            _each_tap(function, self.geometry, self.source, source, first, tap)
            destination.store(places[1], cast(best.get(0) | best.get(1) if parts else best.get(0), destination.dtype))

        each(function, self.nest, element)


def plan_window_max(op: Window, source: View, destination: View) -> tuple[WindowMaxKernel, tuple[Array, ...]]:
    """The kernel of a WindowMax node (no constants)."""
    geometry = Geometry.of(op)
    geometry.check(source, destination)
    if source.packed != destination.packed:
        raise CodegenError(f"window maximum: values of {source} share bytes, or those of {destination}, but not both")
    return WindowMaxKernel(geometry, source.stored, destination.stored, source.packed), ()


@dataclass(frozen=True)
class WindowSumKernel(Elementwise):
    """The requantized sum of each window. Operands: source, numbers, multiplier, destination; N H W C.

    Attributes:
        multiplier: int32, broadcasts to the destination (one number, or per channel, or per position).
    """

    geometry: Geometry
    scale: Scale
    source: View
    multiplier: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, numbers_view(1), self.multiplier, self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        return _origins(self.geometry, self.source, self.destination), self.multiplier, self.destination

    @property
    def macs(self) -> int:
        return prod(self.destination.shape) * prod(self.geometry.kernel)

    def body(self, function: GpuFunction) -> None:
        source, numbers, multiplier, destination = function.operands
        scaler = Scaler(function, self.scale, numbers, 1)

        def element(places: Sequence[Any]) -> None:
            first = function.let(places[0], "first")
            total = function.array(1, "int32", "total")
            total.set(0, constant(0))
            add: Callable[[Any], None] = lambda value: total.set(0, total.get(0) + cast(value, "int32"))  # noqa: E731
            _each_tap(function, self.geometry, self.source, source, first, add)
            result = scaler.finish(scaler.centred([total.get(0)]), [multiplier.load(places[1])])
            destination.store(places[2], cast(result, destination.dtype))

        each(function, self.nest, element)


Planned = tuple[WindowSumKernel, tuple[Array, ...]]


def plan_window_sum(op: Window, requantize: Requantize, multiplier: Array, source: View, destination: View) -> Planned:
    """The kernel of a WindowSum node with the Requantize node (of one term) behind it, and its constants.

    Args:
        multiplier: int32, broadcasts to the destination's N OH OW C.
    """
    return _planned(Geometry.of(op), requantize, multiplier, source, destination)


def plan_global_sum(requantize: Requantize, multiplier: Array, source: View, destination: View) -> Planned:
    """The kernel of a ReduceSum node over axes 1 and 2 of N H W C with the Requantize node behind it, and its constants.

    Args:
        destination: N 1 1 C, or N C where the sum drops the axes.
    """
    geometry, multiplier, destination = whole_image(multiplier, source, destination)
    return _planned(geometry, requantize, multiplier, source, destination)


def _planned(geometry: Geometry, op: Requantize, multiplier: Array, source: View, destination: View) -> Planned:
    check_sum(geometry, op, source, destination)
    scale, numbers = scale_of(op, op.zero_points, True)
    multiplier = multiplier.reshape((1,) * (4 - multiplier.ndim) + multiplier.shape)
    return WindowSumKernel(geometry, scale, source, View.contiguous(I32, multiplier.shape), destination), (numbers, multiplier)
