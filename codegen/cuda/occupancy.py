"""How many warps of a kernel a multiprocessor holds at the same time (CUDA C Programming Guide, "Compute Capabilities")."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.codegen.cuda.launch import Launch

_REGISTERS = 65536          # of a multiprocessor
_REGISTER_UNIT = 256        # registers are handed out to warps in such portions


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one multiprocessor: warps, blocks, bytes of shared memory, and those that each block costs beyond its own."""

    warps: int
    blocks: int
    shared: int
    reserved: int


LIMITS = {
    75: Limits(32, 16, 64 << 10, 0),
    80: Limits(64, 32, 164 << 10, 1024),
    86: Limits(48, 16, 100 << 10, 1024),
    89: Limits(48, 24, 100 << 10, 1024),
    90: Limits(64, 32, 228 << 10, 1024),
}


def resident_blocks(sm: int, registers: int, launch: Launch) -> int:
    """Blocks of a kernel that one multiprocessor runs at the same time.

    Args:
        registers: of a thread.
    """
    limits, warps = LIMITS[sm], -(-launch.threads // 32)
    per_warp = -(-max(1, registers) * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    by_shared = limits.shared // (launch.shared_bytes + limits.reserved) if launch.shared_bytes else limits.blocks
    return min(limits.blocks, limits.warps // warps, _REGISTERS // per_warp // warps, by_shared)


def occupancy(sm: int, registers: int, launch: Launch) -> float:
    """Resident warps as a share of the most that there can be."""
    return resident_blocks(sm, registers, launch) * -(-launch.threads // 32) / LIMITS[sm].warps
