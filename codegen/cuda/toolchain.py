"""The compiler of CUDA C: NVRTC from a Python package, or an installed nvcc; and one image per compute capability from it.

It decides the order in which compilers are looked for (Python packages, so that an environment determines the result; CUDA_HOME; the
PATH) and the options. What it makes depends on source, target and compiler version only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from qcc.codegen.cuda import nvrtc
from qcc.codegen.cuda.source import library_text
from qcc.codegen.link import execute
from qcc.codegen.target import Target
from qcc.errors import CodegenError

# Products of floats are rounded before they are added to anything, as the interpreter does.
_OPTIONS = ("--std=c++17", "--fmad=false")
WORKERS = min(8, os.cpu_count() or 1)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Compiler:
    """NVRTC's library, or the program nvcc."""

    path: Path
    version: str

    @property
    def is_nvcc(self) -> bool:
        return self.path.name == "nvcc"

    @property
    def name(self) -> str:
        return "nvcc" if self.is_nvcc else "nvrtc"

    def command(self, source: str, architecture: str, result: str) -> list[str]:
        """Compile CUDA C for "sm_NN" (a cubin) or "compute_NN" (PTX)."""
        if not self.is_nvcc:
            return [sys.executable, str(Path(nvrtc.__file__)), str(self.path), source, architecture, result, *_OPTIONS]
        kind = "-ptx" if architecture.startswith("compute") else "-cubin"
        return [str(self.path), kind, f"-arch={architecture}", *_OPTIONS, "-o", result, source]


def find_compiler() -> Compiler:
    """The first compiler that there is.

    Raises:
        CodegenError: there is none; the message names the ways to get one.
    """
    found = next(_compilers(), None)
    if found is None:
        raise CodegenError(
            "CUDA targets need a compiler of CUDA C, and there is none: neither NVRTC as a Python package, nor nvcc in CUDA_HOME or on the "
            "PATH; install qcc with its extra: pip install 'qcc[cuda]'"
        )
    return found


def _compilers() -> Iterator[Compiler]:
    for library in packaged("lib/libnvrtc.so.*"):
        if "alt" not in library.name:
            yield Compiler(library, _package_version("nvidia-cuda-nvrtc"))
    home = os.environ.get("CUDA_HOME")
    for name in (str(Path(home, "bin", "nvcc")) if home else None, shutil.which("nvcc")):
        if name and os.access(name, os.X_OK):
            yield Compiler(Path(name), _nvcc_version(name))


def packaged(pattern: str) -> list[Path]:
    """Files of NVIDIA's Python packages (nvidia/COMPONENT/PATTERN), the latest version first."""
    spec = find_spec("nvidia")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    return sorted((path for folder in folders for path in folder.glob(f"*/{pattern}")), key=lambda path: path.name, reverse=True)


def _package_version(name: str) -> str:
    versions = [found.version for found in distributions() if found.name.startswith(name)]
    return max(versions, key=lambda text: [int(part) for part in re.findall(r"\d+", text)], default="unknown")


def _nvcc_version(program: str) -> str:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\bV(\d+(?:\.\d+)+)", printed)
    return found[1] if found else "unknown"


def architectures(target: Target) -> list[str]:
    """What is compiled for a target: machine code for each of its compute capabilities, and PTX of the highest for later GPUs."""
    return [*(f"sm_{sm}" for sm in target.sms), f"compute_{target.sms[-1]}"]


def compile_images(text: str, target: Target, directory: Path, progress: Progress | None = None) -> list[Path]:
    """Compile one translation unit for every architecture of the target.

    Args:
        text: CUDA C that includes nothing (`source.library_text`).
        directory: existing folder for the files.
        progress: told (done, total).

    Returns:
        one file per entry of `architectures(target)`, in that order.

    Raises:
        CodegenError: there is no compiler, or it failed.
    """
    (directory / "kernels.cu").write_text(text, encoding="ascii")
    wanted = architectures(target)
    results = [directory / f"kernels.{name}" for name in wanted]

    with ThreadPoolExecutor(WORKERS) as pool:
        for done, _ in enumerate(pool.map(partial(compile_image, "kernels.cu"), wanted, results), 1):
            if progress is not None:
                progress(done, len(wanted))
    return results


def compile_image(source: str, architecture: str, result: Path) -> None:
    """Compile a file of the result's folder for one architecture; see `compile_images`."""
    execute(find_compiler().command(source, architecture, result.name), result.parent, f"compiling the kernels for {architecture}")


def buildable(target: Target) -> Target:
    """The target; CodegenError if it is a GPU and there is no compiler: said before anything is measured in vain."""
    if target.is_gpu:
        find_compiler()
    return target


def machine_code(files: Sequence[Path], target: Target, folder: Path, progress: Callable[[str, int, int], None]) -> tuple[bytes, ...]:
    """What a library is made of: the kernels' objects for a CPU; for a GPU their text, then an image for each architecture.

    Args:
        files: what `KernelCompiler.compile` gave.
        progress: told (stage, done, total).
    """
    contents = tuple(file.read_bytes() for file in files)
    if not target.is_gpu:
        return contents
    text = library_text([content.decode() for content in contents])
    images = compile_images(text, target, folder, lambda done, total: progress("GPUs", done, total))
    return text.encode(), *(image.read_bytes() for image in images)
