"""Weights of a layer as 16-bit numbers in scratch memory, made anew in every run: the library holds them in as few bits as they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.codegen.cpu.unpacking import load_weights
from qcc.codegen.emit import Function, Memory, cast, constant
from qcc.codegen.kernel import View
from qcc.ir.types import I8, I16, U8

if TYPE_CHECKING:
    from qcc.codegen.target import Target

STRETCH = 8    # vectors that are unpacked together; weights that share bytes share them among so many
LINE = 64      # bytes of a cache line
AHEAD = 6144   # bytes that weights are asked for before they are read: they come from far and are read once


def prefetch(memory: Memory, place: Any, count: int) -> None:
    """Ask for what follows `count` bytes that are read now."""
    for line in range(-(-count // LINE)):
        memory.prefetch(place + AHEAD + line * LINE)


@dataclass(frozen=True, slots=True)
class WidenKernel:
    """Numbers of 16 bits from stored weights, in their order. Operands: the weights, i16 (panels, vectors * vector). A task is a panel.

    Attributes:
        panels: of weights.
        vectors: of a panel.
        vector: weights of one.
        weight_bits: in which a weight is stored; of fewer than 8, as `packing.pack_bits` packs stretches of `STRETCH` vectors.
    """

    panels: int
    vectors: int
    vector: int
    weight_bits: int

    @property
    def panel_bytes(self) -> int:
        return self.vectors * self.vector * self.weight_bits // 8

    @property
    def operands(self) -> tuple[View, ...]:
        stored = View.contiguous(I8 if self.weight_bits == 8 else U8, (self.panels, self.panel_bytes))
        return stored, View.contiguous(I16, (self.panels, self.vectors * self.vector))

    @property
    def tasks(self) -> int:
        return self.panels

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        source, destination = function.operands

        def stretch(first: Any, panel: Any, count: int) -> None:
            start = function.let(panel * self.panel_bytes + first * (self.vector * self.weight_bits // 8))
            prefetch(source, start, count * self.vector * self.weight_bits // 8)
            stream = load_weights(function, source, start, count, self.vector, self.weight_bits)
            for number, weights in enumerate(stream):
                wide = cast(weights, "int16")    # of fewer bits, they come out in the upper ones of their byte
                wide = wide if self.weight_bits == 8 else wide >> constant(8 - self.weight_bits, "int16", self.vector)
                destination.store((panel * self.vectors + first + number) * self.vector, wide)

        whole = self.vectors // STRETCH * STRETCH
        with function.loop(function.begin, function.end) as panel:
            with function.loop(0, whole, STRETCH) as first:
                stretch(first, panel, STRETCH)
            if self.vectors % STRETCH:
                stretch(whole, panel, self.vectors % STRETCH)
        return function.finish()
