"""Which table of kernel families each kind of machine has."""

from __future__ import annotations

from qcc.codegen.arm import rules as arm
from qcc.codegen.families import Family
from qcc.codegen.target import Target
from qcc.codegen.x86 import rules as x86

TABLES: dict[str, tuple[Family, ...]] = {"x86_64": x86.FAMILIES, "aarch64": arm.FAMILIES}


def families_for(target: Target) -> tuple[Family, ...]:
    """The families whose kernels the target can run, in the order in which they are asked."""
    return TABLES[target.kernels]
