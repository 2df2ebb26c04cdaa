"""Reads the machine code of a library for GPUs: its images, their kernels, and which instructions those use.

Decides what counts as floating-point arithmetic there. A half-precision product of zeros plus a constant is how ptxas loads a constant
into a register (`HFMA2.MMA R9, -RZ, RZ, 0, 2.4e-07`): it computes nothing. Disassembling is nvdisasm's work.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.errors import VerificationError

_MAGIC, _CUDA_MACHINE = b"\x7fELF", 190
_KERNEL = re.compile(r"^\.text\.(\w+):$")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_FLOAT = re.compile(
    r"(?:[FD](?:ADD|MUL|FMA|SETP?|MNMX|CHK|RND|SWZADD)|H(?:ADD|MUL|FMA|SET|SETP|MNMX)2|MUFU|[HD]MMA|QMMA|I2FP?|F2IP?|F2FP?|I2HP?)\b"
)
_CONSTANT = re.compile(r"R\d+, -RZ, RZ, ")
_LABEL = re.compile(r"^(\.L_\w+):")
_BRANCH = re.compile(r"`\((\.L_\w+)\)")
_USAGE = re.compile(r"Function (\w+):\s+REG:(\d+)")


@dataclass(frozen=True)
class Image:
    """Machine code for one compute capability (times ten), as an ELF file of its own."""

    sm: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction, and the label that branches to it name."""

    label: str
    instruction: str
    operands: str


@dataclass(frozen=True)
class KernelCode:
    """How often a kernel uses each instruction, with its modifiers ("IMMA.16832.U8.S8"), and those of floating-point arithmetic; and all
    of them in order."""

    instructions: Mapping[str, int]
    floats: Mapping[str, int]
    lines: Sequence[Line] = ()

    def count(self, beginning: str) -> int:
        """Instructions whose text begins so."""
        return sum(number for text, number in self.instructions.items() if text.startswith(beginning))

    def inner_loop(self, products: str) -> list[str]:
        """The loop with most instructions that begin so; all instructions, where they are in no loop."""
        places = {line.label: number for number, line in enumerate(self.lines) if line.label}
        best: list[str] = []
        for number, line in enumerate(self.lines):
            target = _BRANCH.search(line.operands)
            if line.instruction.startswith("BRA") and target and places.get(target[1], number + 1) <= number:
                loop = [inner.instruction for inner in self.lines[places[target[1]] : number + 1]]
                if sum(text.startswith(products) for text in loop) > sum(text.startswith(products) for text in best):
                    best = loop
        return best or [line.instruction for line in self.lines]


def images(library: Path) -> list[Image]:
    """The images that lie in a shared library, in order."""
    data, found, at = library.read_bytes(), [], 1
    while (at := data.find(_MAGIC, at)) > 0:
        (machine,) = struct.unpack_from("<H", data, at + 18)
        if machine == _CUDA_MACHINE:
            segments, sections, flags = struct.unpack_from("<QQI", data, at + 32)
            segment_size, segment_count, section_size, section_count = struct.unpack_from("<HHHH", data, at + 54)
            size = max(segments + segment_size * segment_count, sections + section_size * section_count)
            low, second = flags & 255, flags >> 8 & 255      # where the capability is depends on the toolkit's version
            found.append(Image(low if 50 <= low <= 121 else second, data[at : at + size]))
        at += 4
    return found


def find_disassembler() -> Path | None:
    """nvdisasm from its Python package, or from the PATH."""
    from qcc.codegen.cuda.toolchain import packaged

    packages = packaged("bin/nvdisasm")
    installed = shutil.which("nvdisasm")
    return packages[0] if packages else Path(installed) if installed else None


def disassemble(image: Image, program: Path) -> dict[str, KernelCode]:
    """The kernels of an image.

    Raises:
        VerificationError: nvdisasm failed.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image.content)
        file.flush()
        done = subprocess.run([str(program), "-c", file.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VerificationError(f"the machine code for sm_{image.sm} cannot be disassembled: {done.stderr.strip()[:300]}")
    return parse(done.stdout)


def parse(listing: str) -> dict[str, KernelCode]:
    """The kernels of nvdisasm's listing."""
    instructions: dict[str, Counter[str]] = {}
    floats: dict[str, Counter[str]] = {}
    lines: dict[str, list[Line]] = {}
    name = label = ""
    for line in listing.splitlines():
        if section := _KERNEL.match(line):
            name = section[1]
            instructions[name], floats[name], lines[name] = Counter(), Counter(), []
        elif place := _LABEL.match(line):
            label = place[1]
        elif name and (found := _INSTRUCTION.match(line)):
            instructions[name][found[1]] += 1
            lines[name].append(Line(label, found[1], found[2]))
            label = ""
            if _FLOAT.match(found[1]) and not _CONSTANT.match(found[2]):
                floats[name][found[1]] += 1
    return {name: KernelCode(instructions[name], floats[name], lines[name]) for name in instructions}


def registers(image: Path) -> dict[str, int]:
    """Registers of a thread, by kernel, as cuobjdump (of the same Python packages, or on the PATH) reports them.

    Raises:
        VerificationError: there is no cuobjdump, or it failed.
    """
    from qcc.codegen.cuda.toolchain import packaged

    program = next((str(path) for path in packaged("bin/cuobjdump")), shutil.which("cuobjdump"))
    if program is None:
        raise VerificationError("cuobjdump is missing, which knows how many registers kernels take: pip install 'qcc[cuda]'")
    done = subprocess.run([program, "-res-usage", str(image)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VerificationError(f"cuobjdump does not read {image.name}: {done.stderr.strip()[:300]}")
    return {name: int(count) for name, count in _USAGE.findall(done.stdout)}
