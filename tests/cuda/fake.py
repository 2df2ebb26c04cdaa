"""The fake driver: a libcuda.so.1 without a GPU, whose kernels are the CUDA C of artifacts, compiled for this machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from qcc.runtime import Manifest
from tests.cuda.harness import HOST, build_host

VARIABLES = "QCC_FAKE_CUDA_"
_OPTIONS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wl,-soname,libcuda.so.1")
_NUMBERS = (
    "memory", "contexts", "modules", "streams", "events", "graphs", "executables", "launches", "graph_launches", "image_sm", "image_is_ptx",
)  # fmt: skip


def build_driver(folder: Path) -> Path:
    """The fake libcuda.so.1 in a folder: processes with that folder in LD_LIBRARY_PATH have a GPU."""
    path = folder / "libcuda.so.1"
    command = ["g++", *_OPTIONS, f"-I{HOST}", str(HOST / "fake_driver.cpp"), "-o", str(path), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return path


@dataclass
class FakeDriver:
    """The fake driver, loaded into this process: `dlopen("libcuda.so.1")` finds it from now on.

    Attributes:
        path: of the library.
        kernels: libraries with the kernels of artifacts that were `prepare`d.
    """

    path: Path
    kernels: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._library = ctypes.CDLL(str(self.path), ctypes.RTLD_GLOBAL)
        self._library.qcc_fake_recover.restype = ctypes.c_char_p

    def prepare(self, artifact: Path, sm: int = 80) -> None:
        """Let the driver run the kernels of an artifact."""
        manifest = Manifest.read(artifact)
        text = (artifact / f"{manifest.name}.cu").read_text(encoding="ascii")
        self.kernels.insert(0, build_host(text, self.path.parent / f"kernels{len(self.kernels)}.so", sm))
        os.environ[f"{VARIABLES}KERNELS"] = ":".join(map(str, self.kernels))

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a process that is to have the fake driver."""
        found = {**os.environ, "LD_LIBRARY_PATH": str(self.path.parent)}
        return found | {f"{VARIABLES}{name.upper()}": str(value) for name, value in settings.items()}

    def statistics(self) -> dict[str, int]:
        numbers = (ctypes.c_int * len(_NUMBERS))()
        self._library.qcc_fake_statistics(numbers)
        return dict(zip(_NUMBERS, numbers, strict=True))

    @property
    def alive(self) -> dict[str, int]:
        """What was made and not given back."""
        return {name: number for name, number in list(self.statistics().items())[:7] if number != 0}

    def recover(self) -> str:
        """Make the driver usable after a kernel failed, and tell what that did."""
        text: bytes = self._library.qcc_fake_recover()
        return text.decode()
