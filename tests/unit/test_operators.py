"""What every operator promises: types as evaluated, transposition that commutes, exact integers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import TypeMismatch
from qcc.ir import Array, Op, TensorType, interpret
from qcc.ir.types import F32, U8
from qcc.ops import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution,
    Dequantize,
    Function,
    Gather,
    IntegerConvolution,
    IntegerInterpolate,
    IntegerMatMul,
    IntegerMultiply,
    Lookup,
    MaxPool,
    Pad,
    Quantize,
    ReduceMean,
    ReduceSum,
    Requantize,
    Reshape,
    Slice,
    Subtract,
    Transpose,
    WindowMax,
    WindowSum,
)
from qcc.ops.functions import FUNCTIONS, HOMOGENEOUS, NOT_NEGATIVE
from tests.unit.graphs import random_feeds, random_graph

X = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
SHAPED = (
    Slice((0, 1, 0, 2), (2, 3, 4, 5), (1, 1, 2, 1)), Pad((0, 1, 0, 2), (1, 0, 0, 0), 7), ReduceMean((1, 3)),
    Clip((1.0, 2.0, 3.0), (50.0, 70.0, 90.0), 1), Function("sigmoid"), Gather(2),
)
PARAMETERS = {"celu": 1, "elu": 1, "hardsigmoid": 2, "leaky_relu": 1, "pow": 1, "selu": 2, "thresholded_relu": 1}     # how many
PAIRS = st.tuples(st.integers(1, 2), st.integers(1, 2))
KERNELS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("op", SHAPED, ids=str)
@pytest.mark.parametrize("permutation", list(permutations(range(4))), ids=str)
def test_transposed_operators_commute_with_transposition(op: Op, permutation: tuple[int, ...]) -> None:
    rest = (np.array([0, 2, 2]),) if isinstance(op, Gather) else ()
    turned = op.transposed(permutation)
    if turned is None:
        pytest.skip(f"{op} has no transposed form")
    x = X.astype(np.float32)
    (wanted,) = op.evaluate(x, *rest)
    (got,) = turned.evaluate(x.transpose(permutation), *rest)
    np.testing.assert_array_equal(got, wanted.transpose(permutation))


@pytest.mark.parametrize("permutation", list(permutations(range(4))), ids=str)
def test_transposed_joins(permutation: tuple[int, ...]) -> None:
    for op in (Concat(2), Add(), Subtract()):
        turned = op.transposed(permutation)
        assert turned is not None
        (wanted,), (got,) = op.evaluate(X, 2 * X), turned.evaluate(X.transpose(permutation), 2 * X.transpose(permutation))
        np.testing.assert_array_equal(got, wanted.transpose(permutation))


@pytest.mark.parametrize("seed", range(60))
def test_operators_evaluate_to_the_types_that_they_infer(seed: int) -> None:
    graph = random_graph(seed)
    values = interpret(graph, next(random_feeds(graph, seed, 1)), keep=None)
    for node in graph.nodes:
        inferred = node.op.infer(*graph.input_types(node))
        assert [(t.dtype, t.shape) for t in inferred] == [(F32, values[name].shape) for name in node.outputs]


def bytes_of(random: np.random.Generator, *shape: int) -> Array:
    return random.integers(0, 256, shape).astype(np.uint8)


@given(
    groups=st.sampled_from([(1, 3, 4), (2, 4, 6), (3, 3, 3)]), kernel=KERNELS, strides=PAIRS, dilations=PAIRS, seed=st.integers(0, 99),
)
def test_integer_convolution_is_the_float_one(
    groups: tuple[int, int, int], kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int], seed: int
) -> None:
    count, inputs, outputs = groups
    random = np.random.default_rng(seed)
    x, w = bytes_of(random, 2, 6, 7, inputs), random.integers(-127, 128, (outputs, *kernel, inputs // count)).astype(np.int8)
    bias = random.integers(-10**6, 10**6, outputs).astype(np.int32)
    (got,) = IntegerConvolution(strides, dilations, count).evaluate(x, w, bias)
    floats = (x.transpose(0, 3, 1, 2).astype(np.float64), w.transpose(0, 3, 1, 2).astype(np.float64), bias.astype(np.float64))
    (wanted,) = Convolution(strides, (0, 0, 0, 0), dilations, count).evaluate(*floats)
    np.testing.assert_array_equal(got, wanted.transpose(0, 2, 3, 1))


@given(kernel=KERNELS, strides=KERNELS, seed=st.integers(0, 99))
def test_integer_windows_are_the_float_ones(kernel: tuple[int, int], strides: tuple[int, int], seed: int) -> None:
    x = bytes_of(np.random.default_rng(seed), 2, 5, 6, 3)
    image = x.transpose(0, 3, 1, 2).astype(np.float64)
    (largest,), (wanted,) = WindowMax(kernel, strides).evaluate(x), MaxPool(kernel, strides).evaluate(image)
    np.testing.assert_array_equal(largest, wanted.transpose(0, 2, 3, 1))
    (total,), (mean,) = WindowSum(kernel, strides).evaluate(x), AveragePool(kernel, strides).evaluate(image)
    np.testing.assert_allclose(total / (kernel[0] * kernel[1]), mean.transpose(0, 2, 3, 1), rtol=1e-12)
    (everything,) = ReduceSum((1, 2)).evaluate(x)
    np.testing.assert_array_equal(everything[:, 0, 0], x.astype(np.int64).sum(axis=(1, 2)))


def test_integer_products(rng: np.random.Generator) -> None:
    x, w = bytes_of(rng, 2, 3, 9), rng.integers(-127, 128, (4, 9)).astype(np.int8)
    (got,) = IntegerMatMul().evaluate(x, w, np.arange(4, dtype=np.int32))
    np.testing.assert_array_equal(got, x.astype(np.int64) @ w.T.astype(np.int64) + np.arange(4))
    a, b = bytes_of(rng, 2, 3, 1), bytes_of(rng, 3, 4)
    (product,) = IntegerMultiply((3, 200)).evaluate(a, b)
    np.testing.assert_array_equal(product, (a.astype(np.int64) - 3) * (b.astype(np.int64) - 200))


def test_integer_interpolation_is_exact() -> None:
    x = np.array([[0, 255, 100]], np.uint8)
    tables = [np.array(v, np.int32) for v in ([0, 0, 1, 2], [1, 1, 2, 2], [0, 64, 128, 5])]
    (got,) = IntegerInterpolate(1, 7).evaluate(x, *tables)
    assert got.tolist() == [[0, 255 * 64, 100 * 128, 100 * 128]]


@pytest.mark.parametrize("shape", [(256,), (3, 256)])
def test_tables(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, table = bytes_of(rng, 2, 5, 3), bytes_of(rng, *shape)
    (got,) = Lookup().evaluate(x, table)
    rows = np.broadcast_to(table, (3, 256))
    wanted = [[[rows[c, x[i, j, c]] for c in range(3)] for j in range(5)] for i in range(2)]
    np.testing.assert_array_equal(got, wanted)


def test_border_rounds_to_even_and_catches_what_is_no_number() -> None:
    x = np.array([-np.inf, -3.0, 0.5, 1.5, 2.5, np.nan, 1e30, np.inf, -0.0], np.float32)
    (got,) = Quantize(1.0, 2, U8).evaluate(x)
    assert got.tolist() == [0, 0, 2, 4, 4, 0, 255, 255, 2]
    (back,) = Dequantize(2).evaluate(got, np.array([0.5], np.float32))
    assert back.dtype == np.float32
    assert back.tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0, -1.0, 126.5, 126.5, 0.0]


def test_scalars_move() -> None:
    x = np.array(3.0, np.float32)
    for op in (Transpose(()), Pad((), (), 0.0), Slice((), (), ()), Reshape(())):
        (got,) = op.evaluate(x)
        assert (got.shape, float(got)) == ((), 3.0)


def test_macs() -> None:
    x, w, b = (TensorType.of(a) for a in (np.zeros((1, 8, 8, 4), np.uint8), np.zeros((6, 3, 3, 2), np.int8), np.zeros(6, np.int32)))
    op = IntegerConvolution(groups=2)
    assert op.macs((x, w, b), op.infer(x, w, b)) == 6 * 6 * 6 * 3 * 3 * 2
    assert Requantize((0,), 8, 0, 0, 255).macs((x,), (x,)) == 0


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_functions_keep_their_element_type(function: str) -> None:
    parameters = PARAMETERS.get(function, 0)
    op = Function(function, (0.5,) * parameters)
    (y,) = op.evaluate(np.array([0.25, 0.5], np.float32))
    assert TensorType.of(y) == TensorType(F32, (2,))


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_facts_about_functions(function: str) -> None:
    x = np.linspace(-3, 3, 121)
    for parameters in ((0.5, 2.0), (1.5, -0.25)):
        given = parameters[: PARAMETERS.get(function, 0)]
        with np.errstate(all="ignore"):
            once, twice = FUNCTIONS[function](x, *given), FUNCTIONS[function](2 * x, *given)
        assert (function in HOMOGENEOUS) == bool(np.allclose(2 * once, twice, rtol=1e-9))
        assert function not in NOT_NEGATIVE or not np.any(once < 0)


def test_unknown_functions() -> None:
    with pytest.raises(TypeMismatch, match="'sinc' is not in the table"):
        Function("sinc").infer(TensorType(F32, (2,)))
