"""Widths by name: values that share an encoding agree, and names that the network does not have are refused."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.errors import RecipeError
from qcc.ir import GraphBuilder, Stage, TensorType
from qcc.ir.types import F32
from qcc.ops import Convolution, Function, MaxPool
from qcc.passes.calibrate import Range
from qcc.passes.quantize import Precision, encode, place


def network() -> GraphBuilder:
    """conv, then max pooling, whose two ends share an encoding, then conv."""
    builder = GraphBuilder("n", Stage.FLOAT)
    builder.input("x", TensorType(F32, (1, 3, 8, 8)))
    weights = builder.constant(np.ones((3, 3, 1, 1), np.float32), "w")
    builder.add(Convolution(), ["x", weights], ["a"])
    builder.add(MaxPool((2, 2), (2, 2)), ["a"], ["b"])
    builder.add(Convolution(), ["b", weights], ["c"])
    builder.outputs["y"] = "c"
    return builder


def bits_of(precision: Precision) -> dict[str, int]:
    graph = network().build()
    placement = place(graph)
    encoded = encode(graph, placement, dict.fromkeys(placement.encoded, Range(-1.0, 1.0)), precision)
    return {name: type.encoding.dtype.bits for name, type in encoded.types.items() if type.encoding is not None}


def test_inputs_keep_eight_bits_unless_named() -> None:
    assert bits_of(Precision(4, 4)) == {"x": 8, "a": 4, "b": 4, "w": 4, "w@c": 4}
    assert bits_of(Precision(4, 4, activations={"x": 4}))["x"] == 4


def test_sixteen_bits_stay_where_kernels_take_them() -> None:
    assert bits_of(Precision(4, 16)) == {"x": 8, "a": 16, "b": 16, "w": 4, "w@c": 4}
    builder = GraphBuilder("n", Stage.FLOAT)
    builder.input("x", TensorType(F32, (1, 3, 8, 8)))
    weights = builder.constant(np.ones((3, 3, 1, 1), np.float32), "w")
    builder.add(Convolution(), ["x", weights], ["a"])
    builder.add(Function("leaky_relu", (0.1,)), ["a"], ["b"])
    builder.add(Convolution(), ["b", weights], ["c"])
    builder.outputs["y"] = "c"
    graph = builder.build()
    placement = place(graph)
    assert {name: Precision(4, 16).of_values((name,), graph, placement) for name in "ab"} == {"a": 8, "b": 8}
    with pytest.raises(RecipeError, match="an operator of bytes"):
        Precision(activations={"a": 16}).of_values(("a",), graph, placement)


def test_one_name_counts_for_all_that_share_its_encoding() -> None:
    assert bits_of(Precision(activations={"b": 5}, weights={"c": 3})) == {"x": 8, "a": 5, "b": 5, "w": 8, "w@c": 3}


@pytest.mark.parametrize(
    ("precision", "message"),
    [(Precision(activations={"a": 4, "b": 5}), "share one encoding"), (Precision(weights={"b": 4}), r"\[weights\] names b"),
     (Precision(activations={"c": 4, "w": 4}), r"\[activations\] names c, w")],
)
def test_names_that_are_refused(precision: Precision, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bits_of(precision)
