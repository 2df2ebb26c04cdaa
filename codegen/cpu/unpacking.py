"""Weights of 2, 3 or 4 bits back to bytes, in registers: the counterpart of `packing.pack_bits`.

A weight comes out in the upper bits of its byte, that is times 2^(8 - bits): that leaves its sign where an instruction on signed bytes
looks for it, for one mask (and one shift) per vector. Accumulators and biases are then as many times larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qcc.codegen.cpu.packing import GROUPS, parts
from qcc.codegen.emit import Function, Memory, constant, lanes_of, reinterpret, shuffle

Slices = list[Any]


def load_weights(function: Function, memory: Memory, address: Any, count: int, vector: int, bits: int) -> Iterator[Any]:
    """The next `count` vectors of a stretch, one after the other.

    Args:
        address: of the stretch, in bytes.
        vector: bytes of one.
        bits: 8 for weights that are stored in bytes, else 2, 3 or 4.

    Yields:
        int8 vectors, their weights times 2^(8 - bits).
    """
    if bits == 8:
        for index in range(count):
            yield function.let(memory.load(address + index * vector, vector))
        return
    group, stored = GROUPS[bits], GROUPS[bits] * bits // 8
    for size in parts(count, group):
        width = size * vector // group
        slices = [function.let(memory.load(address + index * width, width)) for index in range(stored)]
        for value in _joined([reinterpret(part, f"int8x{width}") for part in _UNPACK[bits](slices)], size):
            yield function.let(value)
        address = address + stored * width


def _joined(slices: Sequence[Any], count: int) -> Iterator[Any]:
    """Slices that follow each other as `count` vectors."""
    each = len(slices) // count
    for start in range(0, len(slices), each):
        yield slices[start] if each == 1 else shuffle(slices[start : start + each], range(each * lanes_of(slices[start])))


def _field(value: Any, left: int, mask: int) -> Any:
    lanes = lanes_of(value)
    moved = value << constant(left, "uint8", lanes) if left else value
    return moved & constant(mask, "uint8", lanes)


def _four(slices: Slices) -> Slices:
    return [_field(slices[0], 4, 0xF0), _field(slices[0], 0, 0xF0)]


def _two(slices: Slices) -> Slices:
    return [_field(slices[0], left, 0xC0) for left in (6, 4, 2, 0)]


def _three(slices: Slices) -> Slices:
    first, second, third = slices
    whole = [_field(value, left, 0xE0) for value in slices for left in (0, 3)]
    return [*whole, _field(first, 6, 0xC0) | _field(third, 4, 0x20), _field(second, 6, 0xC0) | _field(third, 5, 0x20)]


_UNPACK: dict[int, Callable[[Slices], Slices]] = {2: _two, 3: _three, 4: _four}
