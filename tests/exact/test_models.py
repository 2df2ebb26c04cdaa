"""Whole networks: every layer that the library computes equals the interpreter, tolerance 0, on every target that this CPU runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import qcc
from qcc import verification
from qcc.artifact import Artifact
from qcc.codegen.cpu.packing import GROUPS
from qcc.codegen.target import TARGETS, host_features
from qcc.ir import DType
from qcc.ir.types import U8, U16
from qcc.models import zoo as model_zoo
from qcc.ops import Convolution
from qcc.recipe import Recipe
from qcc.summary import layers

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
INPUTS = 8
OFTEN = ("efficientnet_lite0", "mobilenet_v2")      # with 4 bits, too
LARGE = ("lenet5_mnist", "efficientnet_lite0", "efficientnet_lite0_bn", "squeezenet1_1", "open_nsfw")
EVERY = (*LARGE, "mobilenet_v2", "resnet18", *model_zoo.LIGHT)


def random_like(feeds: Feeds, rng: np.random.Generator) -> dict[str, Array]:
    """Noise that leaves the calibrated range on both sides."""
    return {name: (rng.normal(size=array.shape) * 2 * np.abs(array).max()).astype(array.dtype) for name, array in feeds.items()}


def inputs_for(samples: list[dict[str, Array]], rng: np.random.Generator) -> list[dict[str, Array]]:
    real = (samples * INPUTS)[: INPUTS // 2]
    return real + [random_like(real[0], rng) for _ in range(INPUTS - len(real))]


def assert_exact(artifact: Artifact, folder: Path, inputs: list[dict[str, Array]], threads: int = 1) -> None:
    with qcc.load(folder, threads=threads) as module:
        for feeds in inputs:
            found = list(verification.check_layers(module, artifact.graph, feeds))
            wrong = [layer for layer in found if not layer.good]
            assert not wrong, f"{wrong[0]} and {len(wrong) - 1} more differ"
            compared = [layer for layer in found if layer.error is not None]
            assert len(compared) >= len(artifact.program.steps) // 2, "too few layers were compared"
        module.selftest()


def compiled(
    model: Path, feeds: list[dict[str, Array]], folder: Path, target: str = "host", rounding: str = "auto", bits: int = 8
) -> Artifact:
    recipe = Recipe(target, "", bits, bits, rounding=rounding, correction="auto" if rounding == "auto" else "none")
    artifact = qcc.compile(model, calibration_data=feeds, recipe=recipe)
    artifact.save(folder)
    return artifact


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_networks(
    name: str,
    target: str,
    tmp_path: Path,
    rng: np.random.Generator,
    zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    if not host_features().issuperset(TARGETS[target].features):
        pytest.skip(f"this CPU does not run {target}")
    feeds = samples(name, 4)
    artifact = compiled(zoo(name), feeds, tmp_path / "out", target)
    assert_exact(artifact, tmp_path / "out", inputs_for(feeds, rng), threads=2)
    summary = artifact.summary
    assert (tmp_path / "out" / f"lib{artifact.program.name}.so").stat().st_size <= 1.05 * summary.weight_bytes + 200_000
    assert summary.arena_bytes <= 1.15 * summary.arena_lower_bound


@pytest.mark.parametrize(
    ("name", "bits", "activation_bits"), [
        ("kws_dscnn", 2, 8), ("kws_dscnn", 3, 8), ("kws_dscnn", 7, 3), ("lenet5_mnist", 4, 4), ("resnet8_cifar10", 4, 4),
        ("vww_mobilenetv1", 4, 4), ("ad_autoencoder", 4, 4)]
)
def test_few_bits(
    name: str, bits: int, activation_bits: int, tmp_path: Path, rng: np.random.Generator, zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    feeds = samples(name, 4)
    artifact = qcc.compile(zoo(name), calibration_data=feeds, recipe=Recipe(weight_bits=bits, activation_bits=activation_bits))
    artifact.save(tmp_path / "out")
    weights = [array for name, array in artifact.graph.constants.items() if artifact.graph.types[name].dtype == DType("i", bits)]
    assert weights
    assert max(int(np.abs(array).max()) for array in weights) == 2 ** (bits - 1) - 1
    assert {type.dtype.bits for type in artifact.graph.types.values() if type.dtype.is_byte} == {activation_bits, 8}   # 8: the input
    stored = {row["weight_bits"] for row in layers(artifact.graph, artifact.program) if "weight_bits" in row}
    assert stored == {bits if bits in GROUPS else 8}
    assert_exact(artifact, tmp_path / "out", inputs_for(feeds, rng))


def test_activations_of_16_bits(
    tmp_path: Path, rng: np.random.Generator, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Array]]]
) -> None:
    feeds = samples("resnet8_cifar10", 4)
    artifact = qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds, recipe=Recipe(weight_bits=4, activation_bits=16))
    artifact.save(tmp_path / "out")
    assert {type.dtype for type in artifact.graph.types.values() if type.dtype.is_activation} >= {U8, U16}      # u8: the input
    assert {row["weight_bits"] for row in layers(artifact.graph, artifact.program) if "weight_bits" in row} == {4}
    assert_exact(artifact, tmp_path / "out", inputs_for(feeds, rng))


def test_widths_by_name(tmp_path: Path, rng: np.random.Generator, zoo: Callable[[str], Path],
                        samples: Callable[..., list[dict[str, Array]]]) -> None:
    feeds = samples("resnet8_cifar10", 4)
    uniform = qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds)
    names = [node.outputs[0] for node in uniform.quantized_graph.nodes if isinstance(node.op, Convolution)]
    values = [n for n, t in uniform.quantized_graph.types.items() if t.encoding is not None and t.encoding.axis is None]
    recipe = Recipe(weights={names[2]: 3, names[4]: 5}, activations={values[3]: 4, values[5]: 6})
    artifact = qcc.compile(zoo("resnet8_cifar10"), calibration_data=feeds, recipe=recipe)
    artifact.save(tmp_path / "out")
    assert {t.dtype.bits for t in artifact.graph.types.values() if t.dtype.is_byte} == {4, 6, 8}
    assert {artifact.graph.types[n].dtype.bits for n, a in artifact.graph.constants.items() if a.dtype == np.int8} == {3, 5, 8}
    assert_exact(artifact, tmp_path / "out", inputs_for(feeds, rng))
    assert Recipe.load(tmp_path / "out" / "recipe.toml") == artifact.recipe


@pytest.mark.network
@pytest.mark.parametrize(("name", "bits"), [
    *((name, 8) for name in EVERY), *(pytest.param(name, 4, marks=() if name in OFTEN else pytest.mark.exhaustive) for name in EVERY)])
def test_large_networks(
    name: str, bits: int, tmp_path: Path, rng: np.random.Generator, zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    feeds = samples(name, 2)
    artifact = compiled(zoo(name), feeds, tmp_path / "out", rounding="nearest", bits=bits)    # which weights they are does not matter
    assert_exact(artifact, tmp_path / "out", inputs_for(feeds, rng), threads=2)
    assert artifact.summary.arena_bytes <= 1.15 * artifact.summary.arena_lower_bound


def test_same_recipe_same_bytes(tmp_path: Path, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Array]]]) -> None:
    feeds = samples("kws_dscnn", 4)
    compiled(zoo("kws_dscnn"), feeds, tmp_path / "first")
    recipe = Recipe.load(tmp_path / "first" / "recipe.toml")
    qcc.compile(zoo("kws_dscnn"), calibration_data=feeds, recipe=recipe).save(tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_clean_and_ugly_exports_meet(zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Array]]]) -> None:
    """The older exporter's graph, full of shape arithmetic and BatchNorm, ends in the same integer graph."""
    from qcc.compiler import silent
    from qcc.ir import Graph, Pipeline
    from qcc.measuring import measure
    from qcc.onnx import import_model
    from qcc.passes.integer import to_integer
    from qcc.passes.quantize import Precision, encode, place
    from qcc.passes.simplify import SIMPLIFY

    feeds = samples("efficientnet_lite0", 2)

    def integer(name: str) -> Graph:
        graph = Pipeline(SIMPLIFY)(import_model(zoo(name)))
        placement = place(graph)
        given = [{graph.inputs[0]: next(iter(feed.values()))} for feed in feeds]
        return to_integer(encode(graph, placement, measure(graph, placement, given, Recipe(), silent).ranges, Precision()), placement)

    clean, ugly = integer("efficientnet_lite0"), integer("efficientnet_lite0_bn")
    assert [type(node.op) for node in clean.nodes] == [type(node.op) for node in ugly.nodes]
    for a, b in zip(clean.nodes, ugly.nodes, strict=True):
        assert [t.shape for t in clean.output_types(a)] == [t.shape for t in ugly.output_types(b)]
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if clean.is_constant(x) and clean.constants[x].dtype == np.int8:
                assert np.abs(clean.constants[x].astype(int) - ugly.constants[y].astype(int)).max() <= 1
