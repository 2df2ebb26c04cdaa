"""Child processes that turn kernels into object files, so that an abort inside LLVM is an error message and the parent never loads TVM.

It decides how kernels are batched (by their order alone, hence the same objects for any number of workers), what a dead child
means, and that an interrupted compilation leaves no process behind. Protocol: pickles, each preceded by its length, over the
child's standard input and output.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType
from typing import IO, Any, cast

from qcc.codegen.kernel import Kernel
from qcc.codegen.target import Target
from qcc.errors import CodegenError, QccError

BATCH = 6                      # kernels per object: enough to amortise LLVM's set-up, few enough to keep all workers busy
_LENGTH = struct.Struct("<Q")
_LAST_WORDS = 600              # characters of a dead child's stderr that are worth showing

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Batch:
    """Kernels by symbol, to become one object (or, for a GPU, one text of CUDA C)."""

    kernels: tuple[tuple[str, Kernel], ...]
    target: Target
    path: str


@dataclass(frozen=True)
class Question:
    """Kernels whose `probe` is asked for."""

    kernels: tuple[Any, ...]
    target: Target


@dataclass(frozen=True)
class Failure:
    """What a child says, or left behind, instead of a result."""

    message: str


@dataclass
class _Child:
    """A spawned interpreter. `task` is the index of the request it works on."""

    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    ready: bool = False
    task: int | None = None

    @staticmethod
    def start() -> _Child:
        code = f"import sys; sys.path[:] = {sys.path!r}; from qcc.codegen.worker import serve; serve()"
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the child)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)  # type: ignore[call-overload]  # names are right
        return _Child(process, stderr)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def last_words(self) -> str:
        """Why the child died."""
        code = self.process.wait()
        self.stderr.seek(0)
        said = self.stderr.read().decode(errors="replace").strip()[-_LAST_WORDS:]
        cause = f"exit code {code}"
        if code < 0:
            cause = signal.Signals(-code).name + (" (out of memory?)" if code == -signal.SIGKILL else "")
        return f"the compiling process died of {cause}" + (f", its last words: {said}" if said else "")


@dataclass
class KernelCompiler:
    """Child processes that are warm once they are needed: enter early, so that importing TVM overlaps with other work.

        with KernelCompiler(target, workers=2) as compiler:
            ...
            objects = compiler.compile(program.kernels, folder)
    """

    target: Target
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    _children: list[_Child] = field(default_factory=list)

    def __enter__(self) -> KernelCompiler:
        self._children = [_Child.start() for _ in range(max(1, self.workers))]
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children:
            child.kill()
        self._children.clear()

    def compile(self, kernels: Mapping[Kernel, str], directory: Path, progress: Progress | None = None) -> list[Path]:
        """Object files (for a GPU, texts of CUDA C) that together define every symbol, the same bytes for any number of workers.

        Args:
            kernels: each distinct kernel and its symbol.
            directory: existing folder for the objects.
            progress: called with (kernels done, kernels in all).

        Raises:
            CodegenError: it names every kernel that TVM or LLVM failed on.
        """
        named = [(symbol, kernel) for kernel, symbol in kernels.items()]
        parts = [tuple(named[i:i + BATCH]) for i in range(0, len(named), BATCH)]
        suffix = "cu" if self.target.is_gpu else "o"
        batches = [Batch(part, self.target, str(directory / f"kernels{number}.{suffix}")) for number, part in enumerate(parts)]
        failed: list[Batch] = []
        done = 0
        for index, answer in self._work(batches):
            if isinstance(answer, Failure):
                failed.append(batches[index])
            else:
                done += len(batches[index].kernels)
                if progress is not None:
                    progress(done, len(named))
        if failed:
            raise CodegenError(self._diagnose(failed))
        return [Path(batch.path) for batch in batches]

    def _diagnose(self, failed: Sequence[Batch]) -> str:
        """Compile the kernels of failed batches one by one to find the culprits."""
        with tempfile.TemporaryDirectory() as folder:
            alone = [Batch((pair,), batch.target, f"{folder}/{pair[0]}.o") for batch in failed for pair in batch.kernels]
            culprits = {index: answer for index, answer in self._work(alone) if isinstance(answer, Failure)}
        if not culprits:
            symbols = ", ".join(symbol for batch in failed for symbol, _ in batch.kernels)
            return f"kernels {symbols} for {self.target.name} cannot be compiled together, but one by one; was memory short? Then run again"
        lines = []
        for index in sorted(culprits):
            (symbol, kernel), = alone[index].kernels
            lines.append(f"kernel {symbol} for {self.target.name}: {culprits[index].message}. It is {_shorten(repr(kernel))}")
        return "; ".join(lines)

    def probe(self, kernels: Sequence[Any]) -> list[Any]:
        """`kernel.probe(target)` of each kernel, run where TVM is; a Failure in the place of each that raised or crashed."""
        answers: list[Any] = [None] * len(kernels)
        for index, answer in self._work([Question((kernel,), self.target) for kernel in kernels]):
            answers[index] = answer
        return answers

    def _work(self, requests: Sequence[Batch | Question]) -> Iterator[tuple[int, Any]]:
        """Answers as they come, with the number of their request. A child that dies answers with a Failure and is replaced."""
        waiting = list(range(len(requests)))[::-1]
        left = len(requests)
        with DefaultSelector() as selector:
            for child in self._children:
                selector.register(_pipe(child), EVENT_READ, child)
                if child.ready and waiting:
                    _assign(child, waiting, requests)
            while left:
                for key, _ in selector.select():
                    child = key.data
                    answer, index = self._answer(child), child.task
                    child.task = None
                    if not child.ready:     # it died: another one takes its place
                        selector.unregister(key.fileobj)
                        child = self._replace(child, answer, started=index is not None)
                        selector.register(_pipe(child), EVENT_READ, child)
                    elif waiting:
                        _assign(child, waiting, requests)
                    if index is not None:
                        left -= 1
                        yield index, answer

    def _answer(self, child: _Child) -> Any:
        try:
            answer = _receive(_pipe(child))
        except (EOFError, OSError):
            child.ready = False
            return Failure(child.last_words())
        child.ready = True
        return answer

    def _replace(self, child: _Child, answer: Failure, started: bool) -> _Child:
        child.kill()
        if not started:
            raise CodegenError(f"a compiling process could not start (TVM must be installed for {sys.executable}): {answer.message}")
        fresh = _Child.start()
        self._children[self._children.index(child)] = fresh
        return fresh


def compile_kernels(
    kernels: Mapping[Kernel, str], target: Target, directory: Path, workers: int = 1, progress: Progress | None = None
) -> list[Path]:
    """`KernelCompiler.compile` with processes of its own."""
    with KernelCompiler(target, workers) as compiler:
        return compiler.compile(kernels, directory, progress)


def _assign(child: _Child, waiting: list[int], requests: Sequence[Batch | Question]) -> None:
    child.task = waiting.pop()
    assert child.process.stdin is not None
    with suppress(BrokenPipeError):     # a child that died meanwhile is seen when its answer is read
        _send(child.process.stdin, requests[child.task])


def _pipe(child: _Child) -> IO[bytes]:
    assert child.process.stdout is not None
    return child.process.stdout


def _shorten(text: str, length: int = 400) -> str:
    return text if len(text) <= length else text[:length] + "..."


def _send(stream: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    data = stream.read(_LENGTH.unpack(head)[0])
    return pickle.loads(data)


def serve() -> None:
    """The child: import TVM, say so, then answer requests until the parent closes the pipe (or dies)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # the parent decides, and kills
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)                                           # what libraries print must not mix with the answers
    import tvm  # noqa: F401

    _send(answers, "ready")
    while True:
        try:
            request = _receive(requests)
        except EOFError:
            return
        _send(answers, _serve_one(request))


def _serve_one(request: Batch | Question) -> Any:
    try:
        if isinstance(request, Question):
            return request.kernels[0].probe(request.target)
        _build(request)
        return None
    except Exception as error:  # whatever a kernel raises is reported under its name by the parent
        text = str(error) if isinstance(error, QccError) else f"{type(error).__name__}: {error}"
        return Failure(_shorten(text.strip(), 2000))


def _build(batch: Batch) -> None:
    if batch.target.is_gpu:
        from qcc.codegen.cuda.launch import CudaKernel
        from qcc.codegen.cuda.source import kernel_source

        kernels = {symbol: cast(CudaKernel, kernel) for symbol, kernel in batch.kernels}
        Path(batch.path).write_text(kernel_source(kernels, batch.target), encoding="ascii")
    else:
        from qcc.codegen.emit import build_object

        build_object({symbol: kernel.emit(batch.target) for symbol, kernel in batch.kernels}, batch.target, Path(batch.path))
