"""The compiler's migration stage: from the recipe's choice to what is moved between layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from qcc.ir import Array, Graph
from qcc.measuring import measure, name_culprit, precision_of
from qcc.onnx import prepare
from qcc.passes.calibrate import Batches, is_finite
from qcc.passes.migrate import Bits, Judge, Migration
from qcc.passes.quantize import encode, place
from qcc.passes.rounding import Options, find_rounding, round_weights, thinned
from qcc.recipe import Recipe

Progress = Callable[[str, int, int], None]
ROWS = 8192       # positions of a layer's output that a sketch looks at


def find_migration(graph: Graph, calibration: Batches | None, recipe: Recipe, progress: Progress) -> tuple[Recipe, Migration]:
    """The recipe with the method that was chosen, and what it moves."""
    method = recipe.migration
    judge = Judge(checked, Bits(recipe.weight_bits, recipe.activation_bits, recipe.weight_granularity == "tensor"), recipe.io == "integer")
    if method == "auto":
        count = 0 if calibration is None or recipe.calibration == "none" else judge.samples(graph)
        samples = thinned(calibration, graph, count) if calibration is not None and count else []
        quantize = partial(sketched, recipe=recipe)
        method = judge.decide(graph, samples, quantize, lambda done, total: progress("migration", done, total))
    found = Migration() if method == "none" else judge.find(graph, method, calibration)
    return replace(recipe, migration=method), found


def sketched(graph: Graph, samples: Sequence[Mapping[str, Array]], recipe: Recipe) -> Graph:
    """The QDQ graph much as the recipe will make it, in less time: fewer rows, and second-order rounding in place of several ways."""
    placement = place(graph, recipe.io == "integer")
    ranges = measure(graph, placement, samples, recipe, _silent).ranges
    quantized = encode(graph, placement, ranges, precision_of(recipe))
    rounding = "second-order" if recipe.rounding == "auto" and recipe.weight_bits < 8 else recipe.rounding
    options = Options(rounding, recipe.correction, tied=recipe.weight_granularity == "tensor", rows=ROWS)
    return round_weights(quantized, find_rounding(graph, quantized, placement, samples, prepare, options))


def checked(graph: Graph, values: Sequence[str]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """A function that computes these values, and names the node that made others than finite numbers."""
    run = prepare(graph, values)

    def evaluate(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        results = run(feeds)
        if not all(map(is_finite, results.values())):
            name_culprit(graph, feeds)
        return results

    return evaluate


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Of progress within progress nothing is shown."""
