"""Sliding windows: output sizes and NumPy views shared by convolutions and pooling, float and integer."""

from __future__ import annotations

import numpy as np

from qcc.ir import Array, expect


def output_extent(extent: int, kernel: int, stride: int, dilation: int = 1, padding: int = 0, ceil: bool = False) -> int:
    """Number of window positions along one axis; `ceil` keeps a last window that starts inside but ends outside (ONNX's rule)."""
    expect(min(kernel, stride, dilation) >= 1, f"a window of {kernel} with stride {stride} and dilation {dilation}: all must be positive")
    room = extent + padding - dilation * (kernel - 1) - 1
    expect(room >= 0, f"a window of {kernel} (dilation {dilation}) does not fit an extent of {extent} with padding {padding}")
    return (room + (stride - 1 if ceil else 0)) // stride + 1


def windows(x: Array, axes: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> Array:
    """A read-only view with one more axis at the end per window axis: x[..., o, ..., k] = x[..., o * stride + k * dilation, ...]."""
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=axes)
    index: list[slice] = [slice(None)] * view.ndim
    for axis, stride in zip(axes, strides, strict=True):
        index[axis] = slice(None, None, stride)
    for position, dilation in enumerate(dilations):
        index[x.ndim + position] = slice(None, None, dilation)
    return view[tuple(index)]
