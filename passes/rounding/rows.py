"""The data of one layer, as moments: gathered in chunks from the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qcc.ir import Array, Node
from qcc.passes.rounding.columns import columns, positions, results
from qcc.passes.rounding.moments import Moments

CHUNK = 1 << 26       # bytes of columns that are held at once
HELD_OUT = 4          # every fourth sample judges what the others suggest

Chunk = tuple[Array, Array]       # columns [groups, rows, depth] and wanted results [groups, rows, outputs]


@dataclass(frozen=True)
class Rows:
    """Where a layer's rows come from.

    Attributes:
        pairs: the layer's input and its wanted results, per sample.
        kernel: shape of the weights.
        rows: positions that are looked at, over all samples.
    """

    node: Node
    kernel: tuple[int, ...]
    pairs: Sequence[tuple[Array, Array]]
    rows: int

    def sides(self) -> tuple[list[int], list[int]]:
        """Numbers of the samples to learn from, and of those that judge (none if there are too few)."""
        sides: tuple[list[int], list[int]] = ([], [])
        for number in range(len(self.pairs)):
            sides[number % HELD_OUT == HELD_OUT - 1].append(number)
        return sides

    def moments(self) -> tuple[Moments, Moments | None]:
        """Of the samples to learn from, and of those that judge."""
        x, y = self.pairs[0]
        every = np.arange(positions(self.node, y))[::17]
        origin = columns(self.node, x, self.kernel, every).mean(axis=1), results(self.node, y, every).mean(axis=1)
        seen, unseen = (_sum(Moments.of(*chunk, origin) for chunk in self.chunks(side)) for side in self.sides())
        assert seen is not None
        return seen, unseen

    def chunks(self, side: Sequence[int]) -> Iterator[Chunk]:
        """Rows of the numbered samples, the same each time; many samples at once, because large matrix products are fast."""
        share = -(-self.rows // len(self.pairs))
        held: list[Chunk] = []
        for place, number in enumerate(side):
            x, y = self.pairs[number]
            count = positions(self.node, y)
            chosen = np.sort(np.random.default_rng(number).permutation(count)[:share]) if count > share else np.arange(count)
            held.append((columns(self.node, x, self.kernel, chosen), results(self.node, y, chosen)))
            if sum(c.nbytes for c, _ in held) >= CHUNK or place == len(side) - 1:
                joined, wanted = (np.concatenate(arrays, axis=1) for arrays in zip(*held, strict=True))
                yield joined, wanted
                held = []


def _sum(parts: Iterator[Moments]) -> Moments | None:
    total: Moments | None = None
    for part in parts:
        total = part if total is None else total + part
    return total
