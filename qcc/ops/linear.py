"""Float convolution and matrix product, in ONNX's layouts (NCHW, OIHW). Their integer forms are in integer.py."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from qcc.ir import FLOATING, Array, Op, TensorType, expect
from qcc.ops.windows import output_extent, windows


@dataclass(frozen=True)
class Convolution(Op):
    """y[n,o,...] = sum x[n,i,...] w[o,i,...] + b[o]. Inputs: x N C H W, w O C/groups KH KW, optional b O.

    Attributes:
        pads: (top, left, bottom, right), filled with 0.0.
    """

    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    name: ClassVar[str] = "convolution"
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, w = inputs[:2]
        expect(
            len(inputs) in (2, 3) and x.rank == w.rank == 4,
            f"convolution takes x and w of rank 4 and maybe a bias, got ranks {x.rank}, {w.rank}",
        )
        expect(x.dtype == w.dtype and x.dtype.is_float, f"convolution of {x.dtype} with {w.dtype}")
        expect(
            x.shape[1] == w.shape[1] * self.groups and w.shape[0] % self.groups == 0,
            f"convolution: {x.shape[1]} input channels in {self.groups} groups do not fit weights {list(w.shape)}",
        )
        expect(
            len(inputs) == 2 or inputs[2].shape == w.shape[:1],
            f"convolution: bias of shape {list(inputs[-1].shape)}, expected [{w.shape[0]}]",
        )
        top, left, bottom, right = self.pads
        height = output_extent(x.shape[2], w.shape[2], self.strides[0], self.dilations[0], top + bottom)
        width = output_extent(x.shape[3], w.shape[3], self.strides[1], self.dilations[1], left + right)
        return (TensorType(x.dtype, (x.shape[0], w.shape[0], height, width)),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, w = inputs[:2]
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        view = windows(padded, (2, 3), (w.shape[2], w.shape[3]), self.strides, self.dilations)
        outputs = w.shape[0] // self.groups
        parts = [
            np.einsum(
                "nihwyx,oiyx->nohw", view[:, g * w.shape[1] : (g + 1) * w.shape[1]], w[g * outputs : (g + 1) * outputs], optimize=True
            )
            for g in range(self.groups)
        ]
        y = np.concatenate(parts, axis=1)
        return ((y + inputs[2].reshape(1, -1, 1, 1) if len(inputs) == 3 else y).astype(x.dtype),)

    def macs(self, inputs: tuple[TensorType, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].size * prod(inputs[1].shape[1:])


@dataclass(frozen=True)
class MatMul(Op):
    """y = a @ b (+ bias along the last axis), with NumPy's broadcasting of leading axes. Inputs: a ... M K, b ... K N, optional bias N."""

    name: ClassVar[str] = "matmul"
    stages = FLOATING

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        a, b = inputs[:2]
        expect(len(inputs) in (2, 3) and a.rank >= 1 and b.rank >= 1, "matmul takes two tensors and maybe a bias")
        expect(a.dtype == b.dtype and a.dtype.is_float, f"matmul of {a.dtype} with {b.dtype}")
        try:
            shape = _matmul_shape(a, b)
        except ValueError as error:
            expect(False, f"matmul of {list(a.shape)} with {list(b.shape)}: {error}")
        expect(
            len(inputs) == 2 or inputs[2].shape == shape[-1:],
            f"matmul: bias of shape {list(inputs[-1].shape)}, expected {list(shape[-1:])}",
        )
        return (TensorType(a.dtype, tuple(int(n) for n in shape)),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        y = np.matmul(inputs[0], inputs[1])
        return ((y + inputs[2] if len(inputs) == 3 else y).astype(inputs[0].dtype),)

    def macs(self, inputs: tuple[TensorType, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].size * inputs[0].shape[-1]


def _matmul_shape(a: TensorType, b: TensorType) -> tuple[int, ...]:
    inner = b.shape[-2] if b.rank > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ValueError(f"inner extents {a.shape[-1]} and {inner} differ")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ()))
