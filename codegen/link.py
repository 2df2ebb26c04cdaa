"""The C toolchain: finds a compiler for the target and makes one relocatable object, a static and a shared library.

What it makes depends on its inputs only: no time, no user, no absolute path gets into a file. The environment's search
paths are ignored.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.codegen.target import Target
from qcc.errors import CodegenError

# Outlined atomics would be calls to the compiler's own library, which a static library must not need.
_BASELINE = {"x86_64": ("-march=x86-64", "-mtune=generic"), "aarch64": ("-march=armv8-a", "-mno-outline-atomics")}
_COMPILE = (
    "-std=gnu11", "-O2", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections", "-fno-ident",
    "-fno-lto", "-Wall", "-Wextra",
)  # fmt: skip
# strip-debug: the names of kernels stay, for verification, profilers and debuggers.
# noseparate-code: three segments padded to pages would cost more than the code of a small network.
_LINK = ("--gc-sections", "--as-needed", "--build-id=none", "--strip-debug", "--hash-style=gnu")
_LINK_OPTIONS = ("defs", "now", "relro", "noexecstack", "noseparate-code")
_SHOWN_LINES = 12


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs that build a library for one architecture."""

    compiler: str
    archiver: str
    objcopy: str
    architecture: str


def architecture(target: Target) -> str:
    """The machine of the target as `uname -m` names it."""
    return target.architecture


def find_toolchain(target: Target) -> Toolchain:
    """The compiler of this machine, or the GNU cross compiler.

    Raises:
        CodegenError: none is installed; the message names the packages.
    """
    machine = architecture(target)
    prefix = "" if machine == platform.machine() else f"{machine}-linux-gnu-"
    names = ("cc", "gcc", "clang") if not prefix else (f"{prefix}gcc",)
    compiler = next((path for path in map(shutil.which, names) if path), None)
    archiver, objcopy = shutil.which(f"{prefix}ar"), shutil.which(f"{prefix}objcopy")
    if compiler is None or archiver is None or objcopy is None:
        package = f"gcc-{machine.replace('_', '-')}-linux-gnu" if prefix else "gcc binutils"
        raise CodegenError(
            f"target {target.name}: building the library needs a C compiler ({', '.join(names)}), {prefix}ar and {prefix}objcopy, "
            f"and not all are on the PATH; install them, on Debian or Ubuntu with: apt install {package}"
        )
    return Toolchain(compiler, archiver, objcopy, machine)


def execute(command: Sequence[str], folder: Path, purpose: str) -> None:
    """Run a program in the folder; CodegenError with the end of what it printed when it fails."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")}
    done = subprocess.run(command, cwd=folder, env=kept | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        printed = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_SHOWN_LINES:])
        raise CodegenError(f"{purpose} failed: {Path(command[0]).name} ended with status {done.returncode}:\n{printed}")


def compile_source(tools: Toolchain, folder: Path, source: str, result: str, extra: Sequence[str] = ()) -> None:
    """Compile one C file of the folder for the baseline of the architecture; what it includes must be in the folder too."""
    options = (*_COMPILE, *_BASELINE.get(tools.architecture, ()), f"-ffile-prefix-map={folder}=.", f"-frandom-seed={source}", "-I.", *extra)
    execute([tools.compiler, *options, "-c", source, "-o", result], folder, f"compiling {source}")


def merge_objects(tools: Toolchain, folder: Path, objects: Sequence[str], exported: Sequence[str], result: str) -> None:
    """One relocatable object in which every symbol but the exported ones is local."""
    execute([tools.compiler, "-r", "-nostdlib", "-o", result, *objects], folder, f"joining the objects of {result}")
    keep = [f"--keep-global-symbol={name}" for name in exported]
    execute([tools.objcopy, *keep, "--strip-unneeded", "--remove-section=.comment", result], folder, f"hiding the symbols of {result}")


def make_static(tools: Toolchain, folder: Path, member: str, result: str) -> None:
    """A static library of one object; D: no times and no owners in it."""
    execute([tools.archiver, "rcsD", result, member], folder, f"making {result}")


def make_shared(tools: Toolchain, folder: Path, member: str, result: str) -> None:
    """A shared library that needs nothing but libc, libm and threads; any other undefined symbol is an error."""
    options = [f"-Wl,{option}" for option in _LINK] + [f"-Wl,-z,{option}" for option in _LINK_OPTIONS]
    command = [tools.compiler, "-shared", "-o", result, member, *options, f"-Wl,-soname,{result}", "-lm", "-lpthread", "-ldl"]
    execute(command, folder, f"linking {result}")
