"""Requantization of any number of terms, products of two u8 tensors included, and clamping: element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.codegen.cpu.scale import Scaler, Scaling, Sum, parameters_view, scaling
from qcc.codegen.emit import Function
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest, load, store, walk
from qcc.errors import CodegenError
from qcc.ir import Array
from qcc.ir.types import I32
from qcc.ops import Requantize

if TYPE_CHECKING:
    from qcc.codegen.target import Target


@dataclass(frozen=True)
class RequantizeKernel:
    """Operands: sources (1 or 2 factors per term), parameters, multipliers, destination.

    Attributes:
        method: how sums are computed.
        terms: u8, i8 or i32 views that broadcast to the destination; two of them are one term if `product`.
        multipliers: constants as `Scaling` has them.
    """

    method: Sum
    terms: tuple[View, ...]
    multipliers: tuple[View, ...]
    destination: View
    product: bool = False

    @property
    def operands(self) -> tuple[View, ...]:
        return (*self.terms, parameters_view(len(self.terms)), *self.multipliers, self.destination)

    @property
    def nest(self) -> Nest:
        return Nest.of((*self.terms, *self.multipliers, self.destination))

    @property
    def tasks(self) -> int:
        return self.nest.tasks

    @property
    def macs(self) -> int:
        return self.nest.size * len(self.terms)

    def emit(self, target: Target) -> Any:
        function, nest, count = Function(self.operands), self.nest, len(self.terms)
        sources, parameters, factors, destination = (
            function.operands[:count], function.operands[count], function.operands[count + 1:-1], function.operands[-1])
        scaler = Scaler(function, self.method, parameters, count, target.lanes, destination.dtype)

        def body(places: Sequence[Any], lanes: int) -> None:
            values = scaler.centred([load(memory, places[i], lanes, nest.inner(i)) for i, memory in enumerate(sources)])
            if self.product:
                values = [function.let(values[0] * values[1])]
            numbers = [load(memory, places[count + i], lanes, nest.inner(count + i)) for i, memory in enumerate(factors)]
            store(destination, places[-1], scaler.finish(values, numbers), nest.inner(-1))

        walk(function, nest, target.lanes, body)
        return function.finish()


def plan_requantize(
    op: Requantize, terms: Sequence[View], multipliers: Sequence[Array], destination: View
) -> tuple[RequantizeKernel, tuple[Array, ...]]:
    """The kernel of a Requantize node and its constants.

    Args:
        terms: one view per term; they broadcast against each other to the destination's shape.
        multipliers: int32, one array per term, which broadcast likewise.

    Raises:
        CodegenError: a 32-bit term with a zero point, for which the generic kernel stands.
    """
    for view, zero in zip(terms, op.zero_points, strict=True):
        if zero and view.dtype.bits > 16:
            raise CodegenError(f"requantize: a zero point of {zero} on {view.dtype} could overflow: use the generic kernel")
    peaks = [max(abs(bound - zero) for bound in view.dtype.range) for view, zero in zip(terms, op.zero_points, strict=True)]
    narrow = len(terms) <= 2 and all(view.dtype.is_byte for view in terms)
    return _planned(op, scaling(op, multipliers, peaks, op.zero_points, narrow), terms, destination, False)


def plan_multiply(
    zero_points: tuple[int, int], op: Requantize, factors: Sequence[View], multiplier: Array, destination: View
) -> tuple[RequantizeKernel, tuple[Array, ...]]:
    """The kernel of an IntegerMultiply node of two u8 tensors with the Requantize node (of one term) behind it, and its constants."""
    if len(op.zero_points) != 1 or op.zero_points[0] != 0:
        raise CodegenError(f"multiply and requantize: expected one term with zero point 0, got {op.zero_points}")
    peak = 1
    for view, zero in zip(factors, zero_points, strict=True):
        peak *= max(abs(bound - zero) for bound in view.dtype.range)
    return _planned(op, scaling(op, [multiplier], [peak], zero_points, narrow=False), factors, destination, True)


def _planned(
    op: Requantize, numbers: Scaling, terms: Sequence[View], destination: View, product: bool
) -> tuple[RequantizeKernel, tuple[Array, ...]]:
    if destination.dtype != op.dtype:
        raise CodegenError(f"requantize to {op.dtype}: the destination has {destination.dtype}")
    views = tuple(View.contiguous(I32, array.shape) for array in numbers.multipliers)
    kernel = RequantizeKernel(numbers.method, tuple(terms), views, destination, product)
    return kernel, (numbers.parameters, *numbers.multipliers)


@dataclass(frozen=True)
class ClampKernel:
    """min(max(x, low), high). Operands: source, low, high (constants that broadcast), destination; all of one type."""

    source: View
    bounds: tuple[View, View]
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return (self.source, *self.bounds, self.destination)

    @property
    def tasks(self) -> int:
        return Nest.of(self.operands).tasks

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        from tvm import tirx

        function, nest = Function(self.operands), Nest.of(self.operands)

        def body(places: Sequence[Any], lanes: int) -> None:
            x, low, high = (load(function.operands[i], places[i], lanes, nest.inner(i)) for i in range(3))
            store(function.operands[3], places[3], tirx.Min(tirx.Max(x, low), high), nest.inner(3))

        walk(function, nest, 4 * target.lanes // self.source.dtype.bytes, body)
        return function.finish()


def plan_clamp(source: View, low: Array, high: Array, destination: View) -> tuple[ClampKernel, tuple[Array, Array]]:
    """The kernel of a Clamp node, and its constants (bounds of the source's type, which broadcast to it)."""
    low_view, high_view = (View.contiguous(source.dtype, bound.shape) for bound in (low, high))
    return ClampKernel(source, (low_view, high_view), destination), (low, high)
