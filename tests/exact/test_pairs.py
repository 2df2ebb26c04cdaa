"""Dense layers of 16-bit products (AVX2) against NumPy, bit for bit: widened bytes, and 3x3 layers by minimal filtering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcc
from qcc import verification
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.kernel import Prepared, View
from qcc.codegen.target import TARGETS, host_features
from qcc.codegen.x86 import choice
from qcc.codegen.x86.pairs import PairsKernel, plan_pairs
from qcc.codegen.x86.winograd import WinogradKernel, plan_winograd
from qcc.codegen.x86.winograd_filter import FilterKernel
from qcc.ir.types import U8, Array
from qcc.recipe import Recipe
from tests.exact.harness import Placed, compile_all, run
from tests.exact.test_dense import CASES, Case, Layer, layer

TARGET = TARGETS["x86-64-avx2"]
pytestmark = pytest.mark.skipif(not host_features().issuperset(TARGET.features), reason=f"this CPU lacks features of {TARGET.name}")
Plan = tuple[Any, tuple[Array | Prepared, ...]]

SQUARES = (
    Case((1, 4, 4, 16), 8, (3, 3)),
    Case((1, 9, 8, 20), 33, (3, 3)),
    Case((2, 10, 11, 24), 40, (3, 3), residual=True),
    Case((3, 5, 4, 34), 5, (3, 3), shift=None),
    Case((1, 7, 7, 70), 48, (3, 3), gaps=((2, 1, 9), (4, 0, 3)), residual=True, shift=30),
    Case((1, 6, 19, 32), 20, (3, 3), clamp=(30, 200)),
    Case((1, 5, 6, 1200), 16, (3, 3), numbers="largest", shift=45),
    Case((1, 5, 6, 1200), 16, (3, 3), numbers="smallest", shift=None),
    Case((1, 6, 6, 18), 24, (3, 3), numbers="negative multipliers", shift=60, residual=True),
    Case((2, 10, 13, 20), 40, (3, 3), pool=(2, 2), gaps=((2, 1, 9), (4, 0, 3))),
    Case((1, 9, 8, 16), 17, (3, 3), pool=(2, 2), clamp=(3, 200)),
    Case((1, 9, 9, 16), 64, (3, 3), tile=Tile(1, 5, 2)),
    Case((1, 9, 9, 16), 40, (3, 3), tile=Tile(1, 1, 3)),
)


def planned(item: Layer, way: Callable[..., Plan | None]) -> Plan | None:
    case, (source, output) = item.case, item.views
    residual = replace(output, dtype=U8) if case.residual else None
    return way(source, item.weights, item.bias, case.strides, case.dilations, case.groups, output, item.requantization, residual, TARGET,
               case.tile, pool=case.pool)


def check(items: Sequence[Layer], way: Callable[..., Plan | None]) -> None:
    plans = [plan for plan in (planned(item, way) for item in items) if plan is not None]
    assert len(plans) == len(items)
    helpers = [constant.kernel for _, constants in plans for constant in constants if isinstance(constant, Prepared)]
    functions = compile_all([*(kernel for kernel, _ in plans), *helpers], TARGET)

    def made(constant: Array | Prepared, rng: np.random.Generator) -> Array:
        if not isinstance(constant, Prepared):
            return constant
        return run(functions(constant.kernel), constant.kernel, [], [constant.constant], Placed.of(constant.kernel.operands[-1], rng))

    for number, (item, (kernel, constants)) in enumerate(zip(items, plans, strict=True)):
        rng = np.random.default_rng(number)
        sources = [Placed.of(item.views[0], rng, item.source)]
        if item.residual is not None:
            sources.append(Placed.of(item.views[1], rng, item.residual))
        ready = [made(constant, rng) for constant in constants]
        result = run(functions(kernel), kernel, sources, ready, Placed.of(item.views[1], rng), pieces=1 + number % 3)
        np.testing.assert_array_equal(result, item.evaluate(), err_msg=f"{item.case} as {kernel.tile}")


def test_widened_bytes() -> None:
    check([layer(case, seed, (8, 4, 8, 3, 8, 2)[seed % 6]) for seed, case in enumerate(CASES)], plan_pairs)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_squares(bits: int) -> None:
    check([layer(case, seed, bits) for seed, case in enumerate(SQUARES) if bits == 8 or seed % 3 == bits % 3], plan_winograd)


def test_every_tile_of_squares() -> None:
    item = layer(Case((1, 9, 12, 16), 56, (3, 3), residual=True), 1)
    plan = planned(item, plan_winograd)
    assert plan is not None
    tiles = [kernel.tile for kernel in plan[0].tiles(TARGET)]
    assert len(tiles) > 20
    check([replace(item, case=replace(item.case, tile=tile)) for tile in tiles], plan_winograd)


def test_filters_are_transformed() -> None:
    """U = G g G^T with the matrix that winograd.py gives, for one vector of filters."""
    matrix = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
    kernel = FilterKernel(1, 1, 16, 8)
    weights = np.random.default_rng(3).integers(-128, 128, (3, 3, 16)).astype(np.int8)
    function = compile_all([kernel], TARGET)(kernel)
    output = Placed.of(kernel.operands[1], np.random.default_rng(4))
    result = run(function, kernel, [], [weights.reshape(1, -1)], output)
    expected = np.einsum("ij,jkv,lk->ilv", matrix, weights.astype(np.int64), matrix)
    np.testing.assert_array_equal(result.reshape(16, -1)[:, :16].reshape(4, 4, 16), expected)


@pytest.mark.parametrize("case", [
    Case((1, 9, 9, 16), 8, (3, 3), (2, 2)),
    Case((1, 9, 9, 16), 8, (3, 3), (1, 1), (2, 2)),
    Case((1, 9, 9, 32), 8, (3, 3), groups=2),
    Case((1, 9, 9, 16), 8, (5, 5)),
    Case((1, 3, 9, 16), 8, (3, 3)),
    Case((1, 9, 9, 8), 8, (3, 3)),
    Case((1, 9, 9, 17), 8, (3, 3)),
    Case((1, 4, 4, 2000), 8, (3, 3), numbers="largest"),
    Case((1, 9, 9, 16), 8, (3, 3), shift=61),
    Case((1, 9, 9, 16), 8, (3, 3), pool=(1, 2)),
], ids=["strides", "dilations", "groups", "window", "one row", "few channels", "odd channels", "overflow", "shift", "pool"])
def test_layers_that_are_no_squares(case: Case) -> None:
    assert planned(layer(case, 1), plan_winograd) is None


@pytest.mark.parametrize(("shape", "window", "groups", "kind"), [
    ((1, 56, 56, 64), (3, 3), 1, WinogradKernel),
    ((1, 14, 14, 256), (1, 1), 1, PairsKernel),
    ((1, 1, 1, 256), (1, 1), 1, choice.plan_dense),
])
def test_choice(shape: tuple[int, int, int, int], window: tuple[int, int], groups: int, kind: Any) -> None:
    item = layer(Case(shape, 64, window, groups=groups, tile=None), 1)
    form = (item.views[0], item.weights, item.bias, (1, 1), (1, 1), groups, item.views[1], item.requantization, None)
    kernel = choice.plan_product(*form, TARGET)[0]
    assert isinstance(kernel, kind if isinstance(kind, type) else type(choice.plan_dense(*form, TARGET)[0]))
    vnni = choice.plan_product(*form, TARGETS["x86-64-avxvnni"])[0]
    assert vnni == choice.plan_dense(*form, TARGETS["x86-64-avxvnni"])[0]


@pytest.mark.parametrize(("outputs", "inner", "window"), [(512, 512, 3), (64, 64, 3), (1000, 2048, 1), (40, 30000, 1), (100, 3, 7)])
def test_parts_cover_the_channels_and_fit(outputs: int, inner: int, window: int) -> None:
    weights = np.zeros((outputs, window, window, inner), np.int8)
    parts = choice.parts(weights, 1, View.contiguous(U8, (1, 7, 7, outputs)), TARGET)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(outputs))
    width = 2 * inner * (16 if window == 3 else window * window)
    assert all(part.stop - part.start <= max(choice.WHOLE, choice.MOST_SCRATCH // width + choice.WHOLE) for part in parts)
    assert choice.parts(weights, 1, View.contiguous(U8, (1, outputs)), TARGET) == [slice(0, outputs)]


def test_a_network_whose_layers_are_computed_in_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Array]]]
) -> None:
    monkeypatch.setattr(choice, "MOST_SCRATCH", 16 * 1024)
    data = samples("resnet8_cifar10", 2)
    artifact = qcc.compile(zoo("resnet8_cifar10"), calibration_data=data, recipe=Recipe(TARGET.name, rounding="nearest", correction="none"))
    assert sum("@to " in step.node for step in artifact.program.steps) >= 4
    artifact.save(tmp_path / "out")
    with qcc.load(tmp_path / "out") as module:
        assert [layer for feed in data for layer in verification.check_layers(module, artifact.graph, feed) if not layer.good] == []
