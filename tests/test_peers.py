"""Other runtimes as contenders: built from one model and one set of calibration data."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc import peers
from qcc.errors import UsageError
from qcc.models import zoo


def cifar() -> list[dict[str, np.ndarray]]:
    pixels, _ = zoo.images("cifar20")
    images = (pixels.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 128
    return [{"input": image[None]} for image in images]


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_float_and_int8_agree(name: str) -> None:
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra 'bench' is not installed")
        pytest.importorskip("nncf", reason="the extra 'bench' is not installed")
    feeds = cifar()
    exact, quantized = peers.build([name], zoo.path("resnet8_cifar10"), feeds[:8])
    assert (exact.name, exact.precision, quantized.precision) == (name, "float32", "int8")
    results = [np.concatenate([peer.run(batch)["output"] for batch in feeds]) for peer in (exact, quantized)]
    assert results[0].shape == (20, 10)
    assert (results[0].argmax(1) == results[1].argmax(1)).sum() >= 17
    assert 1e-5 < np.abs(results[0] - results[1]).max() < 0.7


def test_unknown_peer() -> None:
    with pytest.raises(UsageError, match="cannot compare against 'tensorflow': expected onnxruntime or openvino"):
        peers.build(["tensorflow"], zoo.path("resnet8_cifar10"), cifar()[:1])


def test_no_calibration_data() -> None:
    with pytest.raises(UsageError, match="give at least one batch"):
        peers.build(["onnxruntime"], zoo.path("resnet8_cifar10"), [])


def test_missing_peer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith(("openvino", "nncf")):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UsageError, match=r"cannot compare against openvino: No module.*pip install 'qcc\[bench\]'"):
        peers.build(["openvino"], zoo.path("resnet8_cifar10"), cifar()[:1])


def test_a_model_that_the_peer_refuses(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(UsageError, match=r"onnxruntime cannot load or quantize .*broken\.onnx"):
        peers.build(["onnxruntime"], broken, cifar()[:1])
