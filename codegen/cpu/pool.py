"""Windows over channels-last images: maximum, and sum with the requantization behind it (an average divides there).

It decides that a register holds the channels of one output position, and a task is a row of positions: or, where there are few
rows (a global average has one position), a block of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from qcc.codegen.cpu.scale import Scaler, Sum, parameters_view, scaling
from qcc.codegen.emit import Function, cast, constant
from qcc.codegen.kernel import View
from qcc.codegen.nest import load, store, walk_row
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize
from qcc.ops.integer_pool import Window
from qcc.ops.windows import output_extent

if TYPE_CHECKING:
    from qcc.codegen.target import Target

BLOCK = 64          # channels of a task where channels are divided


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where windows lie: extents, steps and spacing of the taps, each (vertical, horizontal)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]

    @staticmethod
    def of(op: Window) -> Geometry:
        return Geometry(op.kernel, op.strides, op.dilations)

    def check(self, source: View, destination: View) -> None:
        """Raise CodegenError unless the destination has the windows of the source."""
        extents = zip(source.shape[1:3], self.kernel, self.strides, self.dilations, strict=True)
        expected = (source.shape[0], *(output_extent(*extent) for extent in extents), source.shape[3])
        if destination.shape != expected:
            raise CodegenError(f"windows {self} of {list(source.shape)} give {list(expected)}, not {list(destination.shape)}")



@dataclass(frozen=True, slots=True)
class _Place:
    """One output position: offsets of its window, of itself, and of its constants, and the channels to do."""

    source: Any
    positions: Sequence[Any]
    channels: int


def _divides_channels(destination: View) -> bool:
    rows = destination.shape[0] * destination.shape[1]
    return rows < 4 and destination.shape[3] % BLOCK == 0


def _tasks(destination: View) -> int:
    rows = destination.shape[0] * destination.shape[1]
    return rows * (destination.shape[3] // BLOCK if _divides_channels(destination) else 1)


@contextmanager
def _each_position(function: Function, geometry: Geometry, source: View, others: Sequence[View]) -> Iterator[_Place]:
    """Loops over the output positions of the function's tasks. `others` are N OH OW C, broadcast; the last is the destination."""
    from tvm import tirx

    _, height, width, channels = others[-1].shape
    blocks = channels // BLOCK if _divides_channels(others[-1]) else 1
    with function.loop(function.begin, function.end) as task:
        block, row = tirx.truncmod(task, blocks), tirx.truncdiv(task, blocks)
        image, y = tirx.truncdiv(row, height), tirx.truncmod(row, height)
        with function.loop(0, width) as x:
            index = (image, y, x, block * BLOCK)
            steps = (1, *geometry.strides, 1)
            place = sum(i * step * stride for i, step, stride in zip(index, steps, source.strides, strict=True))
            positions = [sum(i * (s if n > 1 else 0) for i, s, n in zip(index, v.strides, v.shape, strict=True)) for v in others]
            yield _Place(function.let(place), [function.let(position) for position in positions], BLOCK if blocks > 1 else channels)


def _each_tap(function: Function, geometry: Geometry, source: View, first: Any, channel: Any, body: Any) -> None:
    """`body(offset)` for each element of a window: written out if there are few, else in loops."""
    steps = [d * s for d, s in zip(geometry.dilations, source.strides[1:3], strict=True)]
    first = first + channel * source.strides[3]
    if prod(geometry.kernel) <= 9:
        for i in range(geometry.kernel[0]):
            for j in range(geometry.kernel[1]):
                body(first + (i * steps[0] + j * steps[1]))
        return
    with function.loop(0, geometry.kernel[0]) as i, function.loop(0, geometry.kernel[1]) as j:
        body(first + i * steps[0] + j * steps[1])


@dataclass(frozen=True)
class WindowMaxKernel:
    """The largest integer of each window. Operands: source, destination; N H W C, of one type."""

    geometry: Geometry
    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.destination

    @property
    def tasks(self) -> int:
        return _tasks(self.destination)

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        from tvm import tirx

        function = Function(self.operands)
        source, destination = function.operands
        step, out = self.source.strides[3], self.destination.strides[3]
        with _each_position(function, self.geometry, self.source, [self.destination]) as place:

            def channels(start: Any, lanes: int) -> None:
                best = function.register(load(source, place.source + start * step, lanes, step))

                def tap(offset: Any) -> None:
                    best.set(tirx.Max(best.get(), load(source, offset, lanes, step)))

                _each_tap(function, self.geometry, self.source, place.source, start, tap)
                store(destination, place.positions[0] + start * out, best.get(), out)

            walk_row(function, place.channels, 4 * target.lanes // self.source.dtype.bytes, channels)
        return function.finish()


def plan_window_max(op: Window, source: View, destination: View) -> tuple[WindowMaxKernel, tuple[Array, ...]]:
    """The kernel of a WindowMax node (no constants)."""
    geometry = Geometry.of(op)
    geometry.check(source, destination)
    return WindowMaxKernel(geometry, source, destination), ()


@dataclass(frozen=True)
class WindowSumKernel:
    """The requantized sum of each window. Operands: source, parameters, multiplier, destination; N H W C.

    Attributes:
        multiplier: int32, broadcasts to the destination (one number, or per channel, or per position).
    """

    geometry: Geometry
    method: Sum
    source: View
    multiplier: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, parameters_view(1), self.multiplier, self.destination

    @property
    def tasks(self) -> int:
        return _tasks(self.destination)

    @property
    def macs(self) -> int:
        return prod(self.destination.shape) * prod(self.geometry.kernel)

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        source, parameters, multiplier, destination = function.operands
        scaler = Scaler(function, self.method, parameters, 1, target.lanes, destination.dtype)
        step, out = self.source.strides[3], self.destination.strides[3]
        per_channel = self.multiplier.strides[3] if self.multiplier.shape[3] > 1 else 0
        with _each_position(function, self.geometry, self.source, [self.multiplier, self.destination]) as place:

            def channels(start: Any, lanes: int) -> None:
                total = function.register(constant(0, "int32", lanes))

                def tap(offset: Any) -> None:
                    total.set(total.get() + cast(load(source, offset, lanes, step), "int32"))

                _each_tap(function, self.geometry, self.source, place.source, start, tap)
                factor = load(multiplier, place.positions[0] + start * per_channel, lanes, per_channel)
                result = scaler.finish(scaler.centred([total.get()]), [factor])
                store(destination, place.positions[1] + start * out, result, out)

            walk_row(function, place.channels, target.lanes, channels)
        return function.finish()


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


def whole_image(multiplier: Array, source: View, destination: View) -> tuple[Geometry, Array, View]:
    """A sum over an image as the only window of it, with the multiplier and the destination in four axes."""
    if len(destination.shape) == 2:
        (batch, channels), (image, step) = destination.shape, destination.strides
        destination = View(destination.dtype, (batch, 1, 1, channels), (image, image, image, step))
        multiplier = multiplier.reshape(multiplier.shape[0], 1, 1, -1) if multiplier.ndim == 2 else multiplier
    return Geometry((source.shape[1], source.shape[2]), (1, 1), (1, 1)), multiplier, destination


def check_sum(geometry: Geometry, op: Requantize, source: View, destination: View) -> None:
    """Raises CodegenError for sums that no kernel computes."""
    geometry.check(source, destination)
    if len(op.zero_points) != 1 or destination.dtype != op.dtype or source.dtype.bits > 8:
        found = f"{len(op.zero_points)} terms of {source.dtype} into {destination.dtype}"
        raise CodegenError(f"window sum: expected one term of 8 bits and {op.dtype} results, got {found}")


def _planned(geometry: Geometry, op: Requantize, multiplier: Array, source: View, destination: View) -> Planned:
    check_sum(geometry, op, source, destination)
    peak = prod(geometry.kernel) * max(abs(bound) for bound in source.dtype.range) + abs(op.zero_points[0])
    if peak >= 1 << 31:
        raise CodegenError(f"window sum: sums up to {peak} do not fit 32 bits")
    multiplier = multiplier.reshape((1,) * (4 - multiplier.ndim) + multiplier.shape)
    numbers = scaling(op, [multiplier], [peak], op.zero_points, narrow=False)
    view = View.contiguous(I32, multiplier.shape)
    return WindowSumKernel(geometry, numbers.method, source, view, destination), (numbers.parameters, *numbers.multipliers)
