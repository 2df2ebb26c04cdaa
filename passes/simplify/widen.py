"""Turns half precision into float32: the one float type that everything behind the front end computes in."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from qcc.ir import Array, Graph, Node, Op, TensorType
from qcc.ir.types import F16, F32
from qcc.ops import OnnxOperator

HALF, SINGLE = 10, 1       # codes of the element types in attributes of ONNX operators
CODES = ("to", "dtype", "output_dtype", "stash_type")


def widen_halves(graph: Graph) -> Graph:
    """f16 values -> f32 values, inputs and outputs too; casts to f16 become casts to f32."""
    if all(type.dtype != F16 for type in graph.types.values()):
        return graph
    types = {name: _type(type) for name, type in graph.types.items()}
    constants = {name: _constant(array) for name, array in graph.constants.items()}
    nodes = tuple(Node(_operator(node.op), node.inputs, node.outputs) for node in graph.nodes)
    return replace(graph, nodes=nodes, constants=MappingProxyType(constants), types=MappingProxyType(types))


def _type(type: TensorType) -> TensorType:
    return replace(type, dtype=F32) if type.dtype == F16 else type


def _constant(array: Array) -> Array:
    if array.dtype != np.float16:
        return array
    wide = array.astype(np.float32)
    wide.flags.writeable = False
    return wide


def _operator(op: Op) -> Op:
    if not isinstance(op, OnnxOperator):
        return op
    results = tuple((str(F32) if dtype == str(F16) else dtype, shape) for dtype, shape in op.results)
    return replace(op, results=results, arguments=tuple((name, _argument(name, value)) for name, value in op.arguments))


def _argument(name: str, value: Any) -> Any:
    if name in CODES and value == HALF:
        return SINGLE
    if isinstance(value, tuple) and value[:2] == ("tensor", str(F16)):
        return ("tensor", str(F32), *value[2:])
    return value
