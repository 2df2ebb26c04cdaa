"""The assembler of codegen/emit.py for GPUs: a grid of blocks of threads, shared memory, barriers, small arrays in registers, and calls
of the device functions that runtime/csrc/qcc_device.cuh declares.

    function = GpuFunction(kernel.operands, kernel.launch)
    source, destination = function.operands
    index = function.let(function.block * 256 + function.thread)
    with function.when(index < 1000):
        destination.store(index, source.load(index))
    prim_func = function.finish()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qcc.codegen.cuda.launch import Launch
from qcc.codegen.emit import Function, Memory
from qcc.codegen.kernel import View

ROLLED = "rolled"       # how variables of loops begin that are not unrolled


def constant(value: int, dtype: str = "int32") -> Any:
    """An integer of a type."""
    from tvm import tirx

    return tirx.const(value, dtype)


def at(memory: Memory | Array, offset: Any) -> Any:
    """The address of an element."""
    from tvm import tirx

    return tirx.address_of(tirx.BufferLoad(memory.buffer, [offset]))


def device(dtype: str, name: str, *arguments: Any) -> Any:
    """A value from a device function."""
    from tvm import tirx

    return tirx.call_extern(dtype, name, *arguments)


def divide(value: Any, by: int) -> Any:
    """The quotient of a number that is not negative."""
    from tvm import tirx

    return value if by == 1 else value // by if isinstance(value, int) else tirx.truncdiv(value, by)


def modulo(value: Any, by: int) -> Any:
    """The remainder of a number that is not negative."""
    from tvm import tirx

    return 0 if by == 1 else value % by if isinstance(value, int) else tirx.truncmod(value, by)


@dataclass(frozen=True)
class Array:
    """A few numbers of one type that live in registers, as long as all indices are known once loops are unrolled."""

    function: Function
    buffer: Any
    dtype: str

    def get(self, index: Any) -> Any:
        from tvm import tirx

        return tirx.BufferLoad(self.buffer, [index])

    def set(self, index: Any, value: Any) -> None:
        from tvm import tirx

        self.function.append(tirx.BufferStore(self.buffer, value, [index]))


class GpuFunction(Function):
    """A kernel under construction: `void f(T* operand...)`, run by every thread of the launch.

    Attributes:
        thread: number of the thread in its block (blocks have one dimension).
        block: number of the block along x; `blocks` has x, y and z.
    """

    def __init__(self, views: Sequence[View], launch: Launch) -> None:
        from tvm import tirx

        super().__init__(views)
        self._launch = launch
        self.thread = tirx.Var("thread", "int32")
        self.blocks = tuple(tirx.Var(f"block_{axis}", "int32") for axis in "xyz")
        self.block = self.blocks[0]

    def call(self, name: str, *arguments: Any) -> None:
        """Call a device function for what it does."""
        from tvm import tirx

        self.append(tirx.Evaluate(device("void", name, *arguments)))

    def barrier(self) -> None:
        """Wait for all threads of the block; they see each other's writes then."""
        from tvm import tirx

        self.append(tirx.Evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared")))

    def array(self, count: int, dtype: str, name: str, value: int | None = None) -> Array:
        """An array in registers; all elements get `value`, if there is one."""
        from tvm import tirx

        buffer = tirx.decl_buffer((count,), dtype, name, scope="local")
        self.append(tirx.AllocBuffer(buffer))
        array = Array(self, buffer, dtype)
        if value is not None:
            with self.unrolled(count) as index:
                array.set(index, constant(value, dtype))
        return array

    def shared(self, bytes: int, name: str = "shared") -> Memory:
        """The block's dynamic shared memory (once per function), as bytes."""
        from tvm import tirx

        buffer = tirx.decl_buffer((bytes,), "uint8", name, scope="shared.dyn")
        self.append(tirx.AllocBuffer(buffer))
        return Memory(self, buffer, "uint8")

    def alias(self, memory: Memory, dtype: str) -> Any:
        """A buffer of the same bytes as elements of another type."""
        from tvm import DataType, tirx

        count = int(memory.buffer.shape[0]) * 8 // int(DataType(dtype).bits)
        buffer = tirx.decl_buffer((count,), dtype, f"{memory.buffer.name}_{dtype}", data=memory.buffer.data, scope="shared.dyn")
        self.append(tirx.DeclBuffer(buffer, data=memory.buffer.data))
        return buffer

    @contextmanager
    def unrolled(self, count: int) -> Iterator[Any]:
        """A loop over 0..count-1 that the compiler unrolls; yields the index, a plain 0 where there is but one."""
        from tvm import tirx

        if count == 1:
            yield 0
            return
        index = tirx.Var(f"u{len(self._scopes)}", "int32")
        self._scopes.append([])
        yield index
        body = self._close()
        self.append(tirx.For(index, constant(0), constant(count), tirx.ForKind.UNROLLED, body))

    @contextmanager
    def rolled(self, extent: int) -> Iterator[Any]:
        """A loop over 0..extent-1 that the compiler does not unroll (source.py adds the pragma, which TVM has no word for)."""
        from tvm import tirx

        index = tirx.Var(f"{ROLLED}{len(self._scopes)}", "int32")
        self._scopes.append([])
        yield index
        body = self._close()
        self.append(tirx.For(index, constant(0), constant(extent), tirx.ForKind.SERIAL, body))

    @contextmanager
    def guarded(self, condition: Any | None) -> Iterator[None]:
        """Statements that run where the condition holds; None: everywhere."""
        if condition is None:
            yield
        else:
            with self.when(condition):
                yield

    def declare(self, buffer: Any, memory: Memory) -> None:
        """Let a buffer of other code stand for an operand."""
        from tvm import tirx

        self.append(tirx.DeclBuffer(buffer, data=memory.buffer.data))

    def finish(self, bind: bool = True, parameters: Sequence[Any] = ()) -> Any:
        """The TIR function.

        Args:
            bind: bind the grid and the block; False where statements that were appended do.
            parameters: of the statements that were appended, where they do not use `operands`.
        """
        from tvm import ir, tirx

        body = self._close()
        extents = [("threadIdx.x", self.thread, self._launch.threads)]
        extents += [(f"blockIdx.{axis}", block, n) for axis, block, n in zip("xyz", self.blocks, self._launch.grid, strict=True)]
        extents = extents if bind else []
        for tag, variable, extent in extents:
            axis = tirx.IterVar(ir.Range(0, extent), variable, 1, tag)      # 1 is IterVar.ThreadIndex
            body = tirx.AttrStmt(axis, "thread_extent", constant(extent), body)
        return tirx.PrimFunc(list(parameters or self._parameters), body).with_attr("tirx.noalias", True)
