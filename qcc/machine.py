"""What this machine can do at best: products of 8-bit integers and bytes read per second, measured by a small C program (peak.c)."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from qcc.codegen.link import find_toolchain
from qcc.codegen.target import Target
from qcc.errors import CodegenError

SOURCE = Path(__file__).with_name("peak.c")


@dataclass(frozen=True)
class Machine:
    """The compiled program; as many copies of it run at once as there are threads."""

    program: Path
    threads: int

    def measure(self, constant_bytes: int) -> tuple[float, float]:
        """Multiply-accumulates, and bytes read from a working set of this size, per second.

        Raises:
            CodegenError: the program fails on this machine.
        """
        share = str(max(constant_bytes // self.threads, 1))
        copies = [subprocess.Popen([self.program, share], stdout=subprocess.PIPE, text=True) for _ in range(self.threads)]
        lines = [json.loads(line) for copy in copies for line in copy.communicate()[0].splitlines()]
        if any(copy.returncode for copy in copies):
            raise CodegenError(f"{SOURCE.name} failed on this machine, so its peak is not known")
        macs, rate = (sum(line.get(key, 0.0) for line in lines) for key in ("macs_per_second", "bytes_per_second"))
        return macs, rate

    def floor(self, macs: int, constant_bytes: int) -> float:
        """Seconds that no program can go below."""
        macs_per_second, bytes_per_second = self.measure(constant_bytes)
        return max(macs / macs_per_second, constant_bytes / bytes_per_second)


def build_machine(folder: Path, threads: int, target: Target) -> Machine:
    """Compile the program into a folder, for the instructions of a target.

    Raises:
        CodegenError: there is no C compiler, or it fails.
    """
    program = folder / "peak"
    options = [f"-m{attribute.removeprefix('+')}" for attribute in target.attributes]
    compiler = find_toolchain(target).compiler
    done = subprocess.run([*compiler, "-O2", *options, "-o", program, SOURCE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CodegenError(f"{SOURCE.name} cannot be compiled: {done.stderr.strip()[-300:]}")
    return Machine(program, threads)
