"""A convolution or a matrix product as the matrix product that it is: which numbers of its input meet which weight.

Everything is stacked by group: weights [groups, outputs, depth], columns [groups, rows, depth], results [groups, rows, outputs].
A row is one position of the output.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from qcc.ir import Array, Node
from qcc.ops import Convolution
from qcc.ops.windows import windows


def weight_rows(node: Node, weights: Array) -> Array:
    """The weights of a layer as float64 [groups, outputs, depth]."""
    if isinstance(node.op, Convolution):
        return weights.reshape(node.op.groups, len(weights) // node.op.groups, -1).astype(np.float64)
    return weights.T[None].astype(np.float64)


def weights_of(node: Node, rows: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `weight_rows`, in the element type of `rows`."""
    return rows.reshape(shape) if isinstance(node.op, Convolution) else np.ascontiguousarray(rows[0].T)


def positions(node: Node, result: Array) -> int:
    """Number of rows that this result of the layer holds."""
    return int(result.size // result.shape[1 if isinstance(node.op, Convolution) else -1])


def columns(node: Node, x: Array, kernel: tuple[int, ...], chosen: Array) -> Array:
    """float32 [groups, rows, depth]: what the weights of each group are multiplied with at the chosen positions.

    Args:
        x: the layer's input (rank 4 for a convolution).
        kernel: shape of the layer's weights.
        chosen: positions of the output, counted over all but the channels, in row-major order.
    """
    if not isinstance(node.op, Convolution):
        return x.reshape(1, -1, x.shape[-1])[:, chosen]
    op = node.op
    top, left, bottom, right = op.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    view = windows(padded, (2, 3), cast(tuple[int, int], kernel[2:]), op.strides, op.dilations)
    images, channels, height, width = view.shape[:4]
    image, row, column = np.unravel_index(chosen, (images, height, width))
    picked = view[image, :, row, column].reshape(len(chosen), op.groups, -1)      # rows, groups, depth
    assert picked.shape[2] == channels // op.groups * kernel[2] * kernel[3]
    return np.ascontiguousarray(picked.transpose(1, 0, 2))


def results(node: Node, y: Array, chosen: Array) -> Array:
    """float32 [groups, rows, outputs]: the layer's results at the chosen positions."""
    if not isinstance(node.op, Convolution):
        return y.reshape(1, -1, y.shape[-1])[:, chosen]
    flat = y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1])[chosen]
    return np.ascontiguousarray(flat.reshape(len(chosen), node.op.groups, -1).transpose(1, 0, 2))
