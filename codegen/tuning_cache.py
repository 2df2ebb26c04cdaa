"""What was measured once, on disk: one file per workload, so that a second compile measures nothing.

It decides what makes a measurement out of date: another CPU, another version of TVM, of qcc or of any of the sources that kernels
are made by. Files are written aside and then moved, so several compiles may share the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qcc.codegen.cuda import candidates as gpu
from qcc.codegen.cuda.source import DEVICE_HEADER
from qcc.codegen.target import Target
from qcc.codegen.tuning import Choice

_MODEL_LINES = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "CPU part", "CPU implementer")
_LEVELS = ("quick", "full")


def default_folder() -> Path:
    """$XDG_CACHE_HOME/qcc/tuning, or ~/.cache/qcc/tuning."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "qcc" / "tuning"


def machine(target: Target) -> str:
    """The CPU as Linux names it; for a GPU target the GPU and its driver."""
    if target.is_gpu:
        return gpu.machine(target)
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in _MODEL_LINES:
                found.setdefault(name.strip(), value.strip())
    return ", ".join(f"{name} {found[name]}" for name in sorted(found))


@cache
def sources_digest() -> str:
    """SHA-256 of the sources of code generation and of the device's functions: what is emitted otherwise must be measured anew."""
    total = hashlib.sha256()
    root = Path(__file__).resolve().parent
    for path in (*sorted(root.rglob("*.py")), DEVICE_HEADER):
        total.update(f"{path.relative_to(root.parent)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def versions(target: Target) -> str:
    """Of all that makes a target's kernels."""
    found = f"apache-tvm {version('apache-tvm')}, sources {sources_digest()}"
    return f"{found}, {gpu.versions()}" if target.is_gpu else found


@dataclass(frozen=True)
class Cache:
    """Winners by workload, for one target on this machine."""

    folder: Path
    target: Target
    machine: str
    versions: str

    @staticmethod
    def here(target: Target) -> Cache:
        return Cache(default_folder(), target, machine(target), versions(target))

    def _key(self, workload: str) -> dict[str, str]:
        return {"workload": workload, "target": self.target.name, "machine": self.machine, "versions": self.versions}

    def _path(self, workload: str) -> Path:
        return self.folder / (hashlib.sha256(json.dumps(self._key(workload), sort_keys=True).encode()).hexdigest()[:40] + ".json")

    def find(self, workload: str, level: str) -> Choice | None:
        """The winner, if it was searched for at this level or a higher one. A file that cannot be read was never written."""
        values = self._read(workload)
        try:
            if _LEVELS.index(values["level"]) < _LEVELS.index(level):
                return None
            return tuple(tuple(int(number) for number in part) for part in values["choice"])
        except (ValueError, KeyError, TypeError):
            return None

    def find_seconds(self, subject: str) -> float | None:
        """What a run of a kernel took when it was profiled."""
        seconds = self._read(subject).get("seconds")
        return float(seconds) if isinstance(seconds, float) else None

    def store_seconds(self, subject: str, seconds: float) -> None:
        self._write(subject, {"seconds": seconds})

    def store(self, workload: str, level: str, choice: Choice, times: dict[str, float]) -> None:
        """Keep a winner; `times` (seconds by choice) are for people. A folder that cannot be written costs time, not results."""
        self._write(workload, {"level": level, "choice": choice, "seconds": times})

    def _read(self, workload: str) -> dict[str, Any]:
        """What is kept under this name; nothing if that cannot be read."""
        with suppress(OSError, ValueError):
            values = json.loads(self._path(workload).read_text("utf-8"))
            if isinstance(values, dict) and values.get("key") == self._key(workload):
                return values
        return {}

    def _write(self, workload: str, content: Mapping[str, Any]) -> None:
        values = {"key": self._key(workload), **content}
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(prefix=".", suffix=".json", dir=self.folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(values, file, indent=1)
                os.replace(aside, self._path(workload))
            except BaseException:
                os.unlink(aside)
                raise
