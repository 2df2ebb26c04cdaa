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
from qcc.codegen.target import Target
from qcc.errors import CodegenError

LANES = 4      # 32-bit lanes of a vector, and words of four activations in one
VECTOR = 16    # bytes of one


@dataclass(frozen=True, slots=True)
class DotProduct:
    """One way to compute `accumulator[i] += sum(activation[4 word + j] * weight[4i+j] for j in 0..3)`.

    Attributes:
        name: of the instruction, or "neon".
        emit: (accumulator int32x4, activations int8x16, word 0..3, weight int8x16) -> int32x4 as TIR.
        paired: instead of all that, rows of two pixels times two channels, eight bytes each: the accumulator [p0c0, p0c1, p1c0, p1c1]
            gets the products of activations [p0, p1] and weights [c0, c1] (the word has no meaning).
        signed: activations are signed bytes, 128 less than the stored ones; weights must not be below -127.
        instructions: vector instructions per product of a vector of weights and a pixel.
    """

    name: str
    emit: Callable[[Any, Any, int, Any], Any]
    signed: bool
    instructions: float
    paired: bool = False


def _repeat(activations: Any, word: int) -> Any:
    """One word of four in every lane; the instructions that take a word by its number need no register for that."""
    return reinterpret(shuffle([reinterpret(activations, f"int32x{LANES}")], [word] * LANES), "int8x16")


def _sdot(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    return llvm("llvm.aarch64.neon.sdot", "int32x4", accumulator, weight, _repeat(activations, word))


def _usdot(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    return llvm("llvm.aarch64.neon.usdot", "int32x4", accumulator, _repeat(activations, word), weight)


def _usmmla(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    return llvm("llvm.aarch64.neon.usmmla", "int32x4", accumulator, activations, weight)


def _widening(accumulator: Any, activations: Any, word: int, weight: Any) -> Any:
    """Products of 16 bits, then sums of two (at most 2 * 128 * 127, which 16 bits hold), then of four in 32 bits."""
    repeated = _repeat(activations, word)
    halves = [range(8), range(8, 16)]
    products = [llvm("llvm.aarch64.neon.smull", "int16x8", shuffle([repeated], half), shuffle([weight], half)) for half in halves]
    pairs = llvm("llvm.aarch64.neon.addp", "int16x8", *products)
    return accumulator + llvm("llvm.aarch64.neon.saddlp", "int32x4", pairs)


DOT_PRODUCTS = {
    dot.name: dot
    for dot in (
        DotProduct("usdot", _usdot, False, 1.0),
        DotProduct("sdot", _sdot, True, 1.0),
        DotProduct("usmmla", _usmmla, False, 0.5, paired=True),
        DotProduct("neon", _widening, True, 5.0),
    )
}
_OF_TARGET = {"smmla": "usmmla", "sdot": "sdot", "neon": "neon"}


def dot_product_of(target: Target, paired: bool) -> DotProduct:
    """What a kernel for the target uses; one pixel alone has no use for instructions that take pairs.

    Raises:
        CodegenError: the target is no ARM.
    """
    if target.dot not in _OF_TARGET:
        raise CodegenError(f"a kernel planned for ARM cannot be compiled for {target.name}: plan it anew")
    name = _OF_TARGET[target.dot]
    return DOT_PRODUCTS["usdot" if name == "usmmla" and not paired else name]
