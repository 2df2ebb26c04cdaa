"""Accuracy side by side: one model, the same calibration and evaluation data for qcc (each pass off in turn) and for other quantizers.

    python benchmarks/accuracy.py efficientnet_lite0 --photos calibration_photos.npz --bits w8a8 [--peers] [--samples 528]

Two of three photographs calibrate. The others, the twenty labelled images of the zoo, and random crops of both evaluate: agreement is
the share of samples with the same first class as the float model, with a bootstrapped 95 % interval; SQNR is that of all outputs together.
The figures of qcc come from compiled libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import qcc
from qcc.models import zoo
from qcc.models.samples import PREPARATIONS
from qcc.recipe import Recipe

Array = npt.NDArray[Any]
Feeds = list[dict[str, Array]]
VARIANTS = {
    "qcc": {}, "qcc, rounding off": {"rounding": "nearest"},
    "qcc, biases only": {"correction": "bias"}, "qcc, scales, too": {"correction": "affine"},
    "qcc, correction off": {"correction": "none"}, "qcc, all off": {"rounding": "nearest", "correction": "none"},
}
CALIBRATORS = ("MinMax", "Entropy", "Percentile")


def data(name: str, photos: Array, samples: int) -> tuple[Feeds, Feeds]:
    """Calibration and evaluation data, prepared for the model of this name."""
    preparation, (labelled, _) = PREPARATIONS[name], zoo.images("imagenet20")
    held_out = np.arange(len(photos)) % 3 == 2
    pool, random = np.concatenate([photos[held_out], labelled]), np.random.default_rng(1)
    images = [pool]
    while sum(map(len, images)) < samples:
        extent, size = pool.shape[1], preparation.size
        top, left = random.integers(0, extent - size + 1, (2, len(pool)))
        crops = np.stack([image[t : t + size, x : x + size] for image, t, x in zip(pool, top, left, strict=True)])
        images.append(crops[:, :, ::-1] if len(images) % 2 else crops)
    prepared = np.concatenate([preparation(np.ascontiguousarray(group)) for group in images])[:samples]
    return [[{preparation.input: one} for one in stack[:, None]] for stack in (preparation(photos[~held_out]), prepared)]  # type: ignore[return-value]


def row(label: str, exact: Array, found: Array, seconds: float) -> str:
    same = exact.argmax(axis=1) == found.argmax(axis=1)
    draws = np.random.default_rng(0).integers(0, len(same), (1000, len(same)))
    low, high = np.percentile(same[draws].mean(axis=1), (2.5, 97.5))
    sqnr = 10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum())
    return f"{label:32s} {same.mean():7.1%} [{low:.1%}, {high:.1%}] {sqnr:7.2f} dB {seconds:7.1f} s"


def run_all(run: Callable[[dict[str, Array]], dict[str, Array]], feeds: Feeds) -> Array:
    return np.stack([next(iter(run(feed).values())).ravel() for feed in feeds]).astype(np.float64)


def compiled(model: Path, calibration: Feeds, feeds: Feeds, recipe: Recipe) -> tuple[Array, float]:
    start = time.perf_counter()
    artifact = qcc.compile(model, calibration_data=calibration, recipe=recipe)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder, "out"))
        with qcc.load(Path(folder, "out"), threads=2) as module:
            return run_all(lambda feed: {name: array.copy() for name, array in module.run(feed).items()}, feeds), seconds


def runtime_quantizer(model: Path, calibration: Feeds, method: str, weight_type: str) -> Any:
    """A session of the model as onnxruntime's static quantizer makes it, with scales per channel."""
    from qcc import peers

    quantization = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        peers._raise_opset(model, prepared)
        importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process(
            str(prepared), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(quantized), peers._reader(quantization.CalibrationDataReader, calibration), per_channel=True,
            calibrate_method=quantization.CalibrationMethod[method], activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType[weight_type])
        return peers.OnnxRuntime(peers._session(quantized, calibration[0], 2), "int8")


def peer_rows(model: Path, calibration: Feeds, feeds: Feeds, exact: Array) -> None:
    from qcc import peers

    makers: list[tuple[str, Callable[[], Any]]] = [
        (f"onnxruntime, {method}", lambda method=method: runtime_quantizer(model, calibration, method, "QInt8"))  # type: ignore[misc]
        for method in CALIBRATORS]
    makers.append(("openvino, NNCF default", lambda: peers.build(["openvino"], model, calibration, 2)[1]))
    for label, make in makers:
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                peer = make()
        except Exception as error:  # a peer that fails is a line of the table
            print(f"{label:32s} failed: {type(error).__name__}: {str(error).splitlines()[0][:80]}", flush=True)
            continue
        seconds = time.perf_counter() - start
        print(row(label, exact, run_all(peer.run, feeds), seconds), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=[name for name, p in PREPARATIONS.items() if p.images == "photographs"])
    parser.add_argument("--photos", type=Path, required=True, help=".npz with uint8 `images` [N, 288, 288, 3]")
    parser.add_argument("--bits", type=int, default=8, help="of weights")
    parser.add_argument("--observer", default=Recipe().observer)
    parser.add_argument("--samples", type=int, default=528)
    parser.add_argument("--peers", action="store_true", help="8-bit quantizers of onnxruntime and NNCF, too")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    chosen = parser.parse_args(arguments)
    with np.load(chosen.photos) as arrays:
        calibration, feeds = data(chosen.model, arrays["images"], chosen.samples)
    model = zoo.path(chosen.model)
    from qcc import peers

    exact = run_all(peers.OnnxRuntime(peers._session(model, feeds[0], 2), "float32").run, feeds)
    print(f"{chosen.model}, w{chosen.bits}a8, {len(calibration)} samples calibrate, {len(feeds)} evaluate", flush=True)
    for label in chosen.variants:
        recipe = replace(Recipe(weight_bits=chosen.bits, observer=chosen.observer), **VARIANTS[label])
        found, seconds = compiled(model, calibration, feeds, recipe)
        print(row(label, exact, found, seconds), flush=True)
    if chosen.peers:
        peer_rows(model, calibration, feeds, exact)


if __name__ == "__main__":
    main()
