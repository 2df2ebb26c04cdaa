"""What is known of one layer before its integers are chosen, and what is known after."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qcc.ir import Array
from qcc.passes.rounding.solve import nearest


@dataclass(frozen=True)
class Layer:
    """A layer as it is given.

    Attributes:
        weights: real, [groups, outputs, depth].
        scale: of the encoding, [groups, outputs, 1].
        fixed: outputs whose scale must stay (their bias needs it), [groups, outputs].
        bits: width of the weights.
        tied: all outputs have one scale.
        coarse: the inputs have fewer than 8 bits.
        bounded: what the results lose beyond bounds does not count.
    """

    weights: Array
    scale: Array
    fixed: Array
    bits: int
    tied: bool = False
    coarse: bool = False
    bounded: bool = False

    def compact(self) -> Layer:
        """The same in float32."""
        return replace(self, weights=self.weights.astype(np.float32), scale=self.scale.astype(np.float32))

    def repeated(self, times: int) -> Layer:
        """The same outputs several times."""
        weights, scale, fixed = (np.concatenate([array] * times, axis=1) for array in (self.weights, self.scale, self.fixed))
        return replace(self, weights=weights, scale=scale, fixed=fixed)

    @property
    def levels(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def depth(self) -> int:
        return int(self.weights.shape[2])

    @property
    def work(self) -> float:
        """Multiplications of one product of all weights with the Hessians."""
        return float(self.weights.size) * self.depth

    @property
    def free(self) -> Array:
        """Where the scale may change, [groups, outputs, 1]; one fixed output fixes a scale that all share."""
        free = ~self.fixed[:, :, None]
        return np.broadcast_to(free.all(), free.shape) if self.tied else free

    @property
    def peak(self) -> Array:
        """The scale at which the largest weight is the largest integer, like `scale`."""
        largest = np.abs(self.weights).max(axis=2, keepdims=True)
        if self.tied:
            largest = np.broadcast_to(largest.max(), largest.shape)
        peak: Array = np.maximum(largest / self.levels, 1e-30)
        return peak


@dataclass(frozen=True)
class Rounded:
    """What was chosen: integers (as float64) and scales as in `Layer`, and the name of the method."""

    integers: Array
    scale: Array
    method: str

    @property
    def weights(self) -> Array:
        product: Array = self.scale * self.integers
        return product


def round_nearest(layer: Layer) -> Rounded:
    return Rounded(nearest(layer.weights, layer.scale, layer.levels), layer.scale, "nearest")
