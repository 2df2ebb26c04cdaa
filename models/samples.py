"""Inputs for each model, prepared as the model wants them: real images where it was trained on images, else seeded noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc.models import zoo

Array = npt.NDArray[Any]

IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class Preparation:
    """From uint8 images to a model's input: the centre at `size`, channel order, (x - mean) / deviation, layout."""

    images: str
    size: int
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (255.0,)
    bgr: bool = False
    channels_last: bool = False
    input: str = "input"

    def __call__(self, pixels: zoo.Pixels) -> Array:
        """float32 [N, C, size, size] (or channels last) from uint8 [N, H, W, C]; smaller images are enlarged by repetition."""
        extent = pixels.shape[1]
        start = max(extent - self.size, 0) // 2
        rows = np.arange(start, start + self.size) if extent >= self.size else np.arange(self.size) * extent // self.size
        centre = pixels[:, rows][:, :, rows].astype(np.float32)
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        prepared = ((centre[..., ::-1] if self.bgr else centre) - mean) / deviation
        return np.ascontiguousarray(prepared if self.channels_last else prepared.transpose(0, 3, 1, 2))


_RANDOM_WEIGHTS = Preparation("photos8", 224, IMAGENET_MEAN, IMAGENET_DEVIATION)
PREPARATIONS: Mapping[str, Preparation] = {
    "resnet8_cifar10": Preparation("cifar20", 32, (128.0,), (128.0,)),
    "vww_mobilenetv1": Preparation("photos8", 96),
    "efficientnet_lite0": Preparation("photographs", 224, (127.0,), (128.0,)),
    "efficientnet_lite0_bn": Preparation("photographs", 224, (127.0,), (128.0,)),
    "squeezenet1_1": Preparation("photographs", 227, (104.006, 116.669, 122.679), (1.0,), bgr=True),
    "lenet5_mnist": Preparation("mnist5000", 28),
    "open_nsfw": Preparation("photographs", 224, (104.0, 117.0, 123.0), (1.0,), bgr=True, channels_last=True, input="input:0"),
} | dict.fromkeys(zoo.BUILT, _RANDOM_WEIGHTS)
_NOISE: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "kws_dscnn": ("input", (50, 10, 1)),
    "ad_autoencoder": ("input", (5, 128, 1)),
} | {name: ("data_0", (3, 224, 224)) for name in zoo.LIGHT} | {
    name: ("gpu_0/data_0", (3, 224, 224)) for name in ("light_resnet50", "light_shufflenet", "light_zfnet512")}


def samples(name: str, count: int, source: str | None = None) -> list[dict[str, Array]]:
    """`count` batches of one for the model of this name, for calibration or comparison; fewer if there are not so many images.

    Args:
        name: as for `zoo.path`.
        count: how many, evenly spread over the images.
        source: the set of images to take instead of the model's usual one (one that was not used for calibration, for example).

    Raises:
        zoo.ModelUnavailable: no such model, or its images cannot be had.
    """
    if name in _NOISE:
        key, shape = _NOISE[name]
        noise = np.random.default_rng(7).normal(size=(count, 1, *shape)).astype(np.float32)
        return [{key: batch} for batch in noise]
    if name not in PREPARATIONS:
        raise zoo.ModelUnavailable(f"there are no samples for model {name!r}; there are for {', '.join((*PREPARATIONS, *_NOISE))}")
    preparation = PREPARATIONS[name]
    pixels, _ = zoo.images(source or preparation.images)
    chosen = np.linspace(0, len(pixels) - 1, min(count, len(pixels))).round().astype(int)
    return [{preparation.input: batch} for batch in preparation(pixels[chosen])[:, None]]
