"""A compiled network before it becomes files: kernels in order, where each operand lies, constants, the arena.

This is the hand-over from planning (which knows the graph) to the artifact (which knows C, linking and files).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qcc.codegen.kernel import Kernel
from qcc.ir.types import TensorType

ALIGNMENT = 64


class Space(StrEnum):
    ARENA = "arena"          # scratch memory of one context; position is a byte offset
    CONSTANT = "constant"    # read-only data in the library; position is a byte offset
    INPUT = "input"          # the caller's arrays, contiguous, not aligned; position is the number of the input
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Address:
    space: Space
    position: int            # byte offset (arena, constant) or index of the port (input, output)
    offset: int = 0          # bytes added to a port's base


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of the network as the caller sees it (encodings are set when it is an integer)."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call.

    Attributes:
        node: the value(s) that it computes, for profiles and error messages.
        arguments: sources, constants, what it writes, then scratch memory.
        scratch: how many of the arguments are scratch memory.
    """

    node: str
    kernel: Kernel
    arguments: tuple[Address, ...]
    scratch: int = 0


@dataclass(frozen=True)
class Program:
    """Everything that the artifact is built from. Constants are laid out at multiples of ALIGNMENT, followed by READ_SLACK bytes."""

    name: str                # a C identifier; prefix of every symbol
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Step, ...]
    constants: bytes
    arena_bytes: int
    arena_lower_bound: int   # largest sum of bytes alive at one step: no plan can need less
    variant: str = ""        # marks the kernels' symbols where a library has the kernels of several targets
    variants: tuple[Program, ...] = ()    # the same network for each of them, the first of which this program is; constants are shared

    @property
    def parts(self) -> tuple[Program, ...]:
        """The programs that a library is made of: the variants, or this one alone."""
        return self.variants or (self,)

    @property
    def kernels(self) -> dict[Kernel, str]:
        """Each distinct kernel and its symbol, in order of first use."""
        distinct = dict.fromkeys(step.kernel for step in self.steps)
        return {kernel: f"{self.name}_{self.variant}k{number}" for number, kernel in enumerate(distinct)}
