"""Kernels for GPUs against NumPy and the interpreter, bit for bit, in the harness that gives instructions of a GPU their meaning here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcc.codegen.cuda.dense import DenseKernel, plan_dense
from qcc.codegen.cuda.depthwise import plan_depthwise
from qcc.codegen.cuda.tiles import DEVICES
from qcc.codegen.target import find_target
from qcc.ir.types import U8, Array
from tests.cuda.harness import compile_kernels
from tests.exact import test_depthwise as depthwise
from tests.exact.test_dense import CASES, Case, Layer, layer


def planned(item: Layer, target: str, bits: int, number: int) -> tuple[DenseKernel, tuple[Array, ...]]:
    """Every other layer with a tile from the table, whether it is a good one or not."""
    case, (source, output) = item.case, item.views
    residual = replace(output, dtype=U8) if case.residual else None
    tiles = DEVICES[find_target(target).sms[0]].tiles
    return plan_dense(
        source, item.weights, item.bias, case.strides, case.dilations, case.groups, output, item.requantization, residual,
        find_target(target), weight_bits=bits, tile=tiles[number % len(tiles)] if number % 2 else None)


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
    *CASES,
)


@pytest.mark.parametrize(("target", "bits"), [("cuda:sm_80", 8), ("cuda:sm_75", 4)])
def test_dense_layers(target: str, bits: int, tmp_path: Path) -> None:
    step = 1 if bits == 8 else 3
    items = [layer(replace(case, tile=None), seed) for seed, case in enumerate(AWKWARD[::step])]
    check([narrow(item) for item in items] if bits == 4 else items, target, bits, tmp_path)


def test_depthwise_layers(tmp_path: Path) -> None:
    target, plans = find_target("cuda:sm_80"), []
    items = [depthwise.layer(case, seed) for seed, case in enumerate((*depthwise.CASES[::2], depthwise.Case((8, 9, 18, 64))))]
    for number, item in enumerate(items):
        case, (source, output) = item.case, item.views
        residual = replace(output, dtype=U8) if case.residual else None
        kernel, constants = plan_depthwise(
            source, item.weights, item.bias, case.strides, case.dilations, output, item.requantization, residual, target)
        plans.append((replace(kernel, rows=min(4, output.shape[1])) if number % 3 == 0 else kernel, constants))
    compiled = compile_kernels([kernel for kernel, _ in plans], target, tmp_path)
    for item, (kernel, constants) in zip(items, plans, strict=True):
        residual_values = () if item.residual is None else (item.residual,)
        result, = compiled.run(kernel, [item.source, *residual_values, *constants])
        np.testing.assert_array_equal(result, item.evaluate(), err_msg=f"{item.case} as {kernel}")
