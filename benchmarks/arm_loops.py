"""The innermost loops of kernels for ARM, and how many cycles LLVM's machine code analyzer gives them on a core."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.disassembly import MACHINES, Instruction, innermost

MACS = {"sdot": 16, "usdot": 16, "sudot": 16, "usmmla": 32, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8}
FEATURES = "+v8.6a,+dotprod,+i8mm"
ITERATIONS = 200
_LINE = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop, and the multiply-accumulates of those that make some."""

    lines: tuple[str, ...]
    products: Sequence[int]

    @property
    def macs(self) -> int:
        return sum(self.products)

    @property
    def spills(self) -> int:
        return sum("[sp" in line for line in self.lines)


def find_program(name: str) -> str:
    """The newest of LLVM's programs of this name: plain, or with the version behind it as Debian names them.

    Raises:
        SystemExit: there is none.
    """
    for candidate in (*(f"{name}-{version}" for version in range(30, 13, -1)), name):
        path = shutil.which(candidate)
        if path is not None:
            return path
    raise SystemExit(f"{name} is not on the PATH; install LLVM, on Debian or Ubuntu with: apt install llvm-19")


def instructions_of(path: Path, symbol: str) -> list[Instruction]:
    """The instructions of a function in an object or library."""
    options = ["-d", "--no-show-raw-insn", f"--mattr={FEATURES}", f"--disassemble-symbols={symbol}"]
    text = subprocess.run([find_program("llvm-objdump"), *options, str(path)], capture_output=True, text=True, check=True).stdout
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            operands = match[3].split("//")[0].split(" <")[0].strip()
            found.append(Instruction(int(match[1], 16), match[2], operands))
    return found


def hot_loop(code: Sequence[Instruction]) -> Loop | None:
    """Of the loops without loops inside, the one of most products; None where a kernel has no products in any."""
    inside, runs = innermost(MACHINES["EM_AARCH64"], code), list[list[Instruction]]()
    for number, instruction in enumerate(code):
        if number in inside:
            if not runs or number - 1 not in inside:
                runs.append([])
            runs[-1].append(instruction)
    loops = [Loop(tuple(map(_assembly, run)), [MACS[i.mnemonic] for i in run if i.mnemonic in MACS]) for run in runs]
    return max((loop for loop in loops if loop.macs), key=lambda loop: loop.macs, default=None)


def _assembly(instruction: Instruction) -> str:
    """As an assembler reads it; where a jump goes does not matter."""
    is_jump = MACHINES["EM_AARCH64"].branches.fullmatch(instruction.mnemonic)
    operands = re.sub(r"0x[0-9a-f]+$", ".", instruction.operands) if is_jump else instruction.operands
    return f"{instruction.mnemonic} {operands}"


def cycles(lines: Sequence[str], core: str) -> float:
    """Cycles per round of a loop on a core, all loads being hits."""
    command = [find_program("llvm-mca"), "-mtriple=aarch64", f"-mattr={FEATURES}", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"llvm-mca for {core}: {done.stderr.strip()[:500]}")
    return int(found[1]) / ITERATIONS


def limit(mnemonic: str, core: str) -> float:
    """Instructions per cycle of many that do not wait for each other: what no loop can exceed."""
    operands = {"smull": "v{0}.8h, v30.8b, v31.8b", "usmmla": "v{0}.4s, v30.16b, v31.16b"}.get(mnemonic, "v{0}.4s, v30.16b, v31.4b[0]")
    lines = [f"{mnemonic} {operands.format(number)}" for number in range(24)]
    return len(lines) / cycles(lines, core)
