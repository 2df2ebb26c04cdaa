"""Reads ONNX's serialized tensors, which test data sets are made of."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from qcc.errors import DataError
from qcc.ir.types import Array


def read_tensor(content: bytes, where: str) -> Array:
    """The array in the bytes of a TensorProto; `where` is named in errors.

    Raises:
        DataError: the bytes are not a tensor, or one whose data lie in another file.
    """
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(content)
        if tensor.data_type == onnx.TensorProto.UNDEFINED or tensor.external_data:
            raise ValueError("no element type, or data in another file")
        array: Array = numpy_helper.to_array(tensor)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"data {where}: expected a tensor in ONNX's protobuf form: {error}") from error
    return array
