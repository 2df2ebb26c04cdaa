"""Reads the machine code of a library: its functions, and which instructions they use.

Decides what counts as floating-point arithmetic: everything that computes, compares, rounds or converts floating-point numbers.
Moves, shuffles and bit operations are not arithmetic, whatever register class their names speak of: compilers use them for integers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcc.errors import VerificationError

_TYPES = r"(?:ps|pd|ss|sd|ph|sh|bf16)"
_WORDS = ("add|sub|mul|div|sqrt|min|max|cmp\\w*|hadd|hsub|addsub|dp|rcp(?:14|28)?|rsqrt(?:14|28)?|round|rndscale|scalef|getexp|"
          "getmant|fixupimm|range|reduce|fpclass|exp2|dpbf16|u?comi")
_FLOAT_ARM = re.compile(r"f(?!mov|csel)\w+|[su]cvtf|bf(?:cvt|dot|ml|mm)\w*")
_FLOAT_X86 = re.compile(rf"v?(?:{_WORDS}){_TYPES}|vf\w*(?:add|sub|mul)\w*{_TYPES}|v?cvt\w+|f(?!xsave|xrstor|emms|wait|nop)\w+")
_BYTES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Instruction:
    address: int
    mnemonic: str
    operands: str

    def __str__(self) -> str:
        return f"{self.address:#x}: {self.mnemonic} {self.operands}".rstrip()


@dataclass(frozen=True)
class Function:
    """Code between two symbols.

    Attributes:
        name: of the symbol; empty for code that no symbol covers (padding, and functions whose names were removed).
        instructions: how often each mnemonic occurs, "zmm" or "ymm" added where it works on such registers: "vpdpbusd zmm".
        floats: the floating-point arithmetic among them.
        looped: how often each mnemonic occurs in loops that have no loop inside.
    """

    name: str
    address: int
    size: int
    instructions: Mapping[str, int]
    floats: tuple[Instruction, ...]
    looped: Mapping[str, int] = field(default_factory=dict)


def functions(library: Path) -> tuple[Function, ...]:
    """All code of a shared library, in order.

    Raises:
        VerificationError: not an ELF library for x86-64 or 64-bit ARM, without symbols, or with bytes in its code that are no instructions.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with library.open("rb") as file:
            elf = ELFFile(file)
            machine = elf["e_machine"]
            if machine not in MACHINES:
                raise VerificationError(f"{library}: expected code for {' or '.join(MACHINES)}, got {machine}")
            symbols = _symbols(library, elf)
            sections = [(section["sh_addr"], section.data()) for section in elf.iter_sections() if _is_code(section)]
    except (OSError, ELFError) as error:
        raise VerificationError(f"{library}: cannot be read as an ELF library: {error}") from error
    return tuple(function for start, code in sections for function in _section(MACHINES[machine], library, start, code, symbols))


def _is_code(section: Any) -> bool:
    # The procedure linkage table is the linker's: jumps only, and no symbols of its own.
    return bool(section["sh_flags"] & 4) and section["sh_type"] == "SHT_PROGBITS" and not section.name.startswith(".plt")


def _symbols(library: Path, elf: Any) -> dict[int, tuple[str, int]]:
    table = elf.get_section_by_name(".symtab")
    if table is None:
        raise VerificationError(f"{library}: has no symbol table, so its functions cannot be told apart; "
                                "it is not as 'qcc compile' wrote it")
    return {
        symbol["st_value"]: (symbol.name, symbol["st_size"])
        for symbol in table.iter_symbols()
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_size"] > 0
    }


def _section(machine: Machine, library: Path, start: int, code: bytes, symbols: Mapping[int, tuple[str, int]]) -> Iterator[Function]:
    place, end = start, start + len(code)
    for address in sorted(a for a in symbols if start <= a < end):
        name, size = symbols[address]
        if address > place:
            yield _function(machine, library, "", place, code[place - start:address - start])
        if address >= place:  # else: a second name of the function before
            yield _function(machine, library, name, address, code[address - start:address - start + size])
            place = address + size
    if place < end:
        yield _function(machine, library, "", place, code[place - start:])


def _function(machine: Machine, library: Path, name: str, address: int, code: bytes) -> Function:
    counts: Counter[str] = Counter()
    instructions = list(_decode(machine, library, name, address, code))
    for instruction in instructions:
        width = next((register for register in ("zmm", "ymm") if register in instruction.operands), "")
        counts[f"{instruction.mnemonic} {width}".rstrip()] += 1
    floats = tuple(instruction for instruction in instructions if machine.floats.fullmatch(instruction.mnemonic))
    return Function(name, address, len(code), counts, floats, _looped(machine, instructions) if name else {})


def _looped(machine: Machine, instructions: Sequence[Instruction]) -> Counter[str]:
    return Counter(instructions[number].mnemonic for number in innermost(machine, instructions))


def innermost(machine: Machine, instructions: Sequence[Instruction]) -> set[int]:
    """The numbers of the instructions in natural loops that hold no other loop: a jump back to an instruction that dominates it, and what
    leads there from it."""
    import networkx as nx

    flow = nx.DiGraph([(0, 0)])
    places = {instruction.address: number for number, instruction in enumerate(instructions)}
    for number, instruction in enumerate(instructions):
        target = instruction.operands.rpartition(" ")[2].lstrip("#")
        if machine.branches.fullmatch(instruction.mnemonic) and target[:1].isdigit() and int(target, 0) in places:
            flow.add_edge(number, places[int(target, 0)])
        if number + 1 < len(instructions) and not machine.ends.fullmatch(instruction.mnemonic):
            flow.add_edge(number, number + 1)
    flow.remove_edge(0, 0)
    above = {**nx.immediate_dominators(flow, 0), 0: 0}
    loops: dict[int, set[int]] = {}
    for source, header in flow.edges:
        if source in above and _dominates(above, header, source):
            inside = flow.reverse(copy=False).subgraph(set(above) - {header}) if source != header else None
            body = {source, header} if inside is None else {header} | nx.descendants(inside, source) | {source}
            loops[header] = loops.get(header, set()) | body
    return {number for header, body in loops.items() if not any(other in body for other in loops if other != header) for number in body}


def _dominates(above: Mapping[int, int], header: int, place: int) -> bool:
    while place != header and above[place] != place:
        place = above[place]
    return place == header


def _decode(machine: Machine, library: Path, name: str, address: int, code: bytes) -> Iterator[Instruction]:
    import capstone

    decoder = capstone.Cs(getattr(capstone, machine.decoder), machine.mode)
    place = 0
    while place < len(code):
        for at, size, mnemonic, operands in decoder.disasm_lite(code[place:], address + place):
            yield Instruction(at, mnemonic, operands)
            place = at - address + size
        if place < len(code):
            size, instruction = machine.others(decoder, code[place:place + 15], address + place)
            if not size and not name and not any(code[place:]):
                return  # the end of a section is filled with zeros
            if not size:
                shown = code[place:place + _BYTES_SHOWN].hex(" ")
                raise VerificationError(f"{library}: {name or 'code without a name'}: no instruction at {address + place:#x} ({shown})")
            yield instruction
            place += size


_AVX_VNNI = {0x50: "vpdpbusd", 0x51: "vpdpbusds", 0x52: "vpdpwssd", 0x53: "vpdpwssds"}


def _avx_vnni(decoder: Any, code: bytes, address: int) -> tuple[int, Instruction]:
    """Size and instruction for the VEX forms of AVX-VNNI, which the decoder does not know; 0 if it is none.

    They are encoded like vpmaddubsw (VEX.66.0F38.W0 04 /r), so that is decoded in their place.
    """
    if len(code) > 4 and code[0] == 0xC4 and code[1] & 0x1F == 2 and code[2] & 0x83 == 1 and code[3] in _AVX_VNNI:
        for at, size, _, operands in decoder.disasm_lite(code[:3] + b"\x04" + code[4:], address, 1):
            return size, Instruction(at, _AVX_VNNI[code[3]], operands)
    return 0, Instruction(address, "", "")


def _nothing(decoder: Any, code: bytes, address: int) -> tuple[int, Instruction]:
    """The decoder knows all."""
    return 0, Instruction(address, "", "")


@dataclass(frozen=True)
class Machine:
    """How the code of one architecture is read.

    Attributes:
        decoder, mode: of the disassembler: the name of the architecture, and its mode.
        floats: mnemonics of floating-point arithmetic.
        branches, ends: mnemonics of jumps within a function, and of those behind which it does not go on.
        others: decodes what the disassembler does not know.
    """

    decoder: str
    mode: int
    floats: re.Pattern[str]
    branches: re.Pattern[str]
    ends: re.Pattern[str]
    others: Callable[[Any, bytes, int], tuple[int, Instruction]]


MACHINES = {
    "EM_X86_64": Machine("CS_ARCH_X86", 1 << 3, _FLOAT_X86, re.compile(r"j\w+|loop"), re.compile(r"jmp|ret|ud2"), _avx_vnni),
    "EM_AARCH64": Machine("CS_ARCH_ARM64", 0, _FLOAT_ARM, re.compile(r"b(?:\.\w+)?|cbn?z|tbn?z"), re.compile("br?|ret"), _nothing),
}
