"""Data for the accuracy benchmarks: what calibrates, and what evaluates and was never seen in calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc.models import zoo
from qcc.models.samples import PREPARATIONS

Array = npt.NDArray[Any]
Feeds = list[dict[str, Array]]
MODELS = tuple(name for name, preparation in PREPARATIONS.items() if preparation.images in ("photographs", "mnist5000", "cifar20"))


def data(name: str, photos: Path | None, samples: int) -> tuple[Feeds, Feeds, Array | None]:
    """Calibration data, evaluation data, and the classes of the latter where they are known.

    Networks for photographs need a file of them (`photos`: .npz with uint8 `images` [N, 288, 288, 3]): two of three calibrate, the others,
    the twenty labelled images of the zoo, and random crops of both evaluate. Digits: 48 calibrate, others evaluate. Tiny images: shifted
    and mirrored copies of ten calibrate, of the other ten evaluate.
    """
    images = PREPARATIONS[name].images
    if images == "mnist5000":
        return _digits(name, samples)
    if images == "cifar20":
        return _tiny(name, samples)
    if photos is None:
        raise SystemExit(f"{name} needs photographs: --photos FILE.npz")
    with np.load(photos) as arrays:
        return *_photographs(name, arrays["images"], samples), None


def _feeds(name: str, pixels: Array) -> Feeds:
    preparation = PREPARATIONS[name]
    return [{preparation.input: one} for one in preparation(np.ascontiguousarray(pixels))[:, None]]


def _photographs(name: str, photos: Array, samples: int) -> tuple[Feeds, Feeds]:
    labelled, _ = zoo.images("imagenet20")
    held_out = np.arange(len(photos)) % 3 == 2
    pool, random = np.concatenate([photos[held_out], labelled]), np.random.default_rng(1)
    size, extent = PREPARATIONS[name].size, pool.shape[1]
    feeds = _feeds(name, pool)
    turn = 1
    while len(feeds) < samples:
        top, left = random.integers(0, extent - size + 1, (2, len(pool)))
        crops = np.stack([image[t : t + size, x : x + size] for image, t, x in zip(pool, top, left, strict=True)])
        feeds += _feeds(name, crops[:, :, ::-1] if turn % 2 else crops)
        turn += 1
    return _feeds(name, photos[~held_out]), feeds[:samples]


def _digits(name: str, samples: int) -> tuple[Feeds, Feeds, Array]:
    pixels, classes = zoo.images("mnist5000")
    order = np.random.default_rng(1).permutation(len(pixels))
    chosen = order[48 : 48 + samples]
    return _feeds(name, pixels[order[:48]]), _feeds(name, pixels[chosen]), np.asarray(classes)[chosen]


def _tiny(name: str, samples: int) -> tuple[Feeds, Feeds, Array]:
    pixels, classes = zoo.images("cifar20")
    random = np.random.default_rng(1)

    def copies(which: Sequence[int], count: int) -> tuple[Array, Array]:
        numbers = np.resize(np.asarray(which), count)
        padded = np.pad(pixels[numbers], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
        top, left = random.integers(0, 9, (2, count))
        moved = np.stack([image[t : t + 32, x : x + 32] for image, t, x in zip(padded, top, left, strict=True)])
        return np.where(random.random(count)[:, None, None, None] < 0.5, moved, moved[:, :, ::-1]), np.asarray(classes)[numbers]

    calibration, (evaluation, known) = copies(range(0, 20, 2), 48)[0], copies(range(1, 20, 2), samples)
    return _feeds(name, calibration), _feeds(name, evaluation), known


def figures(exact: Array, found: Array, classes: Array | None) -> dict[str, float]:
    """Agreement of the first class and its bootstrapped 95 % interval, SQNR of all outputs together, accuracy where classes are known."""
    same = exact.argmax(axis=1) == found.argmax(axis=1)
    draws = np.random.default_rng(0).integers(0, len(same), (1000, len(same)))
    low, high = np.percentile(same[draws].mean(axis=1), (2.5, 97.5))
    noise = float(np.square(exact - found).sum()) or np.finfo(np.float64).tiny
    sqnr = 10 * float(np.log10(np.square(exact).sum() / noise))
    result = {"agreement": float(same.mean()), "low": float(low), "high": float(high), "sqnr": sqnr}
    if classes is not None:
        result |= {key: float((outputs.argmax(axis=1) == classes).mean()) for key, outputs in (("accuracy", found), ("exact", exact))}
    return result
