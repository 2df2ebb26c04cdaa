"""Measures channels: the smallest and the largest number, and the mean square, of every channel that migration could scale.

All batches count alike, whatever their order: sums of squares are kept per batch and added without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array


@dataclass(frozen=True, eq=False)
class ChannelRange:
    """Of one value, float64, with the shape of its labels: what was seen of every channel."""

    low: Array
    high: Array
    square: Array      # mean square
    middle: Array      # mean over samples of the middle between the extremes of each
    width: Array       # mean over samples of the largest magnitude in each: extremes of few samples say little about others


def collect_channels(
    shapes: Mapping[str, tuple[int, ...]], evaluate: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    batches: Iterable[Mapping[str, Array]], progress: Callable[[int], None] = lambda _: None,
) -> dict[str, ChannelRange]:
    """What the channels of values do over all batches.

    Args:
        shapes: of the statistics: the value's rank, with extent 1 along axes that are summed up.
        evaluate: computes the values for one batch of inputs.
        progress: told the number of batches done.

    Raises:
        DataError: no data, or values that are not finite.
    """
    lows: dict[str, Array] = {}
    highs: dict[str, Array] = {}
    squares: dict[str, list[Array]] = {name: [] for name in shapes}
    widths: dict[str, list[Array]] = {name: [] for name in shapes}
    middles: dict[str, list[Array]] = {name: [] for name in shapes}
    count = 0
    for number, feeds in enumerate(batches):
        results = evaluate(feeds)
        for name, shape in shapes.items():
            value = results[name]
            axes = tuple(axis for axis, extent in enumerate(shape) if extent == 1 and value.shape[axis] != 1)
            low, high = (found(axis=axes, keepdims=True).astype(np.float64) for found in (value.min, value.max))
            if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
                raise DataError(f"calibration batch {number}, value {name!r}: not finite; check the data and its normalisation")
            lows[name] = np.minimum(lows.get(name, low), low)
            highs[name] = np.maximum(highs.get(name, high), high)
            squares[name].append(np.mean(np.square(value, dtype=np.float64), axis=axes, keepdims=True))
            inner = tuple(axis for axis in axes if axis != 0)
            ends = [end(axis=inner, keepdims=True).astype(np.float64) for end in (value.min, value.max)]
            for kept, found in ((widths, np.maximum(ends[1], -ends[0])), (middles, (ends[0] + ends[1]) / 2)):
                kept[name].append(found.mean(axis=0, keepdims=True) if 0 in axes else found)
        count = number + 1
        progress(count)
    if not count:
        raise DataError("the calibration data holds no batch; expected at least one")
    return {name: ChannelRange(lows[name], highs[name], _mean(squares[name]), _mean(middles[name]), _mean(widths[name])) for name in shapes}


def _mean(parts: list[Array]) -> Array:
    """The mean of arrays; `fsum` rounds once, so that their order cannot matter."""
    flat = np.stack([part.reshape(-1) for part in parts], axis=1)
    return np.array([math.fsum(row) / len(parts) for row in flat.tolist()]).reshape(parts[0].shape)
