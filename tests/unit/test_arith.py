"""The normative arithmetic against exact integers and fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.arith import INT32_MAX, INT64_MAX, accumulator_bounds, dyadic, requantize
from qcc.errors import TypeMismatch
from qcc.ir.types import I32, U8, TensorType
from qcc.ops import Requantize

INT32 = st.integers(-INT32_MAX - 1, INT32_MAX)
FACTORS = st.floats(2.0**-70, 2.0**29, allow_nan=False) | st.floats(1e-9, 2.0) | st.just(0.0)


def exact(terms: list[tuple[int, int, int]], shift: int, zero_point: int, low: int, high: int) -> int:
    """The requantization in unlimited integers: the quotient rounded half up, the zero point, the clamp."""
    total = Fraction(sum((x - z) * m for x, m, z in terms), 2**shift)
    return min(max(floor(total + Fraction(1, 2)) + zero_point, low), high)


@given(x=INT32, m=INT32, shift=st.integers(1, 62), zero_point=st.integers(0, 255))
def test_one_term_rounds_half_up(x: int, m: int, shift: int, zero_point: int) -> None:
    got = requantize([(np.array(x, np.int32), np.array(m, np.int32), 0)], shift, zero_point, 0, 255)
    assert int(got) == exact([(x, m, 0)], shift, zero_point, 0, 255)


@given(
    terms=st.lists(st.tuples(st.integers(0, 255), INT32, st.integers(0, 255)), min_size=1, max_size=4),
    shift=st.integers(1, 61), low=st.integers(0, 200), span=st.integers(0, 55),
)
def test_several_terms_round_once(terms: list[tuple[int, int, int]], shift: int, low: int, span: int) -> None:
    arrays = [(np.array(x, np.uint8), np.array(m, np.int32), z) for x, m, z in terms]
    assert int(requantize(arrays, shift, 17, low, low + span)) == exact(terms, shift, 17, low, low + span)


@pytest.mark.parametrize("x", [-INT32_MAX - 1, INT32_MAX])
@pytest.mark.parametrize("m", [-INT32_MAX, INT32_MAX, 0, 1, -1])
@pytest.mark.parametrize("shift", [1, 31, 32, 61])
def test_extremes(x: int, m: int, shift: int) -> None:
    got = requantize([(np.array(x, np.int32), np.array(m, np.int32), 0)], shift, 0, -(2**62), 2**62)
    assert int(got) == exact([(x, m, 0)], shift, 0, -(2**62), 2**62)


def test_halves_go_up_on_both_sides_of_zero() -> None:
    got = requantize([(np.array([-6, -5, -3, -2, -1, 1, 2, 3, 5, 6]), np.array(1), 0)], 2, 0, -9, 9)
    assert got.tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1, 2]


def test_operator_is_the_function() -> None:
    op = Requantize((3, 0), 9, 7, 2, 250)
    x, y = np.arange(256, dtype=np.uint8), np.arange(-128, 128, dtype=np.int32) * 50
    m, k = np.array(321, np.int32), np.array([-77], np.int32)
    (got,) = op.evaluate(x, m, y, k)
    assert got.dtype == np.uint8
    assert got.tolist() == [exact([(int(a), 321, 3), (int(b), -77, 0)], 9, 7, 2, 250) for a, b in zip(x, y, strict=True)]
    assert op.infer(*(TensorType.of(a) for a in (x, m, y, k))) == (TensorType(U8, (256,)),)


@given(
    factors=st.lists(st.lists(FACTORS, min_size=1, max_size=3), min_size=1, max_size=3), signs=st.integers(0, 7),
    bounds=st.lists(st.integers(1, 2**31), min_size=3, max_size=3), offset=st.integers(0, 65535),
)
def test_dyadic_keeps_its_promises(factors: list[list[float]], signs: int, bounds: list[int], offset: int) -> None:
    arrays = [np.array(f) * (-1 if signs >> i & 1 else 1) for i, f in enumerate(factors)]
    bounds = bounds[:len(arrays)]
    try:
        form = dyadic(arrays, bounds, offset)
    except TypeMismatch:
        peaks = [Fraction(float(np.abs(a).max())) for a in arrays]
        reach = sum(peak * bound for peak, bound in zip(peaks, bounds, strict=True)) + offset + 1
        assert reach > 2**60 or 2 * max(peaks) > INT32_MAX
        return
    assert 1 <= form.shift <= 62
    reach = (offset + 1) << form.shift
    for array, multipliers, bound in zip(arrays, form.multipliers, bounds, strict=True):
        assert multipliers.dtype == np.int32
        for factor, multiplier in zip(array, multipliers, strict=True):
            error = abs(Fraction(int(multiplier), 2**form.shift) - Fraction(float(factor)))
            assert error <= Fraction(1, 2**(form.shift + 1))
        reach += bound * int(np.abs(multipliers.astype(np.int64)).max())
    assert reach <= INT64_MAX


@given(factor=st.floats(2.0**-20, 2.0**20), bound=st.integers(1, 2**20))
def test_dyadic_uses_31_bits_where_there_is_room(factor: float, bound: int) -> None:
    form = dyadic([np.array(factor)], [bound], 255)
    assert 2**30 - 1 <= int(form.multipliers[0]) <= INT32_MAX


def test_dyadic_of_nothing_but_zeros() -> None:
    form = dyadic([np.zeros(3), np.array(0.0)], [2**31, 255], 255)
    assert [m.tolist() for m in form.multipliers] == [[0, 0, 0], 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0**30])
@pytest.mark.parametrize("position", [0, 1])
def test_dyadic_refuses(bad: float, position: int) -> None:
    factors = [np.array(0.5), np.array([0.25, 0.125])]
    factors[position] = np.array([0.5, bad])
    with pytest.raises(TypeMismatch, match="has no dyadic form"):
        dyadic(factors, [255, 255], 255)


def test_dyadic_refuses_sums_beyond_int64() -> None:
    with pytest.raises(TypeMismatch, match="do not fit 64-bit sums"):
        dyadic([np.array(2.0**29)] * 3, [2**33] * 3, 255)


@given(
    weights=st.lists(st.integers(-127, 127), min_size=1, max_size=4), bias=st.integers(-300, 300),
    ends=st.sampled_from([(0, 255), (-128, 127), (0, 15), (5, 9), (-7, -2)]),
)
def test_no_partial_sum_leaves_the_bounds(weights: list[int], bias: int, ends: tuple[int, int]) -> None:
    low, high = accumulator_bounds(np.array([weights], np.int8), np.array([bias], np.int32), *ends)
    reached = set()
    for choice in range(2**len(weights)):
        terms = [bias, *(w * ends[choice >> i & 1] for i, w in enumerate(weights))]
        for order in permutations(terms):
            reached.update(np.cumsum(order).tolist())
    assert int(low[0]) <= min(reached)
    assert max(reached) <= int(high[0])


def test_bounds_are_reached_by_bytes() -> None:
    weights = np.array([[3, -2, 0], [0, 0, 0]], np.int8)
    low, high = accumulator_bounds(weights, np.array([10, -5], np.int32), 0, 255)
    assert (low.tolist(), high.tolist()) == ([-510, -5], [775, 0])


def test_requantize_is_declared_for_narrow_terms_only() -> None:
    with pytest.raises(TypeMismatch, match="up to 32 bits"):
        Requantize((0,), 8, 0, 0, 255).infer(TensorType.of(np.zeros(2, np.int64)), TensorType(I32, ()))
