"""What a kernel is to the rest of code generation: a description that can be compared, pickled and, in another process, emitted.

A kernel is a frozen dataclass that holds everything its code depends on (shapes, strides, tile) and nothing else (no weights, no
addresses): two layers with equal kernels share one function. This module knows neither TVM nor any family of kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from qcc.ir.types import Array, DType

if TYPE_CHECKING:
    from qcc.codegen.target import Target


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor lies in memory: element type, shape and strides in elements, from the address that the kernel is given.

    The innermost stride of a view may differ from 1, and views of one buffer may interleave (channels of a concatenation, the
    inside of a padded image): a kernel writes exactly the elements of its output view, never a byte between them.

    Where `packed`, two elements of at most 4 bits share a byte, the first in its lower half: the innermost stride is 1, its extent and
    all other strides are even.
    """

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    packed: bool = False

    @staticmethod
    def contiguous(dtype: DType, shape: tuple[int, ...]) -> View:
        strides, step = [], 1
        for extent in reversed(shape):
            strides.append(step)
            step *= extent
        return View(dtype, shape, tuple(reversed(strides)))

    def bytes_of(self, elements: int) -> int:
        """Bytes that so many elements (an even number of them, where two share a byte) take."""
        return elements // 2 if self.packed else elements * self.dtype.bytes

    @property
    def reach(self) -> int:
        """Bytes from the first element's to one past the last's."""
        return self.bytes_of(self.span + self.packed)

    @property
    def stored(self) -> View:
        """The view as kernels see it: bytes, where two elements share one."""
        if not self.packed:
            return self
        strides = (*(stride // 2 for stride in self.strides[:-1]), 1)
        return View(DType("u", 8), (*self.shape[:-1], self.shape[-1] // 2), strides)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other without gaps, in order (strides of extents 1 do not matter)."""
        dense = View.contiguous(self.dtype, self.shape).strides
        return all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, dense, strict=True))

    @property
    def span(self) -> int:
        """Elements from the first to one past the last."""
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) if all(self.shape) else 0


class Kernel(Protocol):
    """One function: `int32_t symbol(void* p0, ..., void* pN, int32_t begin, int32_t end)`, 0 on success.

    The pointers stand in the order of `operands`: sources, constants, destinations, then scratch memory. The work is `tasks`
    independent pieces; a call does those in [begin, end), and calls with disjoint ranges may run at the same time on different threads.
    The function allocates no memory and keeps no state. It may read up to `READ_SLACK` bytes beyond the end of a source or constant.
    """

    @property
    def operands(self) -> tuple[View, ...]: ...

    @property
    def tasks(self) -> int: ...

    @property
    def macs(self) -> int: ...

    def emit(self, target: Target) -> Any:
        """The TIR function (imports TVM; runs in a child process)."""


READ_SLACK = 64


@dataclass(frozen=True, slots=True)
class Nothing:
    """No work, in a place where another variant of a library has some."""

    @property
    def operands(self) -> tuple[View, ...]:
        return ()

    @property
    def tasks(self) -> int:
        return 0

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        from qcc.codegen.emit import Function

        return Function(()).finish()


@dataclass(frozen=True, eq=False)
class Prepared:
    """An operand that a kernel of its own makes of a constant, in scratch memory, before the kernel runs that reads it.

    Attributes:
        kernel: its operands are the constant and the result.
    """

    kernel: Kernel
    constant: Array


def unchanged(kernel: Any) -> Any:
    """The kernel as it was planned, where no tuning chooses another."""
    return kernel
