"""The compiler on one screen: from an ONNX model to an artifact, a stage a line. A stage measures, or decides, or edits; never two."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qcc import golden
from qcc.artifact import Artifact
from qcc.codegen.build import build
from qcc.codegen.cuda.toolchain import buildable
from qcc.codegen.header import check_name, is_keyword
from qcc.codegen.target import Target, find_target
from qcc.codegen.tune import Tuner
from qcc.codegen.worker import KernelCompiler
from qcc.errors import RecipeError
from qcc.ir import Graph, Observer, Pipeline, TensorType, unobserved
from qcc.measuring import graph_digest, measure, precision_of
from qcc.migrating import find_migration
from qcc.mixed.decide import Network, decide
from qcc.mixed.goals import Goal
from qcc.onnx import export_node, import_model, prepare
from qcc.passes.calibrate import Batches
from qcc.passes.integer import TO_INTEGER, prove
from qcc.passes.migrate import MIGRATE
from qcc.passes.quantize import ENCODE, WIDE, Placement, encode, place
from qcc.passes.rounding import ROUND, Options, Rounding, find_rounding, round_weights, thinned
from qcc.passes.simplify import SIMPLIFY
from qcc.recipe import Recipe
from qcc.summary import summarize

Progress = Callable[[str, int, int], None]
Report = Mapping[str, Any] | None      # how widths were chosen, where they were not given
Calibration = Batches | Callable[[Mapping[str, TensorType]], Batches]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def compile_model(
    model: Any, calibration: Calibration | None, recipe: Recipe, progress: Progress = silent, tuning_record: str | Path | None = None,
    calibration_cache: str | Path | None = None, goal: Goal | None = None, observe: Observer = unobserved,
) -> Artifact:
    """Compile an ONNX model to an integer library.

    Args:
        model: path, bytes or onnx.ModelProto; never modified.
        calibration: batches of inputs by name, or a function that makes them from the types of the inputs.
        recipe: every choice; the artifact holds it completed.
        progress: told (stage, done, total) as work goes on.
        tuning_record, calibration_cache: files whose choices and measurements are taken again instead of measuring.
        goal: what the widths of layers shall serve, in place of the recipe's.
        observe: sees the network before and after every pass.

    Raises:
        QccError: one of its children, with an exit code and a message that says what to do.
    """
    run = partial(Pipeline, observe=observe)
    target = target_of(recipe)
    tuner = Tuner.of(recipe.tune, target, tuning_record)
    recipe = replace(recipe, target=target.name, name=library_name(recipe.name, model), tune=tuner.level)
    with KernelCompiler(target) as kernels, TemporaryDirectory(prefix="qcc-") as folder:    # children load TVM now
        imported = import_model(model, recipe.input_shapes)                           # ONNX -> FLOAT
        graph = run(SIMPLIFY)(imported)                                               # fold, fuse, cancel
        batches = calibration({name: graph.types[name] for name in graph.inputs}) if callable(calibration) else calibration
        recipe, migration = find_migration(graph, batches, recipe, progress)          # decide: what moves between layers
        graph = run((MIGRATE.given(migration),))(graph)                               # the same function
        placement = place(graph, recipe.io == "integer")                              # decide: what becomes integers
        measured = measure(graph, placement, batches, recipe, progress, calibration_cache, imported)    # measure: ranges
        network = Network(graph, placement, measured.ranges, measured.batches, recipe)
        recipe, rounding, report = decide_integers(network, goal, kernels, progress)  # decide: widths, and weights by their effect
        encoding = ENCODE.given(placement, measured.ranges, precision_of(recipe))
        quantized = run((encoding, ROUND.given(rounding)))(graph)                     # FLOAT -> QDQ
        integer = run((TO_INTEGER.given(placement, recipe.io == "integer"),))(quantized)    # QDQ -> INTEGER: dyadic multipliers
        bounds = prove(integer)                                                       # no integer can overflow
        built = build(integer, target, recipe.name, kernels, export_node, tuner, Path(folder), progress)    # kernels, memory, code
        texts = golden.texts(integer, built.program, recipe, measured, bounds, graph_digest(imported), built.tuning, report,
                             rounding.reports, migration.dumps())
    return Artifact(recipe, target, graph, quantized, integer, built.program, built.objects, texts, summarize(integer, built.program))


def decide_integers(
    network: Network, goal: Goal | None, kernels: KernelCompiler, progress: Progress = silent
) -> tuple[Recipe, Rounding, Report]:
    """The recipe's widths, or those that serve the goal best; the integers of weights; and how widths were chosen."""
    graph, placement, recipe = network.graph, network.placement, network.recipe
    if goal is None:
        nearest = encode(graph, placement, network.ranges, precision_of(recipe))
        return recipe, rounded(graph, nearest, placement, network.batches, recipe, progress), None
    tried: list[tuple[Graph, Rounding]] = []

    def refine(graph: Graph, nearest: Graph, *rest: Any) -> Graph:
        found = rounded(graph, nearest, *rest)
        tried.append((round_weights(nearest, found), found))
        return tried[-1][0]

    chosen = decide(goal, network, kernels, refine, progress)
    return chosen.recipe, next(found for refined, found in tried if refined is chosen.graph), chosen.report


def rounded(
    graph: Graph, nearest: Graph, placement: Placement, calibration: Batches | None, recipe: Recipe, progress: Progress = silent
) -> Rounding:
    """Integers of weights by their effect on results, and corrected biases, as the recipe says; none that change without data."""
    options = Options(recipe.rounding, recipe.correction, tied=recipe.weight_granularity == "tensor")
    if calibration is None or options.idle:
        return Rounding()
    samples = thinned(calibration, graph, recipe.correction_samples)
    return find_rounding(graph, nearest, placement, samples, prepare, options, lambda done, total: progress("rounding", done, total))


def library_name(name: str, model: Any) -> str:
    """The C identifier that prefixes every symbol: the given name, or one made from the model's file name.

    Raises:
        UsageError: the given name cannot prefix C symbols.
    """
    if name:
        return check_name(name)
    stem = Path(model).name.partition(".")[0] if isinstance(model, str | Path) else "model"
    cleaned = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_") or "model"
    return check_name(f"m_{cleaned}" if cleaned[0].isdigit() or is_keyword(cleaned) else cleaned)


def target_of(recipe: Recipe) -> Target:
    """The recipe's target.

    Raises:
        UnknownTarget: there is none of that name.
        CodegenError: there is no compiler for it here.
        RecipeError: no kernel of the target computes with the recipe's widths.
    """
    target = buildable(find_target(recipe.target))
    if target.is_gpu and WIDE in (recipe.activation_bits, *recipe.activations.values()):
        raise RecipeError(f"target {target.name}: kernels for GPUs take activations of at most 8 bits, but the recipe has {WIDE}; "
                          "expected 2 to 8, for example --bits w4a8")
    return target
