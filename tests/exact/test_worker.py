"""Child processes: the same bytes from any number of them, culprits by name, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qcc.codegen.cpu.move import CopyKernel
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.target import TARGETS, Target
from qcc.codegen.worker import BATCH, KernelCompiler, compile_kernels
from qcc.errors import CodegenError
from qcc.ir.types import U8

TARGET = TARGETS["x86-64-avx2"]


def copy(extent: int) -> CopyKernel:
    return CopyKernel(View.contiguous(U8, (extent,)), View.contiguous(U8, (extent,)))


@dataclass(frozen=True)
class Broken:
    """A kernel whose code generation fails in one of the ways that happen."""

    how: str
    operands: tuple[View, ...] = ()
    tasks: int = 1
    macs: int = 0

    def emit(self, target: Target) -> Any:
        if self.how == "raise":
            raise CodegenError("no tile fits")
        if self.how == "abort":
            sys.stderr.write("LLVM ERROR: Cannot select\n")
            sys.stderr.flush()
            os.abort()
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find this module, which defines a kernel, under the name that pickles carry."""
    monkeypatch.setattr(Broken, "__module__", "test_worker")
    monkeypatch.setitem(sys.modules, "test_worker", sys.modules[__name__])
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_the_same_bytes_from_any_number_of_workers(tmp_path: Path) -> None:
    kernels: dict[Kernel, str] = {copy(extent): f"k{extent}" for extent in range(1, 2 * BATCH + 3)}
    objects = []
    progress: list[tuple[int, ...]] = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        progress.clear()
        paths = compile_kernels(kernels, TARGET, folder, workers, lambda *counts: progress.append(counts))
        objects.append([path.read_bytes() for path in paths])
        assert progress[-1] == (len(kernels), len(kernels))
        assert len(paths) == 3
    assert objects[0] == objects[1]


@pytest.mark.parametrize(("how", "message"), [
    ("raise", "no tile fits"), ("kill", "SIGKILL .out of"), ("abort", r"died of SIGABRT, its last words: .*LLVM ERROR")])
def test_culprits_are_named_and_the_others_are_not(how: str, message: str, tmp_path: Path) -> None:
    kernels: dict[Kernel, str] = {copy(3): "good", Broken(how): "bad", copy(4): "fine", Broken(how, tasks=2): "worse"}
    with KernelCompiler(TARGET, 2) as compiler:
        with pytest.raises(CodegenError, match=f"(?s)kernel bad for x86-64-avx2: .*{message}.*kernel worse") as caught:
            compiler.compile(kernels, tmp_path)
        assert "kernel good" not in str(caught.value)
        assert "kernel fine" not in str(caught.value)
        assert compiler.compile({copy(3): "good"}, tmp_path)[0].exists()     # it still works


def test_an_interrupt_kills_the_children(tmp_path: Path) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def interrupted() -> None:
        with KernelCompiler(TARGET, 2) as compiler:
            children.extend(child.process for child in compiler._children)
            threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            compiler.compile({Broken("sleep"): "slow"}, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(children) == 2
    assert all(process.poll() is not None for process in children)


def test_the_parent_does_not_import_tvm(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path[:] = {sys.path!r}
from test_worker import TARGET, copy
from qcc.codegen.worker import compile_kernels
compile_kernels({{copy(9): "k"}}, TARGET, Path({str(tmp_path)!r}))
print("tvm" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
