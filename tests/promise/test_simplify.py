"""Every simplifying pass keeps its promise, on the bundled models and on random networks; and together they reach one plain form."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest

import qcc.onnx
from qcc.ir import Array, Graph, GraphBuilder, Pipeline, TensorType, dump, parse
from qcc.ir.types import F32
from qcc.models import zoo as model_zoo
from qcc.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Concat,
    Convolution,
    Divide,
    Function,
    Gather,
    MatMul,
    MaxPool,
    Multiply,
    Pad,
    ReduceMean,
    Reshape,
    Slice,
    Subtract,
    Transpose,
)
from qcc.passes.simplify import SIMPLIFY
from tests.promise.promise import Watch

PLAIN = {"convolution", "clip", "add", "reduce_mean", "reshape", "matmul", "Softmax"}


class Random:
    """A random network: every step takes a value that exists and makes another one."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = GraphBuilder("random")
        self.values = [self.b.input("x", TensorType(F32, (int(self.rng.integers(1, 3)), 4, 6, 6)))]

    def pick(self) -> tuple[str, tuple[int, ...]]:
        # Mostly the newest value: deep networks let passes meet.
        name = self.values[-1] if self.rng.random() < 0.75 else self.values[int(self.rng.integers(len(self.values)))]
        return name, self.b.types[name].shape

    def constant(self, *shape: int) -> str:
        array: Array = self.rng.normal(size=shape).astype(np.float32)
        return self.b.constant(np.where(np.abs(array) < 0.2, np.float32(0.5), array))

    def pointwise(self, x: str, shape: tuple[int, ...]) -> str:
        kind = (Add, Subtract, Multiply, Divide)[int(self.rng.integers(4))]
        axis = int(self.rng.integers(len(shape)))
        sizes = [(), tuple(n if i == axis else 1 for i, n in enumerate(shape)), shape[-1:]][int(self.rng.integers(3))]
        operands = [x, self.constant(*sizes)]
        return self.b.add(kind(), operands if kind is Divide or self.rng.random() < 0.7 else operands[::-1])

    def curve(self, x: str, shape: tuple[int, ...]) -> str:
        match int(self.rng.integers(5)):
            case 0:
                return self.b.add(Clip((0.0,), (float("inf"),)), [x])
            case 1:
                return self.b.add(Clip((-1.0,), (float(self.rng.random()),)), [x])
            case 2:
                return self.b.add(Multiply(), [x, self.b.add(Function("sigmoid"), [x])])
            case 3:
                return self.b.add(Function("neg"), [x])
            case _:
                return self.b.add(Function("tanh"), [x])

    def two(self, x: str, shape: tuple[int, ...]) -> str:
        same = [name for name in self.values if self.b.types[name].shape == shape]
        other = same[int(self.rng.integers(len(same)))]
        return self.b.add((Add(), Multiply(), Concat(int(self.rng.integers(len(shape)))))[int(self.rng.integers(3))], [x, other])

    def move(self, x: str, shape: tuple[int, ...]) -> str:
        axis = int(self.rng.integers(len(shape)))
        match int(self.rng.integers(6)):
            case 0 | 1:
                return self.b.add(Transpose(tuple(int(p) for p in self.rng.permutation(len(shape)))), [x])
            case 2:
                return self.b.add(Reshape((*shape[:axis], 1, *shape[axis:]) if len(shape) < 4 else (shape[0], prod(shape[1:]))), [x])
            case 3:
                order = self.b.constant(self.rng.permutation(shape[axis]))
                return self.b.add(Gather(axis), [x, order])
            case 4:
                stops = tuple(max(1, n - (i == axis)) for i, n in enumerate(shape))
                return self.b.add(Slice((0,) * len(shape), stops, (1,) * len(shape)), [x])
            case _:
                amounts = tuple(int(i == axis) for i in range(len(shape)))
                return self.b.add(Pad(amounts, amounts, 0.0), [x])

    def reduce(self, x: str, shape: tuple[int, ...]) -> str:
        axes = tuple(sorted({int(a) for a in self.rng.integers(len(shape), size=2)}))
        return self.b.add(ReduceMean(axes, bool(self.rng.random() < 0.7)), [x])

    def heavy(self, x: str, shape: tuple[int, ...]) -> str:
        if len(shape) != 4 or min(shape[2:]) < 3:
            return self.b.add(MatMul(), [x, self.constant(shape[-1], 3), *([self.constant(3)] if self.rng.random() < 0.5 else [])])
        channels, pads = shape[1], (int(self.rng.integers(2)),) * 4
        match int(self.rng.integers(6)):
            case 0:
                return self.b.add(Convolution(pads=pads), [x, self.constant(3, channels, 3, 3), self.constant(3)])
            case 1:
                return self.b.add(Convolution(groups=channels, pads=pads), [x, self.constant(2 * channels, 1, 3, 3)])
            case 2:
                return self.b.add(MaxPool((2, 2), (2, 2), pads), [x])
            case 3:
                return self.b.add(AveragePool((2, 2), (2, 2)), [x])
            case 4:
                return self.b.add(AveragePool((shape[2], shape[3])), [x])
            case _:
                positive = self.b.constant(self.rng.random(channels).astype(np.float32) + 0.5)
                return self.b.add(BatchNormalization(1e-3), [x, *(self.constant(channels) for _ in range(3)), positive])

    def build(self, steps: int) -> Graph:
        kinds = (self.pointwise, self.pointwise, self.curve, self.two, self.move, self.move, self.reduce, self.heavy, self.heavy)
        for _ in range(steps):
            name, shape = self.pick()
            if not shape or prod(shape) > 20_000:
                name, shape = self.values[0], self.b.types[self.values[0]].shape
            self.values.append(kinds[int(self.rng.integers(len(kinds)))](name, shape))
        self.b.outputs["last"] = self.values[-1]
        self.b.outputs["other"] = self.values[int(self.rng.integers(len(self.values)))]
        return self.b.build()


def watched(graph: Graph, feeds: dict[str, Array]) -> Graph:
    """Run the pipeline and hold every pass that changes something to its promise."""
    return Pipeline(SIMPLIFY, Watch(feeds))(graph)


def feeds_of(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    return {name: rng.normal(size=graph.types[name].shape).astype(np.float32) for name in graph.inputs}


@pytest.mark.parametrize("seed", range(150))
def test_random_networks(seed: int, rng: np.random.Generator) -> None:
    graph = Random(seed).build(12)
    result = watched(graph, feeds_of(graph, rng))
    assert Pipeline(SIMPLIFY)(result) is result, "simplifying twice changes the graph again"
    assert parse(dump(result), result.constants).nodes == result.nodes


@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_models(name: str, rng: np.random.Generator) -> None:
    graph = qcc.onnx.import_model(model_zoo.path(name))
    result = watched(graph, feeds_of(graph, rng))
    assert {str(node.op) for node in result.nodes} <= PLAIN
    assert Pipeline(SIMPLIFY)(result) is result
    linear = {"resnet8_cifar10": 10, "vww_mobilenetv1": 28, "kws_dscnn": 10, "ad_autoencoder": 10}[name]
    assert sum(isinstance(node.op, Convolution | MatMul) for node in result.nodes) == linear
    assert len(result.nodes) <= 2 * linear + 5


@pytest.mark.parametrize("name", model_zoo.LIGHT)
def test_light_models(name: str) -> None:
    graph = qcc.onnx.import_model(model_zoo.path(name))
    result = Pipeline(SIMPLIFY)(graph)
    assert Pipeline(SIMPLIFY)(result) is result
    assert not {"batch_normalization", "transpose", "pad"}.intersection(str(node.op) for node in result.nodes)


def shape_of(graph: Graph) -> list[object]:
    """The graph without its names: operators, and for every operand where it comes from."""
    number: dict[str, object] = {name: ("input", i) for i, name in enumerate(graph.inputs)}
    number |= {name: ("constant", i, graph.types[name].shape) for i, name in enumerate(graph.constants)}
    result: list[object] = []
    for i, node in enumerate(graph.nodes):
        number |= {name: ("node", i, k) for k, name in enumerate(node.outputs)}
        result.append((node.op, [number[name] for name in node.inputs]))
    return [*result, [(port, number[name]) for port, name in graph.outputs.items()]]


def test_one_network_exported_twice_ends_the_same(zoo: Callable[[str], Path]) -> None:
    clean, other = (Pipeline(SIMPLIFY)(qcc.onnx.import_model(zoo(name))) for name in ("efficientnet_lite0", "efficientnet_lite0_bn"))
    assert shape_of(clean) == shape_of(other)
    for a, b in zip(clean.constants.values(), other.constants.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
