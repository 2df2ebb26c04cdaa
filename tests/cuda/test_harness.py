"""What the harness must find: each kernel here does one thing that a GPU does not allow, or that works there only by luck."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.codegen.cuda.launch import Launch
from qcc.codegen.kernel import View
from qcc.codegen.target import find_target
from qcc.errors import CodegenError
from qcc.ir import DType
from tests.cuda.harness import ASCENDING, DESCENDING, CompiledKernels, HostLibrary, KernelFailed, build_host, compile_kernels

SOURCE = """
extern "C" __global__ void reverse(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  ((int*)memory)[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = ((int*)memory)[63 - threadIdx.x];
}
extern "C" __global__ void no_barrier(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  ((int*)memory)[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = ((int*)memory)[63 - threadIdx.x];
}
extern "C" __global__ void barrier_in_branch(int* __restrict__ x, int* __restrict__ y) {
  if (threadIdx.x < 8) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void beyond_shared(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  ((int*)memory)[threadIdx.x + x[0]] = 1;
  y[threadIdx.x] = 0;
}
extern "C" __global__ void beyond_static(int* __restrict__ x, int* __restrict__ y) {
  __shared__ __align__(16) int memory[64];
  memory[threadIdx.x + x[0]] = 1;
  y[threadIdx.x] = 0;
}
extern "C" __global__ void beyond_operand(int* __restrict__ x, int* __restrict__ y) {
  y[threadIdx.x + (1LL << 44)] = x[threadIdx.x];
}
extern "C" __global__ void beyond_registers(int* __restrict__ x, int* __restrict__ y) {
  int values[4];
  for (int i = 0; i < 4; ++i) values[i] = x[i];
  y[threadIdx.x] = values[x[0] + 4];
}
extern "C" __global__ void misaligned_vector(int* __restrict__ x, int* __restrict__ y) {
  *(uint4*)y = *(uint4*)(x + x[0] + 1);
}
extern "C" __global__ void misaligned_load(int* __restrict__ x, int* __restrict__ y) {
  unsigned r[4];
  qcc_load_16(r, x + 1);
  y[threadIdx.x] = r[0];
}
extern "C" __global__ void misaligned_ldmatrix(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  qcc_ldmatrix_x4((unsigned*)y + threadIdx.x * 4, memory + 8);
}
extern "C" __global__ void ldmatrix_of_global(int* __restrict__ x, int* __restrict__ y) {
  qcc_ldmatrix_x4((unsigned*)y + threadIdx.x * 4, x);
}
extern "C" __global__ void no_wait(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  qcc_cp_async_4((int*)memory + threadIdx.x, x + threadIdx.x);
  qcc_cp_async_commit();
  y[threadIdx.x] = ((int*)memory)[threadIdx.x];
}
extern "C" __global__ void waits_for_too_few(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  qcc_cp_async_4((int*)memory + threadIdx.x, x + threadIdx.x);
  qcc_cp_async_commit();
  qcc_cp_async_wait<1>();
  y[threadIdx.x] = ((int*)memory)[threadIdx.x];
}
extern "C" __global__ void pipeline(int* __restrict__ x, int* __restrict__ y) {
  extern __shared__ __align__(16) uchar memory[];
  int* stages = (int*)memory;
  for (int i = 0; i < 2; ++i) {
    qcc_cp_async_4(stages + i * 64 + threadIdx.x, x + i * 64 + threadIdx.x);
    qcc_cp_async_commit();
  }
  for (int i = 0; i < 4; ++i) {
    qcc_cp_async_wait<1>();
    __syncthreads();
    y[i * 64 + threadIdx.x] = stages[i % 2 * 64 + 63 - threadIdx.x];
    __syncthreads();
    if (i + 2 < 4) qcc_cp_async_4(stages + i % 2 * 64 + threadIdx.x, x + (i + 2) * 64 + threadIdx.x);
    qcc_cp_async_commit();
  }
}
extern "C" __global__ void shuffle_in_branch(int* __restrict__ x, int* __restrict__ y) {
  if (threadIdx.x < 8) y[threadIdx.x] = qcc_shfl_xor(x[threadIdx.x], 1);
}
extern "C" __global__ void barrier_against_shuffle(int* __restrict__ x, int* __restrict__ y) {
  if (threadIdx.x < 8) y[threadIdx.x] = qcc_shfl_xor(x[threadIdx.x], 1);
  else __syncthreads();
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> HostLibrary:
    return HostLibrary.load(build_host(SOURCE, tmp_path_factory.mktemp("harness") / "kernels.so"))


ONE_BLOCK = Launch((1, 1, 1), (64, 1, 1), 256)


@dataclass(frozen=True)
class Written:
    """A kernel of SOURCE on arrays of int32."""

    name: str
    elements: int = 256
    launch: Launch = ONE_BLOCK
    tasks: int = 1
    macs: int = 0

    @property
    def operands(self) -> tuple[View, ...]:
        return (View.contiguous(DType("i", 32), (self.elements,)),) * 2


def run(library: HostLibrary, kernel: Written, x: Any) -> Any:
    return CompiledKernels(library, {kernel: kernel.name}, SOURCE).run(kernel, [np.asarray(x, np.int32)])[0]


def test_right_kernels_pass(library: HostLibrary) -> None:
    x = np.arange(256)
    reverse = Written("reverse", launch=Launch((4, 1, 1), (64, 1, 1), 256))
    np.testing.assert_array_equal(run(library, reverse, x), x.reshape(4, 64)[:, ::-1].reshape(-1))
    pipeline = Written("pipeline", launch=Launch((1, 1, 1), (64, 1, 1), 512))
    np.testing.assert_array_equal(run(library, pipeline, x), x.reshape(4, 64)[:, ::-1].reshape(-1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier_in_branch", "divergent barrier"),
        ("beyond_shared", r"shared memory"),
        ("beyond_static", "shared memory"),
        ("beyond_operand", "outside of the operands' memory"),
        ("beyond_registers", "an index outside of an array"),
        ("misaligned_vector", "misaligned access"),
        ("misaligned_load", "16-byte load: .* is not aligned to 16 bytes"),
        ("misaligned_ldmatrix", r"ldmatrix.x4: .* is not aligned to 16 bytes"),
        ("ldmatrix_of_global", "not in the block's shared memory"),
        ("shuffle_in_branch", "deadlock: .* waits in __shfl_xor_sync for threads that have ended"),
        ("barrier_against_shuffle", "deadlock: .* waits in __shfl_xor_sync for threads that wait at a barrier"),
    ],
)
@pytest.mark.parametrize("order", [ASCENDING, DESCENDING])
def test_forbidden(library: HostLibrary, name: str, message: str, order: int) -> None:
    x, y = np.full(256, 40, np.int32), np.zeros(256, np.int32)
    with pytest.raises(KernelFailed, match=rf"{name}: block \(0,0,0\).*{message}"):
        library.launch(name, ONE_BLOCK, [x.ctypes.data, y.ctypes.data], order)


@pytest.mark.parametrize("extents", [((1, 1, 1), (1025, 1, 1)), ((0, 1, 1), (32, 1, 1)), ((1, 65536, 1), (32, 1, 1))])
def test_launches_that_no_gpu_takes(extents: Any) -> None:
    with pytest.raises(CodegenError, match="expected"):
        Launch(*extents)


def test_no_dynamic_memory_at_launch(library: HostLibrary) -> None:
    x = np.zeros(64, np.int32)
    with pytest.raises(KernelFailed, match="launched with none"):
        library.launch("reverse", Launch((1, 1, 1), (64, 1, 1)), [x.ctypes.data, x.ctypes.data])


def test_a_missing_barrier_shows_in_one_order(library: HostLibrary) -> None:
    with pytest.raises(AssertionError, match="depends on the order of threads"):
        run(library, Written("no_barrier", 64), np.arange(64))


@pytest.mark.parametrize("name", ["no_wait", "waits_for_too_few"])
def test_copies_arrive_at_the_wait_and_not_before(library: HostLibrary, name: str) -> None:
    assert not np.any(run(library, Written(name, 64), np.arange(64)) == np.arange(64))


@dataclass(frozen=True)
class Doubled:
    """A kernel that goes the way of real ones: TIR, TVM's CUDA code generator, the harness."""

    rows: int
    tasks: int = 1
    macs: int = 0

    @property
    def operands(self) -> tuple[View, ...]:
        return View.contiguous(DType("u", 8), (self.rows, 64)), View.contiguous(DType("i", 32), (self.rows, 64))

    @property
    def launch(self) -> Launch:
        return Launch((self.rows, 1, 1), (64, 1, 1), 64)

    def emit(self, target: object) -> Any:
        from tvm import ir, tirx

        source, result = (tirx.Var(name, ir.PointerType(ir.PrimType(kind))) for name, kind in (("x", "uint8"), ("y", "int32")))
        x, y = tirx.decl_buffer((192,), "uint8", data=source), tirx.decl_buffer((192,), "int32", data=result)
        shared = tirx.decl_buffer((64,), "uint8", "shared", scope="shared.dyn")
        block, thread = tirx.Var("b", "int32"), tirx.Var("t", "int32")
        index = block * 64 + thread
        doubled = tirx.Cast("int32", tirx.BufferLoad(shared, [63 - thread])) * 2
        statements = [
            tirx.DeclBuffer(x, data=source), tirx.DeclBuffer(y, data=result), tirx.AllocBuffer(shared),
            tirx.BufferStore(shared, tirx.BufferLoad(x, [index]), [thread]),
            tirx.Evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared")),
            tirx.BufferStore(y, doubled, [index]),
        ]  # fmt: skip
        body: Any = tirx.SeqStmt(statements)
        for tag, variable, extent in (("threadIdx.x", thread, 64), ("blockIdx.x", block, 3)):
            body = tirx.AttrStmt(tirx.IterVar(ir.Range(0, extent), variable, 1, tag), "thread_extent", tirx.const(extent, "int32"), body)
        return tirx.PrimFunc([source, result], body)


def test_from_tir_to_results(tmp_path: Path, rng: np.random.Generator) -> None:
    kernel = Doubled(3)
    compiled = compile_kernels([kernel], find_target("cuda"), tmp_path)
    x = rng.integers(0, 256, (3, 64), dtype=np.uint8)
    np.testing.assert_array_equal(compiled.run(kernel, [x])[0], 2 * x[:, ::-1].astype(np.int32))
    again = tmp_path / "again"
    again.mkdir()
    assert compile_kernels([kernel], find_target("cuda"), again).source == compiled.source
