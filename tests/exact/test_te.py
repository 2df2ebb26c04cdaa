"""Every integer operator through the generic schedule equals its `evaluate` bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.codegen.te import TeKernel
from qcc.codegen.worker import KernelCompiler
from qcc.errors import CodegenError
from qcc.ir import Array, Op, TensorType
from qcc.ir.types import I8, I16, I32, I64, U8, DType
from qcc.ops import (
    Clamp,
    Concat,
    Dequantize,
    Gather,
    IntegerBatchMatMul,
    IntegerConvolution,
    IntegerInterpolate,
    IntegerMatMul,
    IntegerMultiply,
    Lookup,
    Pad,
    Quantize,
    ReduceSum,
    Requantize,
    Reshape,
    Slice,
    Transpose,
    WindowMax,
    WindowSum,
)
from tests.exact.runner import RUNNABLE, library, target_id

Inputs = tuple[Op, list[Array], tuple[int, ...]]      # operator, inputs, positions of constants
small = st.integers(1, 5)
wide = st.sampled_from([1, 2, 3, 7, 16, 19, 33, 64, 100])


@st.composite
def shapes(draw: st.DrawFn, least: int = 1, most: int = 4) -> tuple[int, ...]:
    return (*draw(st.lists(small, min_size=least - 1, max_size=most - 1)), draw(wide))


def integers(draw: st.DrawFn, dtype: DType, shape: tuple[int, ...], low: int | None = None, high: int | None = None) -> Array:
    first, last = dtype.range
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.integers(first if low is None else low, last if high is None else high, shape, dtype.numpy, endpoint=True)


@st.composite
def convolutions(draw: st.DrawFn) -> Inputs:
    groups, per, outputs = draw(st.sampled_from([(1, 3, 5), (1, 16, 17), (4, 2, 2), (6, 1, 1), (3, 1, 2)]))
    (kh, kw), strides, dilations = draw(st.tuples(*[st.tuples(st.integers(1, 3), st.integers(1, 3))] * 3))
    height, width = dilations[0] * (kh - 1) + draw(small), dilations[1] * (kw - 1) + draw(small)
    x = integers(draw, U8, (draw(st.integers(1, 2)), height, width, groups * per))
    w, bias = integers(draw, I8, (groups * outputs, kh, kw, per)), integers(draw, I32, (groups * outputs,), -(1 << 20), 1 << 20)
    return IntegerConvolution(strides, dilations, groups), [x, w, bias], (1, 2)


@st.composite
def products(draw: st.DrawFn) -> Inputs:
    shape, outputs = draw(shapes(2, 3)), draw(wide)
    w, bias = integers(draw, I8, (outputs, shape[-1])), integers(draw, I32, (outputs,), -(1 << 20), 1 << 20)
    return IntegerMatMul(), [integers(draw, U8, shape), w, bias], (1, 2)


@st.composite
def contractions(draw: st.DrawFn) -> Inputs:
    batch, (m, k, n) = draw(st.sampled_from([(), (3,), (2, 3)])), draw(st.tuples(small, wide, wide))
    others = draw(st.sampled_from([batch, (), (1,) * len(batch)]))
    zeros = draw(st.sampled_from([(0, 0), (255, 255), (3, 200)]))
    return IntegerBatchMatMul(zeros), [integers(draw, U8, (*batch, m, k)), integers(draw, U8, (*others, k, n))], ()


@st.composite
def elementwise(draw: st.DrawFn) -> Inputs:
    shape = draw(shapes())
    a, b = integers(draw, U8, shape), integers(draw, U8, draw(st.sampled_from([shape, shape[-1:], ()])))
    factors = [integers(draw, I32, draw(st.sampled_from([(), shape[-1:]]))) for _ in range(2)]
    low, high = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    requantize = Requantize((draw(st.integers(0, 255)), 3), draw(st.integers(1, 62)), draw(st.integers(0, 255)), low, high)
    bounds = [np.array(low, np.uint8), np.array(high, np.uint8)]
    cases: list[Inputs] = [
        (requantize, [a, factors[0], b, factors[1]], (1, 3)),
        (IntegerMultiply((7, 255)), [a, b], ()),
        (Clamp(), [a, *bounds], (1, 2)),
        (Lookup(), [a, integers(draw, draw(st.sampled_from([U8, I8, I32])), (256,))], (1,)),
        (Lookup(), [a, integers(draw, I16, (shape[-1], 256))], (1,)),
    ]
    return draw(st.sampled_from(cases))


@st.composite
def windows(draw: st.DrawFn) -> Inputs:
    kernel, strides, dilations = draw(st.tuples(*[st.tuples(st.integers(1, 3), st.integers(1, 3))] * 3))
    extents = [d * (k - 1) + draw(small) for k, d in zip(kernel, dilations, strict=True)]
    dtype = draw(st.sampled_from([U8, I8, I32]))
    x = integers(draw, dtype, (draw(st.integers(1, 2)), *extents, draw(wide))) // (1 if dtype != I32 else 64)
    return draw(st.sampled_from([WindowMax, WindowSum]))(kernel, strides, dilations), [x], ()


@st.composite
def movements(draw: st.DrawFn) -> Inputs:
    shape, dtype = draw(shapes()), draw(st.sampled_from([U8, I8, I32, I64]))
    x, axis = integers(draw, dtype, shape), draw(st.integers(0, len(shape) - 1))
    before, after = (tuple(draw(st.integers(0, 3)) for _ in shape) for _ in range(2))
    indices = integers(draw, I64, (draw(small),), 0, shape[axis] - 1)
    starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
    other = integers(draw, dtype, (*shape[:axis], draw(wide), *shape[axis + 1:]))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    cases: list[Inputs] = [
        (Reshape((x.size,)), [x], ()), (Reshape((*reversed(shape),)), [x], ()),
        (Transpose(tuple(draw(st.permutations(range(len(shape)))))), [x], ()),
        (Slice(starts, shape, tuple(draw(st.integers(1, 3)) for _ in shape)), [x], ()),
        (Pad(before, after, 5), [x], ()), (Concat(axis), [x, other, x], ()), (Gather(axis), [x, indices], (1,)),
        (ReduceSum(axes, draw(st.booleans())), [(x % 100).astype(dtype.numpy)], ()),
    ]
    return draw(st.sampled_from(cases))


@st.composite
def resizings(draw: st.DrawFn) -> Inputs:
    x, places = integers(draw, U8, (1, draw(small), draw(small), draw(wide))), draw(small)
    axis = draw(st.integers(1, 2))
    ends = [integers(draw, I32, (places,), 0, x.shape[axis] - 1) for _ in range(2)]
    return IntegerInterpolate(axis, 11), [x, *ends, integers(draw, I32, (places,), 0, 2048)], (1, 2, 3)


@st.composite
def borders(draw: st.DrawFn) -> Inputs:
    shape = draw(shapes())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = (rng.standard_normal(shape) * 100).astype(np.float32)
    x.reshape(-1)[:4] = np.array([np.nan, np.inf, 0.5, -1e30], np.float32)[:x.size]
    scale = np.asarray(rng.random(draw(st.sampled_from([(), shape[-1:]]))), np.float32)
    cases: list[Inputs] = [
        (Quantize(float(np.float32(1.7)), 100, U8), [x], ()),
        (Dequantize(draw(st.integers(0, 255))), [integers(draw, U8, shape), scale], (1,)),
    ]
    return draw(st.sampled_from(cases))


@pytest.fixture(params=RUNNABLE, ids=target_id, scope="module")
def compiler(request: pytest.FixtureRequest) -> Iterator[KernelCompiler]:
    target: Target = request.param
    with KernelCompiler(target, 2) as started:
        yield started


FAMILIES: dict[str, Callable[[], st.SearchStrategy[Inputs]]] = {
    f.__name__: f for f in (convolutions, products, contractions, elementwise, windows, movements, resizings, borders)}


def kernel_of(op: Op, inputs: list[Array], constants: tuple[int, ...]) -> TeKernel:
    types = tuple(TensorType.of(array) for array in inputs)
    views = [tuple(View.contiguous(t.dtype, t.shape) for t in group) for group in (types, op.infer(*types))]
    return TeKernel(op, views[0], views[1], constants)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_evaluate(family: str, compiler: KernelCompiler, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(FAMILIES[family](), min_size=8, max_size=12))
    def check(cases: list[Inputs]) -> None:
        kernels = [kernel_of(*case) for case in cases]
        built = library(kernels, compiler, tmp_path_factory.mktemp("te"))
        for kernel, (op, inputs, _) in zip(kernels, cases, strict=True):
            results = built.run(kernel, [inputs[position] for position in kernel.order])
            for result, expected in zip(results, op.evaluate(*inputs), strict=True):
                assert np.array_equal(result, expected), kernel

    check()


def test_rows_and_long_vectors_are_cut_into_tasks() -> None:
    row = kernel_of(IntegerMatMul(), [np.zeros((1, 64), np.uint8), np.zeros((4096, 64), np.int8), np.zeros(4096, np.int32)], (1, 2))
    image = kernel_of(WindowMax((2, 2)), [np.zeros((1, 57, 57, 8), np.uint8)], ())
    assert row.tasks == 64
    assert image.tasks == 64


def test_strided_tensors_are_refused() -> None:
    with pytest.raises(CodegenError, match="copy first"):
        TeKernel(Clamp(), (View(U8, (2, 3), (4, 1)),), (View.contiguous(U8, (2, 3)),))
