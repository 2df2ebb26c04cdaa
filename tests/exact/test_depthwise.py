"""The depthwise family against NumPy, bit for bit: awkward channels, windows and views, on every x86 target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.codegen.cpu.packing import interleaved_channels
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.kernel import View
from qcc.codegen.target import TARGETS, Target
from qcc.codegen.x86.depthwise import DepthwiseKernel, plan_depthwise
from qcc.codegen.x86.tiles import depthwise_fold
from qcc.errors import CodegenError
from qcc.ir.types import I32, U8, Array
from tests.exact.harness import check_layers, spaced, targets

NO_GAPS = (0, 0, 0)


@dataclass(frozen=True)
class Case:
    """A layer. `shift` None means int32 output."""

    source: tuple[int, int, int, int]
    window: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    shift: int | None = 38
    residual: bool = False
    gaps: tuple[tuple[int, int, int], tuple[int, int, int]] = (NO_GAPS, NO_GAPS)
    clamp: tuple[int, int] = (0, 255)
    largest: bool = False


CASES = (
    *(Case((1, 9, 10, c)) for c in (1, 3, 8, 10, 16, 17, 24, 32, 48, 64, 65, 100, 144)),
    *(Case((1, 9, 10, c), shift=None) for c in (1, 10, 24, 33, 64, 80)),
    *(Case((2, 12, 13, 40), (k, k), (s, s)) for k, s in ((1, 1), (2, 1), (3, 2), (4, 1), (5, 1), (5, 2), (7, 1), (7, 2), (9, 1))),
    *(Case((2, 12, 13, 40), (k, w), (s, 1)) for k, w, s in ((3, 5, 1), (5, 5, 2), (6, 5, 3), (7, 1, 2), (9, 5, 1))),
    Case((2, 12, 13, 40), (3, 3), (2, 1)),
    Case((2, 11, 8, 24), (2, 3), dilations=(3, 1)),
    Case((1, 24, 3, 20), (20, 3)),
    Case((1, 24, 5, 20), (20, 5)),
    Case((1, 24, 24, 20), (20, 18), shift=None),
    Case((1, 7, 7, 70), (7, 7)),
    Case((1, 3, 3, 5)),
    Case((1, 3, 60, 2), (1, 3), (1, 1)),
    Case((1, 60, 3, 2), (3, 1), (2, 2)),
    Case((2, 11, 12, 36), dilations=(2, 2)),
    Case((2, 11, 12, 36), (3, 2), (2, 1), (1, 3)),
    Case((3, 8, 8, 24), gaps=((0, 0, 5), (0, 3, 1))),
    Case((3, 8, 8, 24), gaps=((4, 0, 0), (0, 0, 0))),
    Case((2, 8, 8, 96), gaps=((1, 2, 3), (5, 3, 2)), residual=True),
    Case((2, 8, 8, 20), (3, 3), (2, 2), gaps=((1, 2, 3), (5, 3, 2)), shift=None),
    *(Case((1, 8, 9, 40), shift=s, residual=True) for s in (3, 20, 31, 32, 50, 57)),
    *(Case((1, 8, 9, 40), (5, 5), shift=s, largest=True) for s in (31, 36, None)),
    Case((1, 8, 9, 40), clamp=(20, 210)),
)


def extents(case: Case) -> tuple[int, int]:
    return tuple((n - (k - 1) * d - 1) // s + 1  # type: ignore[return-value]
                 for n, k, d, s in zip(case.source[1:3], case.window, case.dilations, case.strides, strict=True))


def convolve(source: Array, weights: Array, case: Case) -> Array:
    """int64 accumulators, by definition."""
    rows, columns = extents(case)
    total = np.zeros((source.shape[0], rows, columns, source.shape[3]), np.int64)
    for y in range(case.window[0]):
        for x in range(case.window[1]):
            top, left = y * case.dilations[0], x * case.dilations[1]
            taken = source[:, top : top + (rows - 1) * case.strides[0] + 1 : case.strides[0],
                           left : left + (columns - 1) * case.strides[1] + 1 : case.strides[1]]
            total += taken.astype(np.int64) * weights[:, y, x, 0]
    return total


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

    def plan(self, target: Target) -> tuple[DepthwiseKernel, tuple[Array, ...]]:
        case, (source, output) = self.case, self.views
        residual = replace(output, dtype=U8) if case.residual else None
        return plan_depthwise(source, self.weights, self.bias, case.strides, case.dilations, output, self.requantization, residual, target)

    def evaluate(self) -> Array:
        accumulator = convolve(self.source, self.weights, self.case) + self.bias
        return accumulator.astype(np.int32) if self.requantization is None else self.requantization.evaluate(accumulator, self.residual)


def layer(case: Case, seed: int, bits: int = 8) -> Layer:
    rng = np.random.default_rng(seed)
    channels = case.source[3]
    source = rng.integers(0, 256, case.source, dtype=np.uint8)
    top = (1 << bits - 1) - 1
    weights = rng.integers(-top, top + 1, (channels, *case.window, 1)).astype(np.int8)
    if case.largest:
        source[...], weights[...] = 255, top
    bias = rng.integers(-(1 << 12), 1 << 12, channels).astype(np.int32)
    shape = (case.source[0], *extents(case), channels)
    residual = rng.integers(0, 256, shape, dtype=np.uint8) if case.residual else None
    requantization = None
    if case.shift is not None:
        spread = float(np.abs(convolve(source, weights, case) + bias).max())
        largest = min((1 << 31) - 1, max(1, int(256 * 2.0**case.shift / spread)))
        multiplier = rng.integers(max(1, largest // 2), largest + 1, channels) * rng.choice([1, 1, -1], channels)
        second = min((1 << 31) - 1, 1 << (case.shift - 1)) if case.residual else 0
        requantization = Requantization(multiplier.astype(np.int32), case.shift, int(rng.integers(0, 256)), *case.clamp, second,
                                        int(rng.integers(0, 256)) if case.residual else 0)
    views = spaced(U8, case.source, case.gaps[0]), spaced(I32 if case.shift is None else U8, shape, case.gaps[1])
    return Layer(case, source, weights, bias, residual, requantization, views)


@pytest.mark.parametrize("target", targets())
def test_cases(target: Target) -> None:
    check_layers([layer(case, seed) for seed, case in enumerate(CASES)], target)


@pytest.mark.parametrize("target", targets())
def test_weights_that_share_bytes(target: Target) -> None:
    check_layers([layer(case, seed, (4, 3, 2)[seed % 3]) for seed, case in enumerate(CASES) if seed % 2], target)


@pytest.mark.parametrize("target", targets())
def test_random_layers(target: Target) -> None:
    rng = np.random.default_rng(11)

    def draw() -> Case:
        window, strides, dilations = (tuple(int(v) for v in rng.integers(1, most, 2)) for most in (6, 3, 3))
        size = [(k - 1) * d + 1 + int(rng.integers(0, 14)) for k, d in zip(window, dilations, strict=True)]
        gaps = tuple(tuple(int(v) for v in rng.integers(0, 4, 3) * rng.integers(0, 2, 3)) for _ in range(2))
        return Case((int(rng.integers(1, 4)), *size, int(rng.integers(1, 150))), window, strides, dilations,  # type: ignore[arg-type]
                    int(rng.integers(24, 50)), bool(rng.integers(0, 2)), gaps)  # type: ignore[arg-type]

    check_layers([layer(draw(), seed, (8, 2, 3, 4)[seed % 4]) for seed in range(24)], target)


def test_folding_needs_pixels_side_by_side() -> None:
    target = TARGETS["x86-64-avx512vnni"]
    folds = [layer(case, 1).plan(target)[0].fold for case in (
        Case((1, 10, 34, 24)), Case((1, 10, 34, 24), gaps=((1, 0, 0), NO_GAPS)), Case((1, 10, 34, 24), strides=(1, 2)))]
    assert folds == [8, 1, 1]


def test_wrong_windows_are_refused() -> None:
    item = layer(Case((1, 8, 8, 32)), 1)
    with pytest.raises(CodegenError, match="expected one window per channel"):
        replace(item, weights=item.weights[:16]).plan(TARGETS["x86-64-avx512vnni"])


@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from((8, 16)))
def test_blocks_hold_every_channel_of_every_pixel(channels: int, columns: int, lanes: int) -> None:
    fold = depthwise_fold(channels, columns, 4 * lanes)
    held = interleaved_channels(channels, fold, lanes)
    assert 1 <= fold <= columns
    assert set(held[held >= 0].tolist()) == set(range(channels))
    assert (held >= 0).sum() >= fold * channels
