"""Any operator that has no kernel family of its own, on a GPU: its tensor expression, one thread per element of the output.

The rule: inline what is elementwise, compute a reduction in the thread that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.elements import THREADS, launch_of
from qcc.codegen.cuda.emit import GpuFunction
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.raw import flatten
from qcc.codegen.te import TeKernel, loop_kinds
from qcc.errors import CodegenError

if TYPE_CHECKING:
    from qcc.codegen.target import Target


@dataclass(frozen=True)
class GpuTeKernel(TeKernel):
    """One operator of one output through `Op.lower`; operands as for a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.outputs) != 1:
            raise CodegenError(f"{self.op.name}: the generic kernel of GPUs computes one output, got {len(self.outputs)}")

    @property
    def tasks(self) -> int:
        return 1

    @property
    def launch(self) -> Launch:
        return launch_of(prod(self.outputs[0].shape))

    def emit(self, target: Target) -> Any:
        flat = flatten(schedule(self.expression()))
        function = GpuFunction(self.operands, self.launch)
        for buffer, memory in zip(flat.params, function.operands, strict=True):
            function.declare(buffer, memory)
        function.append(flat.body)
        return function.finish(bind=False)


def schedule(function: Any) -> Any:
    """Apply the rule to a PrimFunc of one output made from tensor expressions."""
    import tvm
    from tvm import s_tir

    work = s_tir.Schedule(tvm.IRModule({"main": function}))
    root = work.get_sblock("root")
    output, = work.get_output_blocks(root)
    name, reductions = work.get(output).name_hint, []
    for block in work.get_child_blocks(root):
        if work.get(block).name_hint == name:
            continue
        if any(loop_kinds(work, block)):
            reductions.append(block)
        else:
            work.compute_inline(block)
    output = work.get_sblock(name)
    loops = work.get_loops(output)
    spatial = [loop for loop, reduced in zip(loops, loop_kinds(work, output), strict=True) if not reduced]
    element = work.fuse(*spatial) if spatial else work.add_unit_loop(loops[0] if loops else output)
    block, thread = work.split(element, [None, THREADS])
    work.bind(block, "blockIdx.x")
    work.bind(thread, "threadIdx.x")
    for reduction in reductions:
        work.compute_at(reduction, thread)
        work.set_scope(reduction, 0, "local")
    return work.mod["main"]
