"""Where floats become integers and back on GPUs, with exactly the float operations of qcc/ops/border.py. One thread per element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qcc.codegen.cpu import border
from qcc.codegen.cpu.border import NUMBERS, ZERO_POINT
from qcc.codegen.cuda.elements import Elementwise, each
from qcc.codegen.cuda.emit import GpuFunction
from qcc.codegen.emit import cast
from qcc.codegen.kernel import View


@dataclass(frozen=True)
class QuantizeKernel(Elementwise):
    """Operands: source f32, `NUMBERS`, destination (integers of up to 16 bits)."""

    source: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, NUMBERS, self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        return self.source, self.destination

    def body(self, function: GpuFunction) -> None:
        from tvm import tirx

        source, numbers, destination = function.operands
        inverse, low, high, zero = (function.let(numbers.load(index), "number") for index in range(4))

        def element(places: Sequence[Any]) -> None:
            scaled = function.let(source.load(places[0]) * inverse, "scaled")
            scaled = function.let(tirx.Select(scaled > low, scaled, low), "scaled")
            scaled = function.let(tirx.Select(scaled < high, scaled, high), "scaled")
            destination.store(places[1], cast(cast(tirx.nearbyint(scaled), "int32") + cast(zero, "int32"), destination.dtype))

        each(function, self.nest, element)


@dataclass(frozen=True)
class DequantizeKernel(Elementwise):
    """Operands: source (integers), zero point f32, scale f32 (broadcasts to the source's shape), destination f32."""

    source: View
    scale: View
    destination: View

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, ZERO_POINT, self.scale, self.destination

    @property
    def walked(self) -> tuple[View, ...]:
        return self.source, self.scale, self.destination

    def body(self, function: GpuFunction) -> None:
        source, zero, scale, destination = function.operands
        zero_point = function.let(cast(zero.load(0), "int32"), "zero_point")

        def element(places: Sequence[Any]) -> None:
            centred = cast(source.load(places[0]), "int32") - zero_point
            destination.store(places[2], cast(centred, "float32") * scale.load(places[1]))

        each(function, self.nest, element)


plan_quantize = partial(border.plan_quantize, kind=QuantizeKernel)
plan_dequantize = partial(border.plan_dequantize, kind=DequantizeKernel)
