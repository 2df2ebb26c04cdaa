"""Imports convolutions, matrix products and batch normalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcc.onnx.conversion import Call, Conversion, Unsupported, converts
from qcc.ops import Add, BatchNormalization, Convolution, MatMul, Multiply, Reshape, Transpose


@converts("Conv")
def convolution(c: Conversion, call: Call) -> str | None:
    x, w = call.inputs[:2]
    rank = len(c.shape(x))
    if rank not in (3, 4) or not c.is_float(x, w):
        return None
    spatial = rank - 2
    strides, dilations = call.get("strides", (1,) * spatial), call.get("dilations", (1,) * spatial)
    pads = window_pads(call, c.shape(x)[2:], c.shape(w)[2:], strides, dilations)
    inputs = [x, w, *([call.inputs[2]] if call.has(2) else [])]
    if rank == 4:
        return c.emit(Convolution(strides, pads, dilations, call.get("group", 1)), *inputs)
    inputs[:2] = [as_images(c, value) for value in inputs[:2]]
    op = Convolution((1, strides[0]), (0, pads[0], 0, pads[1]), (1, dilations[0]), call.get("group", 1))
    return as_signal(c, c.emit(op, *inputs))


def as_images(c: Conversion, value: str) -> str:
    """N C L as N C 1 L."""
    n, channels, length = c.shape(value)
    return c.emit(Reshape((n, channels, 1, length)), value)


def as_signal(c: Conversion, value: str) -> str:
    """N C 1 L as N C L."""
    n, channels, _, length = c.shape(value)
    return c.emit(Reshape((n, channels, length)), value)


def window_pads(
    call: Call, extents: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Any:
    """Padding before every axis, then behind every axis, as `pads` or `auto_pad` say."""
    mode = call.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads: tuple[int, ...] = call.get("pads", (0,) * (2 * len(extents)))
        if min(pads, default=0) < 0:
            raise Unsupported("negative padding; use a Slice in front of it")
        return pads
    if mode == "VALID":
        return (0,) * (2 * len(extents))
    totals = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in zip(extents, kernel, strides, dilations, strict=True)]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return large + small if mode == "SAME_LOWER" else small + large


@converts("MatMul")
def matmul(c: Conversion, call: Call) -> str | None:
    return c.emit(MatMul(), *call.inputs) if c.is_float(*call.inputs) else None


@converts("Gemm")
def gemm(c: Conversion, call: Call) -> str | None:
    """alpha * A @ B + beta * C. The factors go into B and C, which are constants nearly always."""
    a, b = call.inputs[:2]
    if not c.is_float(a, b):
        return None
    a = c.emit(Transpose((1, 0)), a) if call.get("transA", 0) else a
    b = c.emit(Transpose((1, 0)), b) if call.get("transB", 0) else b
    b = scaled(c, b, call.get("alpha", 1.0))
    beta = call.get("beta", 1.0)
    if not call.has(2) or beta == 0.0:
        return c.emit(MatMul(), a, b)
    bias = scaled(c, call.inputs[2], beta)
    columns, array = c.shape(b)[1], c.constant(bias)
    if array is not None and array.size in (1, columns) and array.shape[-1:] in ((), (1,), (columns,)):
        full = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (columns,)))
        return c.emit(MatMul(), a, b, bias if array.shape == (columns,) else c.add_constant(full))
    return c.emit(Add(), c.emit(MatMul(), a, b), bias)


def scaled(c: Conversion, value: str, factor: float) -> str:
    if factor == 1.0:
        return value
    return c.emit(Multiply(), value, c.add_constant(np.array(factor, c.type(value).dtype.numpy)))


@converts("BatchNormalization")
def batch_normalization(c: Conversion, call: Call) -> str | None:
    if call.get("training_mode", 0) or call.get("spatial", 1) == 0 or any(c.wants(call, i) for i in range(1, 5)):
        raise Unsupported("batch normalization in training mode; export the model for inference (model.eval())")
    if not c.is_float(*call.inputs) or len({c.type(v).dtype for v in call.inputs}) > 1:
        return None
    return c.emit(BatchNormalization(float(call.get("epsilon", 1e-5))), *call.inputs)
