"""Reads the machine code of GPU kernels, as nvdisasm prints it: which instructions they have, and which of them their inner loop.

Decides what counts as floating-point arithmetic: whatever computes, compares or converts floating-point numbers, but no move.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.codegen.cuda.toolchain import packaged
from qcc.errors import CodegenError

_FLOATING = re.compile(
    r"(F(ADD|MUL|FMA|SETP?|SEL|MNMX|CHK|RND)|MUFU|F2[FI]P?|I2FP?|D(ADD|MUL|FMA|SETP|MMA)|H(ADD2|MUL2|FMA2|SETP?2|MMA|MNMX2))(\.|$)")
_MOVE = re.compile(r"\s*\w+, -RZ, RZ, ")      # of a constant, by the unit for 16-bit floats: 0 * 0 + constant
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)$")
_USAGE = re.compile(r"Function (\w+):\s+REG:(\d+)")
_LABEL = re.compile(r"^(\.L_x?_?\w+):")
_BRANCH = re.compile(r"`\((\.L_x?_?\w+)\)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """`label` is that of a place that is branched to, empty for all others."""

    label: str
    operation: str
    operands: str


@dataclass(frozen=True)
class MachineCode:
    """One kernel."""

    registers: int
    instructions: tuple[Instruction, ...]

    def count(self, *prefixes: str) -> int:
        """Instructions whose operation begins so."""
        return sum(instruction.operation.startswith(prefixes) for instruction in self.instructions)

    @property
    def floating(self) -> list[str]:
        """Operations on floating-point numbers."""
        return [instruction.operation for instruction in self.instructions
                if _FLOATING.match(instruction.operation) and not _MOVE.match(instruction.operands)]

    def inner_loop(self, products: str) -> list[str]:
        """Operations of the loop that has the most of these products, of all instructions where they are in no loop."""
        code = self.instructions
        places = {instruction.label: number for number, instruction in enumerate(code) if instruction.label}
        best: list[str] = []
        for number, instruction in enumerate(code):
            target = _BRANCH.search(instruction.operands)
            if instruction.operation.startswith("BRA") and target and places.get(target[1], number + 1) <= number:
                loop = [inner.operation for inner in code[places[target[1]]:number + 1]]
                if _counted(loop, products) > _counted(best, products):
                    best = loop
        return best or [instruction.operation for instruction in code]


def _counted(operations: Sequence[str], prefix: str) -> int:
    return sum(operation.startswith(prefix) for operation in operations)


def _printed(tool: str, *arguments: str) -> str:
    """What one of the toolkit's programs prints, from its Python package or from the PATH.

    Raises:
        CodegenError: there is none.
    """
    found = [str(path) for path in packaged(f"bin/{tool}")] or [shutil.which(tool) or ""]
    if not found[0]:
        raise CodegenError(f"{tool} is missing, which prints machine code of GPUs; install qcc with its extra: pip install 'qcc[cuda]'")
    return subprocess.run([found[0], *arguments], capture_output=True, text=True, check=True).stdout


def disassemble(cubin: Path) -> dict[str, MachineCode]:
    """The kernels of an image for one compute capability, by symbol.

    Raises:
        CodegenError: nvdisasm or cuobjdump is missing.
    """
    registers = {name: int(count) for name, count in _USAGE.findall(_printed("cuobjdump", "-res-usage", str(cubin)))}
    sections = re.split(r"(?=\.section\s+\.text\.)", _printed("nvdisasm", "-c", str(cubin)))
    named = ((re.match(r"\.section\s+\.text\.(\w+)", section), section) for section in sections)
    return {name[1]: MachineCode(registers[name[1]], tuple(_instructions(section))) for name, section in named if name}


def _instructions(text: str) -> list[Instruction]:
    lines, label = [], ""
    for line in text.splitlines():
        if place := _LABEL.match(line.strip()):
            label = place[1]
        elif instruction := _INSTRUCTION.match(line):
            lines.append(Instruction(label, instruction[1], instruction[2]))
            label = ""
    return lines
