"""Kernels with one thread per element: sums of scaled terms, clamps, tables.

A thread's number is divided into the indices of the loops (codegen/nest.py merges those that can be one).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.emit import GpuFunction, divide, modulo
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.cuda.scale import Scale, Scaler, numbers_view, scale_of
from qcc.codegen.emit import cast
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize

if TYPE_CHECKING:
    from qcc.codegen.target import Target

THREADS = 256


def launch_of(count: int) -> Launch:
    """As many threads as there are elements, at least one.

    Raises:
        CodegenError: more than 32-bit numbers of threads and elements can count.
    """
    if count >= 1 << 31:
        raise CodegenError(f"a kernel over {count} elements: GPU kernels count them in 32 bits; compile for a smaller batch")
    return Launch((max(1, -(-count // THREADS)), 1, 1), (THREADS, 1, 1))


def ordered(nest: Nest) -> Nest:
    """The loops with those innermost along which the last operand (the one that is written) is densest."""
    order = sorted(range(len(nest.shape)), key=lambda axis: -nest.strides[-1][axis])
    return nest.permuted(order)


def each(function: GpuFunction, nest: Nest, body: Callable[[Sequence[Any]], None]) -> None:
    """`body(offset of each operand)` for the element of this thread."""
    number = function.let(function.block * THREADS + function.thread, "number")
    with function.when(number < nest.size):
        indices: list[Any] = []
        rest = number
        for axis in reversed(range(len(nest.shape))):
            indices.insert(0, rest if axis == 0 else function.let(modulo(rest, nest.shape[axis]), f"i{axis}"))
            rest = divide(rest, nest.shape[axis])
        body([sum((index * step for index, step in zip(indices, steps, strict=True) if step), 0) for steps in nest.strides])


class Elementwise(ABC):
    """What kernels over broadcast operands share."""

    @property
    @abstractmethod
    def operands(self) -> tuple[View, ...]:
        """The last one is written."""

    @property
    def walked(self) -> tuple[View, ...]:
        """The operands that the loops go over."""
        return self.operands

    @property
    def nest(self) -> Nest:
        return ordered(Nest.of(self.walked))

    @property
    def launch(self) -> Launch:
        return launch_of(self.nest.size)

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function = GpuFunction(self.operands, self.launch)
        self.body(function)
        return function.finish()

    @abstractmethod
    def body(self, function: GpuFunction) -> None:
        """Emit what each thread does."""


@dataclass(frozen=True)
class RequantizeKernel(Elementwise):
    """Operands: sources (1 or 2 factors per term), numbers, multipliers, destination.

    Attributes:
        scale: how sums are computed.
        terms: integer views that broadcast to the destination; two of them are one term if `product`.
        multipliers: int32, one per term.
    """

    scale: Scale
    terms: tuple[View, ...]
    multipliers: tuple[View, ...]
    destination: View
    product: bool = False

    @property
    def operands(self) -> tuple[View, ...]:
        return (*self.terms, numbers_view(len(self.terms)), *self.multipliers, self.destination)

    @property
    def walked(self) -> tuple[View, ...]:
        return (*self.terms, *self.multipliers, self.destination)

    @property
    def macs(self) -> int:
        return self.nest.size * len(self.terms)

    def body(self, function: GpuFunction) -> None:
        count = len(self.terms)
        sources, numbers, factors = function.operands[:count], function.operands[count], function.operands[count + 1:-1]
        scaler = Scaler(function, self.scale, numbers, count)

        def element(places: Sequence[Any]) -> None:
            values = scaler.centred([memory.load(place) for memory, place in zip(sources, places[:count], strict=True)])
            if self.product:
                values = [values[0] * values[1]]
            multipliers = [memory.load(place) for memory, place in zip(factors, places[count:-1], strict=True)]
            function.operands[-1].store(places[-1], cast(scaler.finish(values, multipliers), function.operands[-1].dtype))

        each(function, self.nest, element)


def plan_requantize(
    op: Requantize, terms: Sequence[View], multipliers: Sequence[Array], destination: View
) -> tuple[RequantizeKernel, tuple[Array, ...]]:
    """The kernel of a Requantize node and its constants: numbers and multipliers. All views broadcast to the destination's shape."""
    scale, numbers = scale_of(op, op.zero_points, any(view.dtype.bits > 16 for view in terms))
    views = tuple(View.contiguous(I32, array.shape) for array in multipliers)
    return RequantizeKernel(scale, tuple(terms), views, destination), (numbers, *multipliers)


def plan_multiply(
    zero_points: tuple[int, int], op: Requantize, factors: Sequence[View], multiplier: Array, destination: View
) -> tuple[RequantizeKernel, tuple[Array, ...]]:
    """The kernel of an IntegerMultiply node of two u8 tensors with the Requantize node (of one term) behind it, and its constants."""
    if op.zero_points != (0,):
        raise CodegenError(f"multiply and requantize: expected one term with zero point 0, got {op.zero_points}")
    scale, numbers = scale_of(op, zero_points, False)
    views = (View.contiguous(I32, multiplier.shape),)
    return RequantizeKernel(scale, tuple(factors), views, destination, True), (numbers, multiplier)


@dataclass(frozen=True)
class ClampKernel(Elementwise):
    """min(max(x, low), high). Operands: source, low, high (constants that broadcast), destination; all of one type."""

    source: View
    bounds: tuple[View, View]
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return (self.source, *self.bounds, self.destination)

    def body(self, function: GpuFunction) -> None:
        from tvm import tirx

        source, low, high, destination = function.operands
        each(function, self.nest, lambda p: destination.store(
            p[3], tirx.Min(tirx.Max(source.load(p[0]), low.load(p[1])), high.load(p[2]))))


def plan_clamp(source: View, low: Array, high: Array, destination: View) -> tuple[ClampKernel, tuple[Array, ...]]:
    """The kernel of a Clamp node, and its constants (bounds of the source's type, which broadcast to it)."""
    low_view, high_view = (View.contiguous(source.dtype, bound.shape) for bound in (low, high))
    return ClampKernel(source, (low_view, high_view), destination), (low, high)


@dataclass(frozen=True)
class LookupKernel(Elementwise):
    """table[x]. Operands: source u8, table (256 entries, or those for each index of the last axis), destination of the table's type."""

    source: View
    table: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.table, self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        rows = self.table.shape[0] if len(self.table.shape) == 2 else 1
        return self.source, View(self.table.dtype, (rows,), (256 if rows > 1 else 0,)), self.destination

    def body(self, function: GpuFunction) -> None:
        source, table, destination = function.operands
        each(function, self.nest, lambda p: destination.store(p[2], table.load(p[1] + cast(source.load(p[0]), "int32"))))


def plan_lookup(source: View, table: Array, destination: View) -> tuple[LookupKernel, tuple[Array, ...]]:
    """The kernel of a Lookup node, and its table ([256], or [C, 256] per index of the last axis)."""
    return LookupKernel(source, View.contiguous(destination.dtype, table.shape), destination), (table,)
