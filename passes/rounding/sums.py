"""What becomes of a layer's results before they are rounded: other values are added, and clips and the encoding's ends cut off.

Decides what a layer is to make up for where values have few bits. Its results are wanted such that the sum is exact, so it takes in what
the rounded network has already lost in the other operand; and what the ends of the range hide is no error. With 8 bits, the other
operand has lost little, and ranges reach far: there is nothing to make up for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qcc.ir import Array, Graph
from qcc.ops import Add, Clip, Convolution

FEW_BITS = 8        # below which values lose much, and ranges are so short that they cut off much


@dataclass(frozen=True)
class Sum:
    """The sum that a layer's results are a part of.

    Attributes:
        others: values that are added, computed before the layer.
        bounds: between which the sum counts, float32 [groups, 1, outputs] each; None where all of it does.
    """

    others: tuple[str, ...] = ()
    bounds: tuple[Array, Array] | None = None

    def offset(self, values: Mapping[str, Array]) -> Array | None:
        """What is added to the layer's results."""
        return np.asarray(sum(values[name] for name in self.others), np.float32) if self.others else None


def sum_of(quantized: Graph, number: int) -> Sum:
    """What happens to the results of the layer that node `number` of a QDQ graph is."""
    node = quantized.nodes[number]
    before = {*quantized.inputs, *(name for earlier in quantized.nodes[:number] for name in earlier.outputs)}
    name, others = node.outputs[0], list[str]()
    low, high = (np.array(end, np.float32) for end in (-np.inf, np.inf))
    while quantized.types[name].encoding is None:
        user = quantized.only_user(name)
        if user is None:
            return Sum()
        if isinstance(user.op, Clip):
            low, high = np.asarray(user.op.low, np.float32), np.asarray(user.op.high, np.float32)
            name = user.outputs[0]
            break
        (other,) = [n for n in user.inputs if n != name] if isinstance(user.op, Add) else [""]
        if other not in before or quantized.types[other].shape != quantized.types[name].shape:
            return Sum()
        others.append(other)
        name = user.outputs[0]
    encoding = quantized.types[name].encoding
    if encoding is None or encoding.dtype.bits >= FEW_BITS:
        return Sum()
    least, most = (np.float32(encoding.scale[0] * (end - encoding.zero_point[0])) for end in encoding.range)
    is_convolution = isinstance(node.op, Convolution)
    groups = node.op.groups if isinstance(node.op, Convolution) else 1
    channels = quantized.types[node.outputs[0]].shape[1 if is_convolution else -1]
    ends = (np.broadcast_to(end, channels).reshape(groups, 1, -1) for end in (np.maximum(low, least), np.minimum(high, most)))
    return Sum(tuple(others), (next(ends), next(ends)))
