"""Time of one inference of compiled models beside other runtimes, in one process, turn by turn; batch 1.

    python benchmarks/latency.py                                    # every model, onnxruntime and openvino, one thread
    python benchmarks/latency.py resnet50 mobilenet_v2 --against onnxruntime --threads 2 --output results.json

For every model: the median of qcc and of each contender, how many times longer each contender takes than qcc (median over the
rounds), and the floor: no program for this machine can be faster than its multiply-accumulates at the peak rate, or than
reading its constants once, whichever is longer. Both rates are measured here by qcc/peak.c.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import qcc
from qcc import peers
from qcc.codegen.target import find_target
from qcc.errors import QccError
from qcc.machine import Machine, build_machine
from qcc.models import samples, zoo
from qcc.timing import Timing, interleaved

MODELS = (
    "resnet8_cifar10", "vww_mobilenetv1", "kws_dscnn", "ad_autoencoder", "lenet5_mnist", "efficientnet_lite0", "squeezenet1_1", "open_nsfw",
    "mobilenet_v2", "resnet18", "resnet50",
)
WIDTH = 160


@dataclass(frozen=True)
class Row:
    """What was measured for one model; times in seconds."""

    model: str
    macs: int
    constant_bytes: int
    floor: float
    timings: Mapping[str, Timing]

    def as_json(self) -> dict[str, Any]:
        ours = self.timings["qcc"]
        return asdict(self) | {"medians": {name: timing.median for name, timing in self.timings.items()},
                               "ratios": {name: ours.ratio(timing) for name, timing in self.timings.items() if name != "qcc"}}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def measure(name: str, options: argparse.Namespace, machine: Machine, folder: Path) -> Row:
    """Compile one model, build its contenders from the same calibration data, and time them all."""
    model, feeds = zoo.path(name), samples.samples(name, options.images)
    qcc.compile(model, target=options.target, calibration_data=feeds, tune=options.tune).save(folder / name)
    contenders = peers.build(options.against, model, feeds, options.threads)
    with qcc.load(folder / name, threads=options.threads) as module:
        runs = {"qcc": partial(module.run, feeds[0])}
        runs |= {f"{peer.name} {peer.precision}": partial(peer.run, feeds[0]) for peer in contenders}
        timings = interleaved(runs, options.rounds)
        macs = sum(int(layer["macs"]) for layer in module.layers)
        constant_bytes = module.manifest.constants_bytes
    return Row(name, macs, constant_bytes, machine.floor(macs, constant_bytes), timings)


def show(rows: Sequence[Row], console: Console) -> None:
    contenders = list(rows[0].timings)[1:]
    table = Table(title="milliseconds per inference (times qcc)")
    for heading in ("model", "MMACs", "floor", "qcc", "of floor", *contenders):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        ours = row.timings["qcc"]
        others = (f"{row.timings[name].median * 1e3:.3f} ({ours.ratio(row.timings[name]):.2f}x)" for name in contenders)
        table.add_row(row.model, f"{row.macs / 1e6:.1f}", f"{row.floor * 1e3:.3f}", f"{ours.median * 1e3:.3f}",
                      f"{row.floor / ours.median:.0%}", *others)
    console.print(table)


def markdown(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """The table for people: times, share of the floor, and how many times longer the fastest contender and each of them takes."""
    names = list(rows[0].timings)[1:]
    lines = [f"{cpu_name()}, {options.target}, threads: {options.threads}, tune: {options.tune}, rounds: {options.rounds}", "",
             "| model | qcc, ms | of floor | fastest other | " + " | ".join(names) + " |", "|---" * (4 + len(names)) + "|"]
    for row in rows:
        ours = row.timings["qcc"]
        ratios = {name: ours.ratio(row.timings[name]) for name in names}
        cells = [row.model, f"{ours.median * 1e3:.3f}", f"{row.floor / ours.median:.0%}", f"**{min(ratios.values()):.2f}x**"]
        cells += [f"{row.timings[name].median * 1e3:.3f} ({ratios[name]:.2f}x)" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS, help=f"names from models/README.md (default: {', '.join(MODELS)})")
    parser.add_argument("--against", default="onnxruntime,openvino", type=lambda text: [name for name in text.split(",") if name],
                        help="contenders, separated by commas (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contender (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender (default: %(default)s)")
    parser.add_argument("--images", type=int, default=8, help="inputs to calibrate with (default: %(default)s)")
    parser.add_argument("--target", default="host", help="what to compile for (default: %(default)s)")
    parser.add_argument("--tune", default="none", choices=("none", "quick", "full"), help="as for 'qcc compile' (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("--output", type=Path, help="also write everything to this JSON file")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    failures = Console(stderr=True)
    console = Console(width=max(failures.width, WIDTH))
    rows = []
    with tempfile.TemporaryDirectory(prefix="qcc-latency-") as folder:
        machine = build_machine(Path(folder), options.threads, find_target(options.target))
        for name in options.models:
            try:
                rows.append(measure(name, options, machine, Path(folder)))
            except QccError as error:
                failures.print(f"{name}: {error}", style="red")
    if rows:
        show(rows, console)
        if options.markdown is not None:
            options.markdown.write_text(markdown(rows, options), encoding="utf-8")
    if options.output is not None:
        result = {"machine": cpu_name(), "threads": options.threads, "rounds": options.rounds,
                  "rows": [row.as_json() for row in rows]}
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if len(rows) == len(options.models) else 1


if __name__ == "__main__":
    sys.exit(main())
