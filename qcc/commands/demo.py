"""`qcc demo`: the whole way on a bundled network, without a network connection: compile, run, and measure beside ONNX Runtime."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import Progress, debug_option, force_option, json_option, print_json, quiet_option, size_text, table, time_text

if TYPE_CHECKING:
    from qcc.ir.types import Array
    from qcc.runtime.module import Module

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MODEL = "resnet8_cifar10"


@click.command(name="demo")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the artifact in this folder.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Turns that every contender has.")
@force_option
@quiet_option
@json_option
@debug_option
def command(output: Path | None, rounds: int, force: bool, quiet: bool, as_json: bool) -> None:
    """Compile the bundled CIFAR-10 ResNet with its bundled images, run it, and show accuracy, sizes and speed beside ONNX Runtime."""
    with tempfile.TemporaryDirectory(prefix="qcc-demo-") as work, Progress(quiet) as progress:
        report = demonstrate(output or Path(work) / _MODEL, rounds, force, progress)
    if as_json:
        print_json(report)
    elif not quiet:
        click.echo(demo_text(report, output))


def demonstrate(folder: Path, rounds: int, force: bool, progress: Progress) -> dict[str, Any]:
    """Everything that the demo shows, as plain values."""
    import numpy as np

    from qcc.codegen.artifact import refuse_existing
    from qcc.commands.bench import measure
    from qcc.compiler import compile_model
    from qcc.models import zoo
    from qcc.recipe import Recipe
    from qcc.runtime import load

    refuse_existing(folder, force)
    model, (pixels, labels) = zoo.path(_MODEL), zoo.images("cifar20")
    images = ((pixels.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 128)[:, None]
    start = time.perf_counter()
    artifact = compile_model(model, [{"input": image} for image in images], Recipe(), progress)
    manifest = artifact.save(folder, force)
    seconds = time.perf_counter() - start
    reals = _float_classes(artifact.float_graph, images)
    with load(folder) as module:
        found = _classes(module, images)
        feeds = [{module.inputs[0].name: image} for image in images]
        contenders = measure(module, feeds, ["onnxruntime"], model, rounds)
    return {
        "model": _MODEL, "target": manifest.target, "images": len(images), "compile_seconds": seconds,
        "correct": int((found == labels).sum()), "correct_float": int((reals == labels).sum()), "agreement": int((found == reals).sum()),
        "model_bytes": model.stat().st_size, "library_bytes": (folder / manifest.library).stat().st_size,
        "arena_bytes": manifest.arena_bytes, "contenders": contenders,
        "predictions": [{"label": _CLASSES[label], "float": _CLASSES[real], "integer": _CLASSES[ours]}
                        for label, real, ours in zip(labels, reals, found, strict=True)],
    }


def _classes(module: Module, images: Array) -> Array:
    import numpy as np

    return np.array([next(iter(module.run(image).values())).argmax() for image in images])


def _float_classes(graph: Any, images: Array) -> Array:
    import numpy as np

    from qcc.onnx import FloatRunner

    runner = FloatRunner(graph, [])
    return np.array([next(iter(runner.run_ports({graph.inputs[0]: image}).values())).argmax() for image in images])


def demo_text(report: Mapping[str, Any], kept: Path | None) -> str:
    """The report in words."""
    count = report["images"]
    wrong = [p for p in report["predictions"] if p["integer"] != p["label"]]
    rows = [(c["name"], time_text(c["median_s"]), f"{c['ratio']:.2f}") for c in report["contenders"]]
    return "\n".join([
        f"{report['model']}, compiled for {report['target']} in {time_text(report['compile_seconds'])}",
        f"  accuracy   {report['correct']} of {count} images right in 8-bit integers, {report['correct_float']} in float32",
        f"  agreement  {report['agreement']} of {count} images in the same class as in float32",
        f"  wrong      {', '.join(p['label'] + ' seen as ' + p['integer'] for p in wrong) or 'none'}",
        f"  size       model {size_text(report['model_bytes'])} -> library {size_text(report['library_bytes'])}; "
        f"it works in {size_text(report['arena_bytes'])}",
        "", table(("runtime", "median", "time / qcc"), rows), "",
        f"The artifact is in {kept}: try 'qcc verify {kept}'." if kept else "Keep the artifact with 'qcc demo -o DIR'.",
    ])
