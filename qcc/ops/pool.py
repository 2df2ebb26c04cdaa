"""Float pooling (NCHW) and mean reduction. Their integer forms are in integer_pool.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir import FLOATING, Array, Op, TensorType, expect
from qcc.ops.windows import output_extent, windows


@dataclass(frozen=True)
class Pool(Op):
    """Base of max and average pooling. `pads` is (top, left, bottom, right); `ceil` rounds output sizes up, as ONNX defines it."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil: bool = False
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(inputs) == 1 and inputs[0].rank == 4, f"{self.name} takes one tensor of rank 4")
        height, width = self.output_shape(inputs[0].shape)
        return (TensorType(inputs[0].dtype, (*inputs[0].shape[:2], height, width)),)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Output height and width for an input of shape N C H W."""
        result = []
        for axis in (0, 1):
            before, after = self.pads[axis], self.pads[axis + 2]
            extent = output_extent(shape[2 + axis], self.kernel[axis], self.strides[axis], self.dilations[axis], before + after, self.ceil)
            if self.ceil and (extent - 1) * self.strides[axis] >= shape[2 + axis] + before:
                extent -= 1  # a window that would start in the padding behind the image is dropped
            result.append(extent)
        return result[0], result[1]

    def full_pads(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """The padding, with what `ceil` needs behind the image added."""
        after = []
        for axis, extent in enumerate(self.output_shape(shape)):
            reach = (extent - 1) * self.strides[axis] + self.dilations[axis] * (self.kernel[axis] - 1) + 1
            after.append(max(self.pads[axis + 2], reach - shape[2 + axis] - self.pads[axis]))
        return self.pads[0], self.pads[1], after[0], after[1]

    def view(self, x: Array, fill: float) -> Array:
        top, left, bottom, right = self.full_pads(x.shape)
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
        height, width = self.output_shape(x.shape)
        return windows(padded, (2, 3), self.kernel, self.strides, self.dilations)[:, :, :height, :width]


@dataclass(frozen=True)
class MaxPool(Pool):
    """The largest element of each window; padding never wins."""

    name: ClassVar[str] = "max_pool"

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (self.view(inputs[0], -np.inf).max(axis=(-2, -1)),)


@dataclass(frozen=True)
class AveragePool(Pool):
    """The mean of each window; `count_padding` says whether declared padding counts as zeros or not at all."""

    count_padding: bool = False
    name: ClassVar[str] = "average_pool"

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        return ((self.view(x, 0.0).sum(axis=(-2, -1)) / self.counts(x.shape)).astype(x.dtype),)

    def counts(self, shape: tuple[int, ...]) -> Array:
        """How many elements each output position averages, float64 of shape OH OW."""
        ones = np.ones((1, 1, *shape[2:]))
        if self.count_padding:
            top, left, bottom, right = self.pads
            ones = np.pad(ones, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=1.0)
            height, width = self.output_shape(shape)
            _, _, bottom_full, right_full = self.full_pads(shape)
            ones = np.pad(ones, ((0, 0), (0, 0), (0, bottom_full - bottom), (0, right_full - right)))
            counted = windows(ones, (2, 3), self.kernel, self.strides, self.dilations)[:, :, :height, :width]
        else:
            counted = self.view(ones, 0.0)
        result: Array = counted.sum(axis=(-2, -1))[0, 0]
        return result


@dataclass(frozen=True)
class ReduceMean(Op):
    """The mean over `axes` (non-negative, sorted)."""

    axes: tuple[int, ...]
    keep: bool = True
    name: ClassVar[str] = "reduce_mean"
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(
            len(inputs) == 1 and all(0 <= a < inputs[0].rank for a in self.axes),
            f"reduce_mean: axes {self.axes} of a tensor of rank {inputs[0].rank}",
        )
        return (TensorType(inputs[0].dtype, reduced_shape(inputs[0].shape, self.axes, self.keep)),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0].mean(axis=self.axes, keepdims=self.keep, dtype=np.float64).astype(inputs[0].dtype),)

    def transposed(self, permutation: tuple[int, ...]) -> Op | None:
        return ReduceMean(tuple(sorted(permutation.index(a) for a in self.axes)), True) if self.keep else None


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keep: bool) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
