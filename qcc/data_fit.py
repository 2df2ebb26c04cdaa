"""Fits an array to a model's input: splits stacks into batches, turns pixels into numbers, and refuses what could change a value.

Pixels are uint8 in 0..255, channels last, of any height and width; everything else must have the input's shape and a type that
converts without loss of meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.data_files import fit_pixels
from qcc.errors import DataError
from qcc.ir.types import Array, TensorType


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How pixels become numbers: x = (pixel - mean) / std, per channel, with pixels in 0..255.

    Attributes:
        mean, std: one number, or one per channel in the model's order of channels; empty where data are not pixels.
        layout: of the model's input, "NCHW" or "NHWC"; "" tells it from the shape, where only one of them fits.
        color: the model's order of channels, "RGB" or "BGR".
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = ""
    color: str = "RGB"

    def __post_init__(self) -> None:
        if any(not np.isfinite(v) for v in (*self.mean, *self.std)) or any(s <= 0 for s in self.std):
            raise DataError(f"mean {self.mean}, std {self.std}: expected finite numbers and deviations above zero")
        if any(s < 1 for s in self.std):
            raise DataError(f"std {self.std}: expected units of pixels, 0 to 255, got a deviation below one; "
                            "if mean and std are meant for pixels scaled to 0..1, multiply both by 255")
        if self.layout not in ("", "NCHW", "NHWC") or self.color not in ("RGB", "BGR"):
            raise DataError(f"layout {self.layout!r}, color {self.color!r}: expected NCHW or NHWC, and RGB or BGR")

    @property
    def given(self) -> bool:
        """Whether the user said how pixels become numbers."""
        return bool(self.mean or self.std)


@dataclass(frozen=True, slots=True)
class Frame:
    """The pictures that an input takes."""

    height: int
    width: int
    channels: int
    channels_first: bool

    @property
    def size(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


def picture_frame(name: str, type: TensorType, options: DataOptions) -> Frame | None:
    """What pictures an input takes: those of rank 4 with 1 or 3 channels; None where it takes none.

    Raises:
        DataError: channels may be first or last, and the options do not say which.
    """
    if type.rank != 4 or not type.dtype.is_float:
        return None
    _, a, b, c = type.shape
    frames = {"NCHW": Frame(b, c, a, True), "NHWC": Frame(a, b, c, False)}
    able = [layout for layout, frame in frames.items() if frame.channels in (1, 3) and options.layout in ("", layout)]
    if len(able) == 2:
        raise DataError(f"input {name!r} {list(type.shape)}: channels may be first or last; say which with --layout NCHW or NHWC")
    return frames[able[0]] if able else None


def split_stack(where: str, array: Array, type: TensorType, options: DataOptions) -> Array:
    """View an array as [batches, *batch]: a batch has the type's shape, or is pictures [samples, height, width, channels].

    Raises:
        DataError: the shape is neither the type's, with or without its batch axis or a further axis, nor that of pictures.
    """
    shape = type.shape
    if array.shape == shape or (shape and shape[0] == 1 and array.shape == shape[1:]):
        return array.reshape(1, *shape)
    if array.shape[1:] == shape:
        return array
    if shape and array.ndim == len(shape) and array.shape[1:] == shape[1:]:
        return _divided(where, array, shape[0])
    frame = picture_frame(where, type, options) if array.dtype == np.uint8 and options.given else None
    if frame is not None and array.ndim in (3, 4) and array.shape[-1] == frame.channels and array.size:
        return _divided(where, array.reshape(-1, *array.shape[-3:]), shape[0])
    pixels = array.dtype == np.uint8 and not options.given
    hint = "; for pictures give --mean and --std: 0 and 1 leave pixels as they are, 0 and 255 make them 0 to 1" if pixels else ""
    stack = ", ".join(["N", *map(str, shape[1:])])
    raise DataError(f"{where}: expected the shape {list(shape)}, or a stack [{stack}] of samples, got {list(array.shape)}{hint}")


def _divided(where: str, array: Array, batch: int) -> Array:
    if batch == 0 or len(array) % batch:
        raise DataError(f"{where}: expected a multiple of the model's batch of {batch} samples, got {len(array)}")
    return array.reshape(-1, batch, *array.shape[1:])


def convert(where: str, array: Array, type: TensorType, options: DataOptions) -> Array:
    """One batch as a contiguous array of the type's element type and shape.

    Raises:
        DataError: the element type does not convert safely, or a value is not finite or out of range.
    """
    wanted, kind = type.dtype, array.dtype.kind
    if wanted.kind == "s":
        return np.asarray(array, np.object_).reshape(type.shape)
    if wanted.is_float and array.dtype == np.uint8 and options.given:
        array, kind = _normalized(where, array, type, options), "f"
    accepted = {"f": "f", "b": "b"}.get(wanted.kind, "iu")
    if kind not in accepted:
        hint = ", or give --mean and --std if it holds pixels of 0..255" if array.dtype == np.uint8 and wanted.is_float else ""
        raise DataError(f"{where}: expected {wanted}, got {array.dtype}; convert the array{hint}")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, wanted.numpy).reshape(type.shape)
    if wanted.is_float:
        _check_finite(where, result)
    elif not np.array_equal(result, array.reshape(type.shape)):
        raise DataError(f"{where}: expected values of {wanted}, {wanted.range[0]} to {wanted.range[1]}, got {array.min()} to {array.max()}")
    return result


def _check_finite(where: str, array: Array) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), array.shape)
        count = int(np.count_nonzero(~finite))
        raise DataError(f"{where}: expected finite numbers, got {array[index]} at {[int(i) for i in index]} "
                        f"({count} such of {array.size}); clean the data")


def _normalized(where: str, array: Array, type: TensorType, options: DataOptions) -> Array:
    """Pixels to float32 in the model's layout: (pixel - mean) / std in float64, rounded once."""
    mean, std = np.asarray(options.mean or (0.0,)), np.asarray(options.std or (1.0,))
    frame = picture_frame(where, type, options)
    if frame is None:
        if max(mean.size, std.size) > 1:
            raise DataError(f"{where}: the shape {list(type.shape)} is not that of pictures with channels; "
                            "give one number for mean and for std")
        return np.asarray((array - mean) / std, np.float32)
    for label, values in (("mean", mean), ("std", std)):
        if values.size not in (1, frame.channels):
            raise DataError(f"{where}: {values.size} numbers of {label} for {frame.channels} channels; give one, or one for each channel")
    if array.shape == type.shape:
        pixels = array.transpose(0, 2, 3, 1) if frame.channels_first else array
    else:
        pixels = np.stack([fit_pixels(picture, frame.size, options.color) for picture in array])
    real = np.asarray((pixels - mean) / std, np.float32)
    return real.transpose(0, 3, 1, 2) if frame.channels_first else real
