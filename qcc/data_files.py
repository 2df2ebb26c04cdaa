"""Reads tensors from files: .npy, .npz, ONNX's .pb, pictures, and folders of any one kind of these.

Decides what the files of a folder are, in which order they are read, and how a picture becomes an array of pixels. Whether the arrays
fit a model is decided in qcc/data.py. Memory: a .npy file is mapped, not read; of everything else one file at a time is held.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcc.errors import DataError
from qcc.ir.types import Array

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_NPY = b"\x93NUMPY"
_KINDS = {".npy": "npy", ".npz": "npz", **dict.fromkeys(PICTURES, "picture")}
_VECTOR_FOLDERS = "test_data_set_*"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that was read: where from, and the array, or the arrays by name or in the order of the model's inputs."""

    where: str
    content: Array | Mapping[str, Array] | tuple[Array, ...]


def read_path(path: Path, inputs: Sequence[str], size: tuple[int, int, int] | None, color: str) -> Iterator[Item]:
    """The items of a file or a folder, in the order of their names.

    Args:
        inputs: names of the model's inputs, which say what to take out of a .npz file.
        size: (height, width, channels) of the pictures that the model takes; None where its input is not a picture.
        color: "RGB" or "BGR", the order of the channels that the model was trained with.

    Raises:
        DataError: nothing there that can be read, more than one kind of file, or a damaged file.
    """
    try:
        files = _files(path)
    except OSError as error:
        raise DataError(f"data {path}: {error.strerror or error}") from error
    for file in files:
        yield read_file(file, inputs, size, color)


def count_files(path: Path) -> int | None:
    """How many pictures a folder holds, or test_data_set_* folders; None for what may hold several samples each, or cannot be read."""
    try:
        files = _files(path)
    except (OSError, DataError):
        return None
    return len(files) if all(file.is_dir() or file.suffix.lower() in PICTURES for file in files) else None


def read_file(path: Path, inputs: Sequence[str], size: tuple[int, int, int] | None, color: str) -> Item:
    """One file (or one test_data_set_* folder of .pb files) as an item; errors as for `read_path`."""
    try:
        if path.is_dir():
            return Item(str(path), _vectors(path))
        kind = _KINDS.get(path.suffix.lower())
        if kind == "picture":
            return Item(str(path), _picture(path, size, color))
        if kind == "npz":
            return Item(str(path), _archive(path, inputs))
        if kind == "npy":
            return Item(str(path), _array(path))
        if path.suffix.lower() == ".pb":
            return Item(str(path), _tensor(path))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"data {path}: cannot be read: {_reason(error)}; expected an intact {path.suffix or 'data'} file") from error
    raise DataError(f"data {path}: expected .npy, .npz, .pb, a picture ({', '.join(sorted(PICTURES))}) or a folder of one kind of these")


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0].rstrip(".") or type(error).__name__


def _files(path: Path) -> list[Path]:
    """The file itself, or what a folder holds: all of one kind, sorted; hidden files and files of other kinds do not count."""
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"data {path}: no such file or folder")
        return [path]
    vectors = sorted(entry for entry in path.glob(_VECTOR_FOLDERS) if entry.is_dir())
    if path.match(_VECTOR_FOLDERS):
        vectors = [path]
    found: dict[str, list[Path]] = {"test_data_set": vectors} if vectors else {}
    for file in sorted(path.rglob("*")):
        kind = _KINDS.get(file.suffix.lower())
        if kind and file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
            found.setdefault(kind, []).append(file)
    if not found:
        raise DataError(f"data {path}: the folder holds no data; expected .npy or .npz files, pictures, "
                        f"or {_VECTOR_FOLDERS} folders of .pb files")
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} x {kind}" for kind, files in sorted(found.items()))
        raise DataError(f"data {path}: expected files of one kind, got {counts}; keep each kind in a folder of its own")
    return next(iter(found.values()))


def _archive(path: Path, inputs: Sequence[str]) -> Array | dict[str, Array]:
    """The arrays named like the inputs; for a model of one input also the array `images`, or the only array."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"data {path}: not a .npz file, or only a part of one; write it with numpy.savez")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = list(archive.files)
        if set(inputs) <= set(names):
            return {name: archive[name] for name in inputs}
        if len(inputs) == 1 and ("images" in names or len(names) == 1):
            only: Array = archive["images" if "images" in names else names[0]]
            return only
    raise DataError(f"data {path}: expected an array for each of the inputs {sorted(inputs)}, got arrays {sorted(names)}; "
                    "name them like the inputs")


def _array(path: Path) -> Array:
    with path.open("rb") as file:
        if not file.read(len(_NPY)).startswith(_NPY):
            raise DataError(f"data {path}: not a .npy file; write it with numpy.save")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _vectors(folder: Path) -> tuple[Array, ...]:
    """The tensors input_0.pb, input_1.pb, ... of one of ONNX's test data sets."""
    arrays: list[Array] = []
    while (file := folder / f"input_{len(arrays)}.pb").exists():
        arrays.append(_tensor(file))
    if not arrays:
        raise DataError(f"data {folder}: expected input_0.pb, got {sorted(entry.name for entry in folder.iterdir())[:5]}")
    return tuple(arrays)


def _tensor(path: Path) -> Array:
    from qcc.onnx.tensors import read_tensor

    return read_tensor(path.read_bytes(), str(path))


def _picture(path: Path, size: tuple[int, int, int] | None, color: str) -> Array:
    """A picture file as uint8 [height, width, channels] of the model's size."""
    from PIL import Image, ImageOps

    if size is None:
        raise DataError(f"data {path}: a picture, but the model does not have a single input of rank 4 with 1 or 3 channels; "
                        "give .npy or .npz files")
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):
                raise DataError(f"data {path}: expected 8 bits per channel, got a picture of mode {opened.mode!r}; "
                                "convert it, or give .npy files")
            picture = ImageOps.exif_transpose(opened).convert("L" if size[2] == 1 else "RGB")
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"data {path}: cannot be read: {_reason(error)}") from error
    pixels = np.asarray(picture, np.uint8)
    return fit_pixels(pixels.reshape(*pixels.shape[:2], size[2]), size, color)


def fit_pixels(pixels: Array, size: tuple[int, int, int], color: str) -> Array:
    """Scale uint8 [h, w, c] until it just covers (height, width), and keep the centre; the channels come in the model's order."""
    from PIL import Image

    height, width, channels = size
    if pixels.shape != size:
        ratio = max(height / pixels.shape[0], width / pixels.shape[1])
        tall, wide = max(height, round(pixels.shape[0] * ratio)), max(width, round(pixels.shape[1] * ratio))
        plane = pixels[..., 0] if channels == 1 else pixels
        scaled = np.asarray(Image.fromarray(plane).resize((wide, tall), Image.Resampling.BICUBIC), np.uint8).reshape(tall, wide, channels)
        top, left = (tall - height) // 2, (wide - width) // 2
        pixels = scaled[top:top + height, left:left + width]
    return pixels[..., ::-1] if color == "BGR" and channels == 3 else pixels
