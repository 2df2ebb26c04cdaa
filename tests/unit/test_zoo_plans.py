"""Plans of real networks: steps find what they read, and the arena is near the size that no plan can go below."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from qcc.codegen.cpu.dense import ImplicitProduct
from qcc.codegen.cpu.depthwise import DepthwiseForm
from qcc.codegen.cuda.dense import DenseKernel
from qcc.codegen.plan import plan
from qcc.codegen.program import Space
from qcc.codegen.target import find_target
from qcc.ir import Graph, Pipeline, verify
from qcc.models import zoo
from qcc.onnx import import_model
from qcc.ops import OnnxOperator
from qcc.passes.calibrate import Range
from qcc.passes.integer import prove, to_integer
from qcc.passes.quantize import Precision, encode, place
from qcc.passes.simplify import SIMPLIFY
from tests.unit.test_placing import TARGET, Machine, islands

MOST_OF_THE_BOUND = 1.15


def integer_model(name: str, integer_io: bool, precision: Precision = Precision()) -> Graph:  # noqa: B008  (it is frozen)
    """The model as integers; ranges do not matter to its plan."""
    graph = Pipeline(SIMPLIFY)(import_model(zoo.path(name)))
    placement = place(graph, integer_io)
    quantized = encode(graph, placement, dict.fromkeys(placement.encoded, Range(-3.0, 5.0)), precision)
    verify(quantized)
    integer = to_integer(quantized, placement, integer_io)
    verify(integer)
    assert all(bound.holds for bound in prove(integer))
    return integer


@pytest.mark.parametrize("integer_io", [False, True])
@pytest.mark.parametrize("name", zoo.BUNDLED)
def test_bundled_models(name: str, integer_io: bool) -> None:
    graph = integer_model(name, integer_io)
    program = plan(graph, TARGET, "model", islands(graph))
    Machine(graph, program).run()
    assert program.arena_lower_bound <= program.arena_bytes <= MOST_OF_THE_BOUND * program.arena_lower_bound


def forms(name: str, precision: Precision) -> tuple[Counter[tuple[int, int]], int]:
    """Dense kernels of the network on a GPU by stored bits of sources and weights, and the bytes of the arena."""
    graph = integer_model(name, True, precision)
    assert all(isinstance(node.op, OnnxOperator) for node in graph.nodes[-1:]), "the softmax at its end is all that stays float"
    body = replace(graph, nodes=graph.nodes[:-1], outputs={"scores": graph.nodes[-1].inputs[0]})
    program = plan(body, find_target("cuda:sm_80"), "model")
    return Counter(step.kernel.bits[:2] for step in program.steps if isinstance(step.kernel, DenseKernel)), program.arena_bytes


def test_values_of_four_bits_share_bytes_on_gpus() -> None:
    """Between dense layers, also padded and added; the network's input has 8 bits."""
    narrow, narrow_bytes = forms("resnet8_cifar10", Precision(4, 4))
    wide, wide_bytes = forms("resnet8_cifar10", Precision())
    assert narrow == {(4, 4): 8, (8, 4): 1}
    assert wide == {(8, 8): 9}
    assert narrow_bytes < 0.6 * wide_bytes
    assert forms("resnet8_cifar10", Precision(4, 8))[0] == {(8, 4): 9}


def test_values_beside_depthwise_layers_have_a_byte_each_on_gpus() -> None:
    assert forms("vww_mobilenetv1", Precision(4, 4))[0] == {(8, 4): 14}


def weight_bytes(name: str, bits: int, target: str) -> int:
    """Of the packed weights of all linear layers; layers with the same weights count one by one."""
    graph, total = integer_model(name, False, Precision(bits, 8)), 0
    if name in zoo.LIGHT:       # constant weights, some so small that 4 bits hold them at any width
        rng, most = np.random.default_rng(0), (1 << bits >> 1) - 1
        graph = replace(graph, constants={
            key: rng.integers(-most, most, array.shape, np.int8, endpoint=True) if array.dtype == np.int8 else array
            for key, array in graph.constants.items()})
    for step in plan(graph, find_target(target), "model", islands(graph)).steps:
        if isinstance(step.kernel, ImplicitProduct | DepthwiseForm):
            first = next(n for n, address in enumerate(step.arguments) if address.space is Space.CONSTANT)
            view = step.kernel.operands[first]
            total += view.span * view.dtype.bytes
    return total


@pytest.mark.parametrize("target", ["aarch64-i8mm", "aarch64-dotprod", "aarch64-neon"])
@pytest.mark.parametrize("name", [*zoo.BUNDLED, *(
    pytest.param(name, marks=[pytest.mark.exhaustive, pytest.mark.network]) for name in (*zoo.PUBLISHED, *zoo.BUILT, *zoo.LIGHT))])
def test_weights_of_four_bits_take_half_the_bytes_on_arm(name: str, target: str) -> None:
    ratio = weight_bytes(name, 4, target) / weight_bytes(name, 8, target)
    assert 0.4 < ratio <= 0.52
