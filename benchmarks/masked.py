"""Runs a command in which onnxruntime finds a CPU without AVX-512, or without AVX-512 and AVX-VNNI: it has no switch for that.

    python benchmarks/masked.py avx512,avxvnni -- qcc bench out/ --against onnxruntime --model model.onnx

The installed package is copied, every `cpuid` of the copy's code becomes a trap, and a handler answers with the machine's features less the
masked ones. Nothing else of the copy changes, and the installed package not at all. Compile for the restricted target before:
qcc's own library is not masked, it is built without those instructions.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

CPUID, TRAP = b"\x0f\xa2", b"\xcc\x90"    # int3; nop
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+cpuid\s*$", re.MULTILINE)


def trap_cpuid(library: Path) -> int:
    """Replace every `cpuid` in the code of a shared library; how many there were."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True).stdout
    addresses = [int(address, 16) for address in _INSTRUCTION.findall(listing)]
    with library.open("r+b") as file:
        sections = [s for s in ELFFile(file).iter_sections() if s["sh_flags"] & 4]    # executable
        spans = [(s["sh_addr"], s["sh_addr"] + s["sh_size"], s["sh_offset"]) for s in sections]
        for address in addresses:
            start, offset = next((low, offset) for low, high, offset in spans if low <= address < high)
            file.seek(offset + address - start)
            if file.read(2) != CPUID:
                raise SystemExit(f"{library}: no cpuid at {address:#x}; the disassembly cannot be trusted")
            file.seek(-2, os.SEEK_CUR)
            file.write(TRAP)
    return len(addresses)


def prepare(folder: Path) -> dict[str, str]:
    """A masked copy of onnxruntime and the handler in `folder`: what the environment needs to use them."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise SystemExit("onnxruntime is not installed")
    copy = folder / "onnxruntime"
    shutil.copytree(Path(found.origin).parent, copy)
    for library in copy.glob("capi/onnxruntime_pybind11_state*.so"):
        if not trap_cpuid(library):
            raise SystemExit(f"{library}: no cpuid found; this build of onnxruntime cannot be masked")
    handler = folder / "masked.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", handler, Path(__file__).with_name("masked.c")], check=True)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"LD_PRELOAD": str(handler), "PYTHONPATH": os.pathsep.join(paths)}


def main(arguments: list[str]) -> int:
    if len(arguments) < 3 or arguments[1] != "--":
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory(prefix="qcc-masked-") as folder:
        environment = {**os.environ, **prepare(Path(folder)), "QCC_MASK": arguments[0]}
        return subprocess.run(arguments[2:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
