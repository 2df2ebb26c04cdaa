"""The measures of `qcc compare`, and which integer values stand for which float values."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from qcc.comparison import Distance
from qcc.ir import Encoding, Graph, GraphBuilder, Stage, TensorType
from qcc.ir.types import F32, U8
from qcc.passes.integer import Pair, matching_values

ENCODING = Encoding(U8, (0.5,), (10,))


def test_distance_over_batches(rng: np.random.Generator) -> None:
    reference = rng.standard_normal((6, 10)).astype(np.float32)
    noise = (rng.standard_normal((6, 10)) * 0.01).astype(np.float32)
    whole, parts = Distance(), Distance()
    whole.add(reference, reference + noise)
    for row, part in zip(reference, noise, strict=True):
        parts.add(row[None], (row + part)[None])
    expected = 10 * np.log10((reference.astype(float) ** 2).sum() / ((reference - (reference + noise)).astype(float) ** 2).sum())
    for distance in whole, parts:
        assert distance.sqnr == pytest.approx(expected, rel=1e-3)
        assert distance.cosine == pytest.approx(1, abs=1e-3)
        assert distance.cosine < 1
        assert distance.largest == pytest.approx(np.abs(noise).max(), rel=1e-3)
        assert distance.samples == 6


def test_distance_of_special_values() -> None:
    equal, silent, wrong = Distance(), Distance(), Distance()
    equal.add(np.ones((1, 2)), np.ones((1, 2)))
    assert (equal.sqnr, equal.cosine, equal.largest, equal.agreement) == (inf, 1.0, 0.0, 1.0)
    silent.add(np.zeros((1, 2)), np.ones((1, 2)))
    assert (silent.sqnr, silent.cosine) == (-inf, 0.0)
    wrong.add(np.array([[0.0, 1], [1, 0]]), np.array([[1.0, 0], [1, 0]]))
    assert wrong.agreement == 0.5


def graph(stage: Stage, **types: TensorType) -> Graph:
    builder = GraphBuilder("g", stage)
    for name, type in types.items():
        builder.input(name, type)
    return builder.build()


def test_matching_values() -> None:
    real = graph(Stage.FLOAT, **{"x": TensorType(F32, (1, 3, 4, 5)), "y@2": TensorType(F32, (6,)), "z": TensorType(F32, (2, 3))})
    integer = graph(Stage.INTEGER, **{
        "x": TensorType(F32, (1, 3, 4, 5)), "x@integer": TensorType(U8, (1, 3, 4, 5), ENCODING),
        "x@nhwc": TensorType(U8, (1, 4, 5, 3), ENCODING), "x@padded": TensorType(U8, (1, 6, 7, 3), ENCODING),
        "x@unclamped": TensorType(U8, (1, 3, 4, 5), ENCODING),
        "z@10": TensorType(U8, (3, 2), ENCODING), "z": TensorType(U8, (2, 3)),
        "y@2@integer": TensorType(U8, (6,), ENCODING), "q": TensorType(U8, (6,), ENCODING),
    })
    assert matching_values(real, integer) == {
        "x@integer": Pair("x@integer", "x", (0, 1, 2, 3)), "x@nhwc": Pair("x@nhwc", "x", (0, 2, 3, 1)), "z@10": Pair("z@10", "z", (1, 0)),
        "y@2@integer": Pair("y@2@integer", "y@2", (0,)),
    }
