"""Brings constant arithmetic to one form: x * a + b, with one product and one sum."""

from __future__ import annotations

import numpy as np

from qcc.ir import Array, Graph, Node
from qcc.ops import Add, BatchNormalization, Divide, Function, Multiply, Subtract
from qcc.passes.simplify.constants import compress, operand
from qcc.passes.simplify.rewrite import Rewriting, rewriting


def decompose_batchnorm(graph: Graph) -> Graph:
    """batch_normalization(x, gamma, beta, mean, variance) -> x * a + b with constants a, b per channel."""
    return _batchnorm(graph)


def _decomposed(rw: Rewriting, node: Node) -> str | None:
    arrays = [rw.constant(name) for name in node.inputs[1:]]
    if not isinstance(node.op, BatchNormalization) or any(a is None for a in arrays):
        return None
    gamma, beta, mean, variance = (a.astype(np.float64) for a in arrays if a is not None)
    x, name = node.inputs[0], node.outputs[0]
    factor = gamma / np.sqrt(variance + node.op.epsilon)
    column = (-1, *[1] * (len(rw.shape(x)) - 2))
    dtype = rw.types[x].dtype.numpy
    a, b = (compress(v.astype(dtype).reshape(column)) for v in (factor, beta - mean * factor))
    product = rw.emit(Multiply(), (x, rw.add_constant(a, f"{name}/factor")), f"{name}/scaled")
    return rw.emit(Add(), (product, rw.add_constant(b, f"{name}/offset")), name)


def normalize_arithmetic(graph: Graph) -> Graph:
    """Arithmetic with constants -> one product and one sum.

    x - c -> x + (-c); c - x -> x * (-1) + c; x / c -> x * (1 / c); -x -> x * (-1); c + x -> x + c
    x * a * b -> x * (a * b); x + a + b -> x + (a + b); (x + a) * b -> x * b + a * b; x * 1 -> x; x + 0 -> x
    constants that repeat along an axis -> extent 1 there
    """
    return _arithmetic(graph)


def _without_minus(rw: Rewriting, node: Node) -> str | None:
    name = node.outputs[0]
    if not rw.types[node.inputs[0]].dtype.is_float:
        return None
    if isinstance(node.op, Function) and node.op.function == "neg":
        return rw.emit(Multiply(), (node.inputs[0], _number(rw, node, -1.0)), name)
    if isinstance(node.op, Subtract) and rw.constant(node.inputs[0]) is not None and rw.constant(node.inputs[1]) is None:
        negative = rw.emit(Multiply(), (node.inputs[1], _number(rw, node, -1.0)), f"{name}/negative")
        return rw.emit(Add(), (negative, node.inputs[0]), name)
    divisor = rw.constant(node.inputs[1]) if len(node.inputs) == 2 else None
    if divisor is None or rw.constant(node.inputs[0]) is not None:
        return None
    if isinstance(node.op, Subtract):
        return rw.emit(Add(), (node.inputs[0], rw.add_constant(-divisor, f"{name}/offset")), name)
    if isinstance(node.op, Divide) and np.all(divisor != 0):
        factor = _round(1.0 / divisor.astype(np.float64), divisor)
        return rw.emit(Multiply(), (node.inputs[0], rw.add_constant(factor, f"{name}/factor")), name)
    return None


def _number(rw: Rewriting, node: Node, value: float) -> str:
    return rw.add_constant(np.array(value, rw.types[node.inputs[0]].dtype.numpy), f"{node.outputs[0]}/factor")


def _round(exact: Array, like: Array) -> Array:
    return exact.astype(like.dtype)


def _constant_second(rw: Rewriting, node: Node) -> str | None:
    if isinstance(node.op, Add | Multiply) and rw.constant(node.inputs[0]) is not None and rw.constant(node.inputs[1]) is None:
        return rw.emit(node.op, node.inputs[::-1], node.outputs[0])
    return None


def _compressed(rw: Rewriting, node: Node) -> str | None:
    found = operand(rw, node) if isinstance(node.op, Add | Multiply) else None
    if found is None:
        return None
    x, array = found
    if array.size == 1 and float(array.reshape(())) == (1.0 if isinstance(node.op, Multiply) else 0.0):
        return x
    small = compress(array)
    if small.shape == array.shape:
        return None
    return rw.emit(node.op, (x, rw.add_constant(small, f"{node.outputs[0]}/constant")), node.outputs[0])


def _merged(rw: Rewriting, node: Node) -> str | None:
    found = operand(rw, node) if isinstance(node.op, Add | Multiply) else None
    before = rw.producer(node.inputs[0], (Add, Multiply), alone=True) if found else None
    inner = operand(rw, before) if before else None
    if found is None or before is None or inner is None:
        return None
    (_, b), (x, a), name = found, inner, node.outputs[0]
    exact_a, exact_b = a.astype(np.float64), b.astype(np.float64)
    if type(before.op) is type(node.op):
        total = exact_a * exact_b if isinstance(node.op, Multiply) else exact_a + exact_b
        return rw.emit(node.op, (x, rw.add_constant(_round(total, a), f"{name}/constant")), name)
    if isinstance(node.op, Multiply):
        product = rw.emit(Multiply(), (x, node.inputs[1]), f"{name}/scaled")
        return rw.emit(Add(), (product, rw.add_constant(_round(exact_a * exact_b, a), f"{name}/offset")), name)
    return None


_batchnorm = rewriting(_decomposed)
_arithmetic = rewriting(_without_minus, _constant_second, _compressed, _merged)
