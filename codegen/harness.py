"""The kernels of a profile as a C program (profile.c): built here for another device, run there, its output given back as a profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qcc.codegen import link
from qcc.codegen.profiling import FORMAT, RULES, rotation
from qcc.codegen.program import Step
from qcc.codegen.target import Target
from qcc.codegen.tune import constants_of, contender
from qcc.codegen.tuning_cache import versions
from qcc.codegen.tuning_clock import TURN_SECONDS, Contender
from qcc.codegen.worker import KernelCompiler

PROGRAM = "profile"
SOURCE = Path(__file__).with_name("profile.c")
_OPTIONS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-static")


def write_harness(steps: Mapping[str, Step], compiler: KernelCompiler, folder: Path, constants: int) -> Path:
    """Write the kernels' objects, the C sources, a Makefile and the built program into a folder.

    Args:
        steps: by subject (`profiling.distinct`).
        constants: bytes of the network's.

    Returns:
        The program, statically linked: it needs nothing on the device.

    Raises:
        CodegenError: a kernel cannot be compiled, or there is no C compiler for the target.
    """
    symbols = {step.kernel: f"candidate{number}" for number, step in enumerate(steps.values())}
    objects = [path.name for path in compiler.compile(symbols, folder)]
    entries = {name: contender(step.kernel, symbols[step.kernel], constants_of(step)) for name, step in steps.items()}
    (folder / "kernels.h").write_text(_header(entries, compiler.target, rotation(constants)), "utf-8")
    (folder / SOURCE.name).write_bytes(SOURCE.read_bytes())
    (folder / "Makefile").write_text(f"{PROGRAM}: {SOURCE.name} kernels.h {' '.join(objects)}\n\t$(CC) {' '.join(_OPTIONS)} -o $@ "
                                     f"{SOURCE.name} {' '.join(objects)} -lm\n", "utf-8")
    compile_it = [*link.find_toolchain(compiler.target).compiler, *_OPTIONS, "-o", PROGRAM, SOURCE.name, *objects, "-lm"]
    link.execute(compile_it, folder, "building the profile program")
    return folder / PROGRAM


def _header(entries: Mapping[str, Contender], target: Target, rotated: int) -> str:
    """The table of kernels: each is called through a function that knows how many operands it has."""
    head = json.dumps({"format": FORMAT, "target": target.name, "versions": versions(target)})[1:-1]
    lines = [f"enum {{ KERNELS = {len(entries)}, TURNS = {RULES.turns} }};", f"#define TURN_SECONDS {TURN_SECONDS}",
             f"#define ROTATED_BYTES {rotated}", f"#define HEAD {_literal(head)}", ""]
    rows = []
    for name, entry in entries.items():
        count = len(entry.operands)
        pointers = ", ".join(f"p[{i}]" for i in range(count))
        lines.append(f"extern int32_t {entry.symbol}({'void *, ' * count}int32_t, int32_t);")
        lines.append(f"static int32_t call_{entry.symbol}(void **p) {{ return {entry.symbol}({pointers}, 0, {entry.tasks}); }}")
        operands = ", ".join(f"{{{size}, {int(constant)}}}" for size, constant in entry.operands)
        rows.append(f"    {{{_literal(json.dumps(name))}, call_{entry.symbol}, {count}, {{{operands}}}}},")
    return "\n".join([*lines, "", "static const struct kernel kernels[] = {", *rows, "};", ""])


def _literal(text: str) -> str:
    """A C string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
