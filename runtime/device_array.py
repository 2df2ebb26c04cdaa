"""Arrays in a GPU's memory: those that others bring (anything with `__dlpack__`), and those that a run makes.

It knows DLPack's structures and the few functions of the driver that own memory; nothing of models.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc.errors import RuntimeFailure

CPU, CUDA, CUDA_MANAGED = 1, 2, 13          # DLDeviceType
LEGACY_STREAM = 1                           # how DLPack names CUDA's default stream
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}   # DLDataTypeCode
_CODES = {kind: code for code, kind in _KINDS.items()}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_raw_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_raw_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))


@dataclass(frozen=True)
class Borrowed:
    """An array of somebody else, which lives as long as `owner` does.

    Attributes:
        pointer: of the first element, on the GPU.
    """

    pointer: int
    device: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_contiguous: bool
    owner: object


def device_of(value: Any) -> tuple[int, int]:
    """DLPack's kind and number of the device that holds an array; main memory for what has none."""
    method = getattr(value, "__dlpack_device__", None)
    kind, number = (CPU, 0) if method is None else method()
    return int(kind), int(number)


def is_on_gpu(value: Any) -> bool:
    return device_of(value)[0] in (CUDA, CUDA_MANAGED)


def borrow(value: Any, stream: int) -> Borrowed:
    """An array on a GPU, ready to be read on a stream (in DLPack's numbers)."""
    capsule = value.__dlpack__(stream=stream)
    tensor = ctypes.cast(_pointer_of(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    dense = tuple(int(np.prod(shape[axis + 1:], dtype=np.int64)) for axis in range(len(shape)))
    contiguous = strides is None or all(n == 1 or a == b for n, a, b in zip(shape, strides, dense, strict=True))
    kind = _KINDS.get(tensor.code)
    known = tensor.lanes == 1 and kind is not None and tensor.bits % 8 == 0
    dtype = np.dtype("?" if kind == "b" else f"{kind}{tensor.bits // 8}") if known else np.dtype("V1")
    return Borrowed((tensor.data or 0) + tensor.byte_offset, tensor.device_id, dtype, shape, contiguous, capsule)


class Driver:
    """The functions of libcuda.so.1 that own memory; RuntimeFailure where there is none, or it cannot start."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise RuntimeFailure("there is no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded)") from error
        self._contexts: dict[int, int] = {}
        self.call("cuInit", ctypes.c_uint(0))

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver; RuntimeFailure with its name and the driver's words if it fails."""
        status = self._library[function](*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(text))
            raise RuntimeFailure(f"{function} failed: {(text.value or b'error ' + str(status).encode()).decode()}")

    def capabilities(self) -> list[int]:
        """The compute capability of every GPU, times ten."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        found = []
        for device in range(count.value):
            major, minor = ctypes.c_int(), ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)      # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
            self.call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
            found.append(10 * major.value + minor.value)
        return found

    def name(self, device: int) -> str:
        """What the driver calls a GPU."""
        text = ctypes.create_string_buffer(100)
        self.call("cuDeviceGetName", text, 100, device)
        return text.value.decode()

    def version(self) -> int:
        """Of CUDA, that the driver is made for: 1000 times the major version and ten times the minor."""
        found = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(found))
        return found.value

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        """Work in the primary context of a GPU."""
        if device not in self._contexts:
            context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(device))
            self._contexts[device] = context.value or 0
        self.call("cuCtxPushCurrent_v2", ctypes.c_void_p(self._contexts[device]))
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def release(self) -> None:
        """Give the contexts back."""
        while self._contexts:
            self.call("cuDevicePrimaryCtxRelease_v2", ctypes.c_int(self._contexts.popitem()[0]))


@functools.cache
def driver() -> Driver:
    """The driver; RuntimeFailure where there is none."""
    return Driver()


class DeviceArray:
    """A dense array in a GPU's memory, which it owns. PyTorch and others take it without a copy (`torch.from_dlpack`).

    Attributes:
        pointer: of the first element, on the GPU.
        stream: on which it is being written, or None when it is complete.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, device: int = 0) -> None:
        """An array of any contents; RuntimeFailure when the GPU's memory does not suffice."""
        self.shape, self.dtype, self.device, self.pointer = tuple(shape), np.dtype(dtype), device, 0
        self.stream: int | None = None
        self._driver, address = driver(), ctypes.c_ulonglong()
        with self._driver.on(device):
            self._driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, self.nbytes)))
        self.pointer = address.value

    @staticmethod
    def of(array: npt.NDArray[Any], device: int = 0) -> DeviceArray:
        """A copy of an array in main memory."""
        result, source = DeviceArray(array.shape, array.dtype, device), np.ascontiguousarray(array)
        with result._driver.on(device):
            arguments = ctypes.c_ulonglong(result.pointer), ctypes.c_void_p(source.ctypes.data), ctypes.c_size_t(source.nbytes)
            result._driver.call("cuMemcpyHtoD_v2", *arguments)
            result._driver.call("cuStreamSynchronize", ctypes.c_void_p(None))      # the copy may end after its call does
        return result

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def synchronize(self) -> None:
        """Wait until the array is complete; RuntimeFailure when what writes it failed."""
        if self.stream is not None:
            with self._driver.on(self.device):
                self._driver.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
            self.stream = None

    def numpy(self) -> npt.NDArray[Any]:
        """A copy in main memory."""
        self.synchronize()
        result = np.empty(self.shape, self.dtype)
        with self._driver.on(self.device):
            arguments = ctypes.c_void_p(result.ctypes.data), ctypes.c_ulonglong(self.pointer), ctypes.c_size_t(self.nbytes)
            self._driver.call("cuMemcpyDtoH_v2", *arguments)
        return result

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.numpy().astype(dtype or self.dtype, copy=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule for `from_dlpack` of other libraries; the array is complete then, whatever their stream is."""
        self.synchronize()
        return _capsule(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self.synchronize()
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False), "strides": None, "version": 3}

    def __del__(self) -> None:
        if self.pointer:
            with suppress(RuntimeFailure), self._driver.on(self.device):     # a driver that has shut down, or failed, took the memory along
                self._driver.call("cuMemFree_v2", ctypes.c_ulonglong(self.pointer))
            self.pointer = 0

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype}{list(self.shape)} on GPU {self.device}>"


_lent: dict[int, tuple[Any, ...]] = {}     # by address of the structure: what must live until its borrower is done


def _give_back(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


def _drop(capsule: int) -> None:
    """A capsule that nobody took over: one that was is renamed."""
    if _raw_is_valid(capsule, _NAME):
        _lent.pop(_raw_pointer_of(capsule, _NAME), None)


_give_back_function, _drop_function = _Deleter(_give_back), _Destructor(_drop)      # they must live as long as any capsule


def _capsule(array: DeviceArray) -> Any:
    shape = (ctypes.c_int64 * max(1, len(array.shape)))(*array.shape)
    code = _CODES[array.dtype.kind]
    tensor = _Tensor(array.pointer, CUDA, array.device, len(array.shape), code, array.dtype.itemsize * 8, 1, shape, None, 0)
    managed = _Managed(tensor, None, _give_back_function)
    _lent[ctypes.addressof(managed)] = (managed, shape, array)
    return _new_capsule(ctypes.addressof(managed), _NAME, _drop_function)
