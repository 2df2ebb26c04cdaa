"""Kernels that are to be timed on a GPU: whether this machine can, and images of them for the process that does (clock.py)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from qcc.codegen import tuning_clock
from qcc.codegen.cuda.source import library_text
from qcc.codegen.cuda.toolchain import WORKERS, compile_image, find_compiler
from qcc.codegen.target import Target
from qcc.errors import RuntimeFailure
from qcc.runtime.device_array import driver

run_races = partial(tuning_clock.run_races, clock="qcc.codegen.cuda.clock")


def why_not(target: Target) -> str:
    """Why kernels for a GPU target cannot be timed on this machine, as the end of a sentence; nothing where they can."""
    if len(target.sms) > 1:
        return f"its tiles are for all of sm_{', sm_'.join(map(str, target.sms))}: name one of them, as cuda:sm_{target.sms[-1]}"
    try:
        found = driver().capabilities()
    except RuntimeFailure as error:
        return str(error)
    if not any(_has_code(target, sm) for sm in found):
        return "its machine code does not run on " + (", ".join(f"sm_{sm}" for sm in found) or "any GPU of this machine: there is none")
    return ""


def gpu_for(target: Target) -> int:
    """Number of the first GPU that the target has machine code for (see `why_not`)."""
    return next(number for number, sm in enumerate(driver().capabilities()) if _has_code(target, sm))


def _has_code(target: Target, sm: int) -> bool:
    return target.serves(sm) and sm // 10 == target.sms[0] // 10


def machine(target: Target) -> str:
    """The GPU and its driver, as caches name them."""
    return f"{driver().name(gpu_for(target))}, driver for CUDA {driver().version()}"


def versions() -> str:
    """What makes machine code of kernels' text."""
    compiler = find_compiler()
    return f"{compiler.name} {compiler.version}"


def candidates_image(files: Sequence[Path], target: Target, folder: Path) -> str:
    """Compile texts of kernels, each to an image for the target; the folder's path, which `run_races` takes for a library.

    A file "device" in the folder names the GPU to run them on; without it, it is the first.
    """

    def build(number: int) -> None:
        (folder / f"candidates{number}.cu").write_text(library_text([files[number].read_text(encoding="ascii")]), encoding="ascii")
        compile_image(f"candidates{number}.cu", f"sm_{target.sms[0]}", folder / f"candidates{number}.image")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(build, range(len(files))))
    return str(folder)
