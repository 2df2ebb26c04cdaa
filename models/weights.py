"""Reads arrays from pickled weight files without the framework that wrote them, and without running anything from the file.

A pickle may name any function of any package; here only the few names below mean something, every other one is an error.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A tensor whose numbers stand later in the file: storage key, element type, offset, shape and strides in elements."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Restricted(pickle.Unpickler):
    """An unpickler that knows the given names only, and returns a storage's description for its persistent identifier."""

    def __init__(self, file: io.BytesIO, names: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(file, encoding="latin1")
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a file of weights must not refer to {module}.{name}") from None

    def persistent_load(self, identifier: Any) -> Any:
        kind, storage, key, *_ = identifier
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown kind of persistent object: {kind!r}")
        return key, storage


def _tensor(storage: tuple[str, str], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Lazy:
    return _Lazy(storage[0], storage[1], offset, tuple(shape), tuple(strides))


def torch_state(content: bytes) -> dict[str, Array]:
    """The tensors of a state dictionary as torch.save wrote it before version 1.6, by name.

    Raises:
        pickle.UnpicklingError: not such a file, or it refers to more than tensors.
    """
    file = io.BytesIO(content)
    names: dict[tuple[str, str], Any] = {("torch._utils", "_rebuild_tensor_v2"): _tensor, ("collections", "OrderedDict"): OrderedDict}
    names |= {("torch", storage): dtype for storage, dtype in STORAGES.items()}
    read: Callable[[], Any] = lambda: _Restricted(file, names).load()  # noqa: E731
    if read() != TORCH_MAGIC:
        raise pickle.UnpicklingError("not a state dictionary in the format before torch 1.6")
    _version, _machine, state, keys = read(), read(), read(), read()
    dtypes = {tensor.key: np.dtype(tensor.dtype) for tensor in state.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    return {name: _materialize(tensor, storages[tensor.key]) for name, tensor in state.items()}


def _materialize(tensor: _Lazy, storage: Array) -> Array:
    steps = [step * storage.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, steps, writeable=False).copy()


def numpy_pickle(content: bytes) -> Any:
    """A pickled structure of lists, dictionaries and NumPy arrays.

    Raises:
        pickle.UnpicklingError: it refers to more than arrays.
    """
    from numpy._core.multiarray import _reconstruct  # the name that array pickles refer to

    names = {("numpy.core.multiarray", "_reconstruct"): _reconstruct, ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    return _Restricted(io.BytesIO(content), names).load()
