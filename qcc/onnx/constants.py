"""Imports the operators whose results are known at compile time because shapes are: constants, Shape, Range, casts of constants."""

from __future__ import annotations

import numpy as np

from qcc.ir import Array
from qcc.onnx.conversion import Call, Conversion, Unsupported, converts


@converts("Constant")
def constant(c: Conversion, call: Call) -> str:
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)):
        if name in call.attributes:
            return c.add_constant(np.array(call.get(name), kind), c.hint)
    if "value" not in call.attributes:
        raise Unsupported("a constant of strings or a sparse one")
    return c.add_constant(call.get("value"), c.hint)


@converts("Shape")
def shape(c: Conversion, call: Call) -> str:
    return c.add_constant(np.array(c.shape(call.inputs[0])[call.get("start", 0):call.get("end", None)], np.int64))


@converts("Size")
def size(c: Conversion, call: Call) -> str:
    return c.add_constant(np.array(c.type(call.inputs[0]).size, np.int64))


@converts("ConstantOfShape")
def constant_of_shape(c: Conversion, call: Call) -> str | None:
    extents = c.integers(call.inputs[0])
    value: Array = call.get("value", np.zeros(1, np.float32))
    # A view of one element: light test models fill hundreds of megabytes this way.
    return None if extents is None else c.add_constant(np.broadcast_to(value.reshape(()), extents))


@converts("Range")
def number_range(c: Conversion, call: Call) -> str | None:
    arrays = [c.constant(v) for v in call.inputs]
    if any(a is None for a in arrays):
        return None
    start, limit, step = (a.reshape(()) for a in arrays if a is not None)
    count = max(0, int(np.ceil((limit.astype(np.float64) - start) / step)))
    return c.add_constant((start + np.arange(count) * step).astype(start.dtype))


def cast_constant(array: Array, dtype: np.dtype[np.generic]) -> Array:
    """The elements in another type, as ONNX's Cast: towards zero from float to integer."""
    with np.errstate(all="ignore"):
        return array.astype(dtype)
