"""The compiler's migration stage: from the recipe's choice to what is moved between layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qcc.ir import Graph
from qcc.measuring import precision_of
from qcc.onnx import prepare
from qcc.passes.calibrate import Batches
from qcc.passes.migrate import JUDGED, Bits, Judge, Migration
from qcc.passes.rounding import thinned
from qcc.recipe import Recipe

Progress = Callable[[str, int, int], None]


def find_migration(graph: Graph, calibration: Batches | None, recipe: Recipe, progress: Progress) -> tuple[Recipe, Migration]:
    """The recipe with the method that was chosen, and what it moves."""
    method = recipe.migration
    bits = Bits(recipe.weight_bits, recipe.activation_bits, recipe.weight_granularity == "tensor")
    judge = Judge(prepare, precision_of(recipe), bits, recipe.io == "integer")
    if method == "auto":
        samples = [] if calibration is None else thinned(calibration, graph, JUDGED)
        method = judge.decide(graph, samples, lambda done, total: progress("migration", done, total))
    found = Migration() if method == "none" else judge.find(graph, method, calibration)
    return replace(recipe, migration=method), found
