"""How long GPU kernels take, estimated by rooflines: launches, products, and bytes of the device memory. Nothing here was measured."""

from __future__ import annotations

from math import prod

from qcc.codegen.cuda.dense import DenseKernel
from qcc.codegen.cuda.depthwise import DepthwiseKernel
from qcc.codegen.cuda.tiles import cycles, device_of
from qcc.codegen.kernel import Kernel
from qcc.codegen.target import Target

LAUNCH_SECONDS = 2.5e-6     # of a kernel inside of a graph
_LANES = 64                 # 32-bit integer instructions that a multiprocessor issues per cycle
_PER_PRODUCT = 1.5          # of them, for each product of a depthwise layer, with what prepares it
_SHARE = 0.7                # of the memory's bandwidth that a kernel reaches


def seconds(kernel: Kernel, target: Target) -> float:
    """Of one run on a typical GPU of the target (tiles.DEVICES)."""
    device = device_of(target)
    moved, busy = sum(view.dtype.bytes * prod(view.shape) for view in kernel.operands), 0.0
    if isinstance(kernel, DenseKernel):
        busy = cycles(kernel.work, kernel.tile, device)
    elif isinstance(kernel, DepthwiseKernel):
        busy = kernel.macs * _PER_PRODUCT / (_LANES * device.processors)
    return LAUNCH_SECONDS + max(busy, moved / (_SHARE * device.bandwidth)) / (device.clock * 1e9)
