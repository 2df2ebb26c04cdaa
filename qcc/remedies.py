"""What qcc itself can do about a loss of accuracy, and what each change would gain, from the parts of the error.

A step that changes the outputs by d, made smaller by a factor f, takes (1 - f) d out of the error e:

    |e - (1 - f) d|^2 = |e|^2 - 2 (1 - f) <d, e> + (1 - f)^2 |d|^2

so that the gain of a change follows from the two numbers that `attribution.Part` holds. Every further bit halves a rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10

from qcc.arith import INT32_MAX
from qcc.attribution import Attribution, Cause, Part
from qcc.codegen.target import find_target
from qcc.ir import Graph
from qcc.passes.integer import prove
from qcc.passes.quantize import WIDE, place, widens
from qcc.recipe import Recipe

USUAL = 8    # bits of weights and activations; more are offered only to those that have these


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of the recipe.

    Attributes:
        change: what to write, as the recipe has it.
        why: the part of the error that it takes away.
        gain: estimated, in dB of the outputs' SQNR.
    """

    change: str
    why: str
    gain: float


def remedies(found: Attribution, recipe: Recipe, widths: Mapping[str, int], roomy: Collection[str] = ()) -> list[Remedy]:
    """The changes that help, best first.

    Args:
        widths: bits by layer (for its weights) and by value (for its rounding), see `widths_of`.
        roomy: values that can have 16 bits, see `roomy_values`.
    """
    tables = ((Cause.WEIGHTS, "weights"), (Cause.ROUNDING, "activations"), (Cause.TABLE, "activations"))
    changes = [remedy for cause, table in tables for remedy in _wider(found, widths, roomy, cause, table)]
    changes += _whole_network(found, recipe)
    return sorted((remedy for remedy in changes if remedy.gain > 0.005), key=lambda remedy: -remedy.gain)


def widths_of(integer: Graph, values: Mapping[str, str]) -> dict[str, int]:
    """Bits of every layer's weights under "weights NAME", and of every rounded value under "activations NAME".

    Args:
        values: the integer value that stands for a float value, by the float value's name.
    """
    widths = {}
    for real, stored in values.items():
        widths[f"activations {real}"] = integer.types[stored].dtype.bits
    for node in integer.nodes:
        name, _, kind = node.outputs[0].rpartition("@")
        if kind == "sum" and len(node.inputs) == 3:
            widths[f"weights {name}"] = integer.types[node.inputs[1]].dtype.bits
    return widths


def roomy_values(graph: Graph, integer: Graph, recipe: Recipe, widths: Mapping[str, int]) -> frozenset[str]:
    """Values that can have 16 bits: the target has kernels for them, and no accumulator of what reads them could overflow.

    Args:
        graph: the FLOAT graph that `integer` was made from.
    """
    if find_target(recipe.target).is_gpu:
        return frozenset()
    placement = place(graph, recipe.io == "integer")
    reach = {bound.value: max(-bound.low, bound.high) for bound in prove(integer) if bound.limit == INT32_MAX}

    def fits(name: str) -> bool:
        growth = ((1 << WIDE) - 1) / ((1 << widths.get(f"activations {name}", USUAL)) - 1)
        return all(reach.get(f"{user.outputs[0]}@sum", 0) * growth < INT32_MAX for user in graph.users[name])

    return frozenset(
        name for group in placement.ties if all(widens(name, graph, placement) and fits(name) for name in group) for name in group)


def _wider(
    found: Attribution, widths: Mapping[str, int], roomy: Collection[str], cause: Cause, table: str
) -> Iterable[Remedy]:
    """More bits for one layer's weights or for one value."""
    for part in found.parts:
        bits = widths.get(f"{table} {part.value}", WIDE)
        wider = USUAL if bits < USUAL else WIDE if cause is Cause.ROUNDING and part.value in roomy else bits
        if part.cause is cause and bits < wider:
            yield Remedy(f'[{table}] "{part.value}" = {wider}', f"{cause} of {bits} bits", _gain(found, [part], 2.0 ** (bits - wider)))


def _whole_network(found: Attribution, recipe: Recipe) -> Iterable[Remedy]:
    """What a recipe switches for all layers at once. How much of a part is left is not known here: these are the most that can be gained.

    Without clipping, ranges cover all that calibration saw, and roundings grow as the ranges do; weights chosen by their effect on results
    still err.
    """
    if recipe.observer not in ("auto", "minmax"):
        parts = [part for part in found.parts if part.cause is Cause.CLIPPING]
        yield Remedy('observer = "minmax"', f"{Cause.CLIPPING} of {len(parts)} values; at most", _gain(found, parts, 0.0))
    if recipe.rounding == "nearest":
        parts = [part for part in found.parts if part.cause is Cause.WEIGHTS]
        yield Remedy('rounding = "auto"', f"{Cause.WEIGHTS} of {len(parts)} layers; at most", _gain(found, parts, 0.0))


def _gain(found: Attribution, parts: Sequence[Part], left: float) -> float:
    """dB by which the error shrinks if only `left` of each part's change remains; parts are taken to be independent of each other."""
    after = found.whole - sum(2 * (1 - left) * part.share - (1 - left) ** 2 * part.size for part in parts)
    if found.whole <= 0.0:
        return 0.0
    return inf if after <= 0.0 else 10 * log10(found.whole / after)
