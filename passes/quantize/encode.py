"""FLOAT to QDQ: puts encodings on values and weights. The graph's nodes do not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qcc.errors import ModelError
from qcc.ir import Array, DType, Encoding, Graph, Stage
from qcc.ops import Convolution
from qcc.passes.calibrate import Range
from qcc.passes.quantize.forms import Form
from qcc.passes.quantize.placement import Placement
from qcc.passes.quantize.precision import Precision

BIAS_LIMIT = 2**24          # far below int32's end, and so small that multipliers of 30 bits keep a bias within 2**-7 of a step
SMALLEST_SCALE = 2.0**-100  # keeps scales and their products far from float32's and the dyadic form's ends


def activation_encoding(range: Range, bits: int) -> Encoding:
    """The unsigned encoding of `bits` bits that covers the range and 0.0, with a float32 scale and an exact zero.

    A value that was always 0.0 gets scale 1: nothing is known about it, and every integer but the zero point would be a guess.
    """
    low, high = min(range.low, 0.0), max(range.high, 0.0)
    levels = (1 << bits) - 1
    if high == low:
        return Encoding(DType("u", bits), (1.0,), (0,))
    scale = max(float(np.float32((high - low) / levels)), SMALLEST_SCALE)
    return Encoding(DType("u", bits), (scale,), (int(np.clip(np.rint(-low / scale), 0, levels)),))


def weight_encoding(weights: Array, bias: Array | None, input_scale: float, bits: int, axis: int, tensor: bool = False) -> Encoding:
    """Symmetric, one scale per output channel (or the same for all), and large enough that the bias fits the accumulator at that scale.

    Channels of zeros exist in real networks; their scale is whatever their bias needs.

    Raises:
        ModelError: weights or bias are not finite.
    """
    if not (np.all(np.isfinite(weights)) and (bias is None or np.all(np.isfinite(bias)))):
        raise ModelError("weights or a bias hold NaN or infinity, expected finite numbers; look for where training went wrong")
    others = tuple(i for i in range(weights.ndim) if i != axis)
    levels = (1 << (bits - 1)) - 1
    scale = np.abs(weights).max(axis=others).astype(np.float64) / levels
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias).astype(np.float64) / (input_scale * BIAS_LIMIT))
    scale = np.full_like(scale, scale.max(initial=0.0)) if tensor else scale
    scale = np.maximum(scale, SMALLEST_SCALE).astype(np.float32).astype(np.float64)
    return Encoding(DType("i", bits), tuple(float(s) for s in scale), (0,) * len(scale), axis)


def encode(graph: Graph, placement: Placement, ranges: Mapping[str, Range], precision: Precision) -> Graph:
    """Scales and zero points on the values that will be rounded, and on weights.

    before: convolution(%x: f32, %w: f32)    after: convolution(%x: f32 <u8 ...>, %w: f32 <i8 axis=0 ...>)

    Raises:
        ModelError: weights that are not finite.
        RecipeError: `precision` names what the network does not have, or different widths for values that share an encoding.
    """
    precision.check(graph, placement)
    encodings: dict[str, Encoding] = {}
    for group in placement.ties:
        union = ranges[group[0]]
        for name in group[1:]:
            union = union.union(ranges[name])
        encodings.update(dict.fromkeys(group, activation_encoding(union, precision.of_values(group, graph, placement))))
    constants, types, nodes = dict(graph.constants), dict(graph.types), []
    tensor = precision.granularity == "tensor"
    for node in graph.nodes:
        if placement.forms.get(node.outputs[0]) is Form.LINEAR:
            weight = node.inputs[1]
            bias = constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
            axis, bits = 0 if isinstance(node.op, Convolution) else 1, precision.of_weights(node.outputs[0])
            try:
                encoding = weight_encoding(constants[weight], bias, encodings[node.inputs[0]].scale[0], bits, axis, tensor)
            except ModelError as error:
                raise ModelError(f"{node.op} %{node.outputs[0]}, weights %{weight}: {error}") from error
            if weight in encodings:    # a second reader of the same weights has scales of its own
                copy = f"{weight}@{node.outputs[0]}"
                constants[copy], types[copy] = constants[weight], types[weight]
                node = replace(node, inputs=(node.inputs[0], copy, *node.inputs[2:]))
            encodings[node.inputs[1]] = encoding
        nodes.append(node)
    return replace(graph, stage=Stage.QDQ, nodes=tuple(nodes), constants=constants, types=types).with_encodings(encodings)
