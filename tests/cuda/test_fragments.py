"""The harness's mma, ldmatrix and dp4a against the tables of the PTX ISA, written out in NumPy: which lane holds which element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcc.codegen.cuda.launch import Launch
from tests.cuda.harness import ASCENDING, DESCENDING, HostLibrary, build_host

Array = npt.NDArray[Any]
Place = tuple[int, int]
WARP = Launch((1, 1, 1), (32, 1, 1), 512)

_MMA = """
extern "C" __global__ void {name}(unsigned* __restrict__ a, unsigned* __restrict__ b, int* __restrict__ d) {{
  {call}("{name}", d + threadIdx.x * {d}, a + threadIdx.x * {a}, b + threadIdx.x * {b});
}}
"""
_OTHERS = """
extern "C" __global__ void header_u8s8(unsigned* __restrict__ a, unsigned* __restrict__ b, int* __restrict__ d) {
  qcc_mma_m16n8k32_u8s8(d + threadIdx.x * 4, a + threadIdx.x * 4, b + threadIdx.x * 2);
}
extern "C" __global__ void header_u4s4(unsigned* __restrict__ a, unsigned* __restrict__ b, int* __restrict__ d) {
  qcc_mma_m16n8k64_u4s4(d + threadIdx.x * 4, a + threadIdx.x * 4, b + threadIdx.x * 2);
}
extern "C" __global__ void ldmatrix(unsigned* __restrict__ x, unsigned* __restrict__ y) {
  extern __shared__ __align__(16) uchar tile[];
  for (int i = 0; i < 4; ++i) ((unsigned*)tile)[threadIdx.x * 4 + i] = x[threadIdx.x * 4 + i];
  __syncthreads();
  qcc_ldmatrix_x4(y + threadIdx.x * 4, tile + threadIdx.x * 16);
}
extern "C" __global__ void dp4a(unsigned* __restrict__ a, unsigned* __restrict__ b, int* __restrict__ c) {
  c[threadIdx.x] = qcc_dp4a_u8s8(a[threadIdx.x], b[threadIdx.x], c[threadIdx.x]);
}
extern "C" __global__ void shuffles(int* __restrict__ x, int* __restrict__ y) {
  int value = x[threadIdx.x];
  y[threadIdx.x] = qcc_shfl_xor(value, 5);
  y[threadIdx.x + 32] = __shfl_down_sync(0xffffffffu, value, 3);
  y[threadIdx.x + 64] = __shfl_sync(0xffffffffu, value, threadIdx.x * 7, 8);
}
extern "C" __global__ void bytes(unsigned* __restrict__ a, unsigned* __restrict__ b, unsigned* __restrict__ c) {
  c[threadIdx.x] = qcc_prmt(a[threadIdx.x], b[threadIdx.x], 0x7250);
}
"""



@dataclass(frozen=True)
class Shape:
    """One instruction: for a lane's group and number in the group, and an element's number, the place in A, B and D (PTX ISA, mma)."""

    m: int
    k: int
    bits: int
    signed: tuple[bool, bool]
    a: Callable[[int, int, int], Place]
    b: Callable[[int, int, int], Place]
    d: Callable[[int, int, int], Place]

    @property
    def name(self) -> str:
        return f"m{self.m}n8k{self.k}_" + "".join(f"{'s' if signed else 'u'}{self.bits}" for signed in self.signed)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Elements of A, B and D that one lane holds."""
        return self.m * self.k // 32, 8 * self.k // 32, self.m * 8 // 32


def m16n8k32_8bit(signed: tuple[bool, bool]) -> Shape:
    return Shape(
        16, 32, 8, signed,
        lambda g, t, i: (g if i < 4 or 8 <= i < 12 else g + 8, t * 4 + (i & 3) + (0 if i < 8 else 16)),
        lambda g, t, i: (t * 4 + (i & 3) + (0 if i < 4 else 16), g),
        lambda g, t, i: (g if i < 2 else g + 8, t * 2 + (i & 1)),
    )  # fmt: skip


def m16n8k64_4bit(signed: tuple[bool, bool]) -> Shape:
    return Shape(
        16, 64, 4, signed,
        lambda g, t, i: (g if i < 8 or 16 <= i < 24 else g + 8, t * 8 + (i & 7) + (0 if i < 16 else 32)),
        lambda g, t, i: (t * 8 + (i & 7) + (0 if i < 8 else 32), g),
        lambda g, t, i: (g if i < 2 else g + 8, t * 2 + (i & 1)),
    )  # fmt: skip


def m8n8(k: int, bits: int, signed: tuple[bool, bool]) -> Shape:
    """m8n8k16 of bytes and m8n8k32 of nibbles: one register each."""
    per = 32 // bits
    return Shape(8, k, bits, signed, lambda g, t, i: (g, t * per + i), lambda g, t, i: (t * per + i, g), lambda g, t, i: (g, t * 2 + i))


SHAPES = [
    m16n8k32_8bit((False, True)), m16n8k32_8bit((True, True)), m16n8k64_4bit((False, True)), m16n8k64_4bit((True, True)),
    m8n8(16, 8, (False, True)), m8n8(16, 8, (True, True)), m8n8(32, 4, (False, True)), m8n8(32, 4, (True, True)),
]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> HostLibrary:
    texts = []
    for shape in SHAPES:
        signs = ", ".join(str(signed).lower() for signed in shape.signed)
        a, b, d = (max(1, count * bits // 32) for count, bits in zip(shape.counts, (shape.bits, shape.bits, 32), strict=True))
        call = f"qcc_host::Product<{shape.m}, 8, {shape.k}, {shape.bits}, {signs}>::run"
        texts.append(_MMA.format(name=shape.name, call=call, a=a, b=b, d=d))
    path = tmp_path_factory.mktemp("fragments") / "fragments.so"
    return HostLibrary.load(build_host("".join([*texts, _OTHERS]), path))


def fragment(matrix: Array, count: int, bits: int, place: Callable[[int, int, int], Place]) -> Array:
    """The registers of all lanes, as (32, registers) uint32, for a matrix of integers."""
    registers = np.zeros((32, max(1, count * bits // 32)), np.uint32)
    for lane in range(32):
        for i in range(count):
            value = np.uint32(int(matrix[place(lane // 4, lane % 4, i)]) & ((1 << bits) - 1))
            registers[lane, i * bits // 32] |= value << np.uint32(i * bits % 32)
    return registers


def random_matrix(rng: np.random.Generator, shape: tuple[int, int], bits: int, signed: bool) -> Array:
    low = -(1 << (bits - 1)) if signed else 0
    return rng.integers(low, low + (1 << bits), shape)


def multiply(library: HostLibrary, shape: Shape, symbol: str, rng: np.random.Generator, order: int) -> None:
    a = random_matrix(rng, (shape.m, shape.k), shape.bits, shape.signed[0])
    b = random_matrix(rng, (shape.k, 8), shape.bits, shape.signed[1])
    before = rng.integers(-(2**31), 2**31, (shape.m, 8))
    wanted = (a @ b + before + 2**31) % 2**32 - 2**31
    counts = shape.counts
    x, w = fragment(a, counts[0], shape.bits, shape.a), fragment(b, counts[1], shape.bits, shape.b)
    sums = fragment(before, counts[2], 32, shape.d)
    library.launch(symbol, WARP, [array.ctypes.data for array in (x, w, sums)], order)
    np.testing.assert_array_equal(sums, fragment(wanted, counts[2], 32, shape.d))


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_products(library: HostLibrary, shape: Shape, order: int, rng: np.random.Generator) -> None:
    multiply(library, shape, shape.name, rng, order)


def test_the_names_that_kernels_call(library: HostLibrary, rng: np.random.Generator) -> None:
    multiply(library, m16n8k32_8bit((False, True)), "header_u8s8", rng, ASCENDING)
    multiply(library, m16n8k64_4bit((False, True)), "header_u4s4", rng, ASCENDING)


def test_matrices_are_loaded(library: HostLibrary, rng: np.random.Generator) -> None:
    """Matrix m is rows 8m..8m+7 of 16 bytes; lane L gets word L % 4 of row L / 4 of each matrix."""
    tile = rng.integers(0, 2**32, (4, 8, 4), dtype=np.uint32)
    found = np.zeros((32, 4), np.uint32)
    library.launch("ldmatrix", WARP, [tile.ctypes.data, found.ctypes.data])
    np.testing.assert_array_equal(found, tile.reshape(4, 32).T)


def test_a_matrix_product_of_what_was_loaded(library: HostLibrary, rng: np.random.Generator) -> None:
    """ldmatrix gives mma just the fragment of A: 16 rows of 32 bytes as four matrices, the second below the first."""
    a = random_matrix(rng, (16, 32), 8, False).astype(np.uint8)
    tiles = np.stack([a[:8, :16], a[8:, :16], a[:8, 16:], a[8:, 16:]])
    found = np.zeros((32, 4), np.uint32)
    library.launch("ldmatrix", WARP, [tiles.ctypes.data, found.ctypes.data])
    shape = m16n8k32_8bit((False, True))
    np.testing.assert_array_equal(found, fragment(a, shape.counts[0], 8, shape.a))


def test_dot_products_of_four(library: HostLibrary, rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (32, 4), dtype=np.uint8), rng.integers(-128, 128, (32, 4), dtype=np.int8)
    sums = rng.integers(-(2**20), 2**20, 32, dtype=np.int32)
    wanted = sums + (a.astype(np.int32) * b).sum(axis=1, dtype=np.int32)
    library.launch("dp4a", WARP, [a.ctypes.data, b.ctypes.data, sums.ctypes.data])
    np.testing.assert_array_equal(sums, wanted)


def test_values_move_between_lanes(library: HostLibrary, rng: np.random.Generator) -> None:
    values, found, lanes = rng.integers(0, 99, 32, dtype=np.int32), np.zeros((3, 32), np.int32), np.arange(32)
    library.launch("shuffles", WARP, [values.ctypes.data, found.ctypes.data])
    sources = (lanes ^ 5, np.where(lanes + 3 < 32, lanes + 3, lanes), lanes // 8 * 8 + lanes * 7 % 8)
    np.testing.assert_array_equal(found, values[np.stack(sources)])


def test_bytes_are_chosen(library: HostLibrary, rng: np.random.Generator) -> None:
    both = rng.integers(0, 256, (2, 32, 4), dtype=np.uint8)
    found = np.zeros((32, 4), np.uint8)
    library.launch("bytes", WARP, [both[0].ctypes.data, both[1].ctypes.data, found.ctypes.data])
    np.testing.assert_array_equal(found, np.concatenate([both[0], both[1]], axis=1)[:, [0, 5, 2, 7]])
