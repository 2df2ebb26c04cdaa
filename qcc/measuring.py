"""The compiler's measuring stage: which data are looked at, what is kept of them, and what is said about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qcc.data import Batches as CheckedBatches
from qcc.errors import DataError
from qcc.ir import Array, Graph, Pipeline, dump
from qcc.onnx import FloatRunner, prepare
from qcc.passes.calibrate import Batches, Cache, Measurements, Range, collect, is_finite, observed, unfit
from qcc.passes.calibrate.choose import TRIED, choose
from qcc.passes.quantize import Placement, Precision, encode
from qcc.passes.simplify import KEEPING_NORMS
from qcc.passes.synthetic import Synthetic, channel_moments, reach, synthesize
from qcc.recipe import Recipe

Progress = Callable[[str, int, int], None]
FEW = 8            # batches below which ranges are not to be relied on


@dataclass(frozen=True)
class Measured:
    """What the later stages need.

    Attributes:
        ranges: of the values that will be encoded.
        batches: inputs for rounding and correction; None where no data are needed.
        record: for the manifest: where the ranges come from; "notes" are sentences for the user.
    """

    ranges: Mapping[str, Range]
    batches: Batches | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


def measure(
    graph: Graph, placement: Placement, calibration: Batches | None, recipe: Recipe, progress: Progress, cache: str | Path | None = None,
    imported: Graph | None = None,
) -> Measured:
    """Ranges of the values that will be encoded.

    Args:
        cache: a file that keeps what was measured.
        imported: the network before it was simplified, whose BatchNorms stand in for data where the recipe says that there are none.

    Raises:
        DataError: there are values to encode but no data, data that do not fit the cache, or values that are not finite.
    """
    if not placement.encoded:
        return Measured({}, calibration)
    made = made_inputs(imported or graph, recipe, progress) if recipe.calibration == "none" else None
    calibration = calibration if made is None else made.batches
    if calibration is None:
        raise DataError("no calibration data: expected --calibration-data PATH, a .npz or .npy file, a folder of them, or one of images; "
                        "or --calibration-data none, which makes do without them and loses some accuracy")
    measured = distributions(graph, placement, calibration, progress, cache)
    precision = precision_of(recipe)
    bits = {name: precision.of_values(group, graph, placement) for group in placement.ties for name in group}
    seen = {name: measured.seen(name) for name in placement.encoded}
    observer = recipe.observer
    errors: dict[str, float] = {}
    if observer == "auto" and not made:
        observer, errors = chosen_observer(graph, placement, measured, bits, calibration, recipe, progress)
    if observer == "auto":
        moments = channel_moments(placement.encoded, prepare(graph, placement.encoded), calibration)
        ranges = reach(graph, {name: Range(value.low, value.high) for name, value in seen.items()}, moments,
                       made.bounds if made else {})
        observer = "moments"
    else:
        ranges = {name: observed(seen[name], observer, bits[name], recipe.percentile) for name in placement.encoded}
    record = {"data": "given", "batches": len(measured.digests), "digest": measured.digest, "observer": observer}
    record |= {"tried": errors} if errors else {}
    if made is not None:
        return Measured(ranges, calibration, record | origin(made))
    return Measured(ranges, calibration, record | {"notes": notes(graph, measured)})


def chosen_observer(
    graph: Graph, placement: Placement, measured: Measurements, bits: Mapping[str, int], batches: Batches, recipe: Recipe,
    progress: Progress,
) -> tuple[str, dict[str, float]]:
    """The observer that serves the float outputs best, and the error of each that was tried."""
    outputs = [name for name in dict.fromkeys(graph.outputs.values()) if graph.types[name].dtype.is_float]

    def simulate(ranges: Mapping[str, Range]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
        encoded = encode(graph, placement, ranges, precision_of(recipe))
        types = {name: replace(type, encoding=None) if name in encoded.constants else type for name, type in encoded.types.items()}
        return prepare(replace(encoded, types=types), outputs)

    def count(done: int, total: int) -> None:
        progress("choosing ranges", done, total)

    return choose(measured, bits, recipe.percentile, batches, prepare(graph, outputs), simulate, count) if outputs else (TRIED[0], {})


def made_inputs(imported: Graph, recipe: Recipe, progress: Progress) -> Synthetic:
    """Inputs for a network without data."""
    graph = Pipeline(KEEPING_NORMS)(imported)
    return synthesize(graph, prepare, recipe.seed, lambda done, total: progress("making inputs", done, total))


def origin(made: Synthetic) -> dict[str, Any]:
    """What the manifest says of inputs that were made, and the sentence for the user."""
    if not made.statistics:
        return {"data": "noise", "notes": [
            "no data: ranges are those of standardized noise propagated through the weights, because the model has no BatchNorm whose "
            "statistics could be matched; they are right only if the inputs have mean 0 and deviation 1, too: give data"]}
    return {"data": "synthetic", "batchnorms": made.statistics, "steps": made.steps, "distance": [made.before, made.after],
            "notes": [f"no data: {len(made.batches)} inputs were made that match the statistics of {made.statistics} BatchNorms (from "
                      f"{made.before:.2f} to {made.after:.2f} deviations, root mean square); expect to lose some accuracy"]}


def distributions(
    graph: Graph, placement: Placement, batches: Batches, progress: Progress, cache: str | Path | None = None
) -> Measurements:
    """Of every value that will be encoded, measured or taken from the cache."""
    runner = FloatRunner(graph, placement.encoded)
    store = None if cache is None else Cache(Path(cache), graph_digest(graph), placement.encoded)
    known = store.load() if store else None

    def evaluate(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        results = runner.run(feeds)
        if not all(map(is_finite, results.values())):
            name_culprit(graph, feeds)
        return results

    def count(done: int) -> None:
        progress("calibration", done, max(done, batch_count(batches)))

    measured = collect(placement.encoded, evaluate, batches, count, known, store.keep if store else lambda _: None)
    if store and (known is None or not known.complete):
        store.save(measured)
    return measured


def name_culprit(graph: Graph, feeds: Mapping[str, Array]) -> None:
    """Raise DataError for the first node that makes NaN or infinity of finite numbers, if there is one."""
    floats = [node.outputs[0] for node in graph.nodes if graph.types[node.outputs[0]].dtype.is_float]
    results = FloatRunner(graph, floats).run(feeds)
    for name in floats:
        if not is_finite(results[name]):
            raise DataError(f"node %{name} ({graph.producers[name].op}): {unfit(results[name])} for a calibration batch; "
                            "check the data and their normalisation, and the model's weights")


def notes(graph: Graph, measured: Measurements) -> list[str]:
    """What a user should know about the data, as sentences."""
    count, kinds, found = len(measured.digests), len(set(measured.digests)), []
    if count < FEW:
        found.append(f"ranges come from {count} batch{'es' if count > 1 else ''} only; a few dozen typical ones are usual")
    elif kinds < count / 2:
        found.append(f"of {count} calibration batches only {kinds} differ")
    seen = {name: measured.seen(name) for name in measured.folds}
    constant = [name for name, value in seen.items() if value.low == value.high]
    inputs = [name for name in constant if name in graph.inputs]
    if inputs:
        listed = ", ".join(f"{name!r} is {seen[name].low:g}" for name in inputs[:5])
        found.append(f"calibration data are constant ({listed} everywhere), so the ranges hold for nothing else")
    elif constant:
        listed = ", ".join(f"%{name} is {seen[name].low:g}" for name in constant[:5])
        found.append(f"{len(constant)} values never change in the calibration data and will be constants ({listed})")
    return found


def batch_count(batches: Batches) -> int:
    """How many there are; 0 where that is not known before they are read."""
    if isinstance(batches, CheckedBatches):
        return batches.length or 0
    return len(batches) if isinstance(batches, Sized) else 0


def precision_of(recipe: Recipe) -> Precision:
    """The recipe's widths."""
    return Precision(recipe.weight_bits, recipe.activation_bits, recipe.weights, recipe.activations, recipe.weight_granularity)


def graph_digest(graph: Graph) -> str:
    """SHA-256 of a network: its text form names every large constant by digest."""
    return hashlib.sha256(dump(graph).encode()).hexdigest()
