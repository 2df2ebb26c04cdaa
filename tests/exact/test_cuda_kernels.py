"""Kernels for GPUs against NumPy and the interpreter, bit for bit, in the harness that gives instructions of a GPU their meaning here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.codegen.cuda.dense import DenseKernel, plan_dense
from qcc.codegen.cuda.depthwise import plan_depthwise
from qcc.codegen.cuda.gemv import is_gemv, plan_gemv
from qcc.codegen.target import find_target
from qcc.codegen.tuning import alternatives
from qcc.ir.types import U4, U8, Array
from tests.cuda.harness import compile_kernels
from tests.exact import test_depthwise as depthwise
from tests.exact.test_dense import CASES, Case, Layer, layer

UNPOOLED = [case for case in CASES if case.pool == (1, 1)]     # the maximum behind a layer is a kernel of its own on GPUs


def other_choice(target: str, number: int) -> Callable[[Any], Any]:
    """Of all that tuning may choose, every other time another one, whether it is a good one or not."""
    def chosen(kernel: Any) -> Any:
        found = alternatives(kernel, find_target(target))
        return found[7 * number % len(found)] if number % 2 and found else kernel

    return chosen


def planned(item: Layer, target: str, bits: int, number: int) -> tuple[DenseKernel, tuple[Array, ...]]:
    case, (source, output) = item.case, item.views
    residual = replace(output, dtype=U8) if case.residual else None
    return plan_dense(
        source, item.weights, item.bias, case.strides, case.dilations, case.groups, output, item.requantization, residual,
        find_target(target), weight_bits=bits, tuned=other_choice(target, number))


def check(items: list[Layer], target: str, bits: int, folder: Path) -> None:
    plans = [planned(item, target, bits, number) for number, item in enumerate(items)]
    compiled = compile_kernels([kernel for kernel, _ in plans], find_target(target), folder)
    for item, (kernel, constants) in zip(items, plans, strict=True):
        residual = () if item.residual is None else (item.residual,)
        result, = compiled.run(kernel, [item.source, *residual, *constants])
        np.testing.assert_array_equal(result, item.evaluate(), err_msg=f"{item.case} as {kernel}")


def narrow(item: Layer) -> Layer:
    """The layer with weights of four bits."""
    return replace(item, weights=np.clip(item.weights, -7, 7).astype(np.int8))


AWKWARD = (
    *(Case((b, 8, 7, c), o, (k, k)) for b, c, o, k in ((1, 3, 17, 7), (3, 17, 3, 1), (8, 1000, 17, 1), (2, 17, 1000, 3), (3, 48, 40, 5))),
    Case((1, 1, 1, 1000), 1000),
    *UNPOOLED,
)


@pytest.mark.parametrize(("target", "bits"), [("cuda:sm_80", 8), ("cuda:sm_75", 4)])
def test_dense_layers(target: str, bits: int, tmp_path: Path) -> None:
    step = 1 if bits == 8 else 3
    items = [layer(replace(case, tile=None), seed) for seed, case in enumerate(AWKWARD[::step])]
    check([narrow(item) for item in items] if bits == 4 else items, target, bits, tmp_path)


def paired(values: Array) -> Array:
    """Two values of 4 bits in a byte, the first in its lower half."""
    return np.asarray(values[..., 0::2] | values[..., 1::2] << 4)


def shares_bytes(case: Case) -> bool:
    counts = (case.source[3] // case.groups, case.outputs // case.groups)
    return case.shift is not None and case.numbers == "random" and not any(count % 2 for count in counts)


@pytest.mark.parametrize(("target", "instruction"), [("cuda:sm_80", "m16n8k64_u4s4"), ("cuda:sm_90", "m16n8k32_u8s8")])
def test_products_of_four_bits(target: str, instruction: str, tmp_path: Path) -> None:
    """Sources, residuals and results that share bytes, or do not; GPUs without products of 4-bit operands compute the same."""
    plans = []
    cases = [case for case in UNPOOLED if shares_bytes(case)][:: 1 if target == "cuda:sm_80" else 2]
    for number, case in enumerate(cases):
        gaps = tuple(tuple(2 * gap for gap in gaps) for gaps in case.gaps)
        item = narrow(layer(replace(case, shift=min(case.shift or 44, 44), gaps=gaps), number))  # type: ignore[arg-type]
        assert item.requantization is not None
        residual = None if item.residual is None else item.residual & 15
        last, added = number % 3 != 1, number % 2 == 0
        form = replace(item.requantization, low=0, high=15, zero_point=min(item.requantization.zero_point, 15))
        item = replace(item, source=item.source & 15, residual=residual, requantization=form if last else item.requantization)
        source, output = replace(item.views[0], dtype=U4, packed=True), item.views[1]
        kernel, constants = plan_dense(
            source, item.weights, item.bias, case.strides, case.dilations, case.groups,
            replace(output, dtype=U4, packed=True) if last else output, item.requantization,
            None if residual is None else replace(output, dtype=U4, packed=added), find_target(target), weight_bits=4,
            tuned=other_choice(target, number))
        extra = () if residual is None else (paired(residual) if added else residual,)
        wanted = item.evaluate()
        plans.append((kernel, (paired(item.source), *extra, *constants), paired(wanted) if last else wanted))
    compiled = compile_kernels([kernel for kernel, _, _ in plans], find_target(target), tmp_path)
    assert instruction in compiled.source
    for kernel, arguments, wanted in plans:
        result, = compiled.run(kernel, arguments)
        np.testing.assert_array_equal(result, wanted, err_msg=f"{kernel}")


def test_depthwise_layers(tmp_path: Path) -> None:
    target, plans = find_target("cuda:sm_80"), []
    items = [depthwise.layer(case, seed) for seed, case in enumerate((*depthwise.CASES[::3], depthwise.Case((8, 9, 18, 64))))]
    for number, item in enumerate(items):
        case, (source, output) = item.case, item.views
        residual = replace(output, dtype=U8) if case.residual else None
        kernel, constants = plan_depthwise(
            source, item.weights, item.bias, case.strides, case.dilations, output, item.requantization, residual, target,
            tuned=other_choice(target.name, number))
        plans.append((kernel, constants))
    compiled = compile_kernels([kernel for kernel, _ in plans], target, tmp_path)
    for item, (kernel, constants) in zip(items, plans, strict=True):
        residual_values = () if item.residual is None else (item.residual,)
        result, = compiled.run(kernel, [item.source, *residual_values, *constants])
        np.testing.assert_array_equal(result, item.evaluate(), err_msg=f"{item.case} as {kernel}")


FEW_ROWS = (
    Case((1, 1, 1, 300), 1000), Case((2, 1, 1, 2048), 100, residual=True), Case((1, 2, 2, 37), 50, shift=None),
    Case((1, 1, 3, 4096), 40, shift=30, residual=True), Case((1, 1, 1, 3), 3), Case((4, 1, 1, 514), 2000, gaps=((6, 4, 0), (1, 1, 1))),
)


@pytest.mark.parametrize(("source_bits", "weight_bits"), [(8, 8), (8, 4), (4, 4)])
def test_products_of_few_rows(source_bits: int, weight_bits: int, tmp_path: Path) -> None:
    target, plans = find_target("cuda:sm_80"), []
    for number, case in enumerate(case for case in FEW_ROWS if source_bits == 8 or case.source[3] % 2 == 0):
        item = layer(case, number) if weight_bits == 8 else narrow(layer(case, number))
        source, output = item.views
        if source_bits == 4:
            item, source = replace(item, source=item.source & 15), replace(source, dtype=U4, packed=True)
        residual = replace(output, dtype=U8) if case.residual else None
        assert is_gemv(source, item.weights, 1, (1, 1), output, residual)
        choice = other_choice(target.name, number)
        form = (source, item.weights, item.bias, output, item.requantization, residual)
        plans.append((item, *plan_gemv(*form, target, weight_bits, choice)))
    compiled = compile_kernels([kernel for _, kernel, _ in plans], target, tmp_path)
    for item, kernel, constants in plans:
        extra = () if item.residual is None else (item.residual,)
        result, = compiled.run(kernel, [paired(item.source) if source_bits == 4 else item.source, *extra, *constants])
        np.testing.assert_array_equal(result, item.evaluate(), err_msg=f"{item.case} as {kernel}")
