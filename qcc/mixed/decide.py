"""From a goal to widths of layers: puts together what is measured of a network, solves, and says what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qcc import mixed
from qcc.codegen.floats import make_islands
from qcc.codegen.profiling import Profile, estimated, load_profile, measured
from qcc.codegen.tune import why_not
from qcc.codegen.tuning_cache import Cache, default_folder
from qcc.codegen.worker import KernelCompiler
from qcc.errors import DataError, UsageError
from qcc.ir import Array, Graph
from qcc.measuring import precision_of
from qcc.mixed.costs import Plans
from qcc.mixed.goals import Goal
from qcc.mixed.losses import kind_for
from qcc.mixed.model import Model, chosen_values
from qcc.mixed.report import report_of
from qcc.mixed.search import Bench, search
from qcc.mixed.sensitivity import State, Subject, sensitivities, state_key
from qcc.onnx import export_node, prepare
from qcc.passes import rounding
from qcc.passes.calibrate import Batches, Range
from qcc.passes.integer import to_integer
from qcc.passes.mixed.sites import VALUES, WEIGHTS, Values, Weights, values_of, weights_of
from qcc.passes.quantize import Placement, Precision, encode
from qcc.passes.rounding import thinned
from qcc.recipe import Recipe

HELD_OUT = 3          # every third sample is not rounded on, but measured on
LEAST_SPLIT = 12      # samples
Progress = Callable[[str, int, int], None]
Samples = Sequence[Mapping[str, Array]]
Refine = Callable[[Graph, Graph, Placement, Batches | None, Recipe], Graph]


@dataclass(frozen=True)
class Network:
    """What the compile knows of a network before it is quantized."""

    graph: Graph
    placement: Placement
    ranges: Mapping[str, Range]
    batches: Batches | None
    recipe: Recipe

    def encoded(self, precision: Precision) -> Graph:
        return encode(self.graph, self.placement, self.ranges, precision)


@dataclass(frozen=True)
class Chosen:
    """The recipe with the widths, the QDQ graph that it makes, and the report."""

    recipe: Recipe
    graph: Graph
    report: dict[str, Any]


def decide(goal: Goal, network: Network, kernels: KernelCompiler, refine: Refine, progress: Progress) -> Chosen:
    """The widths that serve the goal best.

    Args:
        kernels: compiles what is measured.
        refine: rounds a QDQ graph, as the compile does.

    Raises:
        UsageError: nothing can be chosen, or a profile or state does not fit.
        BudgetError, AccuracyError: the goal cannot be reached.
    """
    graph, base = network.graph, replace(network.recipe, weight_bits=8, activation_bits=8, weights={}, activations={})
    learned, judged = split(network.batches or (), network, goal.samples)
    model = measured_model(goal, network, learned, judged, kernels, progress)
    apart = bool(learned) and goal.max_drop is None       # the user's own measure judges the very network that is compiled
    seen = learned if apart else network.batches

    def quantize(weights: Mapping[str, int], values: Mapping[str, int]) -> Graph:
        recipe = replace(base, weights=weights, activations=values)
        return refine(graph, network.encoded(precision_of(recipe)), network.placement, seen, recipe)

    found = search(goal, model, Bench(graph, quantize, prepare, judged))
    weights, values = found.model.widths(found.solution.assignment)
    recipe = replace(base, weights=weights, activations=values)
    everything = network.placement, network.batches, recipe
    final = refine(graph, network.encoded(precision_of(recipe)), *everything) if apart else found.graph
    return Chosen(recipe, final, {**report_of(goal, found), "held_out": len(judged) if apart else 0})


def split(batches: Batches, network: Network, most: int) -> tuple[Samples, Samples]:
    """Samples to round on and others to measure losses on; where there are few, none and all: they serve both.

    Rounding fits the samples that it sees: measured on them, few bits would seem to lose next to nothing.

    Raises:
        DataError: there is no data.
    """
    everything = thinned(batches, network.graph, max(most, network.recipe.correction_samples))
    if not everything:
        raise DataError("mixed precision measures losses on calibration data, but there is none; give --calibration-data PATH")
    if len(everything) < LEAST_SPLIT:
        return (), everything
    judged = everything[HELD_OUT - 1 :: HELD_OUT]
    return [one for number, one in enumerate(everything) if number % HELD_OUT != HELD_OUT - 1], judged[: most]


def measured_model(
    goal: Goal, network: Network, learned: Samples, judged: Samples, kernels: KernelCompiler, progress: Progress
) -> Model:
    """What the network's sites lose and cost. Values are tried only where a cost depends on their widths."""
    learned = learned[: goal.samples]
    samples = [*learned, *judged]
    graph, placement = network.graph, network.placement
    weights = weights_of(graph, placement)
    if not weights:
        raise UsageError("mixed precision chooses widths of layers with weights, but this network has none that become integers")
    groups, ties = chosen_values(graph, values_of(graph, placement), placement)
    if len(goal.activation_bits) < 2 or "bitops" not in goal.costs:
        groups, ties = (), ()
    subjects = subjects_of(goal, network, weights, groups)
    key = state_key(graph, subjects, samples, len(learned)) + sources_digest()
    key = hashlib.sha256(key.encode()).hexdigest()
    path = goal.state or default_folder().parent / "sensitivity" / f"{key[:40]}.jsonl"
    losses = sensitivities(graph, subjects, samples, prepare, State.open(path, key), goal.executor,
                           lambda done, total: progress("sensitivity", done, total), goal.at_once, len(learned))
    integer = to_integer(network.encoded(Precision(8, 8)), placement, network.recipe.io == "integer")
    plans = Plans.of(integer, kernels.target.parts[0], make_islands(integer, kernels, export_node), goal.weight_bits)
    labels = {WEIGHTS: tuple(map(str, goal.weight_bits)), VALUES: tuple(map(str, goal.activation_bits))}
    costs = plans.costs(profile_for(goal, plans, kernels, progress))
    return Model(weights, groups, ties, losses, kind_for(graph, goal.loss), costs, labels)


def subjects_of(goal: Goal, network: Network, weights: Sequence[Weights], groups: Sequence[Values]) -> list[Subject]:
    """The sites with the encodings that each would have."""
    granularity = network.recipe.weight_granularity
    by_weights = {bits: network.encoded(Precision(bits, 8, granularity=granularity)) for bits in goal.weight_bits}
    found = []
    for layer in weights:
        encodings = {str(bits): q.types[q.nodes[layer.number].inputs[1]].encoding for bits, q in by_weights.items()}
        found.append(Subject(layer.name, layer.number, encodings, True, granularity == "tensor"))
    by_values = {bits: network.encoded(Precision(8, bits)) for bits in goal.activation_bits} if groups else {}
    for values in groups:
        tried = {str(bits): {name: q.types[name].encoding for name in values.members} for bits, q in by_values.items()}
        found.append(Subject(values.name, values.number, tried, False))
    return found


def profile_for(goal: Goal, plans: Plans, kernels: KernelCompiler, progress: Progress) -> Profile:
    """The given profile; else, where latency matters and this machine runs the target, one that is measured; else an estimate."""
    target = kernels.target
    if goal.profile is not None:
        return load_profile(goal.profile, target)
    if "latency" in goal.costs and not why_not(target):
        return measured(plans.steps, kernels, Cache.here(target), progress, plans.constants)
    return estimated(plans.steps, target.parts[0])


def sources_digest() -> str:
    """SHA-256 of the sources that losses depend on."""
    total = hashlib.sha256()
    for package in (mixed, rounding):
        for path in sorted(Path(package.__path__[0]).glob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()
