"""Recognizes named functions that a model spells out in simple operators, by what they compute and not by how they are written."""

from __future__ import annotations

from functools import cache

import numpy as np

from qcc.ir import Array, Graph, Node
from qcc.ops import Clip, Function
from qcc.ops.functions import FUNCTIONS
from qcc.ops.pointwise import Binary
from qcc.passes.simplify.rewrite import Rewriting, rewriting

# Functions that exporters spell out, with the parameters that occur.
CANDIDATES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("hardsigmoid", (1 / 6, 0.5)), ("hardsigmoid", (0.2, 0.5)), ("hardswish", ()), ("silu", ()), ("sigmoid", ()), ("gelu", ()),
    ("gelu_tanh", ()), ("mish", ()), ("softplus", ()), ("softsign", ()), ("tanh", ()), ("elu", (1.0,)),
)
# Wide and fine enough to tell all of them, and their close relatives, apart; no point is at a bend.
GRID = np.concatenate([np.linspace(-30.03, 30.05, 997), np.linspace(-4.013, 4.017, 499)])
TOLERANCE = 3e-6        # constants are float32 in models


def recognize_functions(graph: Graph) -> Graph:
    """A tree of elementwise operators over one value x and scalar constants -> the named function of x that it computes.

    x * sigmoid(x) -> silu(x); x * clip(x + 3, 0, 6) / 6 -> hardswish(x); x * 0.5 * (1 + erf(x / sqrt(2))) -> gelu(x); ...
    """
    return _functions(graph)


@cache
def _table() -> tuple[tuple[str, tuple[float, ...], Array], ...]:
    return tuple((name, parameters, FUNCTIONS[name](GRID, *parameters)) for name, parameters in CANDIDATES)


def _recognized(rw: Rewriting, node: Node) -> str | None:
    if not isinstance(node.op, Binary | Clip | Function) or rw.types[node.inputs[0]].dtype.kind != "f":
        return None
    for x in _roots(rw, node):
        values = _on_grid(rw, node, x)
        if values is None:
            continue
        for name, parameters, expected in _table():
            if bool(np.all(np.abs(values - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected)))):
                return rw.emit(Function(name, parameters), (x,), node.outputs[0])
    return None


def _roots(rw: Rewriting, node: Node) -> list[str]:
    """Values below the node that its tree could be a function of: at least two operators away, the farthest first."""
    shape = rw.shape(node.inputs[0])
    found: dict[str, None] = {}
    level = {name for name in node.inputs if rw.constant(name) is None}
    for _ in range(8):
        below = {name for value in level if (made := rw.producer(value, (Binary, Clip, Function))) is not None
                 for name in made.inputs if rw.constant(name) is None}
        if not below:
            break
        found.update(dict.fromkeys(name for name in sorted(below) if rw.shape(name) == shape))
        level = below
    return list(found)[::-1]


def _on_grid(rw: Rewriting, node: Node, x: str) -> Array | None:
    """The values of the node's tree on the grid, in float64, if it is a function of x alone."""
    values: dict[str, Array] = {x: GRID}

    def compute(op: object, inputs: tuple[str, ...], depth: int) -> Array | None:
        arrays = []
        for name in inputs:
            array = values.get(name)
            array = value(name, depth) if array is None else array
            if array is None:
                return None
            arrays.append(array)
        with np.errstate(all="ignore"):
            result: Array = op.evaluate(*arrays)[0]  # type: ignore[attr-defined]  # an operator
        return result

    def value(name: str, depth: int) -> Array | None:
        constant = rw.constant(name)
        if constant is not None:
            return constant.astype(np.float64).reshape(()) if constant.size == 1 else None
        made = rw.producer(name, (Binary, Clip, Function))
        if made is None or depth == 0 or (isinstance(made.op, Clip) and made.op.axis is not None):
            return None
        result = compute(made.op, made.inputs, depth - 1)
        if result is not None:
            values[name] = result
        return result

    if isinstance(node.op, Clip) and node.op.axis is not None:
        return None
    return compute(node.op, node.inputs, 10)


_functions = rewriting(_recognized)
