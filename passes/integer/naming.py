"""Which integers stand for which float values: the naming convention of the INTEGER graph, read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations

from qcc.ir import Graph
from qcc.passes.integer.lowering import CHANNELS_LAST, Layout, logical, suffix


def integer_values(float_graph: Graph, graph: Graph) -> Mapping[str, tuple[str, Layout]]:
    """For each float value that exists as integers: their name in `graph` and the layout (stored = transpose(logical, layout))."""
    found: dict[str, tuple[str, Layout]] = {}
    for name, type in float_graph.types.items():
        if name in float_graph.constants:
            continue
        layouts = tuple(dict.fromkeys((*((CHANNELS_LAST,) if type.rank == 4 else ()), *_layouts(type.rank))))
        for layout in layouts:
            for candidate in (name + suffix(layout), f"{name}@integer"):
                stored = graph.types.get(candidate)
                if stored is not None and stored.encoding is not None and candidate not in graph.constants:
                    found.setdefault(name, (candidate, layout if candidate != f"{name}@integer" else logical(type.rank)))
    return found


def _layouts(rank: int) -> Iterable[Layout]:
    """The layouts that a value of this rank may have; transpositions beyond rank 4 are written out."""
    return permutations(range(rank)) if rank <= 4 else (logical(rank),)
