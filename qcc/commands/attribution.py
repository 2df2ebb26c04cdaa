"""What `qcc compare --attribute` adds: the parts of the error as plain values, and as a chart for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcc.commands.terminal import table

if TYPE_CHECKING:
    from qcc.ir import Array, Graph
    from qcc.runtime import Module

BAR = 40         # characters of the longest bar
LISTED = 10      # remedies


def split(
    artifact: Path, graph: Graph, integer: Graph, module: Module, samples: Sequence[Mapping[str, Array]],
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """The library's error on these samples, its parts, and what would help, for JSON."""
    from qcc.attribution import attribute
    from qcc.comparison import library_outputs
    from qcc.onnx import prepare
    from qcc.passes.integer import matching_values
    from qcc.recipe import Recipe
    from qcc.remedies import remedies, roomy_values, widths_of

    outputs = [library_outputs(integer, module, sample) for sample in samples]
    found = attribute(graph, integer, samples, outputs, prepare, lambda done, total: progress("attribution", done, total))
    widths = widths_of(integer, {pair.real: name for name, pair in matching_values(graph, integer).items()})
    recipe = Recipe.load(artifact / "recipe.toml")
    helpful = remedies(found, recipe, widths, roomy_values(graph, integer, recipe, widths))
    return {
        "samples": len(samples), "error": found.whole, "explained": found.explained,
        "causes": {str(cause): share for cause, share in found.by_cause().items()}, "values": found.by_value(),
        "parts": [{"value": part.value, "cause": str(part.cause), "share": part.share / (found.whole or 1.0), "size": part.size}
                  for part in found.parts],
        "remedies": [{"change": remedy.change, "why": remedy.why, "gain_db": min(remedy.gain, 999.0)} for remedy in helpful],
    }


def chart(parts: Mapping[str, Any], worst: int) -> str:
    """Bars by cause and by layer, and the remedies."""
    values = dict(list(parts["values"].items())[: worst or LISTED])
    rows = [(remedy["change"], f"+{remedy['gain_db']:.2f} dB", remedy["why"]) for remedy in parts["remedies"][:LISTED]]
    helpful = table(("in the recipe", "gain", "because of"), rows) if rows else "Nothing that a recipe can say."
    return "\n".join([
        f"\nWhere the error comes from ({parts['samples']} samples; the parts add up to {parts['explained']:.1%} of the library's error):",
        _bars(parts["causes"]), "\nThe layers and values with the largest shares:", _bars(values), "\nWhat would help:", helpful,
    ])


def _bars(shares: Mapping[str, float]) -> str:
    """One bar a line; shares below 0 undo the error of others."""
    most, width = max((abs(share) for share in shares.values()), default=0.0) or 1.0, max(map(len, shares), default=0)
    signs = {name: "-" if share < 0 else "#" for name, share in shares.items()}
    return "\n".join(f"  {name:{width}}  {share:7.1%}  {signs[name] * round(BAR * abs(share) / most)}" for name, share in shares.items())
