"""The data of one layer, as moments: gathered in chunks from the samples, and again when the wanted results change.

**Bounds.** Where a clip follows a layer, results beyond a bound need only stay beyond it. Replacing the wanted result there by what the
layer now computes, if that is beyond the bound, too, gives a quadratic problem whose error is nowhere less than the clipped one and equal
to it for the present weights: solving it again and again lowers the clipped error (majorization and minimization), and the moments of
the inputs stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcc.ir import Array, Node
from qcc.passes.rounding.columns import columns, positions, results
from qcc.passes.rounding.moments import Moments

CHUNK = 1 << 26       # bytes of columns that are held at once
HELD_OUT = 4          # every fourth sample judges what the others suggest

Bounds = tuple[Array, Array]      # of a clip that follows, [groups, 1, outputs]
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

    def within(self, moments: Sequence[Moments], weights: Array, bias: Array, bounds: Bounds) -> tuple[float, list[Moments]]:
        """The squared error behind the clip that a layer makes on the judging samples, and the moments of what to want next.

        Args:
            moments: of both sides.
            weights: [groups, outputs, depth].
            bias: [groups, outputs].
        """
        low, high = bounds
        turned, error = weights.transpose(0, 2, 1).astype(np.float32), 0.0
        moved: list[Moments] = []
        for side, old in zip(self.sides(), moments, strict=True):
            error, cross, mean, square = 0.0, np.zeros_like(old.yx), np.zeros_like(old.y), np.zeros_like(old.yy)
            for x, y in self.chunks(side):
                found = np.matmul(x, turned) + bias[:, None].astype(np.float32)
                error += float(np.square(np.clip(found, low, high) - np.clip(y, low, high), dtype=np.float64).sum())
                wanted = np.where(y <= low, np.minimum(found, low), np.where(y >= high, np.maximum(found, high), y))
                wanted -= old.origin[1][:, None].astype(np.float32)
                cross += np.matmul(wanted.transpose(0, 2, 1), x - old.origin[0][:, None].astype(np.float32))
                mean += wanted.sum(1, np.float64)
                square += np.square(wanted, dtype=np.float64).sum(1)
            moved.append(replace(old, yx=cross, y=mean, yy=square))
        return error, moved

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
