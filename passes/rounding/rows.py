"""The data of one layer, as moments: gathered in chunks from the samples, and again when the wanted results change.

Behind bounds (`sums.Sum`), results beyond one of them need only stay beyond it. Replacing the wanted result there by what the layer now
computes, if that is beyond the same bound, gives a quadratic problem whose error is nowhere less than the one behind the bounds: solving it
again and again lowers that error, and the moments of the inputs stay as they are. Results that leave the bounds where they should not
are still pulled back, though behind the bounds that would be flat.
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

Sample = tuple[Array, Array, Array | None]      # of a layer: its input, its wanted results, and what is added to them
Chunk = tuple[Array, Array, Array | None]       # columns [groups, rows, depth], wanted results and what is added [groups, rows, outputs]


@dataclass(frozen=True)
class Rows:
    """Where a layer's rows come from.

    Attributes:
        kernel: shape of the weights.
        rows: positions that are looked at, over all samples.
    """

    node: Node
    kernel: tuple[int, ...]
    samples: Sequence[Sample]
    rows: int

    def sides(self) -> tuple[list[int], list[int]]:
        """Numbers of the samples to learn from, and of those that judge (none if there are too few)."""
        sides: tuple[list[int], list[int]] = ([], [])
        for number in range(len(self.samples)):
            sides[number % HELD_OUT == HELD_OUT - 1].append(number)
        return sides

    def moments(self) -> tuple[Moments, Moments | None]:
        """Of the samples to learn from, and of those that judge."""
        x, y, _ = self.samples[0]
        every = np.arange(positions(self.node, y))[::17]
        origin = columns(self.node, x, self.kernel, every).mean(axis=1), results(self.node, y, every).mean(axis=1)
        seen, unseen = (_sum(Moments.of(x, y, origin) for x, y, _ in self.chunks(side)) for side in self.sides())
        assert seen is not None
        return seen, unseen

    def within(
        self, moments: Sequence[Moments], weights: Array, bias: Array, bounds: tuple[Array, Array]
    ) -> tuple[float, tuple[Moments, Moments]]:
        """The squared error behind bounds, over both sides, and the moments of what to want next.

        Args:
            moments: of both sides.
            weights: [groups, outputs, depth].
            bias: [groups, outputs].
            bounds: [groups, 1, outputs] each.
        """
        turned, total = weights.transpose(0, 2, 1).astype(np.float32), 0.0
        moved: list[Moments] = []
        for side, old in zip(self.sides(), moments, strict=True):
            cross, mean, square = np.zeros_like(old.yx), np.zeros_like(old.y), np.zeros_like(old.yy)
            for x, y, added in self.chunks(side):
                low, high = bounds if added is None else (end - added for end in bounds)
                found = np.matmul(x, turned) + bias[:, None].astype(np.float32)
                total += float(np.square(np.clip(found, low, high) - np.clip(y, low, high), dtype=np.float64).sum())
                wanted = np.where(y <= low, np.minimum(found, low), np.where(y >= high, np.maximum(found, high), y))
                wanted -= old.origin[1][:, None].astype(np.float32)
                cross += np.matmul(wanted.transpose(0, 2, 1), x - old.origin[0][:, None].astype(np.float32))
                mean += wanted.sum(1, np.float64)
                square += np.square(wanted, dtype=np.float64).sum(1)
            moved.append(replace(old, yx=cross, y=mean, yy=square))
        return total, (moved[0], moved[1])

    def chunks(self, side: Sequence[int]) -> Iterator[Chunk]:
        """Rows of the numbered samples, the same each time; many samples at once, because large matrix products are fast."""
        share = -(-self.rows // len(self.samples))
        held: list[list[Array]] = []
        for place, number in enumerate(side):
            x, *wanted = (array for array in self.samples[number] if array is not None)
            count = positions(self.node, wanted[0])
            chosen = np.sort(np.random.default_rng(number).permutation(count)[:share]) if count > share else np.arange(count)
            held.append([columns(self.node, x, self.kernel, chosen), *(results(self.node, y, chosen) for y in wanted)])
            if sum(arrays[0].nbytes for arrays in held) >= CHUNK or place == len(side) - 1:
                joined = [np.concatenate(arrays, axis=1) for arrays in zip(*held, strict=True)]
                yield joined[0], joined[1], joined[2] if len(joined) > 2 else None
                held = []


def _sum(parts: Iterator[Moments]) -> Moments | None:
    total: Moments | None = None
    for part in parts:
        total = part if total is None else total + part
    return total
