"""What must be known of a layer to choose its integers: means and second moments of its inputs and wanted results, nothing else.

With centred moments H of the inputs, B of wanted results with inputs, and V of wanted results, the squared error of weights w,
whose bias is the best one, is w H w' - 2 w B' + V per row: every candidate can be judged without touching the data again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qcc.ir import Array


@dataclass(frozen=True)
class Moments:
    """Sums over rows, stacked by group, float64, of differences from an origin near the means (so that little cancels).

    Attributes:
        origin: of x [groups, depth] and of y [groups, outputs]; sums of one origin can be added.
        count: number of rows.
        x, y: [groups, depth], [groups, outputs].
        xx, yx: [groups, depth, depth], [groups, outputs, depth].
        yy: [groups, outputs].
    """

    origin: tuple[Array, Array]
    count: int
    x: Array
    y: Array
    xx: Array
    yx: Array
    yy: Array

    @staticmethod
    def of(x: Array, y: Array, origin: tuple[Array, Array]) -> Moments:
        """Of columns [groups, rows, depth] and wanted results [groups, rows, outputs]."""
        x, y = x - origin[0][:, None], y - origin[1][:, None]
        turned = x.transpose(0, 2, 1)
        xx, yx = np.matmul(turned, x), np.matmul(y.transpose(0, 2, 1), x)
        return Moments(origin, x.shape[1], x.sum(1, np.float64), y.sum(1, np.float64), xx.astype(np.float64), yx.astype(np.float64),
                       np.square(y, dtype=np.float64).sum(1))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.origin, self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx, self.yx + other.yx,
                       self.yy + other.yy)

    @property
    def finite(self) -> bool:
        return all(bool(np.all(np.isfinite(a))) for a in (self.x, self.y, self.xx, self.yx, self.yy))

    def centred(self, own: Array | None = None) -> Problem:
        """Moments around the means, per row of data: for layers whose bias will be the best one, or with `own` [groups, outputs], that."""
        n = max(1, self.count)
        x, y = self.x / n, self.y / n
        problem = Problem(self.xx / n - x[:, :, None] * x[:, None, :], self.yx / n - y[:, :, None] * x[:, None, :],
                          self.yy / n - y * y, x + self.origin[0], y + self.origin[1])
        return problem if own is None else problem.with_bias(own)


@dataclass(frozen=True)
class Problem:
    """Choose weights w so that w H w' - 2 w B' + V is small; the bias is then y - w x.

    Attributes:
        hessian: H, [groups, depth, depth].
        wanted: B, [groups, outputs, depth].
        variance: V, [groups, outputs].
        x, y: means, [groups, depth], [groups, outputs].
    """

    hessian: Array
    wanted: Array
    variance: Array
    x: Array
    y: Array

    def with_bias(self, bias: Array) -> Problem:
        """The problem of a layer that keeps its bias [groups, outputs]: errors of the mean count, too."""
        gap = self.y - bias
        return replace(self, hessian=self.hessian + self.x[:, :, None] * self.x[:, None, :],
                       wanted=self.wanted + gap[:, :, None] * self.x[:, None, :], variance=self.variance + gap * gap)

    def repeated(self, times: int) -> Problem:
        """The same outputs several times."""
        wanted, variance, y = (np.concatenate([array] * times, axis=1) for array in (self.wanted, self.variance, self.y))
        return replace(self, wanted=wanted, variance=variance, y=y)

    def compact(self) -> Problem:
        """The same in float32, for large layers."""
        return Problem(*(array.astype(np.float32) for array in (self.hessian, self.wanted, self.variance, self.x, self.y)))

    def error(self, weights: Array) -> Array:
        """Mean squared error of each row of weights [groups, outputs, depth] with its best bias: [groups, outputs]."""
        product = np.matmul(weights, self.hessian)
        error: Array = np.einsum("gok,gok->go", weights, product - 2.0 * self.wanted) + self.variance
        return error

    def bias(self, weights: Array) -> Array:
        """The bias that makes the mean error zero: [groups, outputs]."""
        bias: Array = self.y - np.einsum("gok,gk->go", weights, self.x)
        return bias

    def damped(self, weights: Array, share: float) -> Problem:
        """The same with a pull of the weights towards the given ones, `share` times the mean of the Hessian's diagonal strong.

        Inputs that never move have no other pull at all.
        """
        diagonal = np.einsum("gkk->gk", self.hessian)
        strength = share * diagonal.mean(axis=1) + 1e-6 * diagonal.max(axis=1) + 1e-12
        hessian = self.hessian.copy()
        np.einsum("gkk->gk", hessian)[:] += strength[:, None]
        return Problem(hessian, self.wanted + strength[:, None, None] * weights,
                       self.variance + strength[:, None] * np.square(weights).sum(axis=2), self.x, self.y)
