"""Random float networks over the operator set, ranges for them, and what a conversion must come to: material for property tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qcc.errors import TypeMismatch
from qcc.ir import Array, Graph, GraphBuilder, Op, TensorType, interpret
from qcc.ir.types import F32
from qcc.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Convolution,
    Divide,
    Function,
    Gather,
    Interpolate,
    MatMul,
    MaxPool,
    Multiply,
    Pad,
    PRelu,
    ReduceMean,
    Reshape,
    Slice,
    Subtract,
    Transpose,
)
from qcc.passes.calibrate import Range, collect, observed

Random = np.random.Generator
FUNCTIONS = (("sigmoid", ()), ("tanh", ()), ("hardswish", ()), ("gelu", ()), ("leaky_relu", (0.1,)), ("abs", ()), ("elu", (1.0,)))
MOST_ELEMENTS = 600


@dataclass
class Drawing:
    """A graph in the making. `values` are the float values that operators may read."""

    random: Random
    builder: GraphBuilder
    values: list[str]

    def pick(self, *ranks: int) -> str | None:
        """One of the values of these ranks (any if none is given); later ones are likelier."""
        fitting = [name for name in self.values if not ranks or self.type(name).rank in ranks]
        if not fitting:
            return None
        return fitting[max(self.random.integers(len(fitting)), self.random.integers(len(fitting)))]

    def type(self, name: str) -> TensorType:
        return self.builder.types[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.type(name).shape

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def constant(self, array: Array, hint: str = "constant") -> str:
        return self.builder.constant(array if array.dtype.kind == "i" else array.astype(np.float32), hint)

    def normal(self, *shape: int) -> Array:
        return self.random.normal(size=shape).astype(np.float32)

    def add(self, op: Op, *inputs: str) -> None:
        """Append the operator, unless its types or its size forbid it."""
        try:
            (type,) = op.infer(*(self.type(name) for name in inputs))
        except (TypeMismatch, ValueError):
            return
        if 0 < type.size <= MOST_ELEMENTS and type.rank <= 4:
            self.values.append(self.builder.add(op, inputs, [self.builder.fresh(f"v{len(self.values)}")]))

    def image(self) -> str | None:
        return self.pick(4)


def convolution(d: Drawing) -> None:
    if (x := d.image()) is None:
        return
    channels = d.shape(x)[1]
    groups = int(d.random.choice([g for g in (1, 2, channels) if channels % g == 0]))
    outputs = groups * d.number(1, 3)
    kernel = (d.number(1, 3), d.number(1, 3))
    weights = d.normal(outputs, channels // groups, *kernel)
    weights[d.random.random(outputs) < 0.15] = 0.0
    bias = d.normal(outputs) * np.float32(d.random.choice([0.0, 1.0, 1e4], p=[0.1, 0.85, 0.05]))
    pads = tuple(d.number(0, k - 1) for k in (*kernel, *kernel))
    op = Convolution((d.number(1, 2), d.number(1, 2)), (pads[0], pads[1], pads[2], pads[3]), (d.number(1, 2), 1), groups)
    d.add(op, x, d.constant(weights, "weight"), *([d.constant(bias, "bias")] if d.chance(0.7) else []))


def matmul(d: Drawing) -> None:
    if (x := d.pick(2, 3, 4)) is None:
        return
    columns = d.number(1, 5)
    w = d.constant(d.normal(d.shape(x)[-1], columns), "weight")
    d.add(MatMul(), x, w, *([d.constant(d.normal(columns), "bias")] if d.chance(0.5) else []))


def contraction(d: Drawing) -> None:
    """A matrix product of two computed values, the second turned so that it fits if need be."""
    if (a := d.pick(2, 3, 4)) is None or (b := d.pick(2, 3, 4)) is None:
        return
    if d.shape(a)[-1] != d.shape(b)[-2]:
        rank = d.type(b).rank
        d.add(Transpose((*range(rank - 2), rank - 1, rank - 2)), b)
        b = d.values[-1]
    d.add(MatMul(), a, b)


def broadcastable(d: Drawing, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to this one, of the same or a lower rank, at times of a higher one."""
    result = tuple(1 if d.chance(0.5) else n for n in shape)
    if d.chance(0.1) and len(shape) < 4:
        return (d.number(1, 2), *result)
    return result[d.number(0, len(shape)) if d.chance(0.3) else 0:]


def arithmetic(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    op: Op = [Add(), Subtract(), Multiply()][d.number(0, 2)]
    if d.chance(0.4):
        other = d.constant(d.normal(*broadcastable(d, d.shape(x))) * np.float32(d.random.choice([1.0, 0.0, 30.0], p=[0.8, 0.1, 0.1])))
    else:
        fitting = [name for name in d.values if _fits(d.shape(name), d.shape(x)) and (name != x or d.chance(0.1))]
        if not fitting:
            return
        other = fitting[d.number(0, len(fitting) - 1)]
    d.add(op, *((x, other) if d.chance(0.5) else (other, x)))


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True


def clip(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    if d.type(x).rank == 4 and d.chance(0.3):
        lows = d.normal(d.shape(x)[1])
        d.add(Clip(tuple(map(float, lows)), tuple(map(float, lows + abs(d.normal(len(lows))))), 1), x)
    else:
        bounds = [(0.0, np.inf), (0.0, 6.0), (-0.5, 0.25), (-np.inf, 1.0), (2.0, 1.0), (0.5, 0.75)]
        low, high = bounds[d.number(0, len(bounds) - 1)]
        d.add(Clip((float(low),), (float(high),)), x)


def function(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    d.add(Function(*FUNCTIONS[d.number(0, len(FUNCTIONS) - 1)]), x)


def prelu(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    shape = (d.shape(x)[1], 1, 1) if d.type(x).rank == 4 and d.chance(0.7) else (1,)
    d.add(PRelu(), x, d.constant(d.normal(*shape), "slope"))


def pool(d: Drawing) -> None:
    if (x := d.image()) is None:
        return
    kernel = (d.number(1, 3), d.number(1, 3))
    top, left, bottom, right = (d.number(0, k - 1) for k in (*kernel, *kernel))
    strides = (d.number(1, 3), d.number(1, 3))
    dilations = (2, 1) if top + bottom == 0 and d.chance(0.2) else (1, 1)      # no window may lie in the padding alone
    if d.chance(0.5):
        d.add(MaxPool(kernel, strides, (top, left, bottom, right), dilations, d.chance(0.4)), x)
    else:
        d.add(AveragePool(kernel, strides, (top, left, bottom, right), (1, 1), d.chance(0.4), d.chance(0.4)), x)


def mean(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    rank = d.type(x).rank
    axes = (2, 3) if rank == 4 and d.chance(0.6) else tuple(a for a in range(rank) if d.chance(0.4))
    if len(axes) < rank or d.chance(0.5):
        d.add(ReduceMean(axes, d.chance(0.6)), x)


def interpolate(d: Drawing) -> None:
    x = d.pick()
    if x is None or not d.type(x).rank:
        return
    axis = d.number(0, d.type(x).rank - 1) if d.type(x).rank != 4 or d.chance(0.2) else d.number(2, 3)
    extent, count = d.shape(x)[axis], d.number(1, 6)
    lower = d.random.integers(0, extent, count)
    tables = (lower, np.minimum(lower + 1, extent - 1), d.random.random(count).astype(np.float32))
    d.add(Interpolate(axis), x, *(d.constant(table, "table") for table in tables))


def gather(d: Drawing) -> None:
    x = d.pick()
    if x is None or not d.type(x).rank:
        return
    axis = d.number(0, d.type(x).rank - 1)
    shape = [(d.number(1, 4),), (), (2, 2)][d.number(0, 9) // 4]
    d.add(Gather(axis), x, d.constant(d.random.integers(0, d.shape(x)[axis], shape), "indices"))


def reshape(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    shape, size = d.shape(x), d.type(x).size
    first, last = (shape[0], shape[-1]) if shape else (1, 1)
    choices = [(first, -1), (-1,), (size, 1), (1, 1, size), (1, size, 1, 1), (*shape, 1), (1, *shape), (1, last, -1)]
    chosen = choices[0 if d.chance(0.4) else d.number(0, len(choices) - 1)]
    d.add(Reshape(tuple(np.zeros(size).reshape(chosen).shape)), x)


def transpose(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    order = (0, 2, 3, 1) if d.type(x).rank == 4 and d.chance(0.4) else tuple(int(a) for a in d.random.permutation(d.type(x).rank))
    d.add(Transpose(order), x)


def cut(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    starts, stops, steps = [], [], []
    for extent in d.shape(x):
        a, b = sorted((d.number(0, extent), d.number(0, extent))) if d.chance(0.5) else (0, extent)
        starts.append(a)
        stops.append(b)
        steps.append(d.number(1, 2))
    d.add(Slice(tuple(starts), tuple(stops), tuple(steps)), x)


def pad(d: Drawing) -> None:
    x = d.pick()
    assert x is not None
    before, after = (tuple(d.number(0, 2) if d.chance(0.5) else 0 for _ in d.shape(x)) for _ in range(2))
    d.add(Pad(before, after, [0.0, 0.5, -3.0][d.number(0, 2)]), x)


def concat(d: Drawing) -> None:
    x = d.pick()
    if x is None or not d.type(x).rank:
        return
    axis = d.number(0, d.type(x).rank - 1)

    def others(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:axis], *shape[axis + 1:])

    fitting = [n for n in d.values if d.type(n).rank == d.type(x).rank and others(d.shape(n)) == others(d.shape(x))]
    names = [x, *(fitting[d.number(0, len(fitting) - 1)] for _ in range(d.number(0, 3)))]
    if d.chance(0.1):
        names.append(d.constant(d.normal(*d.shape(x))))
    d.add(Concat(axis), *names)


def stay_float(d: Drawing) -> None:
    """Operators without an integer form."""
    x = d.pick()
    assert x is not None
    if d.type(x).rank >= 2 and d.chance(0.3):
        d.add(BatchNormalization(1e-5), x, *(d.constant(abs(d.normal(d.shape(x)[1])), "statistics") for _ in range(4)))
    else:
        d.add(Divide(), x, d.constant(np.float32(1.5) + abs(d.normal(*broadcastable(d, d.shape(x)))), "divisor"))


STEPS: tuple[Callable[[Drawing], None], ...] = (
    convolution, convolution, convolution, matmul, matmul, contraction, arithmetic, arithmetic, arithmetic, clip, clip, function, prelu,
    pool, pool,
    mean, interpolate, gather, reshape, reshape, transpose, cut, pad, concat, concat, stay_float,
)


def random_graph(seed: int) -> Graph:
    """A small float network of 1 to 12 operators; the same for the same seed."""
    random = np.random.default_rng(seed)
    d = Drawing(random, GraphBuilder(f"random {seed}"), [])
    for number in range(1 + (random.random() < 0.2)):
        rank = int(random.choice([2, 3, 4], p=[0.2, 0.2, 0.6]))
        shape = (d.number(1, 2), *(d.number(1, 5) for _ in range(rank - 1)))
        d.values.append(d.builder.input(f"x{number}", TensorType(F32, shape)))
    for _ in range(d.number(1, 12)):
        STEPS[d.number(0, len(STEPS) - 1)](d)
    chosen = [d.values[-1], *(name for name in d.values if d.chance(0.1))]
    d.builder.outputs.update({f"y{number}": name for number, name in enumerate(chosen)})
    return d.builder.build()


def random_feeds(graph: Graph, seed: int, count: int) -> Iterator[dict[str, Array]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {name: random.normal(size=graph.types[name].shape).astype(np.float32) for name in graph.inputs}


def measured(graph: Graph, values: tuple[str, ...], batches: list[dict[str, Array]]) -> dict[str, Range]:
    """Ranges of values by the NumPy interpreter."""
    seen = collect(values, lambda feeds: interpret(graph, feeds, keep=frozenset(values)), batches)
    return {name: observed(seen.seen(name), "minmax") for name in values}
