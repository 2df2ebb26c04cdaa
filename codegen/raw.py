"""From TVM's lowered functions (scheduled by blocks, or made by its front ends) to kernels: raw pointers, a range of tasks, no allocation.

It decides where intermediate results lie: small ones on the stack, large ones in a workspace that the memory planner provides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qcc.codegen.emit import Function
from qcc.codegen.kernel import View
from qcc.errors import CodegenError
from qcc.ir.types import U8

MARK = "qcc.tasks"          # annotation of the loop that is divided into tasks: how many there are
STACK_BYTES = 1 << 14       # a larger buffer lies in the workspace


def flatten(function: Any, vectors: bool = True) -> Any:
    """Lower a scheduled PrimFunc until only loops, flat buffers, and vectors if they are wanted, are left."""
    import tvm
    from tvm import s_tir, tirx

    blocks, flat = s_tir.transform, tirx.transform
    passes = [
        blocks.CanonicalizeLoop(), blocks.LowerInitBlock(), blocks.PlanAndUpdateBufferAllocationLocation(), blocks.ConvertBlocksToOpaque(),
        blocks.CompactBufferAllocation(), blocks.LowerMatchBuffer(), blocks.StmtSimplify(), blocks.LowerOpaqueBlock(), flat.FlattenBuffer(),
        flat.BF16ComputeLegalize(), flat.NarrowDataType(32), blocks.LoopPartition(), flat.VectorizeLoop(vectors), flat.StorageRewrite(),
        flat.UnrollLoop(), blocks.RenormalizeSplitPattern(), flat.StmtSimplify(), flat.RemoveNoOp(), blocks.RewriteUnsafeSelect(),
    ]
    return tvm.ir.transform.Sequential(passes)(tvm.IRModule({"main": function}))["main"]


@dataclass(frozen=True)
class Call:
    """One flat function as part of a kernel, and where each of its parameters lies."""

    function: Any
    arguments: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The start of an operand, or a byte offset into an operand of bytes."""

    operand: int
    offset: int = 0


def raw_function(views: Sequence[View], calls: Sequence[Call], internal: int = 0) -> Any:
    """One kernel from flat functions that run one after the other.

    A single function with a marked loop runs the tasks asked for; anything else is one task. Buffers too large for the stack lie in
    the workspace, the last operand, from the byte offset `internal` on.

    Raises:
        CodegenError: a large buffer and no workspace (its last byte lies beyond the last operand).
    """
    from tvm import tirx

    function = Function(views)
    bodies = []
    for call in calls:
        for buffer, argument in zip(call.function.params, call.arguments, strict=True):
            function.append(tirx.DeclBuffer(buffer, data=_pointer(function.operands[argument.operand], argument.offset)))
        for buffer in large_buffers(call.function):
            if len(views) == 0 or views[-1].dtype != U8 or internal + bytes_of(buffer) > views[-1].span:
                raise CodegenError(f"an intermediate result of {bytes_of(buffer)} bytes needs a workspace; the stack holds {STACK_BYTES}")
            function.append(tirx.DeclBuffer(buffer, data=_pointer(function.operands[-1], internal)))
            internal += aligned(bytes_of(buffer))
        bodies.append(_without_large(call.function.body))
    if len(bodies) == 1 and marked_tasks(bodies[0]):
        function.append(_with_tasks(bodies[0], function.begin, function.end))
    else:
        with function.when(tirx.all(function.begin <= 0, function.end > 0)):
            for body in bodies:
                function.append(body)
    return function.finish()


def _pointer(memory: Any, offset: int) -> Any:
    from tvm import tirx

    return memory.buffer.data if offset == 0 else tirx.address_of(memory.load(offset))


def aligned(size: int) -> int:
    """The next multiple of 64 bytes."""
    return -(-size // 64) * 64


def bytes_of(buffer: Any) -> int:
    """Bytes of a TIR buffer of constant shape."""
    import tvm

    return prod(int(extent) for extent in buffer.shape) * ((int(tvm.DataType(str(buffer.dtype)).bits) + 7) // 8)


def large_buffers(function: Any) -> list[Any]:
    """The buffers that a flat function allocates and that do not belong on the stack, in order."""
    import tvm_ffi
    from tvm import tirx

    found = []
    tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, lambda node: found.append(node.buffer)))
    return [buffer for buffer in found if bytes_of(buffer) > STACK_BYTES]


def _without_large(body: Any) -> Any:
    import tvm_ffi
    from tvm import tirx

    def drop(node: Any) -> Any:
        return tirx.Evaluate(0) if bytes_of(node.buffer) > STACK_BYTES else node

    return tvm_ffi.structural_map(body, (tirx.AllocBuffer, drop))


def marked_tasks(body: Any) -> int:
    """Tasks of the marked loop, 0 if there is none."""
    import tvm_ffi
    from tvm import tirx

    found = [0]
    tvm_ffi.structural_walk(body, (tirx.For, lambda loop: found.append(int(loop.annotations.get(MARK, 0)))))
    return max(found)


def _with_tasks(body: Any, begin: Any, end: Any) -> Any:
    """The marked loop over everything becomes one over the iterations of the tasks [begin, end)."""
    import tvm_ffi
    from tvm import tirx

    def bound(loop: Any) -> Any:
        if MARK not in loop.annotations:
            return loop
        dtype = str(loop.extent.ty.dtype)    # some front ends count in int64
        extent, tasks = tirx.const(int(loop.extent), "int64"), tirx.const(int(loop.annotations[MARK]), "int64")
        first, last = (tirx.Cast(dtype, tirx.truncdiv(tirx.Cast("int64", edge) * extent, tasks)) for edge in (begin, end))
        return tirx.For(loop.loop_var, first, last - first, tirx.ForKind.SERIAL, loop.body)

    return tvm_ffi.structural_map(body, (tirx.For, bound))
