"""Float operators on GPUs: one thread for each of the tasks into which the CPU's form of the kernel falls.

They are exact enough and slow: what is left in float at the end of a network (a softmax, most often) is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.emit import GpuFunction
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.families import Call, Site
from qcc.codegen.floats import plan_island
from qcc.codegen.island import IslandKernel
from qcc.codegen.kernel import View

if TYPE_CHECKING:
    from qcc.codegen.target import Target

_THREADS = 32


@dataclass(frozen=True)
class GpuIslandKernel:
    """A lowered node; operands as for a CPU."""

    island: IslandKernel

    @property
    def operands(self) -> tuple[View, ...]:
        return self.island.operands

    @property
    def tasks(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return 0

    @property
    def launch(self) -> Launch:
        return Launch((-(-self.island.tasks // _THREADS), 1, 1), (_THREADS, 1, 1))

    def emit(self, target: Target) -> Any:
        import tvm_ffi
        from tvm import tirx

        inner = self.island.emit(target)
        function = GpuFunction((), self.launch)
        task = function.let(function.block * _THREADS + function.thread, "task")
        *pointers, begin, end = inner.params
        with function.when(task < self.island.tasks):
            for edge, value in ((begin, task), (end, task + 1)):
                function.append(tirx.Bind(edge, value))
            function.append(tvm_ffi.structural_map(inner.body, (tirx.Return, lambda _: tirx.Evaluate(0))))
        return function.finish(parameters=pointers)


def plan_float(site: Site) -> list[Call]:
    """The node's call, with the kernel that a GPU runs."""
    call, = plan_island(site)
    assert isinstance(call.kernel, IslandKernel)
    return [Call(call.label, GpuIslandKernel(call.kernel), call.arguments)]
