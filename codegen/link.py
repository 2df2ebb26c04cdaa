"""The C toolchain: finds a compiler for the target and makes one relocatable object, a static and a shared library.

What it makes depends on its inputs only: no time, no user, no absolute path gets into a file. The environment's search
paths are ignored.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.codegen.target import Target
from qcc.errors import CodegenError

# Outlined atomics would be calls to the compiler's own library, which a static library must not need.
_BASELINE = {"x86_64": ("-march=x86-64", "-mtune=generic"), "aarch64": ("-march=armv8-a", "-mno-outline-atomics")}
_ZIG_BASELINE = {"x86_64": ("-mcpu=x86_64", "-fno-sanitize=all"), "aarch64": ("-mcpu=generic", "-mno-outline-atomics", "-fno-sanitize=all")}
_OLDEST_GLIBC = "2.17"    # the first for 64-bit ARM
_COMPILE = (
    "-std=gnu11", "-O2", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections", "-fno-ident",
    "-fno-lto", "-Wall", "-Wextra",
)  # fmt: skip
# strip-debug: the names of kernels stay, for verification, profilers and debuggers.
# noseparate-code: three segments padded to pages would cost more than the code of a small network.
_LINK = ("--gc-sections", "--as-needed", "--build-id=none", "--strip-debug", "--hash-style=gnu")
_LINK_OPTIONS = ("defs", "now", "relro", "noexecstack")
_EXPORTS = "exports.map"
_SHOWN_LINES = 12


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs that build a library for one architecture, as commands.

    Attributes:
        objcopy: hides the symbols of a relocatable object; empty where there is none, so that they stay visible to a static link (all
            begin with the network's name, or are weak).
        baseline: the compiler's options for the architecture without extensions.
        dense: whether the linker can be told to keep segments together.
    """

    compiler: tuple[str, ...]
    archiver: tuple[str, ...]
    objcopy: tuple[str, ...]
    baseline: tuple[str, ...]
    dense: bool = True


def architecture(target: Target) -> str:
    """The machine of the target as `uname -m` names it."""
    return target.architecture


def find_toolchain(target: Target) -> Toolchain:
    """The compiler of this machine or the GNU cross compiler; for another machine also Zig's, from the package `ziglang`.

    Raises:
        CodegenError: none is installed; the message names the packages.
    """
    machine = architecture(target)
    prefix = "" if machine == platform.machine() else f"{machine}-linux-gnu-"
    names = ("cc", "gcc", "clang") if not prefix else (f"{prefix}gcc",)
    compiler = next((path for path in map(shutil.which, names) if path), None)
    archiver, objcopy = shutil.which(f"{prefix}ar"), shutil.which(f"{prefix}objcopy")
    if compiler is not None and archiver is not None and objcopy is not None:
        return Toolchain((compiler,), (archiver,), (objcopy,), _BASELINE.get(machine, ()))
    if prefix and machine in _ZIG_BASELINE and importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        return Toolchain((*zig, "cc", "-target", f"{machine}-linux-gnu.{_OLDEST_GLIBC}"), (*zig, "ar"), (), _ZIG_BASELINE[machine], False)
    package = f"gcc-{machine.replace('_', '-')}-linux-gnu" if prefix else "gcc binutils"
    other = ", or anywhere with: pip install ziglang" if machine in _ZIG_BASELINE and prefix else ""
    raise CodegenError(
        f"target {target.name}: building the library needs a C compiler ({', '.join(names)}), {prefix}ar and {prefix}objcopy, "
        f"and not all are on the PATH; install them, on Debian or Ubuntu with: apt install {package}{other}"
    )


def execute(command: Sequence[str], folder: Path, purpose: str) -> None:
    """Run a program in the folder; CodegenError with the end of what it printed when it fails."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")}
    done = subprocess.run(command, cwd=folder, env=kept | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        printed = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_SHOWN_LINES:])
        raise CodegenError(f"{purpose} failed: {Path(command[0]).name} ended with status {done.returncode}:\n{printed}")


def compile_source(tools: Toolchain, folder: Path, source: str, result: str, extra: Sequence[str] = ()) -> None:
    """Compile one C file of the folder for the baseline of the architecture; what it includes must be in the folder too."""
    options = (*_COMPILE, *tools.baseline, f"-ffile-prefix-map={folder}=.", f"-frandom-seed={source}", "-I.", *extra)
    execute([*tools.compiler, *options, "-c", source, "-o", result], folder, f"compiling {source}")


def merge_objects(tools: Toolchain, folder: Path, objects: Sequence[str], exported: Sequence[str], result: str) -> None:
    """One relocatable object in which every symbol but the exported ones is local."""
    execute([*tools.compiler, "-r", "-nostdlib", "-o", result, *objects], folder, f"joining the objects of {result}")
    if not tools.objcopy:
        return
    keep = [f"--keep-global-symbol={name}" for name in exported]
    execute([*tools.objcopy, *keep, "--strip-unneeded", "--remove-section=.comment", result], folder, f"hiding the symbols of {result}")


def make_static(tools: Toolchain, folder: Path, member: str, result: str) -> None:
    """A static library of one object; D: no times and no owners in it."""
    execute([*tools.archiver, "rcsD", result, member], folder, f"making {result}")


def make_shared(tools: Toolchain, folder: Path, member: str, exported: Sequence[str], result: str) -> None:
    """A shared library that needs nothing but libc, libm and threads; any other undefined symbol is an error."""
    keywords = (*_LINK_OPTIONS, *(("noseparate-code",) if tools.dense else ()))
    options = [f"-Wl,{option}" for option in _LINK] + [f"-Wl,-z,{keyword}" for keyword in keywords]
    (folder / _EXPORTS).write_text(f"{{ global: {' '.join(f'{name};' for name in exported)} local: *; }};\n", encoding="utf-8")
    options += [f"-Wl,--version-script={_EXPORTS}", f"-Wl,-soname,{result}"]
    command = [*tools.compiler, "-shared", "-o", result, member, *options, "-lm", "-lpthread", "-ldl"]
    execute(command, folder, f"linking {result}")
