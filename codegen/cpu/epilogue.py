"""What the epilogues of all CPUs share: which part of a requantization is code, and how narrowed vectors are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcc.codegen.emit import Function, Memory, store_first

NARROWED = 4           # vectors that become one of bytes


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The part of a requantization that is code: numbers stand in the constants.

    Attributes:
        residual_zero_point: there is one.
        clamps_low, clamps_high: to more than 0 and less than 255 (which narrowing does anyway).
    """

    residual_zero_point: bool
    clamps_low: bool
    clamps_high: bool


@dataclass(frozen=True)
class Output:
    """One vector to requantize, and where it goes: `channel` elements after the address of its pixel.

    Attributes:
        accumulator: int32xL.
        multipliers: where its channels' multipliers lie.
        pixel: offset of the pixel in the destination.
        channel: of the first lane, relative to the pixel. Outputs whose pixel is the same variable and whose channels follow each
            other can be stored together.
        width: lanes to store.
        residual: what to add, as uint8xL or widened to int32xL; or None.
    """

    accumulator: Any
    multipliers: Any
    pixel: Any
    channel: int
    width: int
    residual: Any = None


class Requantizer(ABC):
    """Emits the requantization of accumulators of `lanes` lanes into `destination`."""

    def __init__(self, function: Function, lanes: int, destination: Memory) -> None:
        self.function, self.lanes, self.destination = function, lanes, destination

    @abstractmethod
    def scale(self, output: Output) -> Any:
        """acc * m + (r - z2) * m2 as int32xL, shifted as far as `narrow` does not; saturated to 16 bits at least."""

    @abstractmethod
    def narrow(self, vectors: Sequence[Any]) -> Any:
        """Up to four results of `scale` -> uint8x4L, clamped."""

    @abstractmethod
    def in_order(self, packed: Any) -> Any:
        """The bytes of each vector together, where `narrow` leaves them otherwise."""

    def store(self, outputs: Sequence[Output]) -> None:
        """Requantize and store, four vectors at a time."""
        for start in range(0, len(outputs), NARROWED):
            four = outputs[start : start + NARROWED]
            packed = self.narrow([self.scale(output) for output in four])
            self._write(self.in_order(packed), four)

    def _write(self, packed: Any, outputs: Sequence[Output]) -> None:
        """Vectors that are neighbours in memory are stored by one instruction."""
        index = 0
        while index < len(outputs):
            first, run = outputs[index], 1
            while first.width == self.lanes and index + run < len(outputs):
                other = outputs[index + run]
                if other.pixel is not first.pixel or (other.channel, other.width) != (first.channel + run * self.lanes, self.lanes):
                    break
                run += 1
            store_first(self.destination, first.pixel + first.channel, packed, first.width * run, index * self.lanes)
            index += run
