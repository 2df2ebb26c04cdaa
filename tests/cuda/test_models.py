"""Whole networks for GPUs, through the artifact and the driver's entry points: every layer equals the interpreter, tolerance 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper, numpy_helper

import qcc
from qcc import verification
from qcc.recipe import Recipe
from tests.cuda.fake import FakeDriver

Array = npt.NDArray[Any]
Samples = Callable[..., list[dict[str, Array]]]
# Every network, every batch size, every generation of GPUs that has code of its own, and widths of weights and activations.
CASES = [
    ("ad_autoencoder", 1, 80, 8, 8), ("ad_autoencoder", 8, 90, 4, 4), ("kws_dscnn", 1, 75, 8, 8), ("kws_dscnn", 3, 90, 4, 8),
    ("resnet8_cifar10", 1, 90, 4, 4), ("resnet8_cifar10", 8, 75, 8, 8), ("resnet8_cifar10", 3, 80, 4, 4), ("vww_mobilenetv1", 3, 80, 4, 4),
]  # fmt: skip


@pytest.mark.parametrize(("name", "batch", "sm", "weight_bits", "activation_bits"), CASES)
def test_bundled_networks(
    name: str, batch: int, sm: int, weight_bits: int, activation_bits: int, cuda_compiler: str, driver: FakeDriver, tmp_path: Path,
    zoo: Callable[[str], Path], samples: Samples, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator,
) -> None:
    feeds = samples(name, 8)
    together = {key: np.concatenate([feed[key] for feed in feeds[:batch]]) for key in feeds[0]}
    shapes = {key: array.shape for key, array in together.items()}
    recipe = Recipe(
        f"cuda:sm_{sm}", weight_bits=weight_bits, activation_bits=activation_bits, rounding="nearest", correction="none",
        input_shapes=shapes)
    artifact = qcc.compile(zoo(name), calibration_data=[together], recipe=recipe)
    artifact.save(tmp_path / "out")
    driver.prepare(tmp_path / "out", sm)
    monkeypatch.setenv("QCC_FAKE_CUDA_SM", str(sm))
    noise = {key: (rng.normal(size=array.shape) * 2 * np.abs(array).max()).astype(array.dtype) for key, array in together.items()}
    with qcc.load(tmp_path / "out") as module:
        module.selftest()
        for given in (together, noise):
            layers = list(verification.check_layers(module, artifact.graph, given))
            wrong = [layer for layer in layers if not layer.good]
            assert not wrong, f"{wrong[0]} and {len(wrong) - 1} more differ"
            assert sum(layer.error is not None for layer in layers) >= len(artifact.program.steps) // 2, "too few layers were compared"


def test_a_maximum_between_a_float_operator_and_a_layer(
    cuda_compiler: str, driver: FakeDriver, tmp_path: Path, rng: np.random.Generator
) -> None:
    """At 4 bits the layer could read values that share bytes, but the maximum before it reads bytes: a float operator's rounded results."""
    weights = [numpy_helper.from_array(rng.normal(size=(16, 16, 3, 3)).astype(np.float32) * 0.2, name) for name in ("a", "b")]
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["first"]), helper.make_node("LRN", ["first"], ["normal"], size=3),
        helper.make_node("MaxPool", ["normal"], ["most"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
        helper.make_node("Conv", ["most", "b"], ["last"], pads=[1, 1, 1, 1]),
    ]
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("image", [1, 16, 9, 9]), ("last", [1, 16, 4, 4]))]
    model = helper.make_model(helper.make_graph(nodes, "maximum", ports[:1], ports[1:], weights), ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17)])
    feeds = {"image": rng.normal(size=(1, 16, 9, 9)).astype(np.float32)}
    recipe = Recipe("cuda:sm_80", name="maximum", weight_bits=4, activation_bits=4, rounding="nearest", correction="none")
    artifact = qcc.compile(model, calibration_data=[feeds], recipe=recipe)
    artifact.save(tmp_path / "out")
    driver.prepare(tmp_path / "out", 80)
    with qcc.load(tmp_path / "out") as module:
        layers = list(verification.check_layers(module, artifact.graph, feeds))
    assert all(layer.good for layer in layers)
