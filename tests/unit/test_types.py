"""Element types, encodings and types of values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import ModelError, TypeMismatch
from qcc.ir import DType, Encoding, TensorType
from qcc.ir.types import BOOL, F16, F32, F64, I4, I8, I16, I32, I64, STRING, U4, U8, U16, U32, U64
from qcc.passes.calibrate import Range
from qcc.passes.quantize import activation_encoding, weight_encoding

ALL = (BOOL, STRING, F16, F32, F64, I4, I8, I16, I32, I64, U4, U8, U16, U32, U64)
REALS = st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=32)


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_element_types_read_back(dtype: DType) -> None:
    assert DType.parse(str(dtype)) == dtype
    if dtype.bits >= 8 or dtype in (BOOL, STRING):
        assert DType.of(dtype.numpy) == dtype


@pytest.mark.parametrize("text", ["", "f", "32", "q8", "u8 ", "F32", "i-8"])
def test_no_element_types(text: str) -> None:
    with pytest.raises(TypeMismatch, match="is not an element type"):
        DType.parse(text)


def test_ranges_and_storage() -> None:
    assert [t.range for t in (I4, I8, U4, U8, BOOL)] == [(-8, 7), (-128, 127), (0, 15), (0, 255), (0, 1)]
    assert [t.bytes for t in (I4, U8, I16, F32, I64)] == [1, 1, 2, 4, 8]
    with pytest.raises(TypeMismatch, match="f32 has no integer range"):
        _ = F32.range
    with pytest.raises(TypeMismatch, match="complex64 has no counterpart"):
        DType.of(np.complex64)


def test_types_of_arrays() -> None:
    assert TensorType.of(np.zeros((2, 0, 3), np.int8)) == TensorType(I8, (2, 0, 3))
    scalar = TensorType.of(np.float32(1.0) * np.ones(()))
    assert (scalar.rank, scalar.size, TensorType(I32, (2, 3)).bytes) == (0, 1, 24)


def test_ranges_in_use() -> None:
    assert Encoding(I8, (1.0, 2.0), (0, 0), 0).range == (-127, 127)
    assert Encoding(I8, (1.0,), (3,)).range == (-128, 127)
    assert Encoding(U8, (1.0,), (0,)).range == (0, 255)
    assert Encoding(U4, (1.0,), (15,)).range == (0, 15)


@pytest.mark.parametrize("arguments", [(U8, (0.0,)), (U8, (float("nan"),)), (U8, (float("inf"),)), (U8, (-1.0,)), (U8, (1.0, 2.0), (0, 0)),
                                       (I8, (1.0,), (0, 0), 0)])
def test_no_encodings(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeMismatch):
        Encoding(*arguments)  # type: ignore[arg-type]  # wrong on purpose


@given(scale=st.floats(1e-6, 1e6), zero=st.integers(0, 255), q=st.integers(0, 255))
def test_integers_survive_their_reals(scale: float, zero: int, q: int) -> None:
    encoding = Encoding(U8, (float(np.float32(scale)),), (zero,))
    assert int(encoding.quantize(encoding.dequantize(np.array([q], np.uint8)))[0]) == q


def test_quantize_rounds_ties_to_even_and_clamps() -> None:
    encoding = Encoding(U8, (2.0,), (10,))
    got = encoding.quantize(np.array([-1e30, -21, -5, -3, -1, 0, 1, 3, 1e30], np.float32))
    assert got.tolist() == [0, 0, 8, 8, 10, 10, 10, 12, 255]


def test_scales_per_channel() -> None:
    encoding = Encoding(I8, (1.0, 0.5), (0, 0), 1)
    got = encoding.quantize(np.full((2, 2, 1), 3.0, np.float32))
    assert got[:, :, 0].tolist() == [[3, 6], [3, 6]]
    np.testing.assert_array_equal(encoding.dequantize(got), np.full((2, 2, 1), 3.0, np.float32))


@given(a=REALS, b=REALS, bits=st.sampled_from([4, 8, 16]))
def test_activations_hold_zero_and_their_range(a: float, b: float, bits: int) -> None:
    range = Range(min(a, b), max(a, b))
    encoding = activation_encoding(range, bits)
    low, high = encoding.range
    zero, scale = encoding.zero_point[0], encoding.scale[0]
    assert low <= zero <= high
    assert float(encoding.dequantize(np.array([zero], encoding.dtype.numpy))[0]) == 0.0
    assert float(np.float32(scale)) == scale
    for end in (range.low, range.high):      # half a step for the end's place, as much for the zero point's
        integer = encoding.quantize(np.array([end]))
        assert abs(float(integer[0]) - (end / scale + zero)) <= 1.01


def test_always_zero() -> None:
    assert activation_encoding(Range(0.0, 0.0), 8) == Encoding(U8, (1.0,), (0,))
    assert activation_encoding(Range(float("inf"), float("-inf")), 8) == Encoding(U8, (1.0,), (0,))


@given(
    peaks=st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=5),
    biases=st.lists(st.floats(-1e9, 1e9, width=32), min_size=5, max_size=5),
    input_scale=st.floats(1e-9, 1e3),
)
def test_a_bias_never_overflows(peaks: list[float], biases: list[float], input_scale: float) -> None:
    weights = np.array([[p, -p / 2, 0.0] for p in peaks], np.float32)
    bias = np.array(biases[:len(peaks)], np.float32)
    encoding = weight_encoding(weights, bias, input_scale, 8, 0)
    integers = encoding.quantize(weights)
    assert np.abs(bias / (input_scale * np.array(encoding.scale))).max() <= 2**25
    assert np.abs(integers).max() <= 127
    for peak, row, scale in zip(peaks, integers, encoding.scale, strict=True):
        assert abs(float(row[0]) * scale - peak) <= 0.51 * scale


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(bad: float) -> None:
    good = np.ones((2, 3), np.float32)
    broken = good.copy()
    broken[1, 1] = bad
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        weight_encoding(broken, None, 1.0, 8, 0)
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        weight_encoding(good, broken[1, :2], 1.0, 8, 0)
