"""The proof that no integer leaves its type, from the actual weights: int32 for accumulators, int64 for requantization sums."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.arith import INT32_MAX, INT64_MAX, accumulator_bounds
from qcc.errors import ModelError
from qcc.ir import Graph, Node
from qcc.ops import (
    IntegerBatchMatMul,
    IntegerConvolution,
    IntegerInterpolate,
    IntegerMatMul,
    IntegerMultiply,
    ReduceSum,
    Requantize,
    WindowSum,
)


@dataclass(frozen=True, slots=True)
class Bound:
    """What a value can reach, and what its type holds."""

    value: str
    low: int
    high: int
    limit: int

    @property
    def holds(self) -> bool:
        return -self.limit - 1 <= self.low and self.high <= self.limit


def prove(graph: Graph) -> tuple[Bound, ...]:
    """Bounds of every int32 value and every int64 sum of an INTEGER graph.

    Raises:
        ModelError: a bound does not hold; it names all values for which this is so.
    """
    reach: dict[str, tuple[int, int]] = {}
    bounds: list[Bound] = []
    for node in graph.nodes:
        found = _accumulator(graph, node, reach)
        if found is not None:
            reach[node.outputs[0]] = found
            bounds.append(Bound(node.outputs[0], *found, INT32_MAX))
        if isinstance(node.op, Requantize):
            bounds.append(Bound(node.outputs[0], *_sum(graph, node, node.op, reach), INT64_MAX))
    broken = [bound for bound in bounds if not bound.holds]
    if broken:
        listed = ", ".join(f"%{b.value} ({b.low}..{b.high})" for b in broken[:5])
        raise ModelError(f"graph {graph.name!r}: integers could overflow: {listed}; the layers must be split or kept in float")
    return tuple(bounds)


def _range(graph: Graph, name: str, reach: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if name in reach:
        return reach[name]
    if name in graph.constants:
        array = graph.constants[name]
        return int(array.min()), int(array.max())
    return graph.types[name].dtype.range


def _accumulator(graph: Graph, node: Node, reach: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    op = node.op
    if isinstance(op, IntegerConvolution | IntegerMatMul):
        low, high = _range(graph, node.inputs[0], reach)
        lowest, highest = accumulator_bounds(graph.constants[node.inputs[1]], graph.constants[node.inputs[2]], low, high)
        return int(lowest.min()), int(highest.max())
    if not isinstance(op, IntegerBatchMatMul | IntegerInterpolate | IntegerMultiply | ReduceSum | WindowSum):
        return None
    low, high = _range(graph, node.inputs[0], reach)
    if isinstance(op, IntegerInterpolate):
        return low << op.bits, high << op.bits
    if isinstance(op, ReduceSum):
        count = graph.types[node.inputs[0]].size // max(1, graph.types[node.outputs[0]].size)
        return min(0, low * count), max(0, high * count)
    if isinstance(op, WindowSum):
        count = op.kernel[0] * op.kernel[1]
        return min(0, low * count), max(0, high * count)
    ranges = [(a - z, b - z) for (a, b), z in zip((_range(graph, n, reach) for n in node.inputs), op.zero_points, strict=True)]
    products = [a * b for a in ranges[0] for b in ranges[1]]
    depth = graph.types[node.inputs[0]].shape[-1] if isinstance(op, IntegerBatchMatMul) else 1
    return depth * min(products), depth * max(products)


def _sum(graph: Graph, node: Node, op: Requantize, reach: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """The 64-bit sum with rounding, without and with the zero point folded in, as kernels may have it."""
    low = high = 1 << (op.shift - 1)
    for value, multiplier, zero in zip(node.inputs[::2], node.inputs[1::2], op.zero_points, strict=True):
        m = graph.constants[multiplier]
        ends = [(end - zero) * factor for end in _range(graph, value, reach) for factor in (int(m.min()), int(m.max()))]
        low, high = low + min(ends), high + max(ends)
    zero = op.zero_point << op.shift
    return min(low, low + zero), max(high, high + zero)
