"""The assembler: plain C functions, unaligned operands, exact stores, unfused products, the same bytes every time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from qcc.codegen.kernel import View
from qcc.codegen.target import TARGETS, Target
from qcc.codegen.worker import compile_kernels
from qcc.ir.types import F32, I32
from tests.exact.harness import Placed, compile_all, run, targets
from tests.exact.small_kernels import ReversePrefix, SumOfProducts


@pytest.mark.parametrize("target", targets())
def test_products_are_rounded_before_they_are_added(target: Target, rng: np.random.Generator) -> None:
    kernel = SumOfProducts(tasks=6, terms=9)
    function = compile_all([kernel], target)(kernel)
    a, b = (rng.standard_normal((6, 9, 8)).astype(np.float32) for _ in range(2))
    expected = np.zeros((6, 8), np.float32)
    fused = np.zeros((6, 8), np.float32)
    for term in range(9):
        expected = expected + a[:, term] * b[:, term]
        fused = (fused.astype(np.float64) + a[:, term].astype(np.float64) * b[:, term].astype(np.float64)).astype(np.float32)
    assert (expected != fused).any(), "the numbers must tell the two apart"
    view = View.contiguous(F32, (6, 9, 8))
    result = run(function, kernel, [Placed.of(view, rng, a), Placed.of(view, rng, b)], [], Placed.of(kernel.operands[2], rng))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("target", targets())
def test_conditions_shuffles_and_partial_stores(target: Target, rng: np.random.Generator) -> None:
    kernels = [ReversePrefix(tasks=40, width=width) for width in (1, 3, 8, 15, 16)]
    functions = compile_all(kernels, target)
    source = rng.integers(0, 256, (40, 16), dtype=np.uint8)
    for kernel in kernels:
        out = Placed.of(View.contiguous(I32, (40, kernel.width)), rng)
        before = np.array(out.array)
        result = run(functions(kernel), kernel, [Placed.of(kernel.operands[0], rng, source)], [], out, pieces=3)
        sums = (source.astype(np.int32) + source[:, 1:2])[:, : kernel.width][:, ::-1]
        np.testing.assert_array_equal(result, np.where(source[:, :1] > 100, sums, before))


def test_objects_are_reproducible_and_need_nothing(tmp_path: Path) -> None:
    symbols = {SumOfProducts(6, 9): "sums", ReversePrefix(4, 7): "prefix"}
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (path,) = compile_kernels(symbols, TARGETS["x86-64-avx2"], tmp_path / name)
        contents.append(path.read_bytes())
        undefined = subprocess.run(["nm", "-u", path], capture_output=True, text=True, check=True).stdout
        assert undefined.split() == []
    assert contents[0] == contents[1]
