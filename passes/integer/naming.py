"""Which integers stand for which float values: the naming convention of the INTEGER graph (`lowering.suffix`), read back."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.ir import Graph
from qcc.passes.integer.lowering import CHANNELS_LAST, Layout, logical


@dataclass(frozen=True, slots=True)
class Pair:
    """An integer value and the float value that it stands for: stored = transpose(logical, axes)."""

    stored: str
    real: str
    axes: tuple[int, ...]


def matching_values(graph: Graph, integer: Graph) -> dict[str, Pair]:
    """By the integer value's name: values that both graphs have. Other names, such as `v@padded`, are steps on the way to a value."""
    pairs = {}
    for name, type in integer.types.items():
        if name in integer.constants or type.encoding is None or not type.dtype.is_integer:
            continue
        real, _, layout = (name, "", "") if name in graph.types else name.rpartition("@")
        axes = _axes(layout, graph.types[real].rank) if real in graph.types else None
        if axes is not None and type.shape == tuple(graph.types[real].shape[axis] for axis in axes):
            pairs[name] = Pair(name, real, axes)
    return pairs


def _axes(layout: str, rank: int) -> Layout | None:
    """What a name's suffix says; None if it says something else."""
    if layout in ("", "integer"):
        return logical(rank)
    if layout == "nhwc" and rank == len(CHANNELS_LAST):
        return CHANNELS_LAST
    axes = tuple(map(int, layout)) if layout.isdigit() else ()
    return axes if sorted(axes) == list(range(rank)) else None
