"""The table of kernel families for x86."""

from __future__ import annotations

from qcc.codegen.cpu.elementwise import plan_requantize
from qcc.codegen.cpu.rules import Architecture, families
from qcc.codegen.x86.dense import plan_dense
from qcc.codegen.x86.depthwise import plan_depthwise

FAMILIES = families(Architecture(plan_dense, plan_depthwise, plan_requantize))
