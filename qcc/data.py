"""Calibration and input data: from whatever the user has to checked batches of exactly the model's shapes and types.

Decides how a stack is split into batches, what conversions are safe, and what is refused. Nothing is converted silently that
could change the numbers (qcc/data_fit.py): integers for a float input are refused unless they are pixels with a stated mean and deviation.

Sources may be: an array or a dict of arrays (a batch or a stack of samples); any iterable of dicts, tuples or arrays; a function
that returns one; an object with `get_next()` (which returns None at the end) and perhaps `rewind()`; a path (see qcc/data_files.py).
What can be read only once (generators, objects without rewind) is copied to a temporary file before its first use. Memory:
one item of the source and one batch.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from qcc.data_files import Item, count_files, read_path
from qcc.data_fit import DataOptions, convert, picture_frame, split_stack
from qcc.errors import DataError
from qcc.ir.types import Array, TensorType
from qcc.passes.calibrate import batch_digest, data_digest

__all__ = ["Batch", "Batches", "DataOptions", "calibration_batches"]

Batch = dict[str, Array]


@dataclass
class Batches:
    """Checked batches that can be iterated any number of times; see `calibration_batches`."""

    source: Any
    inputs: Mapping[str, TensorType]
    options: DataOptions
    spool: _Spool | None = None
    digests: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[Batch]:
        if self.spool is None and _only_once(self.source):
            spool = _Spool(tuple(self.inputs))
            for batch in self._checked(_items(self.source, self.inputs, self.options)):
                spool.append(batch)
            self.spool = spool
        yield from self.spool if self.spool is not None else self._checked(_items(self.source, self.inputs, self.options))

    def _checked(self, items: Iterable[Item]) -> Iterator[Batch]:
        seen: list[str] = []
        for item in items:
            for batch in _split(item, self.inputs, self.options):
                seen.append(batch_digest(batch))
                yield batch
        if not seen:
            raise DataError(f"data {_describe(self.source)}: empty; expected at least one sample for {_expected(self.inputs)}")
        self.digests = tuple(seen)

    @property
    def length(self) -> int | None:
        """How many batches there are; None where that is not known before they are read."""
        if self.digests or self.spool is not None:
            return len(self.digests) or None
        if isinstance(self.source, Path):
            return count_files(self.source) if _one_each(self.inputs) else None
        if isinstance(self.source, Mapping) or _is_array(self.source):
            return _stacked(self.source, self.inputs, self.options)
        return None

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the batches, sorted: the same batches in another order have the same digest. Reads all data once."""
        if not self.digests:
            for _ in self:
                pass
        return data_digest(self.digests)


def calibration_batches(source: Any, inputs: Mapping[str, TensorType], options: DataOptions | None = None) -> Batches:
    """Batches of the model's shapes and types from any source of data (see the module's text).

    Args:
        inputs: name and type of each of the model's inputs, in order.
        options: how pictures become numbers.

    Raises:
        DataError: the source is of no known kind; while iterating: empty data, wrong names, shapes or element types, NaN or infinity.
    """
    if isinstance(source, str):
        source = Path(source)
    known = isinstance(source, Path | Mapping | Iterable) or callable(source) or hasattr(source, "get_next") or _is_array(source)
    if not known:
        raise DataError("calibration data: expected a path, array, dict, iterable, function or object with get_next(), "
                        f"got {type(source).__name__}")
    return Batches(source, dict(inputs), options or DataOptions())


class _Spool:
    """Batches in a temporary file, which the system deletes when it is closed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.count = names, 0
        self.file: IO[bytes] = tempfile.TemporaryFile(prefix="qcc-calibration-")  # noqa: SIM115  (lives as long as the batches)
        weakref.finalize(self, self.file.close)

    def append(self, batch: Batch) -> None:
        try:
            for name in self.names:
                np.save(self.file, batch[name], allow_pickle=False)
        except OSError as error:
            raise DataError(f"calibration data: cannot be copied to {tempfile.gettempdir()}: {error.strerror or error}; "
                            "make room there, or give data that can be read twice") from error
        self.count += 1

    def __iter__(self) -> Iterator[Batch]:
        place = 0
        for _ in range(self.count):
            self.file.seek(place)
            batch = {name: np.load(self.file, allow_pickle=False) for name in self.names}
            place = self.file.tell()
            yield batch


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def _only_once(source: Any) -> bool:
    if hasattr(source, "get_next"):
        return not hasattr(source, "rewind")
    return isinstance(source, Iterator)


def _describe(source: Any) -> str:
    return str(source) if isinstance(source, Path) else f"from {type(source).__name__}"


def _one_each(inputs: Mapping[str, TensorType]) -> bool:
    """Whether a picture is a batch."""
    return all(type.shape[:1] == (1,) for type in inputs.values())


def _stacked(source: Any, inputs: Mapping[str, TensorType], options: DataOptions) -> int | None:
    """Batches of an array or a dict of arrays; None where they do not fit, which is said when they are read."""
    try:
        arrays = _named(Item("the data", _content(source)), inputs)
        counts = [len(split_stack(name, arrays[name], type, options)) for name, type in inputs.items()]
    except DataError:
        return None
    return counts[0] if counts else None


def _expected(inputs: Mapping[str, TensorType]) -> str:
    return ", ".join(f"{name!r} {type.dtype}{list(type.shape)}" for name, type in inputs.items())


def _items(source: Any, inputs: Mapping[str, TensorType], options: DataOptions) -> Iterator[Item]:
    if isinstance(source, Path):
        frames = [picture_frame(name, type, options) for name, type in inputs.items()] if len(inputs) == 1 else [None]
        yield from read_path(source, list(inputs), frames[0].size if frames[0] else None, options.color)
    elif isinstance(source, Mapping) or _is_array(source):
        yield Item("the data", _content(source))
    elif hasattr(source, "get_next"):
        yield from _reader_items(source)
    elif isinstance(source, Iterable):
        for number, value in enumerate(source):
            yield Item(f"batch {number}", _content(value))
    else:
        yield from _called(source, inputs, options)


def _called(source: Callable[[], Any], inputs: Mapping[str, TensorType], options: DataOptions) -> Iterator[Item]:
    result = source()
    if result is None or (callable(result) and not isinstance(result, Iterable | Mapping) and not _is_array(result)):
        raise DataError(f"calibration data: the function returned {type(result).__name__}; expected it to return an iterable of batches")
    yield from _items(result, inputs, options)


def _reader_items(reader: Any) -> Iterator[Item]:
    if hasattr(reader, "rewind"):
        reader.rewind()
    number = 0
    while (value := reader.get_next()) is not None:
        yield Item(f"batch {number}", _content(value))
        number += 1


def _content(value: Any) -> Array | dict[str, Array] | tuple[Array, ...]:
    if isinstance(value, Mapping):
        return {str(name): _array(array) for name, array in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and value and all(map(_is_array, value))):
        return tuple(map(_array, value))
    return _array(value)


def _array(value: Any) -> Array:
    if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"calibration data: a {type(value).__name__} is not an array of numbers: {error}") from error


def _named(item: Item, inputs: Mapping[str, TensorType]) -> Mapping[str, Array]:
    if isinstance(item.content, Mapping):
        if set(item.content) != set(inputs):
            raise DataError(f"{item.where}: expected arrays for the inputs {sorted(inputs)}, got {sorted(item.content)}")
        return item.content
    arrays = item.content if isinstance(item.content, tuple) else (item.content,)
    if len(arrays) != len(inputs):
        raise DataError(f"{item.where}: expected {len(inputs)} arrays ({', '.join(inputs)}), got {len(arrays)}; "
                        "give the inputs only, no labels, or a dict by name")
    return dict(zip(inputs, arrays, strict=True))


def _split(item: Item, inputs: Mapping[str, TensorType], options: DataOptions) -> Iterator[Batch]:
    arrays = _named(item, inputs)
    stacks = {name: split_stack(f"{item.where}: input {name!r}", arrays[name], type, options) for name, type in inputs.items()}
    counts = {name: len(stack) for name, stack in stacks.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{item.where}: expected as many samples for every input, got {counts}")
    for number in range(next(iter(counts.values()), 0)):
        where = item.where if len(stacks) == 1 and counts == dict.fromkeys(counts, 1) else f"{item.where}, sample {number}"
        yield {name: convert(f"{where}: input {name!r}", stack[number], inputs[name], options) for name, stack in stacks.items()}
