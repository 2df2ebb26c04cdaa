"""GPU kernels with one thread per element against the operators' own meaning, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.codegen.cuda.border import plan_dequantize, plan_quantize
from qcc.codegen.cuda.elements import plan_clamp, plan_lookup, plan_multiply, plan_requantize
from qcc.codegen.cuda.move import plan_copy, plan_fill_halo
from qcc.codegen.cuda.pool import plan_global_sum, plan_window_max, plan_window_sum
from qcc.codegen.cuda.te import GpuTeKernel
from qcc.codegen.kernel import View
from qcc.codegen.target import find_target
from qcc.errors import CodegenError
from qcc.ir.types import F32, I8, I16, I32, U4, U8, Array, DType
from qcc.ops import (
    Clamp,
    Dequantize,
    IntegerMatMul,
    IntegerMultiply,
    Lookup,
    Quantize,
    ReduceSum,
    Requantize,
    WindowMax,
    WindowSum,
)
from tests.cuda.harness import compile_kernels
from tests.exact.harness import spaced

SHAPE = (2, 5, 6, 7)


@dataclass(frozen=True)
class Run:
    """A kernel, what it is given before its destination, what lies there before (noise if None), and what it must write."""

    kernel: Any
    sources: Sequence[Array]
    wanted: Array
    before: Array | None = None


def drawn(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    if dtype == F32:
        return rng.normal(0, 30, shape).astype(np.float32)
    low, high = dtype.range
    return rng.integers(low, high, shape, dtype.numpy, endpoint=True)


def requantizations(rng: np.random.Generator) -> list[Run]:
    found = []
    y, wide = spaced(U8, SHAPE, (3, 1, 2)), View.contiguous(I32, SHAPE)
    cases: list[tuple[tuple[DType, ...], tuple[tuple[int, ...], ...], tuple[int, ...], int]] = [
        ((U8, U8), (SHAPE, SHAPE), (7, 250), 30), ((U8, I8, U8), (SHAPE, (7,), (5, 1, 1)), (0, 0, 9), 38), ((I32,), (SHAPE,), (0,), 40),
        ((I32, U8), (SHAPE, SHAPE), (-2_000_000_000, 3), 45), ((U8,), (SHAPE,), (128,), 1), ((I16,), ((2, 1, 1, 7),), (5,), 62)]
    for dtypes, shapes, zeros, shift in cases:
        op = Requantize(zeros, shift, 11, 3, 240)
        terms = [drawn(rng, dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
        factors = [rng.integers(-1 << 20, 1 << 20, (7,) if number else ()).astype(np.int32) for number in range(len(terms))]
        inputs = [array for pair in zip(terms, factors, strict=True) for array in pair]
        wanted, = op.evaluate(*inputs)
        views = [View.contiguous(dtype, term.shape) for dtype, term in zip(dtypes, terms, strict=True)]
        kernel, constants = plan_requantize(op, views, factors, replace(y, shape=y.shape))
        found.append(Run(kernel, [*terms, *constants], np.broadcast_to(wanted, SHAPE)))
    op, product = Requantize((0,), 33, 5, 0, 255), IntegerMultiply((3, 200))
    a, b, m = drawn(rng, U8, SHAPE), drawn(rng, U8, (2, 1, 1, 7)), np.array(123_456_789, np.int32)
    kernel, constants = plan_multiply((3, 200), op, [View.contiguous(U8, a.shape), View.contiguous(U8, b.shape)], m, y)
    found.append(Run(kernel, [a, b, *constants], op.evaluate(*product.evaluate(a, b), m)[0]))
    kept = Requantize((4,), 20, 0, -(1 << 31), (1 << 31) - 1, I32)
    kernel, constants = plan_requantize(kept, [View.contiguous(U8, SHAPE)], [m], wide)
    return [*found, Run(kernel, [a, *constants], kept.evaluate(a, m)[0])]


def tables_and_bounds(rng: np.random.Generator) -> list[Run]:
    x, found = drawn(rng, U8, SHAPE), []
    view, y = View.contiguous(U8, SHAPE), spaced(I16, SHAPE, (1, 0, 5))
    for shape in ((256,), (7, 256)):
        table = drawn(rng, I16, shape)
        kernel, constants = plan_lookup(view, table, y)
        found.append(Run(kernel, [x, *constants], Lookup().evaluate(x, table)[0]))
    low, high = np.full((7,), 30, np.uint8), np.full((), 200, np.uint8)
    kernel_of_bounds, constants = plan_clamp(view, low, high, view)
    return [*found, Run(kernel_of_bounds, [x, *constants], Clamp().evaluate(x, low, high)[0])]


def moves(rng: np.random.Generator) -> list[Run]:
    x, real = drawn(rng, U8, SHAPE), drawn(rng, F32, SHAPE)
    turned = View(F32, (2, 7, 5, 6), (210, 1, 42, 7))
    copies = [(spaced(U8, SHAPE, (2, 0, 1)), View.contiguous(U8, SHAPE), x),
              (turned, View.contiguous(F32, turned.shape), real.transpose(0, 3, 1, 2))]
    found = [Run(plan_copy(source, destination)[0], [array.view(f"u{array.itemsize}")], array.view(f"u{array.itemsize}"))
             for source, destination, array in copies]
    padded = np.full((2, 8, 9, 7), 77, np.uint8)
    padded[:, 1:6, 2:8] = x
    kernel, constants = plan_fill_halo(View.contiguous(U8, padded.shape), (0, 1, 2, 0), (0, 2, 1, 0), 77)
    before = padded.copy()
    before[:, 0] = before[:, :, :2] = 1
    found.append(Run(kernel, list(constants), padded, before))
    shared = replace(View.contiguous(U4, (1, 4, 4, 6)), packed=True)
    kernel, constants = plan_fill_halo(shared, (0, 1, 1, 0), (0, 1, 1, 0), 9)
    inside = np.full((1, 4, 4, 3), 0x99, np.uint8)
    inside[:, 1:3, 1:3] = 0x42
    return [*found, Run(kernel, list(constants), inside, np.where(inside == 0x42, inside, 0).astype(np.uint8))]


def windows(rng: np.random.Generator) -> list[Run]:
    x, m = drawn(rng, U8, SHAPE), np.array([1 << 28], np.int32)
    view, op = View.contiguous(U8, SHAPE), Requantize((0,), 31, 3, 0, 255)
    largest, total = WindowMax((3, 2), (2, 1), (1, 2)), WindowSum((2, 3), (1, 2))
    best, = largest.evaluate(x)
    sums, = total.evaluate(x)
    everything, = ReduceSum((1, 2)).evaluate(x)
    mean, average = op.evaluate(everything.astype(np.int32), m)[0], View.contiguous(U8, sums.shape)
    per_channel = rng.integers(1, 1 << 28, (7,)).astype(np.int32)
    planned = [
        (*plan_window_max(largest, view, View.contiguous(U8, best.shape)), best),
        (*plan_window_sum(total, op, per_channel, view, average), op.evaluate(sums.astype(np.int32), per_channel)[0]),
        (*plan_global_sum(op, m, view, View.contiguous(U8, (2, 1, 1, 7))), mean)]
    nibbles = drawn(rng, U4, (2, 5, 6, 8))
    best, = largest.evaluate(nibbles)
    shared = [replace(View.contiguous(U4, array.shape), packed=True) for array in (nibbles, best)]
    pairs = [np.asarray(array[..., 0::2] | array[..., 1::2] << 4) for array in (nibbles, best)]
    packed = Run(plan_window_max(largest, shared[0], shared[1])[0], pairs[:1], pairs[1])
    return [packed, *(Run(kernel, [x, *constants], wanted) for kernel, constants, wanted in planned)]


def borders(rng: np.random.Generator) -> list[Run]:
    real, q = drawn(rng, F32, SHAPE), drawn(rng, I8, SHAPE)
    real.reshape(-1)[:6] = [np.nan, np.inf, -np.inf, 0.125, -0.125, 1e30]
    quantize, dequantize = Quantize(4.0, 20, U8), Dequantize(-7)
    scale = rng.uniform(0.01, 2, (7,)).astype(np.float32)
    first, numbers = plan_quantize(quantize, View.contiguous(F32, SHAPE), spaced(U8, SHAPE, (1, 2, 3)))
    last, constants = plan_dequantize(dequantize, scale, View.contiguous(I8, SHAPE), View.contiguous(F32, SHAPE))
    return [Run(first, [real, *numbers], quantize.evaluate(real)[0]), Run(last, [q, *constants], dequantize.evaluate(q, scale)[0])]


def generic(rng: np.random.Generator) -> list[Run]:
    x, w, bias = drawn(rng, U8, (3, 19)), drawn(rng, I8, (5, 19)), drawn(rng, I16, (5,)).astype(np.int32)
    views = (View.contiguous(U8, x.shape), View.contiguous(I8, w.shape), View.contiguous(I32, bias.shape))
    product = GpuTeKernel(IntegerMatMul(), views, (View.contiguous(I32, (3, 5)),), (1, 2))
    total = GpuTeKernel(ReduceSum((0,)), views[:1], (View.contiguous(I32, (1, 19)),))
    wanted, = IntegerMatMul().evaluate(x, w, bias)
    return [Run(product, [x, w, bias], wanted.astype(np.int32)),
            Run(total, [x], ReduceSum((0,)).evaluate(x)[0].astype(np.int32))]


def test_elements(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    runs = [run for made in (requantizations, tables_and_bounds, moves, windows, borders, generic) for run in made(rng)]
    compiled = compile_kernels([run.kernel for run in runs], find_target("cuda:sm_80"), tmp_path)
    for run in runs:
        result, = compiled.run(run.kernel, run.sources, [] if run.before is None else [run.before])
        np.testing.assert_array_equal(result, run.wanted, err_msg=f"{run.kernel}")


def test_several_outputs_are_refused() -> None:
    view = View.contiguous(U8, (4,))
    with pytest.raises(CodegenError, match="computes one output, got 2"):
        GpuTeKernel(ReduceSum((0,)), (view,), (view, view))
