"""Which integers stand for which float values: the naming convention of the INTEGER graph (`lowering.suffix`), read back."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.ir import Graph


@dataclass(frozen=True, slots=True)
class Pair:
    """An integer value and the float value that it stands for: stored = transpose(logical, axes)."""

    stored: str
    real: str
    axes: tuple[int, ...]


def matching_values(graph: Graph, integer: Graph) -> dict[str, Pair]:
    """By the integer value's name: values that both graphs have."""
    pairs = {}
    for name, type in integer.types.items():
        real, _, suffix = name.rpartition("@")
        real = real or name
        if name in integer.constants or type.encoding is None or not type.dtype.is_integer or real not in graph.types:
            continue
        rank = graph.types[real].rank
        axes = (0, 2, 3, 1) if suffix == "nhwc" and rank == 4 else tuple(map(int, suffix)) if suffix.isdigit() else tuple(range(rank))
        if sorted(axes) == list(range(rank)) and type.shape == tuple(graph.types[real].shape[axis] for axis in axes):
            pairs[name] = Pair(name, real, axes)
    return pairs
