"""The small x86 kernels equal their operators' `evaluate` bit for bit, on every target that this machine runs, in any layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qcc.codegen.cpu.border import plan_dequantize, plan_quantize
from qcc.codegen.cpu.elementwise import RequantizeKernel, plan_clamp, plan_multiply, plan_requantize
from qcc.codegen.cpu.lookup import plan_lookup
from qcc.codegen.cpu.move import plan_copy, plan_fill_halo
from qcc.codegen.cpu.pool import plan_global_sum, plan_window_max, plan_window_sum
from qcc.codegen.cpu.scale import Sum
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.target import Target
from qcc.codegen.worker import KernelCompiler
from qcc.ir import Array
from qcc.ir.types import F32, I8, I32, U8, DType
from qcc.ops import Clamp, Dequantize, IntegerMultiply, Lookup, Pad, Quantize, ReduceSum, Requantize, WindowMax, WindowSum
from tests.exact.runner import RUNNABLE, Library, library, spread, target_id

SHAPES = ((1, 3, 5, 19), (1, 4, 4, 64), (2, 3), (1, 1, 1, 1), (1, 7, 7, 130), (1, 6, 16, 96))

WINDOWS = (((2, 2), (2, 2), (1, 1)), ((3, 3), (2, 1), (1, 1)), ((5, 3), (1, 1), (1, 2)))


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel, its sources with constants, and what it must write."""

    kernel: Kernel
    sources: tuple[Array, ...]
    expected: Array


def numbers(rng: np.random.Generator, dtype: DType, shape: Sequence[int]) -> Array:
    """Random integers, extremes among them."""
    low, high = dtype.range
    values = rng.integers(low, high, size=shape, dtype=dtype.numpy, endpoint=True)
    return np.where(rng.random(shape) < 0.1, rng.choice([low, high], size=shape), values).astype(dtype.numpy)


def view(dtype: DType, shape: Sequence[int], gap: int = 0, inner: int = 0) -> View:
    return spread(View.contiguous(dtype, tuple(shape)), gap, inner)


def multipliers(rng: np.random.Generator, shape: Sequence[int], bits: int = 31) -> Array:
    top = (1 << bits) - 1
    return np.asarray(rng.integers(-top, top, size=shape, endpoint=True), np.int32)


def requantizations(rng: np.random.Generator) -> Iterator[Case]:
    for shape in SHAPES:
        channels = shape[-1:]
        squeezed = (shape[0], *[1] * (len(shape) - 2), shape[-1])
        variants = (
            (Requantize((3, 200), 31, 7, 0, 255), (U8, U8), (shape, shape), ((), ()), 31),
            (Requantize((3, 200), 30, 128, 3, 250), (U8, U8), (shape, channels), ((), channels), 30),
            (Requantize((90,), 38, 7, 3, 250), (U8,), (shape,), (channels,), 31),
            (Requantize((3, 200), 12, 7, 0, 255), (U8, U8), (shape, squeezed), ((), ()), 12),
            (Requantize((0,), 45, 7, 0, 255), (I32,), (shape,), ((),), 31),
            (Requantize((0, 3), 35, 255, 0, 255), (I32, U8), (shape, shape), (channels, ()), 30),
            (Requantize((0,), 9, 7, 0, 255), (I32,), (shape,), ((),), 31),
            (Requantize((1, 2, 3), 33, 7, 0, 255), (U8, U8, U8), (shape, squeezed, shape), ((), channels, ()), 31),
            (Requantize((0,), 40, -5, -128, 127, I8), (I32,), (shape,), (channels,), 31),
        )
        for op, dtypes, shapes, factor_shapes, bits in variants:
            for gap in (0, 3):
                factors = [multipliers(rng, s, bits) for s in factor_shapes]
                terms = [view(dtype, s, gap) for dtype, s in zip(dtypes, shapes, strict=True)]
                kernel, constants = plan_requantize(op, terms, factors, view(op.dtype, shape, gap))
                values = [numbers(rng, v.dtype, v.shape) for v in terms]
                expected, = op.evaluate(*(array for pair in zip(values, factors, strict=True) for array in pair))
                yield Case(kernel, (*values, *constants), expected)


def products(rng: np.random.Generator) -> Iterator[Case]:
    for shape in SHAPES:
        squeezed = (shape[0], *[1] * (len(shape) - 2), shape[-1])
        for other, shift, bits in ((shape, 40, 31), (squeezed, 33, 20), (shape, 20, 15)):
            op, multiplier = Requantize((0,), shift, 9, 0, 255), multipliers(rng, (), bits)
            factors = [view(U8, shape, 5), view(U8, other)]
            kernel, constants = plan_multiply((7, 130), op, factors, multiplier, view(U8, shape, 2))
            values = [numbers(rng, U8, v.shape) for v in factors]
            expected, = op.evaluate(*IntegerMultiply((7, 130)).evaluate(*values), multiplier)
            yield Case(kernel, (*values, *constants), expected)


def clamps(rng: np.random.Generator) -> Iterator[Case]:
    for shape, dtype in zip(SHAPES, (U8, I8, I32, U8, U8, U8), strict=True):
        low, high = sorted((numbers(rng, dtype, shape[-1:]), numbers(rng, dtype, shape[-1:])), key=lambda a: int(a[0]))
        kernel, constants = plan_clamp(view(dtype, shape, 3), low, high, view(dtype, shape))
        x = numbers(rng, dtype, shape)
        yield Case(kernel, (x, *constants), Clamp().evaluate(x, low, high)[0])


def pools(rng: np.random.Generator) -> Iterator[Case]:
    requantize = Requantize((70,), 36, 11, 0, 255)
    for channels in (1, 19, 64, 130):
        for kernel_size, strides, dilations in WINDOWS:
            x = numbers(rng, U8, (2, 7, 8, channels))
            maximum, total = WindowMax(kernel_size, strides, dilations), WindowSum(kernel_size, strides, dilations)
            expected, = maximum.evaluate(x)
            source, destination = view(U8, x.shape, 5), view(U8, expected.shape, 7)
            yield Case(plan_window_max(maximum, source, destination)[0], (x,), expected)
            for shape in ((), (channels,), (1, *expected.shape[1:3], 1)):
                multiplier = multipliers(rng, shape)
                kernel, constants = plan_window_sum(total, requantize, multiplier, source, destination)
                yield Case(kernel, (x, *constants), requantize.evaluate(*total.evaluate(x), multiplier)[0])


def global_pools(rng: np.random.Generator) -> Iterator[Case]:
    for shape in ((1, 7, 7, 19), (2, 5, 3, 128), (1, 8, 8, 1)):
        for keep in (True, False):
            requantize, total = Requantize((49 * 70,), 36, 11, 0, 255), ReduceSum((1, 2), keep)
            for multiplier in (multipliers(rng, ()), multipliers(rng, shape[-1:])):
                x = numbers(rng, U8, shape)
                expected, = requantize.evaluate(*total.evaluate(x), multiplier)
                kernel, constants = plan_global_sum(requantize, multiplier, view(U8, shape, 3), view(U8, expected.shape))
                yield Case(kernel, (x, *constants), expected.reshape(kernel.destination.shape))


def lookups(rng: np.random.Generator) -> Iterator[Case]:
    for shape in SHAPES:
        for dtype, table_shape, gap in ((U8, (256,), 0), (U8, (256,), 3), (I8, (shape[-1], 256), 1), (I32, (256,), 0)):
            x, table = numbers(rng, U8, shape), numbers(rng, dtype, table_shape)
            kernel, constants = plan_lookup(view(U8, shape, gap), table, view(dtype, shape, gap))
            yield Case(kernel, (x, *constants), Lookup().evaluate(x, table)[0])


def copies(rng: np.random.Generator) -> Iterator[Case]:
    for shape in (*SHAPES, (1, 33, 21, 3), (1, 17, 20, 4), (3, 40, 35), (2, 3, 4, 5, 6)):
        for dtype in (U8, F32):
            permutations = {tuple(range(len(shape))), (0, *range(2, len(shape)), 1), (0, len(shape) - 1, *range(1, len(shape) - 1))}
            for permutation in sorted(p for p in permutations if len(p) == len(shape)):
                x = rng.standard_normal(shape).astype(np.float32) if dtype == F32 else numbers(rng, dtype, shape)
                source = view(dtype, shape, 4)
                turned = View(dtype, tuple(shape[p] for p in permutation), tuple(source.strides[p] for p in permutation))
                for gap, inner in ((0, 0), (6, 0), (0, 2)):
                    kernel, _ = plan_copy(turned, view(dtype, turned.shape, gap, inner))
                    bits = kernel.source.dtype.numpy
                    yield Case(kernel, (x.transpose(permutation).view(bits),), x.transpose(permutation).view(bits))


def quantizations(rng: np.random.Generator) -> Iterator[Case]:
    special = np.array([np.nan, np.inf, -np.inf, 0.5, 1.5, 2.5, -0.5, -0.0, 1e30, -1e30, 127.5, 128.5], np.float32)
    for shape in (*SHAPES[:3], (1, 20, 33, 3), (1, 21, 18, 4), (1, 17, 1, 40)):
        for op in (Quantize(1.0, 5, U8), Quantize(float(np.float32(17.3)), 128, U8), Quantize(float(np.float32(0.71)), -3, I8)):
            x = (rng.standard_normal(shape) * 100 / op.inverse_scale).astype(np.float32)
            x.reshape(-1)[:special.size] = special[:x.size]
            for first in (False, True):       # channels last, or channels first in the source
                order = (0, len(shape) - 1, *range(1, len(shape) - 1)) if first else range(len(shape))
                stored = View.contiguous(F32, tuple(shape[axis] for axis in order))
                strides = dict(zip(order, stored.strides, strict=True))
                source = View(F32, shape, tuple(strides[axis] for axis in range(len(shape))))
                for gap, inner in ((0, 0), (9, 0), (0, 1)):
                    kernel, constants = plan_quantize(op, source, view(op.dtype, shape, gap, inner))
                    yield Case(kernel, (x, *constants), op.evaluate(x)[0])


def dequantizations(rng: np.random.Generator) -> Iterator[Case]:
    for shape in (*SHAPES, (1, 20, 33, 3)):
        for dtype, zero, scale_shape in ((U8, 130, ()), (I32, 0, shape[-1:]), (U8, 3, shape[-1:])):
            op, scale = Dequantize(zero), np.asarray(rng.random(scale_shape) * 0.1, np.float32)
            q = numbers(rng, dtype, shape)
            expected, = op.evaluate(q, scale)
            for first in (False, True):
                order = (0, len(shape) - 1, *range(1, len(shape) - 1)) if first else range(len(shape))
                strides = dict(zip(order, View.contiguous(F32, tuple(shape[axis] for axis in order)).strides, strict=True))
                destination = View(F32, shape, tuple(strides[axis] for axis in range(len(shape))))
                kernel, constants = plan_dequantize(op, scale, view(dtype, shape, 3), destination)
                yield Case(kernel, (q, *constants), expected)


HALOS = (((1, 6, 7, 19), (0, 1, 2, 0), (0, 1, 1, 0)), ((2, 5, 5, 64), (0, 2, 0, 0), (0, 0, 3, 0)), ((3, 70), (1, 1), (0, 2)))


def test_halo_surrounds_what_is_there(compiler: KernelCompiler, rng: np.random.Generator, tmp_path: Path) -> None:
    planned = [(before, after, plan_fill_halo(view(U8, shape, 5), before, after, 77)) for shape, before, after in HALOS]
    built = library([kernel for _, _, (kernel, _) in planned], compiler, tmp_path)
    for before, after, (kernel, constants) in planned:
        whole = numbers(rng, U8, kernel.destination.shape)
        inside = whole[tuple(slice(a, n - b) for a, b, n in zip(before, after, whole.shape, strict=True))]
        result, = built.run(kernel, constants, [whole])
        assert np.array_equal(result, Pad(before, after, 77).evaluate(inside)[0])


FAMILIES = {family.__name__: family for family in (
    requantizations, products, clamps, pools, global_pools, lookups, copies, quantizations, dequantizations)}


@pytest.fixture(params=RUNNABLE, ids=target_id, scope="module")
def compiler(request: pytest.FixtureRequest) -> Iterator[KernelCompiler]:
    target: Target = request.param
    with KernelCompiler(target, 2) as started:
        yield started


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_evaluate(family: str, compiler: KernelCompiler, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = list(FAMILIES[family](rng))
    built = library([case.kernel for case in cases], compiler, tmp_path)
    for case in cases:
        assert_equal(built, case)


def assert_equal(built: Library, case: Case) -> None:
    result, = built.run(case.kernel, case.sources)
    assert result.dtype == case.expected.dtype, case.kernel
    wrong = np.argwhere(result != case.expected)
    assert wrong.size == 0, f"{len(wrong)} of {result.size} differ, the first at {wrong[0]}: {case.kernel}"


def test_requantization_takes_every_path(rng: np.random.Generator) -> None:
    kernels = [case.kernel for case in requantizations(rng)]
    assert {kernel.method for kernel in kernels if isinstance(kernel, RequantizeKernel)} == set(Sum)
