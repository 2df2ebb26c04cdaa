"""Accuracy side by side: one model, the same data and bits, for qcc (each pass off in turn) and for other quantizers.

    python benchmarks/accuracy.py efficientnet_lite0 --photos photos.npz --bits w4a8 [--peers] [--variants ...] [--samples 528]

Agreement is the share of samples with the same first class as the float model, with a bootstrapped 95 % interval; SQNR is that of all
outputs together. The figures of qcc come from compiled libraries. Peers that are not installed are lines that say so.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation import MODELS, Array, Feeds, data, figures
from quantizers import quantizers, run_all

import qcc
from qcc import peers
from qcc.models import zoo
from qcc.recipe import Recipe, bit_widths

# What each choice of a recipe buys: the defaults, and each of them switched off.
VARIANTS: dict[str, dict[str, Any]] = {
    "qcc": {}, "qcc, rounding off": {"rounding": "nearest"}, "qcc, correction off": {"correction": "none"},
    "qcc, migration off": {"migration": "none"}, "qcc, biases only": {"correction": "bias"}, "qcc, scales, too": {"correction": "affine"},
    "qcc, ranges min-max": {"observer": "minmax"}, "qcc, ranges of least squares": {"observer": "mse"},
    "qcc, all off": {"migration": "none", "rounding": "nearest", "correction": "none", "observer": "minmax"},
}
# From the simplest way to round to the best, a step at a time: each must be better than the one before it.
LADDER: dict[str, dict[str, Any]] = {
    "1: ranges min-max, nearest": {"migration": "none", "observer": "minmax", "rounding": "nearest", "correction": "none"},
    "2: least squares": {"migration": "none", "observer": "mse", "rounding": "mse", "correction": "none"},
    "3: and statistics corrected": {"migration": "none", "observer": "mse", "rounding": "mse", "correction": "affine"},
    "4: and sequential AdaQuant": {"migration": "none", "observer": "mse", "rounding": "adaquant", "correction": "affine"},
    "5: or what auto takes": {"migration": "none", "observer": "mse"},
}


def compiled(model: Path, calibration: Feeds, feeds: Feeds, recipe: Recipe) -> tuple[Array, str]:
    """Outputs of a compiled library, and the migration that it got."""
    artifact = qcc.compile(model, calibration_data=calibration, recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder, "out"))
        with qcc.load(Path(folder, "out"), threads=2) as module:
            outputs = run_all(lambda feed: {name: array.copy() for name, array in module.run(feed).items()}, feeds)
    return outputs, artifact.recipe.migration


def row(label: str, exact: Array, found: Array, classes: Array | None, seconds: float) -> str:
    result = figures(exact, found, classes)
    known = f" {result['accuracy']:7.1%} of {result['exact']:.1%}" if classes is not None else ""
    agreement = f"{result['agreement']:7.1%} [{result['low']:.1%}, {result['high']:.1%}]"
    return f"{label:34s} {agreement} {result['sqnr']:7.2f} dB{known} {seconds:7.1f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--photos", type=Path, help=".npz with uint8 `images` [N, 288, 288, 3], for networks that take photographs")
    parser.add_argument("--bits", type=bit_widths, default=(8, 8), help="8, 4, or as in w4a8")
    parser.add_argument("--samples", type=int, default=528)
    parser.add_argument("--peers", nargs="*", metavar="LABEL", help="other quantizers, too: all, or those whose labels begin so")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--per-tensor", action="store_true", help="qcc's weights have one scale per layer")
    parser.add_argument("--ladder", action="store_true", help="instead of the variants: from rounding to the nearest up, step by step")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("NNCF_CI", "1")    # a measurement must not be reported to anybody
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    calibration, feeds, classes = data(chosen.model, chosen.photos, chosen.samples)
    model, (weight_bits, activation_bits) = zoo.path(chosen.model), chosen.bits
    exact = run_all(peers.OnnxRuntime(peers._session(model, feeds[0], 2), "float32").run, feeds)
    print(f"{chosen.model}, w{weight_bits}a{activation_bits}, {len(calibration)} samples calibrate, {len(feeds)} evaluate", flush=True)
    for label, changes in LADDER.items() if chosen.ladder else ((label, VARIANTS[label]) for label in chosen.variants):
        start = time.perf_counter()
        granularity = "tensor" if chosen.per_tensor else "channel"
        widths = Recipe(weight_bits=weight_bits, activation_bits=activation_bits, weight_granularity=granularity)
        found, migration = compiled(model, calibration, feeds, replace(widths, **changes))
        print(row(f"{label} ({migration})", exact, found, classes, time.perf_counter() - start), flush=True)
    if chosen.peers is None:
        return
    for label, make in quantizers(weight_bits, activation_bits):
        if chosen.peers and not label.startswith(tuple(chosen.peers)):
            continue
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found = run_all(make(model, calibration, weight_bits, activation_bits), feeds)
        except Exception as error:  # a peer that fails is a line of the table
            print(f"{label:34s} failed: {type(error).__name__}: {next(iter(str(error).splitlines()), '')[:80]}", flush=True)
            continue
        print(row(label, exact, found, classes, time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
