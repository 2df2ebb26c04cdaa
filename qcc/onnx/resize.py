"""Imports Resize and Upsample: nearest as a gather per axis, linear as an interpolation per axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcc.ir import Array
from qcc.onnx.conversion import Call, Conversion, converts
from qcc.ops import Gather, Interpolate

# In float32 and in this order of operations, as ONNX Runtime does: positions near halves round differently otherwise.
# x: output positions, s: scale, old, new: extents
COORDINATES: dict[str, Callable[[Array, Any, int, int], Array]] = {
    "asymmetric": lambda x, s, old, new: x / s,
    "half_pixel": lambda x, s, old, new: (x + np.float32(0.5)) / s - np.float32(0.5),
    "half_pixel_symmetric": lambda x, s, old, new: _symmetric(x, s, old, new),
    "pytorch_half_pixel": lambda x, s, old, new: (x + np.float32(0.5)) / s - np.float32(0.5) if new > 1 else np.zeros_like(x),
    "align_corners": lambda x, s, old, new: x * np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.zeros_like(x),
    "tf_half_pixel_for_nn": lambda x, s, old, new: (x + np.float32(0.5)) / s,
}

NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.where(x == np.floor(x) + np.float32(0.5), np.floor(x), np.floor(x + np.float32(0.5))),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
    "simple": np.floor,       # opsets 7 to 10
}


def _symmetric(x: Array, s: Any, old: int, new: int) -> Array:
    adjustment = np.float32(new) / (s * np.float32(old))
    center = np.float32(old) / np.float32(2)
    offset = center * (np.float32(1) - adjustment)
    result: Array = offset + (x + np.float32(0.5)) / s - np.float32(0.5)
    return result


@converts("Resize", "Upsample")
def resize(c: Conversion, call: Call) -> str | None:
    x = call.inputs[0]
    shape = c.shape(x)
    extents = _extents(c, call, shape)
    mode = call.get("mode", "nearest")
    first = call.opset < 11 or call.type == "Upsample"
    coordinates = call.get("coordinate_transformation_mode", "asymmetric" if first else "half_pixel")
    rounding = call.get("nearest_mode", "simple" if first else "round_prefer_floor")
    known = coordinates in COORDINATES and mode in ("nearest", "linear", "bilinear") and not call.get("antialias", 0)
    if extents is None or not known or not c.is_float(x):
        return None
    for axis, (new, scale) in enumerate(extents):
        if (new, scale) == (shape[axis], 1.0):
            continue
        positions = COORDINATES[coordinates](np.arange(new, dtype=np.float32), np.float32(scale), shape[axis], new)
        positions = np.asarray(positions, np.float32)
        last = shape[axis] - 1
        if mode == "nearest":
            indices = np.clip(NEAREST[rounding](positions), 0, last).astype(np.int64)
            if not np.array_equal(indices, np.arange(shape[axis])):
                x = c.emit(Gather(axis), x, c.add_constant(indices))
        else:
            x = _interpolate(c, x, axis, np.clip(positions, 0, last), last)
    return x


def _interpolate(c: Conversion, x: str, axis: int, positions: Array, last: int) -> str:
    lower = np.floor(positions).astype(np.int64)
    weight = (positions - lower).astype(c.type(x).dtype.numpy)
    constants = (c.add_constant(a) for a in (lower, np.minimum(lower + 1, last), weight))
    return c.emit(Interpolate(axis), x, *constants)


def _extents(c: Conversion, call: Call, shape: tuple[int, ...]) -> list[tuple[int, float]] | None:
    """New extent and scale per axis, or None if they are not constant."""
    first = call.type == "Upsample" or call.opset < 11
    place = 1 if first else 2
    scales, sizes = c.constant(call.inputs[place]) if call.has(place) else None, c.integers(call.inputs[3]) if call.has(3) else None
    if call.get("scales") is not None:
        scales = np.array(call.get("scales"), np.float32)
    axes = tuple(a % len(shape) for a in call.get("axes", range(len(shape))))
    result = [(n, 1.0) for n in shape]
    if sizes:
        factors = [size / shape[a] for a, size in zip(axes, sizes, strict=True)]
        policy = call.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors, sizes = [factor] * len(axes), tuple(int(np.floor(factor * shape[a] + 0.5)) for a in axes)
        for axis, size, factor in zip(axes, sizes, factors, strict=True):
            result[axis] = (size, factor)
        return result
    if scales is None or scales.size != len(axes):
        return None
    for axis, scale in zip(axes, scales.reshape(-1), strict=True):
        result[axis] = (int(np.floor(np.float32(shape[axis]) * scale)), float(scale))
    return result
