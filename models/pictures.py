"""Turns picture files into arrays of a given size."""

from __future__ import annotations

import gzip
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def _open(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.convert("RGB")


def _scaled(picture: Image.Image, size: int) -> Pixels:
    """The largest square in the middle, at size x size."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side))
    return np.asarray(middle.resize((size, size), Image.Resampling.BICUBIC), np.uint8)


def square(content: bytes, size: int) -> Pixels:
    """The middle of a picture file as uint8 [size, size, 3]."""
    return _scaled(_open(content), size)


def with_quarters(content: bytes, size: int) -> Pixels:
    """A picture file's middle and the middles of its four quarters, as uint8 [5, size, size, 3]."""
    picture = _open(content)
    x, y = picture.width // 2, picture.height // 2
    boxes = [(0, 0, x, y), (x, 0, 2 * x, y), (0, y, x, 2 * y), (x, y, 2 * x, 2 * y)]
    return np.stack([_scaled(picture, size), *(_scaled(picture.crop(box), size) for box in boxes)])


def digits(content: bytes) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Digits from lines of 784 pixel values and a label: uint8 [N, 28, 28, 1] and int64 [N]."""
    table = np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1]
