"""The table of kernel families for 64-bit ARM."""

from __future__ import annotations

from qcc.codegen.arm.dense import LEAST_WEIGHT, plan_dense
from qcc.codegen.arm.depthwise_dot import plan_depthwise
from qcc.codegen.arm.elementwise import plan_requantize
from qcc.codegen.cpu.rules import Architecture, families
from qcc.ir import Array


def has_room(weights: Array) -> bool:
    """Whether products fit where kernels add them in 16 bits; quantization makes no others, but a model may bring its own."""
    return int(weights.min()) >= LEAST_WEIGHT


FAMILIES = families(Architecture(plan_dense, plan_depthwise, plan_requantize, has_room))
