"""What travels with a library so that it can be checked anywhere: texts, a golden pair computed by the interpreter, proofs, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from qcc.codegen.artifact import ArtifactTexts
from qcc.codegen.cuda.toolchain import find_compiler
from qcc.codegen.golden import golden_pattern
from qcc.codegen.program import Program
from qcc.codegen.target import find_target
from qcc.codegen.tuning import Tuning
from qcc.ir import Array, Graph, dump, interpret
from qcc.measuring import Measured
from qcc.ops import Quantize
from qcc.passes.calibrate import Range
from qcc.passes.integer import Bound
from qcc.passes.rounding import LayerReport
from qcc.recipe import Recipe
from qcc.summary import is_float_node, layers

FLOAT_TAIL_BOUND = 1e-5  # of the largest output: float operators behind all integers differ by roundings only
FLOAT_INNER_BOUND = 0.1  # a float operator before integers can flip a rounding, and later layers amplify that
PACKAGES = ("qcc", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy")


def texts(
    graph: Graph, program: Program, recipe: Recipe, measured: Measured, bounds: Sequence[Bound], model: str,
    tuning: Tuning | None = None, mixed: Mapping[str, Any] | None = None,
    rounding: Mapping[str, LayerReport] | None = None, migration: str = "",
) -> ArtifactTexts:
    """Everything of the artifact that is not code.

    Args:
        model: digest of the imported network.
        mixed: how widths were chosen, if they were.
        migration: what the network's scales were moved by, as `Migration.dumps` writes it.
    """
    patterns = {port.name: golden_pattern(port, *_span(graph, port.name, measured.ranges)) for port in program.inputs}
    inputs = {port.name: patterns[port.name].array(port.type) for port in program.inputs}
    outputs = interpret(graph, inputs)
    return ArtifactTexts(
        graph=dump(graph),
        constants=graph.constants,
        recipe=recipe.dumps(),
        golden_inputs=inputs,
        golden_outputs=outputs,
        golden_patterns=patterns,
        output_bounds=output_bounds(graph, outputs),
        layers=layers(graph, program),
        proofs=[{"value": b.value, "low": b.low, "high": b.high, "limit": b.limit} for b in bounds],
        model=model,
        calibration=measured.record,
        rounding={name: asdict(report) for name, report in (rounding or {}).items()},
        versions=versions(recipe.target),
        tuning="" if tuning is None else tuning.dumps(),
        mixed="" if mixed is None else json.dumps(mixed, indent=1) + "\n",
        migration=migration,
    )


def versions(target: str) -> dict[str, str]:
    """Of the packages that made the library; for a GPU also of the CUDA compiler."""
    found = {name: _version(name) for name in PACKAGES}
    if find_target(target).is_gpu:
        compiler = find_compiler()
        found[compiler.name] = compiler.version
    return found


def _version(package: str) -> str:
    """The installed version; qcc itself may run from its source tree."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "uninstalled"


def _span(graph: Graph, name: str, ranges: Mapping[str, Range]) -> tuple[float, float]:
    """What the golden input covers: the calibrated range, or all integers of the type, or 0..1."""
    dtype = graph.types[name].dtype
    if dtype.is_integer:
        low, high = dtype.range
        return float(max(low, -128)), float(min(high, 255))
    return (ranges[name].low, ranges[name].high) if name in ranges else (0.0, 1.0)


def output_bounds(graph: Graph, outputs: Mapping[str, Array]) -> dict[str, float]:
    """For outputs that float operators reach, the largest difference between interpreter and library that is no error.

    Outputs that only integer and border operators make are exact and not listed.
    """
    tainted: dict[str, float] = {}
    for node in graph.nodes:
        level = max((tainted.get(name, 0.0) for name in node.inputs), default=0.0)
        if is_float_node(graph, node):
            level = max(level, FLOAT_TAIL_BOUND)
        elif level and isinstance(node.op, Quantize):
            level = FLOAT_INNER_BOUND
        tainted.update(dict.fromkeys(node.outputs, level))
    bounds = {}
    for port, value in graph.outputs.items():
        level = tainted.get(value, 0.0)
        if level and graph.types[value].dtype.is_float:
            bounds[port] = level * max(1e-3, float(np.abs(outputs[port]).max(initial=0.0)))
    return bounds
