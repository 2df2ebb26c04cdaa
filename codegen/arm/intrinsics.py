"""Dot products of 64-bit ARM as data: what code they are, and whether they take activations as they are or less 128.

An instruction adds four products of a byte and a signed weight to every 32-bit lane; activations come four words to a register, of which
each instruction takes one. Sums wrap as int32 does and no step saturates, so that `sum (x - 128) w + 128 sum w = sum x w` holds in
the accumulator whatever its partial sums are: the second sum is part of the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcc.codegen.emit import llvm, reinterpret, shuffle

LANES = 4      # 32-bit lanes of a vector, and words of four activations in one


@dataclass(frozen=True, slots=True)
class DotProduct:
    """One way to compute `accumulator[i] += sum(activation[4 word + j] * weight[4i+j] for j in 0..3)`.

    Attributes:
        emit: (accumulator int32x4, activations int8x16, word 0..3, weight int8x16) -> int32x4 as TIR.
        signed: activations are signed bytes, 128 less than the stored ones; weights must not be below -127.
        cycles: reciprocal throughput on a core with two vector pipes.
    """

    emit: Callable[[Any, Any, int, Any], Any]
    signed: bool
    cycles: float


def _repeat(activations: Any, word: int) -> Any:
    """One word of four in every lane; the instructions that take a word by its number need no register for that."""
    return reinterpret(shuffle([reinterpret(activations, f"int32x{LANES}")], [word] * LANES), "int8x16")


def _sdot(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    return llvm("llvm.aarch64.neon.sdot", "int32x4", accumulator, weight, _repeat(activations, word))


def _usdot(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    return llvm("llvm.aarch64.neon.usdot", "int32x4", accumulator, _repeat(activations, word), weight)


def _widening(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    """Products of 16 bits, then sums of two (at most 2 * 128 * 127, which 16 bits hold), then of four in 32 bits."""
    repeated = _repeat(activations, word)
    halves = [range(8), range(8, 16)]
    products = [llvm("llvm.aarch64.neon.smull", "int16x8", shuffle([repeated], half), shuffle([weight], half)) for half in halves]
    pairs = llvm("llvm.aarch64.neon.addp", "int16x8", *products)
    return accumulator + llvm("llvm.aarch64.neon.saddlp", "int32x4", pairs)


DOT_PRODUCTS = {
    "usdot": DotProduct(_usdot, False, 0.5),
    "sdot": DotProduct(_sdot, True, 0.5),
    "neon": DotProduct(_widening, True, 2.5),
}
