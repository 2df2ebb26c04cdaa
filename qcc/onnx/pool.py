"""Imports pooling and mean reduction. Signals (rank 3) are pooled as images of height 1."""

from __future__ import annotations

from qcc.onnx.conversion import Call, Conversion, converts
from qcc.onnx.linear import as_images, as_signal, window_pads
from qcc.ops import AveragePool, MaxPool, ReduceMean


@converts("MaxPool", "AveragePool")
def pool(c: Conversion, call: Call) -> str | None:
    x, kernel = call.inputs[0], call.get("kernel_shape")
    rank = len(c.shape(x))
    if rank not in (3, 4) or not c.is_float(x) or c.wants(call, 1):
        return None
    spatial = rank - 2
    strides, dilations = call.get("strides", (1,) * spatial), call.get("dilations", (1,) * spatial)
    pads = window_pads(call, c.shape(x)[2:], kernel, strides, dilations)
    if rank == 3:
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    ceil = bool(call.get("ceil_mode", 0)) and call.get("auto_pad", "NOTSET") == "NOTSET"
    if call.type == "MaxPool":
        op: MaxPool | AveragePool = MaxPool(kernel, strides, pads, dilations, ceil)
    else:
        op = AveragePool(kernel, strides, pads, dilations, ceil, bool(call.get("count_include_pad", 0)))
    return c.emit(op, x) if rank == 4 else as_signal(c, c.emit(op, as_images(c, x)))


@converts("GlobalAveragePool")
def global_average(c: Conversion, call: Call) -> str | None:
    x = call.inputs[0]
    return c.emit(ReduceMean(tuple(range(2, len(c.shape(x))))), x) if c.is_float(x) else None


@converts("GlobalMaxPool")
def global_maximum(c: Conversion, call: Call) -> str | None:
    x = call.inputs[0]
    shape = c.shape(x)
    if len(shape) not in (3, 4) or not c.is_float(x):
        return None
    if len(shape) == 4:
        return c.emit(MaxPool((shape[2], shape[3])), x)
    return as_signal(c, c.emit(MaxPool((1, shape[2])), as_images(c, x)))


@converts("ReduceMean")
def reduce_mean(c: Conversion, call: Call) -> str | None:
    """Axes are an attribute up to opset 17, an input from 18 on."""
    x, rank = call.inputs[0], len(c.shape(call.inputs[0]))
    axes = c.integers(call.inputs[1]) if call.has(1) else call.get("axes", ())
    if axes is None or not c.is_float(x):
        return None
    if not axes:
        if call.get("noop_with_empty_axes", 0):
            return x
        axes = tuple(range(rank))
    return c.emit(ReduceMean(tuple(sorted({a % rank for a in axes})), bool(call.get("keepdims", 1))), x)
