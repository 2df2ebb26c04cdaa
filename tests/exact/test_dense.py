"""The dense family against NumPy, bit for bit: awkward shapes, strided views, extreme numbers, on every x86 target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcc.codegen.cpu.packing import block_offsets, panel_channels
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.kernel import View
from qcc.codegen.target import TARGETS, Target
from qcc.codegen.x86.dense import DenseKernel, plan_dense
from qcc.codegen.x86.epilogue import lift_of, lifted_multipliers, parameters_of
from qcc.codegen.x86.intrinsics import DOT_PRODUCTS
from qcc.errors import CodegenError
from qcc.ir.types import I32, U4, U8, U16, Array
from tests.exact.harness import check_layers, spaced, targets

NO_GAPS = (0, 0, 0)


@dataclass(frozen=True)
class Case:
    """A layer. `requantize` is "none" (int32 output), or a shift; `numbers` says how its values are drawn."""

    source: tuple[int, int, int, int]
    outputs: int
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    shift: int | None = 40
    residual: bool = False
    gaps: tuple[tuple[int, int, int], tuple[int, int, int]] = (NO_GAPS, NO_GAPS)
    numbers: str = "random"
    clamp: tuple[int, int] = (0, 255)
    tile: Tile | None = None
    pool: tuple[int, int] = (1, 1)


CASES = (
    # channels of source and output
    *(Case((1, 5, 6, c), o) for c, o in ((1, 1), (3, 8), (8, 3), (10, 17), (17, 10), (24, 24), (64, 40), (5, 100), (100, 33))),
    Case((1, 1, 1, 300), 1000),
    Case((1, 1, 7, 64), 1000, shift=None),
    Case((3, 1, 1, 37), 50),
    # windows, strides, dilations
    *(Case((1, 12, 13, 3), 17, (k, k), (s, s)) for k, s in ((2, 1), (3, 2), (4, 2), (5, 3), (7, 2))),
    Case((2, 9, 11, 1), 8, (5, 5)),
    Case((1, 20, 20, 3), 16, (7, 7), (2, 2), shift=None),
    Case((1, 9, 8, 20), 33, (3, 3)),
    Case((1, 9, 8, 20), 33, (3, 2), (2, 1), (1, 3)),
    Case((2, 10, 10, 8), 24, (3, 3), (1, 1), (2, 2)),
    Case((1, 10, 3, 16), 16, (1, 3), (1, 1)),
    Case((1, 3, 30, 6), 16, (3, 1), (1, 2)),
    Case((1, 7, 7, 70), 48, (3, 3)),
    Case((1, 30, 30, 4), 20, (3, 3)),
    # groups
    Case((1, 6, 6, 12), 24, (3, 3), groups=2),
    Case((2, 6, 5, 32), 64, (3, 3), (2, 2), groups=4),
    Case((1, 5, 5, 9), 6, groups=3),
    Case((1, 5, 5, 80), 100, groups=2, shift=None),
    Case((1, 8, 9, 32), 32, (3, 3), groups=8),
    Case((1, 8, 9, 20), 40, (3, 3), groups=20, residual=True),
    Case((1, 4, 4, 36), 36, groups=12, dilations=(2, 2)),
    # batches and views with gaps
    Case((3, 4, 5, 16), 32, gaps=((3, 0, 0), (0, 5, 0))),
    Case((3, 4, 5, 16), 32, gaps=((0, 0, 7), (5, 3, 1)), residual=True),
    Case((2, 8, 9, 13), 29, (3, 3), gaps=((2, 1, 9), (4, 0, 3)), residual=True),
    Case((2, 8, 9, 6), 12, (3, 3), groups=2, gaps=((2, 1, 9), (4, 0, 3)), residual=True, shift=30),
    Case((2, 6, 6, 24), 48, (1, 1), (2, 2), gaps=((0, 3, 2), (1, 1, 1)), shift=None),
    # numbers
    *(Case((1, 4, 9, 33), 40, shift=s) for s in (1, 8, 31, 32, 33, 39, 40, 47, 54, 55, 62)),
    *(Case((1, 4, 9, 33), 40, shift=s, residual=True) for s in (20, 30, 31, 32, 33, 45, 58)),
    *(Case((1, 4, 9, 33), 40, shift=s, residual=True, numbers="no zero points") for s in (30, 36)),
    Case((1, 4, 9, 33), 40, shift=8, residual=True),    # cannot be lifted
    *(Case((1, 3, 4, 1500), 16, (1, 1), numbers="largest", shift=s) for s in (31, 45, None)),
    Case((1, 3, 4, 1500), 24, numbers="smallest", shift=45, residual=True),
    Case((1, 4, 9, 33), 40, numbers="negative multipliers", shift=38, residual=True),
    Case((1, 4, 9, 33), 40, clamp=(30, 200)),
    Case((1, 4, 9, 33), 40, clamp=(0, 200)),
    Case((1, 4, 9, 33), 7, clamp=(128, 255), shift=29),
    # tiles that nobody would choose
    Case((1, 9, 9, 16), 64, (3, 3), tile=Tile(3, 4, 1)),
    Case((1, 9, 9, 16), 80, (3, 3), tile=Tile(2, 1, 3)),
    Case((1, 9, 9, 16), 72, tile=Tile(1, 5, 2), residual=True),
    # maxima of sums: extents that windows divide and that leave something over, one pixel high, with groups and gaps
    Case((1, 30, 30, 1), 32, (3, 3), pool=(2, 2)),
    Case((2, 10, 13, 20), 40, (3, 3), pool=(2, 2), gaps=((2, 1, 9), (4, 0, 3))),
    Case((1, 8, 9, 32), 17, pool=(2, 2), shift=30),
    Case((1, 9, 14, 6), 12, (2, 3), (2, 1), groups=2, pool=(1, 3)),
    Case((1, 1, 9, 5), 70, pool=(1, 2), clamp=(3, 200)),
    Case((1, 11, 6, 3), 100, (3, 3), pool=(4, 1), tile=Tile(8, 1, 2)),
    Case((1, 9, 9, 16), 64, (3, 3), pool=(2, 2), tile=Tile(2, 4, 3)),
)


@dataclass(frozen=True)
class Layer:
    """A case with its numbers."""

    case: Case
    source: Array
    weights: Array
    bias: Array
    residual: Array | None
    requantization: Requantization | None
    views: tuple[View, View]

    def plan(self, target: Target) -> tuple[DenseKernel, tuple[Array, ...]]:
        case, (source, output) = self.case, self.views
        residual = replace(output, dtype=U8) if case.residual else None
        return plan_dense(source, self.weights, self.bias, case.strides, case.dilations, case.groups, output, self.requantization, residual,
                          target, case.tile, pool=case.pool)

    def evaluate(self) -> Array:
        accumulator = convolve(self.source, self.weights, self.case) + self.bias
        assert np.abs(accumulator).max() < 1 << 31
        if self.requantization is None:
            return accumulator.astype(np.int32)
        return pooled(self.requantization.evaluate(accumulator, self.residual), self.case.pool)


def extents(case: Case) -> tuple[int, int]:
    return tuple((n - (k - 1) * d - 1) // s + 1  # type: ignore[return-value]
                 for n, k, d, s in zip(case.source[1:3], case.window, case.dilations, case.strides, strict=True))


def pooled(values: Array, pool: tuple[int, int]) -> Array:
    """Maxima of windows side by side, by definition; what they leave over is dropped."""
    (images, rows, columns, channels), (down, along) = values.shape, pool
    whole = values[:, : rows // down * down, : columns // along * along]
    return whole.reshape(images, rows // down, down, columns // along, along, channels).max(axis=(2, 4))


def convolve(source: Array, weights: Array, case: Case) -> Array:
    """int64 accumulators, by definition."""
    rows, columns = extents(case)
    outputs, height, width, inner = weights.shape
    total = np.zeros((source.shape[0], rows, columns, outputs), np.int64)
    own = outputs // case.groups
    for group in range(case.groups):
        part = source[..., group * inner : (group + 1) * inner].astype(np.int64)
        for y in range(height):
            for x in range(width):
                top, left = y * case.dilations[0], x * case.dilations[1]
                taken = part[:, top : top + (rows - 1) * case.strides[0] + 1 : case.strides[0],
                             left : left + (columns - 1) * case.strides[1] + 1 : case.strides[1]]
                total[..., group * own : (group + 1) * own] += taken @ weights[group * own : (group + 1) * own, y, x].astype(np.int64).T
    return total


def multipliers(rng: np.random.Generator, case: Case, accumulator: Array) -> Array:
    """Such that outputs spread over the whole range, as far as int32 allows."""
    assert case.shift is not None
    spread = max(1.0, float(np.abs(accumulator).max()))
    largest = min((1 << 31) - 1, max(1, int(256 * 2.0**case.shift / spread)))
    values = rng.integers(max(1, largest // 2), largest + 1, case.outputs)
    if case.numbers == "negative multipliers":
        values = np.where(rng.integers(0, 2, case.outputs) == 0, values, -values)
    return values.astype(np.int32)


def layer(case: Case, seed: int, bits: int = 8) -> Layer:
    rng = np.random.default_rng(seed)
    shape = (case.outputs, *case.window, case.source[3] // case.groups)
    source = rng.integers(0, 256, case.source, dtype=np.uint8)
    top = (1 << bits - 1) - 1
    weights = rng.integers(-top, top + 1, shape).astype(np.int8)
    if case.numbers in ("largest", "smallest"):
        source[...] = 255
        weights[...] = top if case.numbers == "largest" else -top
    bias = rng.integers(-(1 << 16), 1 << 16, case.outputs).astype(np.int32)
    output_shape = (case.source[0], *(n // p for n, p in zip(extents(case), case.pool, strict=True)), case.outputs)
    residual = rng.integers(0, 256, output_shape, dtype=np.uint8) if case.residual else None
    requantization = None
    if case.shift is not None:
        accumulator = convolve(source, weights, case) + bias
        second = min((1 << 31) - 1, max(1, (1 << case.shift) // 2)) if case.residual else 0
        zero, other = (0, 0) if case.numbers == "no zero points" else (int(rng.integers(0, 256)) for _ in range(2))
        first, other = multipliers(rng, case, accumulator), other if case.residual else 0
        requantization = Requantization(first, case.shift, zero, *case.clamp, second, other)
    views = spaced(U8, case.source, case.gaps[0]), spaced(I32 if case.shift is None else U8, output_shape, case.gaps[1])
    return Layer(case, source, weights, bias, residual, requantization, views)


@pytest.mark.parametrize("target", targets())
def test_cases(target: Target) -> None:
    check_layers([layer(case, seed) for seed, case in enumerate(CASES)], target)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("target", targets())
def test_weights_that_share_bytes(target: Target, bits: int) -> None:
    check_layers([layer(case, seed, bits) for seed, case in enumerate(CASES) if seed % 6 == bits], target)


def of_words(layer: Layer, seed: int) -> Layer:
    """The layer with activations of 16 bits, whose sums fit 32 bits: few large values among small ones."""
    rng = np.random.default_rng(seed)
    wide = np.where(rng.random(layer.source.shape) < 0.01, rng.integers(0, 1 << 16, layer.source.shape), layer.source).astype(np.uint16)
    return replace(layer, source=wide, views=(replace(layer.views[0], dtype=U16), layer.views[1]))


@pytest.mark.parametrize("target", targets())
def test_activations_of_16_bits(target: Target) -> None:
    cases = [(seed, case) for seed, case in enumerate(CASES) if seed % 4 == 1 and case.numbers == "random"]
    check_layers([of_words(layer(case, seed, (8, 4, 3, 2)[seed // 4 % 4]), seed) for seed, case in cases], target)


@pytest.mark.parametrize("target", targets())
def test_random_layers(target: Target) -> None:
    rng = np.random.default_rng(7)

    def draw() -> Case:
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        window, strides, dilations = (tuple(int(v) for v in rng.integers(1, most, 2)) for most in (5, 3, 3))
        size = [(k - 1) * d + 1 + int(rng.integers(0, 14)) for k, d in zip(window, dilations, strict=True)]
        gaps = tuple(tuple(int(v) for v in rng.integers(0, 4, 3) * rng.integers(0, 2, 3)) for _ in range(2))
        return Case((int(rng.integers(1, 4)), *size, groups * int(rng.integers(1, 40))), groups * int(rng.integers(1, 70)),
                    window, strides, dilations, groups, int(rng.integers(24, 50)), bool(rng.integers(0, 2)), gaps)  # type: ignore[arg-type]

    check_layers([layer(draw(), seed, (8, 2, 3, 4)[seed % 4]) for seed in range(24)], target)


def test_layers_of_one_form_share_a_kernel() -> None:
    case, target = Case((1, 8, 8, 32), 64, (3, 3)), TARGETS["x86-64-avx512vnni"]
    (first, _), (second, _) = (layer(case, seed).plan(target) for seed in (1, 2))
    assert first == second
    assert hash(first) == hash(second)


def test_pointwise_layers_merge_rows_and_images_only_without_gaps() -> None:
    target = TARGETS["x86-64-avx512vnni"]
    for gaps, shape in ((NO_GAPS, (1, 1, 60, 8)), ((0, 0, 5), (3, 1, 20, 8)), ((0, 5, 0), (3, 4, 5, 8)), ((2, 0, 0), (1, 1, 60, 8))):
        kernel, _ = layer(Case((3, 4, 5, 8), 16, gaps=(gaps, NO_GAPS)), 1).plan(target)
        assert kernel.source.shape == shape


def test_small_groups_are_merged() -> None:
    case, target = Case((1, 8, 9, 32), 32, (3, 3), groups=8), TARGETS["x86-64-avx512vnni"]
    kernel, _ = layer(case, 1).plan(target)
    assert kernel.groups < 8
    assert layer(replace(case, source=(1, 8, 9, 512), outputs=512), 1).plan(target)[0].groups == 8


def test_narrow_types_lie_one_per_byte() -> None:
    item = layer(Case((1, 4, 4, 32), 16, clamp=(0, 15)), 1)
    kernel, _ = replace(item, views=tuple(replace(view, dtype=U4) for view in item.views)).plan(TARGETS["x86-64-avx2"])  # type: ignore[arg-type]
    assert kernel.output.dtype == U4


def test_wrong_shapes_are_refused() -> None:
    item = layer(Case((1, 8, 8, 32), 64, (3, 3)), 1)
    wrong = replace(item, views=(item.views[0], View.contiguous(U8, (1, 8, 8, 64))))
    with pytest.raises(CodegenError, match=r"expected an output of u8 \(1, 6, 6, 64\)"):
        wrong.plan(TARGETS["x86-64-avx512vnni"])


@given(st.integers(1, 300), st.integers(1, 4), st.integers(1, 8), st.sampled_from((8, 16)))
def test_panels_hold_every_channel(own: int, groups: int, blocks: int, lanes: int) -> None:
    blocks = min(blocks, -(-own // lanes))
    lane = panel_channels(own * groups, groups, blocks, lanes)
    assert set(lane[lane >= 0].tolist()) == set(range(own * groups))
    offsets = block_offsets(own, blocks, lanes)
    first = lane[:, 0, 0]
    assert all((lane[:, block, 0] == first + offset).all() for block, offset in enumerate(offsets))


@given(st.integers(1, 62), st.integers(0, 255), st.data())
def test_high_halves_are_enough(shift: int, zero: int, data: st.DataObject) -> None:
    """What the epilogue computes, with its own numbers: a 64-bit sum, its high half, and the rest in 16 bits."""
    multiplier, accumulator = (data.draw(st.integers(-(1 << 31) + 1, (1 << 31) - 1)) for _ in range(2))
    residual, second = data.draw(st.integers(0, 255)), data.draw(st.integers(0, (1 << 31) - 1))
    form = Requantization(np.array([multiplier], np.int32), shift, zero, 0, 255, second, data.draw(st.integers(0, 255)))
    assume(lift_of(form) is not None)
    left, packed, rounding, *_, lift, _low, _high = parameters_of(form).tolist()
    added = (residual - form.residual_zero_point) << lift
    total = accumulator * int(lifted_multipliers(form)[0]) + added * second
    assert -(1 << 31) <= added < 1 << 31
    assert -(1 << 63) <= total < 1 << 63
    half = min(max((total >> 32) >> left, -(1 << 15)), (1 << 15) - 1)
    byte = min(max(min(half + rounding, (1 << 15) - 1) >> packed, 0), 255)
    reference = sum(x * m for x, m in ((accumulator, multiplier), (residual - form.residual_zero_point, second))) + (1 << (shift - 1))
    assert byte == min(max((reference >> shift) + zero, 0), 255)


@given(st.data(), st.sampled_from(sorted(DOT_PRODUCTS)))
def test_dot_products_by_definition(data: st.DataObject, name: str) -> None:
    lanes = DOT_PRODUCTS[name].lanes
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    activation, weight = rng.integers(0, 256, 4 * lanes, dtype=np.uint8), rng.integers(-128, 128, 4 * lanes).astype(np.int8)
    start = rng.integers(-1000, 1000, lanes).astype(np.int32)
    expected = [int(start[i]) + sum(int(activation[4 * i + j]) * int(weight[4 * i + j]) for j in range(4)) for i in range(lanes)]
    assert DOT_PRODUCTS[name].evaluate(start, activation, weight).tolist() == expected
