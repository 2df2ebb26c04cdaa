"""Where the making of inputs begins, and how far they may go: what the first BatchNorm remembers says what the inputs of the network were.

Where only linear operators lie between an input and a BatchNorm, the means that it remembers are linear equations for the means of
the input's channels, many for few unknowns, and its variances say how far the input deviates and how smooth it is. Decides how inputs
start, and whether they are pixels: networks for pictures take these in a few customary units, and one that fits both the means and the
deviation is taken to be it, so that the input's range is known. That matters, as noise of a rounded input goes through all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from qcc.ir import Array, Graph, TensorType
from qcc.ops import Add, AveragePool, BatchNormalization, Convolution, MatMul, Multiply, Pad, Reshape, Subtract, Transpose

EXPONENTS, OWN_SHARES = (0.8, 1.0, 1.2, 1.4, 1.6), (0.1, 0.2, 0.4, 0.8)     # spectra that are tried on a BatchNorm's variances
PROBES = 3                  # noises that each is tried with
FIT = 0.1                   # deviations (root mean square) by which the means that follow may differ from those remembered
CONDITION = 1e-3            # of the equations for the means, at least
LIVE = 1e-4                 # share of the largest variance below which a channel says nothing
# Of pixels of photographs, 0 to 255, by channel, and the units in which networks take them: (pixel - offset) / step.
PIXEL_MEANS, PIXEL_DEVIATION, PIXEL_MOST = (124.0, 116.0, 104.0), 70.0, 255.0
UNITS = (((0.0, 0.0, 0.0), (255.0,)), ((127.5,) * 3, (127.5,)), ((127.5,) * 3, (255.0,)), ((0.0, 0.0, 0.0), (1.0,)),
         (PIXEL_MEANS, (1.0,)), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
NEAR = 0.8, 0.35            # deviations between means, and difference of the deviations' logarithms, up to which a unit fits
LINEAR = (Add, AveragePool, BatchNormalization, Convolution, MatMul, Multiply, Pad, Reshape, Subtract, Transpose)

Evaluate = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Start:
    """How inputs begin: noise with a spectrum, moved and scaled.

    Attributes:
        mean: a number, or float64 [1, channels, 1, 1].
        exponent: of the frequency, by which amplitudes fall.
        own: what each channel has for itself, in units of what all have in common.
        low, high: between which the inputs lie, as `mean`.
    """

    mean: float | Array
    deviation: float
    exponent: float = 1.0
    own: float = 0.45
    low: float | Array = -np.inf
    high: float | Array = np.inf

    @property
    def range(self) -> tuple[float, float]:
        return float(np.min(self.low)), float(np.max(self.high))

    def of(self, noise: Array) -> Array:
        """Noise of mean 0 and deviation 1 as an input."""
        if noise.dtype.kind != "f":
            return noise
        return self.kept(noise * self.deviation + self.mean)

    def kept(self, inputs: Array) -> Array:
        """Inputs, cut off where they leave the bounds."""
        kept: Array = np.clip(inputs, self.low, self.high).astype(np.float32)
        return kept


CUSTOMARY = tuple(Start(mean, deviation) for mean, deviation in ((0.0, 1.0), (0.5, 0.25), (128.0, 64.0), (0.0, 64.0)))


def noise(types: Mapping[str, TensorType], key: Sequence[int], exponent: float = 1.0, own: float = 0.45) -> dict[str, Array]:
    """Inputs of mean 0 and deviation 1: pictures have amplitudes that fall with the frequency, and channels that are alike."""
    random, made = np.random.default_rng(tuple(key)), {}
    for name, type in types.items():
        if type.rank != 4 or min(type.shape[2:]) < 8:
            values = random.normal(size=type.shape)
        else:
            height, width = type.shape[2:]
            frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
            frequency[0, 0] = 1.0 / max(height, width)
            common, mine = (np.fft.ifft2(np.fft.fft2(random.normal(size=shape)) / frequency**exponent).real
                            for shape in ((type.shape[0], 1, height, width), type.shape))
            values = common / common.std() + own * mine / mine.std()
            values = (values - values.mean()) / values.std()
        made[name] = values.astype(np.float32) if type.dtype.is_float else np.zeros(type.shape, type.dtype.numpy)
    return made


def picture_input(graph: Graph, value: str) -> str | None:
    """The network's only input, if it has channels and rows and columns, and if linear operators alone make the value of it."""
    (name, *others), waiting = graph.inputs, [value]
    type = graph.types[name]
    while waiting:
        node = graph.producers.get(waiting.pop())
        if node is None:
            continue
        data = [n for n in node.inputs if n and not graph.is_constant(n)]
        if not isinstance(node.op, LINEAR) or len(data) > 1:
            return None
        waiting += data
    return name if not others and type.dtype.is_float and type.rank == 4 and min(type.shape[2:]) >= 8 else None


def inferred(graph: Graph, value: str, mean: Array, deviation: Array, run: Evaluate) -> Start | None:
    """What the inputs were, by the moments that a value had; None where they do not say it.

    Args:
        value: of rank 4, made of the input by linear operators.
        mean, deviation: its moments by channel, float64 [channels].
        run: computes the value.
    """
    name = picture_input(graph, value)
    if name is None or graph.types[value].rank != 4:
        return None
    type = graph.types[name]

    def response(x: Array) -> Array:
        return run({name: x.astype(np.float32)})[value].astype(np.float64)

    base = response(np.zeros(type.shape))
    channels = np.eye(type.shape[1]).reshape(-1, 1, type.shape[1], 1, 1)
    equations = np.stack([(response(np.broadcast_to(one, type.shape)) - base).mean(axis=(0, 2, 3)) for one in channels], 1)
    equations, wanted = equations / deviation[:, None], (mean - base.mean(axis=(0, 2, 3))) / deviation
    found, _, _, sizes = np.linalg.lstsq(equations, wanted, None)
    if sizes.min() < CONDITION * sizes.max() or np.sqrt(np.mean(np.square(equations @ found - wanted))) > FIT:
        return None
    live, fits = deviation > np.sqrt(LIVE) * deviation.max(), []
    for exponent, own in product(EXPONENTS, OWN_SHARES):
        probes = [noise({name: type}, (number,), exponent, own)[name] for number in range(PROBES)]
        variance = np.mean([np.square(response(probe) - base).mean(axis=(0, 2, 3)) for probe in probes], axis=0)
        spread = float(np.std(np.log(deviation[live]) - 0.5 * np.log(variance[live] + 1e-30)))
        size = float(np.sqrt(np.square(deviation) @ variance / (variance @ variance + 1e-30)))
        fits.append((spread, exponent, own, size))
    _, exponent, own, size = min(fits)
    return bounded(Start(found.reshape(1, -1, 1, 1), size, exponent, own))


def bounded(start: Start) -> Start:
    """The same with the bounds of pixels, where the moments are those of pixels in one of the customary units."""
    means = np.ravel(start.mean)
    fits: list[tuple[float, Array, Array]] = []
    for (offset, step), turned in product(UNITS, (False, True)):
        offsets, steps, pixels = (np.resize(np.array(numbers[::-1] if turned else numbers), 3) for numbers in (offset, step, PIXEL_MEANS))
        if means.size == 1:
            offsets, steps, pixels = (array.mean(keepdims=True) for array in (offsets, steps, pixels))
        if means.size != pixels.size:
            return start
        apart = float(np.abs(means - (pixels - offsets) / steps).max()) / start.deviation
        ratio = abs(float(np.log(start.deviation / (PIXEL_DEVIATION / steps.mean()))))
        if apart < NEAR[0] and ratio < NEAR[1]:
            fits.append((apart + ratio, -offsets / steps, (PIXEL_MOST - offsets) / steps))
    if not fits:
        return start
    _, low, high = min(fits, key=lambda fit: fit[0])
    return Start(start.mean, start.deviation, start.exponent, start.own, low.reshape(1, -1, 1, 1), high.reshape(1, -1, 1, 1))
