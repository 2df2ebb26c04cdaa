"""Dot-product instructions as data: what code they are, what they mean in NumPy, and the weight type that they read.

An instruction adds four products of an unsigned byte and a signed byte to every 32-bit lane. All of them are exact: none saturates
between the products and the sum, so a kernel computes the same numbers with any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.codegen.emit import constant, lanes_of, llvm, reinterpret
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import Array


@dataclass(frozen=True, slots=True)
class DotProduct:
    """One way to compute `accumulator[i] += sum(activation[4i+j] * weight[4i+j] for j in 0..3)`.

    Attributes:
        lanes: 32-bit lanes.
        emit: (accumulator int32xL, activation int32xL, weight int8x4L) -> int32xL as TIR.
        evaluate: the same on arrays (int32 [L], uint8 [4L], int8 [4L]) -> int32 [L].
        cycles: reciprocal throughput on the machine that the tile tables were made for.
        weight_cycles, activation_cycles: to prepare a vector of weights, and a broadcast word, that several products share.
    """

    lanes: int
    emit: Callable[[Any, Any, Any], Any]
    evaluate: Callable[[Array, Array, Array], Array]
    cycles: float
    weight_cycles: float = 0.0
    activation_cycles: float = 0.0


def dot_product(accumulator: Array, activation: Array, weight: Array) -> Array:
    """The meaning of every instruction here; sums wrap as int32 does."""
    products = activation.astype(np.int32) * weight.astype(np.int32)
    return np.asarray(accumulator + products.reshape(-1, 4).sum(axis=1, dtype=np.int32), np.int32)


def _vnni(name: str) -> Callable[[Any, Any, Any], Any]:
    def emit(accumulator: Any, activation: Any, weight: Any) -> Any:
        lanes = lanes_of(accumulator)
        return llvm(name, f"int32x{lanes}", accumulator, reinterpret(activation, f"int8x{4 * lanes}"), weight)

    return emit


def _multiply_add_pairs(accumulator: Any, activation: Any, weight: Any) -> Any:
    """Even and odd bytes are widened to 16 bits and multiplied in pairs; pmaddubsw would saturate at 2^15."""
    lanes = lanes_of(accumulator)
    half = f"int16x{2 * lanes}"
    eight = constant(8, "int16", 2 * lanes)
    pairs, signed = reinterpret(activation, half), reinterpret(weight, half)
    odd_activation = reinterpret(reinterpret(pairs, f"u{half}") >> constant(8, "uint16", 2 * lanes), half)
    even = llvm("llvm.x86.avx2.pmadd.wd", f"int32x{lanes}", pairs & constant(255, "int16", 2 * lanes), (signed << eight) >> eight)
    odd = llvm("llvm.x86.avx2.pmadd.wd", f"int32x{lanes}", odd_activation, signed >> eight)
    return accumulator + (even + odd)


def multiply_add_words(target: Target, accumulator: Any, activation: Any, weight: Any) -> Any:
    """accumulator[i] += the two products of 16-bit numbers in lane i: of unsigned activations, less 2^15, and signed weights. Sums wrap."""
    lanes = lanes_of(accumulator)
    half = f"int16x{2 * lanes}"
    centred, factor = reinterpret(activation ^ constant(-0x7FFF8000, "int32", lanes), half), reinterpret(weight, half)
    if target.dot == "madd256":
        return accumulator + llvm("llvm.x86.avx2.pmadd.wd", f"int32x{lanes}", centred, factor)
    return llvm(f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", f"int32x{lanes}", accumulator, centred, factor)


DOT_PRODUCTS = {
    "vnni512": DotProduct(16, _vnni("llvm.x86.avx512.vpdpbusd.512"), dot_product, 0.5),
    "vnni256": DotProduct(8, _vnni("llvm.x86.avx512.vpdpbusd.256"), dot_product, 0.5),
    "madd256": DotProduct(8, _multiply_add_pairs, dot_product, 1.0, 0.75, 0.5),
}


def dot_product_for(target: Target, lanes: int) -> DotProduct:
    """The target's instruction, for a kernel that was planned with so many lanes.

    Raises:
        CodegenError: the kernel was planned for another kind of target.
    """
    dot = DOT_PRODUCTS[target.dot]
    if dot.lanes != lanes:
        raise CodegenError(f"a kernel planned with {lanes} lanes cannot be compiled for {target.name}, which has {dot.lanes}: plan it anew")
    return dot
