"""Which table of kernel families each kind of machine has."""

from __future__ import annotations

from qcc.codegen.arm import rules as arm
from qcc.codegen.cuda import rules as cuda
from qcc.codegen.families import Family
from qcc.codegen.groups import Group, group
from qcc.codegen.moves import CPU, Mover
from qcc.codegen.target import Target
from qcc.codegen.x86 import rules as x86
from qcc.ir import Graph

TABLES: dict[str, tuple[Family, ...]] = {"x86_64": x86.FAMILIES, "aarch64": arm.FAMILIES, "cuda": cuda.FAMILIES}


def families_for(target: Target) -> tuple[Family, ...]:
    """The families whose kernels the target can run, in the order in which they are asked."""
    return TABLES[target.kernels]


def groups_for(target: Target, graph: Graph) -> tuple[Group, ...]:
    """The graph's nodes as the target's kernels compute them."""
    return group(graph, x86.fuses_maximum) if target.kernels == "x86_64" else group(graph)


def mover_for(target: Target) -> Mover:
    """How the target's kernels move bytes."""
    return cuda.MOVER if target.is_gpu else CPU
