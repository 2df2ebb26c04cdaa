"""The compiler on one screen: from an ONNX model to an artifact, a stage a line. A stage measures, or decides, or edits; never two."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qcc import golden
from qcc.artifact import Artifact
from qcc.codegen.cuda.toolchain import buildable, machine_code
from qcc.codegen.floats import make_islands
from qcc.codegen.header import check_name, is_keyword
from qcc.codegen.plan import plan
from qcc.codegen.target import find_target
from qcc.codegen.tune import Tuner
from qcc.codegen.worker import KernelCompiler
from qcc.ir import Array, Graph, Pipeline, TensorType, verify
from qcc.measuring import graph_digest, measure, precision_of
from qcc.onnx import FloatRunner, export_node, import_model
from qcc.passes.calibrate import Batches
from qcc.passes.integer import prove, to_integer
from qcc.passes.quantize import Placement, encode, place
from qcc.passes.rounding import Options, correct, thinned
from qcc.passes.simplify import SIMPLIFY
from qcc.recipe import Recipe
from qcc.summary import summarize

Progress = Callable[[str, int, int], None]
Calibration = Batches | Callable[[Mapping[str, TensorType]], Batches]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def compile_model(
    model: Any, calibration: Calibration | None, recipe: Recipe, progress: Progress = silent, tuning_record: str | Path | None = None,
    calibration_cache: str | Path | None = None,
) -> Artifact:
    """Compile an ONNX model to an integer library.

    Args:
        model: path, bytes or onnx.ModelProto; never modified.
        calibration: batches of inputs by name, or a function that makes them from the types of the inputs.
        recipe: every choice; the artifact holds it completed.
        progress: told (stage, done, total) as work goes on.
        tuning_record: an artifact's tuning.json, whose choices are taken again instead of measuring.
        calibration_cache: a file that keeps what calibration measures (passes/calibrate/cache.py).

    Raises:
        QccError: one of its children, with an exit code and a message that says what to do.
    """
    target = buildable(find_target(recipe.target))
    tuner = Tuner.of(recipe.tune, target, tuning_record)
    recipe = replace(recipe, target=target.name, name=library_name(recipe.name, model), tune=tuner.level)
    with KernelCompiler(target) as kernels, TemporaryDirectory(prefix="qcc-") as folder:    # children load TVM now
        imported = import_model(model, recipe.input_shapes)                           # ONNX -> FLOAT
        graph = Pipeline(SIMPLIFY)(imported)                                          # fold, fuse, cancel
        placement = place(graph, recipe.io == "integer")                              # decide: what becomes integers
        batches = calibration({name: graph.types[name] for name in graph.inputs}) if callable(calibration) else calibration
        measured = measure(graph, placement, batches, recipe, progress, calibration_cache)    # measure: the values' ranges
        nearest = encode(graph, placement, measured.ranges, precision_of(recipe))     # FLOAT -> QDQ
        quantized = refine(graph, nearest, placement, batches, recipe, progress)      # weights by their effect, biases corrected
        verify(quantized)
        integer = to_integer(quantized, placement, recipe.io == "integer")            # QDQ -> INTEGER: dyadic multipliers
        verify(integer)
        bounds = prove(integer)                                                       # no integer can overflow
        islands = make_islands(integer, kernels, export_node)                         # float nodes, through TVM's front end
        program = plan(integer, target, recipe.name, islands)                         # kernels, memory, constants
        tuning = tuner.run(program, kernels, progress)                                # measure: which tiles are fastest
        program = program if tuning is None else plan(integer, target, recipe.name, islands, tuning.apply)
        files = kernels.compile(program.kernels, Path(folder), lambda done, total: progress("kernels", done, total))
        objects = machine_code(files, target, Path(folder), progress)                 # TIR -> LLVM (in the children) or CUDA C
        texts = golden.texts(integer, program, recipe, measured, bounds, graph_digest(imported), tuning)    # what travels along
    return Artifact(recipe, target, graph, quantized, integer, program, objects, texts, summarize(integer, program))


def refine(
    graph: Graph, quantized: Graph, placement: Placement, calibration: Batches | None, recipe: Recipe, progress: Progress = silent
) -> Graph:
    """The QDQ graph with weights rounded by their effect on results, and with corrected biases, as the recipe says."""
    fitted = "affine" if recipe.weight_bits < 8 else "bias"
    options = Options(recipe.rounding, fitted if recipe.correction == "auto" else recipe.correction)
    if calibration is None or options.idle:
        return quantized
    samples = thinned(calibration, graph, recipe.correction_samples)
    return correct(graph, quantized, placement, samples, prepare, options, lambda done, total: progress("rounding", done, total))[0]


def prepare(graph: Graph, values: Sequence[str]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """A function that computes these values of a float graph."""
    return FloatRunner(graph, values).run


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
