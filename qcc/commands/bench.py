"""`qcc bench`: how fast a compiled model is, alone or turn by turn with other runtimes on the same data and threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import (
    count_text,
    data_options,
    debug_option,
    json_option,
    pixel_options,
    print_json,
    quiet_option,
    table,
    threads_option,
    time_text,
    weights_text,
)
from qcc.errors import UsageError

if TYPE_CHECKING:
    from qcc.ir.types import Array
    from qcc.runtime.module import Module

_CALIBRATION_BATCHES = 32


@click.command(name="bench")
@click.argument("artifact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--against", default="", metavar="NAME[,NAME]", help="Other runtimes to measure side by side: onnxruntime, openvino.")
@click.option("--model", type=click.Path(path_type=Path), help="The ONNX model that the other runtimes run.")
@click.option("--calibration-data", "calibration", type=click.Path(path_type=Path), 
              help="What the others' quantizers measure ranges on, as for 'qcc compile'; needed with --against.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Turns that every contender has.")
@click.option("--cpu-time", is_flag=True,
              help="Count the seconds that the thread had a core: for one thread on a busy machine, and not for openvino.")
@click.option("--layers", is_flag=True, help="Also list time, share of peak, bytes, weights, kernel and tile of every layer.")
@pixel_options
@threads_option
@quiet_option
@json_option
@debug_option
def command(
    artifact: Path, against: str, model: Path | None, calibration: Path | None, rounds: int, cpu_time: bool, layers: bool, mean: str,
    std: str, layout: str | None, color: str, threads: int, quiet: bool, as_json: bool,
) -> None:
    """Measure a compiled model: medians over rounds in which every contender has its turn, after warming up, with the same number of
    threads. The other runtimes' int8 models are made by their own static quantizers, from the same calibration data.
    """
    from qcc.data import calibration_batches
    from qcc.ir.types import DType, TensorType
    from qcc.runtime import load

    names = [name.strip() for name in against.split(",") if name.strip()]
    if names and model is None:
        raise UsageError("--against needs --model MODEL.onnx: the other runtimes run the ONNX model, not the artifact")
    if cpu_time and (threads > 1 or "openvino" in names):
        raise UsageError("--cpu-time counts the seconds of one thread: expected --threads 1, and no openvino, whose threads are its own")
    with load(artifact, threads) as module:
        types = {port.name: TensorType(DType.parse(port.dtype), port.shape) for port in module.inputs}
        batches = _random(module)
        if calibration is not None:
            found = calibration_batches(calibration, types, data_options(mean, std, layout, color))
            batches = [batch for batch, _ in zip(found, range(_CALIBRATION_BATCHES), strict=False)]
        elif names:
            raise UsageError("--against needs --calibration-data: the other runtimes' quantizers measure ranges, too")
        results = measure(module, batches, names, model, rounds, cpu_time)
        profile = profiled(module, batches[0], rounds) if layers else []
    report = {"artifact": str(artifact), "threads": threads, "rounds": rounds, "contenders": results, "layers": profile}
    if as_json:
        print_json(report)
    elif not quiet:
        click.echo(bench_text(report))


def _random(module: Module) -> list[dict[str, Array]]:
    from qcc.verification import random_feeds

    return [random_feeds(module.manifest, 0)]


def measure(
    module: Module, batches: Sequence[Mapping[str, Array]], names: Sequence[str], model: Path | None, rounds: int, cpu_time: bool = False
) -> list[dict[str, Any]]:
    """Median and best seconds of every contender, and how many times longer than qcc it takes; qcc is the first.

    Raises:
        UsageError: a runtime is unknown, not installed, or cannot run the model.
    """
    from qcc import peers
    from qcc.timing import interleaved

    feeds = batches[0]
    contenders: dict[str, Callable[[], object]] = {"qcc": lambda: module.run(feeds)}
    if names and model is not None:
        for peer in peers.build(names, model, batches, module.threads):
            contenders[f"{peer.name} {peer.precision}"] = _turn(peer, feeds)
    timings = interleaved(contenders, rounds, cpu_time=cpu_time)
    ours = timings["qcc"]
    return [{"name": name, "median_s": t.median, "best_s": t.best, "ratio": ours.ratio(t)} for name, t in timings.items()]


def _turn(peer: Any, feeds: Mapping[str, Array]) -> Callable[[], object]:
    return lambda: peer.run(feeds)


def profiled(module: Module, feeds: Mapping[str, Array], rounds: int) -> list[dict[str, Any]]:
    """Median time of every step over some runs."""
    from statistics import median

    runs = [module.profile(feeds) for _ in range(rounds + 1)][1:]
    times = [median(run[i][1] for run in runs) for i in range(len(module.manifest.steps))]
    total = sum(times) or 1.0
    peak = _peak(module)
    return [
        {"node": layer["node"], "kernel": layer["kernel"], "tile": layer.get("tile", ""), "weight_bits": layer.get("weight_bits"),
         "weight_bytes": layer.get("weight_bytes"), "macs": layer["macs"], "bytes": layer["bytes"],
         "seconds": time * 1e-9, "share": time / total, "of_peak": layer["macs"] / (time * 1e-9 * peak) if time else 0.0}
        for layer, time in zip(module.layers, times, strict=True)
    ]


def _peak(module: Module) -> float:
    """Multiply-accumulates per second that the target's instructions reach on this machine, with the module's number of threads; infinite
    for a GPU, whose peak this command does not measure (benchmarks/cuda.py does)."""
    if module.manifest.sms:
        return float("inf")
    from tempfile import TemporaryDirectory

    from qcc.codegen.target import find_target
    from qcc.machine import build_machine

    with TemporaryDirectory(prefix="qcc-") as folder:
        return build_machine(Path(folder), module.threads, find_target(module.manifest.target)).measure(1)[0]


def bench_text(report: Mapping[str, Any]) -> str:
    """Tables of contenders and, if measured, of layers."""
    rows = [(c["name"], time_text(c["median_s"]), time_text(c["best_s"]), f"{c['ratio']:.2f}") for c in report["contenders"]]
    text = table(("runtime", "median", "best", "time / qcc"), rows) + f"\n\nthreads: {report['threads']}; rounds: {report['rounds']}"
    if report["layers"]:
        lines = [
            (layer["node"], time_text(layer["seconds"]), f"{100 * layer['share']:.1f} %", count_text(layer["macs"]),
             f"{layer['macs'] / layer['seconds'] * 1e-9:.1f}" if layer["macs"] and layer["seconds"] else "-",
             f"{100 * layer['of_peak']:.0f} %" if layer["of_peak"] else "-", count_text(layer["bytes"]), weights_text(layer),
             layer["kernel"], layer["tile"])
            for layer in report["layers"]
        ]
        text += "\n\n" + table(("layer", "median", "share", "MACs", "GMAC/s", "of peak", "bytes", "weights", "kernel", "tile"), lines)
    return text
