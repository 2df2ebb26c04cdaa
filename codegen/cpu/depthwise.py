"""What depthwise layers are on every CPU: one window per channel, over NHWC bytes."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.codegen.cpu.epilogue import Epilogue
from qcc.codegen.cpu.requantization import Requantization, is_bytes
from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir.types import I32, Array


@dataclass(frozen=True, slots=True)
class DepthwiseForm:
    """output[n, y, x, c] = epilogue(sum over kh, kw of source[n, y*sh + kh*dh, x*sw + kw*dw, c] * weights[kh, kw, c]).

    Operands: source, [residual], weights, bias (and multipliers), the epilogue's parameters if it has one, and the output.

    Attributes:
        source: u8 (N, H, W, C), channel stride 1.
        output: (N, OH, OW, C), channel stride 1; u8 with an epilogue, else i32.
        residual: u8 of the output's shape, channel stride 1, added in the epilogue.
        window, strides, dilations: of rows and columns.
        epilogue: the code of the requantization; None writes int32 accumulators with the bias added.
    """

    source: View
    output: View
    residual: View | None
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    epilogue: Epilogue | None

    @property
    def numbers(self) -> int:
        """Constants per channel: bias and multiplier."""
        return 1 if self.epilogue is None else 2

    @property
    def macs(self) -> int:
        images, rows, columns, channels = self.output.shape
        return images * rows * columns * channels * self.window[0] * self.window[1]


def check_depthwise(
    source: View, weights: Array, strides: tuple[int, int], dilations: tuple[int, int], output: View,
    requantization: Requantization | None, residual: View | None,
) -> None:
    """Raises CodegenError for shapes, types or strides that the family does not cover."""
    extents = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(source.shape[1:3], weights.shape[1:3], dilations, strides, strict=True)]
    shape = (source.shape[0], *extents, source.shape[3])
    kind, typed = ("i32", output.dtype == I32) if requantization is None else ("u8", is_bytes(output))
    views = [source, output] + ([residual] if residual is not None else [])
    unit = all(view.strides[3] == 1 for view in views)
    added = residual is None or (requantization is not None and residual.shape == output.shape and is_bytes(residual))
    single = weights.shape[0] == source.shape[3] and weights.shape[3] == 1
    if not (single and unit and added and is_bytes(source) and typed and output.shape == shape):
        raise CodegenError(
            f"depthwise layer of source {source}, weights {weights.shape}, strides {strides}, dilations {dilations}: expected one window "
            f"per channel, an output of {kind} {shape} and channels that lie side by side, got output {output}, residual {residual}")
