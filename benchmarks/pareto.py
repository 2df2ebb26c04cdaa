"""Measured frontiers of mixed precision, beside uniform widths and the greedy choice: agreement with float32 against bytes and latency.

    python benchmarks/pareto.py efficientnet_lite0 --photos photos.npz [--sizes 0.7 0.6 0.5] [--latencies 0.95] [--plot frontier.png]

Every contender is a compiled library: bytes are those of its constants and of its file, agreement is the share of evaluation samples with
the same first class as in float32, latency is that of one thread, all contenders taking turns. A budget that cannot be met is a line
that says what could be.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation import MODELS, Array, Feeds, data, figures
from quantizers import run_all

import qcc
from qcc import peers
from qcc.errors import BudgetError
from qcc.models import zoo
from qcc.recipe import Recipe
from qcc.timing import interleaved

UNIFORM = ("w8a8", "w4a8", "w4a4")


@dataclass(frozen=True)
class Contender:
    """A compiled library, and what was predicted of it (seconds as a share of w8a8's, None for uniform widths)."""

    label: str
    folder: Path
    constants: int
    library: int
    figures: dict[str, float]
    predicted: float | None
    seconds: float


def contender(label: str, artifact: Any, folder: Path, exact: Array, feeds: Feeds, classes: Array | None, predicted: float | None,
              start: float) -> Contender:
    manifest = artifact.save(folder / label)
    with qcc.load(folder / label, threads=2) as module:
        found = run_all(lambda feed: {name: array.copy() for name, array in module.run(feed).items()}, feeds)
    library = (folder / label / manifest.library).stat().st_size
    result = Contender(label, folder / label, artifact.summary.constant_bytes, library, figures(exact, found, classes), predicted,
                       time.perf_counter() - start)
    numbers = result.figures
    print(f"{label:28s} {result.constants:9d} B  library {library:9d} B  agreement {numbers['agreement']:6.1%} "
          f"[{numbers['low']:.1%}, {numbers['high']:.1%}]  {numbers['sqnr']:6.2f} dB  {result.seconds:6.1f} s", flush=True)
    return result


def mixed(
    model: Path, calibration: Feeds, budget: str, base: Recipe, compared: tuple[Path, Array, Feeds, Array | None]
) -> list[Contender]:
    """The optimum and the greedy choice under one budget."""
    folder, exact, feeds, classes = compared
    start = time.perf_counter()
    try:
        artifact = qcc.compile(model, bits="mixed", calibration_data=calibration, recipe=base, goal=qcc.Goal.within(budget))
    except BudgetError as error:
        print(f"mixed {budget}: {error}", flush=True)
        return []
    report = json.loads(artifact.texts.mixed)
    eight = next(u for u in report["uniform"] if u["bits"] == "w8a8")
    share = report["totals"]["latency"] / eight["latency"]
    turns = ", ".join(f"{turn['predicted']:.3g} -> {turn['measured']:.3g}" for turn in report["turns"])
    print(f"mixed {budget}: loss {turns}; {'agree' if report['agrees'] else 'do not agree'}; {report['latency_from']}", flush=True)
    found = [contender(f"mixed {budget}", artifact, folder, exact, feeds, classes, share, start)]
    if report["greedy"] is not None:
        start = time.perf_counter()
        share = report["greedy"]["latency"] / eight["latency"]
        artifact = qcc.compile(model, calibration_data=calibration, recipe=replace(base, **report["greedy"]["widths"]))
        found.append(contender(f"greedy {budget}", artifact, folder, exact, feeds, classes, share, start))
    return found


def latencies(contenders: Sequence[Contender], feed: dict[str, Array], rounds: int) -> dict[str, float]:
    """Seconds of one run on one thread, as a multiple of the first contender's."""
    modules = {c.label: qcc.load(c.folder, threads=1) for c in contenders}
    timings = interleaved({label: lambda module=module: module.run(feed) for label, module in modules.items()}, rounds)  # type: ignore[misc]
    first = timings[contenders[0].label]
    for c in contenders:
        own = timings[c.label]
        predicted = "" if c.predicted is None else f"  predicted {c.predicted:5.3f}x"
        print(f"{c.label:28s} {own.best * 1e3:8.3f} ms  {own.best / first.best:5.3f}x of w8a8 (best), "
              f"{first.ratio(own):5.3f}x (median ratio){predicted}", flush=True)
    for module in modules.values():
        module.close()
    return {label: timing.best for label, timing in timings.items()}


def plot(path: Path, title: str, contenders: Sequence[Contender], seconds: dict[str, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for kind, marker in (("mixed", "o"), ("greedy", "x"), ("w", "s")):
        own = sorted((c for c in contenders if c.label.startswith(kind)), key=lambda c: c.constants)
        for axis, values in ((axes[0], [c.constants / 1e6 for c in own]), (axes[1], [seconds[c.label] * 1e3 for c in own])):
            axis.plot(values, [100 * c.figures["agreement"] for c in own], marker + ("-" if kind == "mixed" else ""),
                      label="uniform" if kind == "w" else kind)
    axes[0].set(xlabel="constants, MB", ylabel="agreement with float32, %", title=title)
    axes[1].set(xlabel="latency of one thread, ms")
    axes[0].legend()
    figure.savefig(path, bbox_inches="tight")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--photos", type=Path, help="as for accuracy.py")
    parser.add_argument("--samples", type=int, default=528)
    parser.add_argument("--sizes", type=float, nargs="*", default=[0.8, 0.7, 0.6, 0.5], help="budgets, as shares of w8a8's bytes")
    parser.add_argument("--latencies", type=float, nargs="*", default=[0.9], help="budgets, as shares of w8a8's latency")
    parser.add_argument("--uniform", nargs="*", default=list(UNIFORM), help="uniform widths; the first is what latencies are shares of")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--plot", type=Path, help="a picture of both frontiers")
    chosen = parser.parse_args(arguments)
    calibration, feeds, classes = data(chosen.model, chosen.photos, chosen.samples)
    model = zoo.path(chosen.model)
    exact = run_all(peers.OnnxRuntime(peers._session(model, feeds[0], 2), "float32").run, feeds)
    print(f"{chosen.model}: {len(calibration)} samples calibrate, {len(feeds)} evaluate", flush=True)
    found: list[Contender] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for bits in chosen.uniform:
            start = time.perf_counter()
            artifact = qcc.compile(model, bits=bits, calibration_data=calibration)
            found.append(contender(bits, artifact, folder, exact, feeds, classes, None, start))
        for budget in [*(f"size={share}x" for share in chosen.sizes), *(f"latency={share}x" for share in chosen.latencies)]:
            found += mixed(model, calibration, budget, Recipe(), (folder, exact, feeds, classes))
        seconds = latencies(found, feeds[0], chosen.rounds)
        if chosen.plot is not None:
            plot(chosen.plot, chosen.model, found, seconds)
    for c in found:
        better = [o.label for o in found
                  if o.label != c.label and o.constants <= c.constants and o.figures["agreement"] > c.figures["agreement"]]
        if not c.label.startswith("mixed"):
            print(f"{c.label}: " + (f"dominated by {', '.join(better)}" if better else "not dominated"))


if __name__ == "__main__":
    main()
