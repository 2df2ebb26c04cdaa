"""How a kernel is started on a GPU. This module knows neither TVM nor any family of kernels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

from qcc.codegen.kernel import Kernel
from qcc.errors import CodegenError

_MOST_THREADS = 1024
_MOST_BLOCKS = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True, slots=True)
class Launch:
    """Blocks in the grid, threads in a block, and bytes of dynamic shared memory (`shared.dyn` in TIR; 0 where it is static).

    `resident`: blocks that a multiprocessor shall be able to run at the same time, which bounds the registers that the compiler takes;
    0: as it likes.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0
    resident: int = 0

    def __post_init__(self) -> None:
        if min(*self.grid, *self.block) < 1 or self.threads > _MOST_THREADS or self.shared_bytes < 0:
            raise CodegenError(f"{self}: expected extents of at least 1, at most {_MOST_THREADS} threads and no negative shared memory")
        if any(blocks > most for blocks, most in zip(self.grid, _MOST_BLOCKS, strict=True)):
            raise CodegenError(f"{self}: expected at most {_MOST_BLOCKS} blocks")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Extents of the grid, those of a block, and bytes of shared memory."""
        return (*self.grid, *self.block, self.shared_bytes)

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return prod(self.block)


@runtime_checkable
class CudaKernel(Kernel, Protocol):
    """A kernel for a GPU: one launch does all of its `tasks`."""

    @property
    def launch(self) -> Launch: ...
