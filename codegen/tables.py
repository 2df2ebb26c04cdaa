"""Which table of kernel families each kind of machine has."""

from __future__ import annotations

from qcc.codegen import rules
from qcc.codegen.arm import rules as arm_rules
from qcc.codegen.families import Family
from qcc.codegen.target import Target

TABLES: dict[str, tuple[Family, ...]] = {"x86_64": rules.FAMILIES, "aarch64": arm_rules.FAMILIES}


def families_for(target: Target) -> tuple[Family, ...]:
    """The families whose kernels the target can run, in the order in which they are asked."""
    return TABLES[target.kernels]
