"""A process that times kernels: a crash in one ends this process and not the compiler.

It decides what memory kernels of CPUs run on. Constants rotate over so many copies that every run finds its own in an outer cache, as in a
network, where the other layers' constants were read in between; sources and results are one buffer each, as the previous
layer leaves them. Processor time is measured, so that other programs' slices do not count. Requests and answers are also those of
the process that times kernels of GPUs (cuda/clock.py).
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np

from qcc.codegen.kernel import READ_SLACK
from qcc.codegen.tuning_race import Result, Rules, race
from qcc.errors import CodegenError
from qcc.ir.types import Array

ROTATED_BYTES = 6 << 20      # of constants, more than a core's own caches hold
MOST_COPIES = 256
TURN_SECONDS = 0.002
_ALIGNMENT = 64
_STAGGER = 1088              # sources and results do not start at the same place in a page


@dataclass(frozen=True, slots=True)
class Contender:
    """A kernel in a library: its symbol, tasks, and per operand the bytes and whether it is a constant.

    `launch`: of a GPU's kernel, three extents of the grid, three of a block, and bytes of shared memory. `tables`: position and int32
    values of its constants that are used as addresses, so that no others will do.
    """

    symbol: str
    tasks: int
    operands: tuple[tuple[int, bool], ...]
    launch: tuple[int, ...] = ()
    tables: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What a process is asked for; see `run_races`."""

    library: str
    races: Sequence[Sequence[Contender]]
    rules: Rules
    rotated: int | None

    @staticmethod
    def read() -> Request:
        """From standard input."""
        values = json.load(sys.stdin)
        races = [[contender_of(given) for given in contenders] for contenders in values["races"]]
        return Request(values["library"], races, Rules(**values["rules"]), values["rotated"])


def contender_of(values: Mapping[str, Any]) -> Contender:
    """From its form in JSON (`dataclasses.asdict`)."""
    tables = tuple((position, tuple(numbers)) for position, numbers in values["tables"])
    return Contender(values["symbol"], values["tasks"], tuple(map(tuple, values["operands"])), tuple(values["launch"]), tables)


def run_races(
    library: str, races: Sequence[Sequence[Contender]], rules: Rules, rotated: int | None = None, clock: str = __name__
) -> list[Result]:
    """Race the contenders of every layer in a process of its own, one layer after the other.

    Args:
        library: path of a shared object that defines the contenders' symbols; for a GPU see cuda/clock.py.
        rotated: bytes of constants among which every contender's rotate; by default more than a core's own caches hold.
        clock: the module whose `serve` is the process.

    Raises:
        CodegenError: a kernel crashed or failed.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {clock} import serve; serve()"
    request = json.dumps(asdict(Request(library, races, rules, rotated)))
    done = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        cause = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        raise CodegenError(f"timing kernels failed: the process that runs them died of {cause}; {done.stderr.strip()[-600:]}")
    return [Result(item["winner"], item["gain"], tuple(item["seconds"]), tuple(item["least"])) for item in json.loads(done.stdout)]


def answer(results: Sequence[Result]) -> None:
    """To standard output."""
    json.dump([asdict(result) for result in results], sys.stdout)


def serve() -> None:
    """The process: a request on standard input, the results on standard output."""
    request = Request.read()
    library = ctypes.CDLL(request.library)
    memory = Memory.for_contenders([contender for contenders in request.races for contender in contenders], request.rotated)
    results = []
    for contenders in request.races:
        runners = [Runner(getattr(library, contender.symbol), memory.calls(contender)) for contender in contenders]
        results.append(race(len(runners), lambda number, runners=runners: runners[number].turn(), request.rules))  # type: ignore[misc]
    answer(results)


@dataclass(frozen=True)
class Memory:
    """Random bytes: one block for all constants, and a block per position of the other operands."""

    constants: Array
    others: tuple[Array, ...]

    @staticmethod
    def for_contenders(contenders: Sequence[Contender], rotated: int | None = None) -> Memory:
        rng = np.random.default_rng(0)

        def block(size: int) -> Array:
            return rng.integers(0, 256, size + READ_SLACK + _ALIGNMENT, dtype=np.uint8)

        constants = max(constant_room(contender) for contender in contenders)
        positions = max(len(contender.operands) for contender in contenders)
        others = [max((c.operands[place][0] for c in contenders if place < len(c.operands) and not c.operands[place][1]), default=0)
                  for place in range(positions)]
        room = max(ROTATED_BYTES, 2 * constants) if rotated is None else max(rotated, constants)
        return Memory(block(room), tuple(block(size + i * _STAGGER) for i, size in enumerate(others)))

    def calls(self, contender: Contender) -> list[tuple[Any, ...]]:
        """Arguments of one call per copy of the constants."""
        step = constant_room(contender)
        copies = min(MOST_COPIES, self.constants.size // max(1, step) or 1)
        return [self._arguments(contender, copy * step) for copy in range(copies)]

    def _arguments(self, contender: Contender, position: int) -> tuple[Any, ...]:
        pointers = []
        for number, (size, constant) in enumerate(contender.operands):
            if constant:
                pointers.append(_aligned(self.constants) + position)
                position += room(size)
            else:
                pointers.append(_aligned(self.others[number]) + number * _STAGGER)
        return (*map(ctypes.c_void_p, pointers), ctypes.c_int32(0), ctypes.c_int32(contender.tasks))


def constant_room(contender: Contender) -> int:
    """Bytes of one copy of a contender's constants, each aligned."""
    return sum(room(size) for size, constant in contender.operands if constant)


def room(size: int) -> int:
    """Bytes that an aligned constant takes."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _aligned(block: Array) -> int:
    return int(block.ctypes.data + -block.ctypes.data % _ALIGNMENT)


class Runner:
    """One kernel and its calls, in turn."""

    def __init__(self, function: Callable[..., int], calls: Sequence[tuple[Any, ...]]) -> None:
        self.function, self.calls = function, cycle(calls)
        self.count = 1
        self._run(2)                      # the first run brings in code and pages
        self.count = max(1, round(TURN_SECONDS / max(self._run(2), 1e-9)))

    def turn(self) -> float:
        """Seconds of a run, on average over a turn. One run goes first, not counted: it brings back what others drove out."""
        if self.count > 1:
            self._run(1)
        return self._run(self.count)

    def _run(self, count: int) -> float:
        calls, function = self.calls, self.function
        start = time.thread_time()
        for _ in range(count):
            if function(*next(calls)) != 0:
                raise RuntimeError("a kernel reports a failure")
        return (time.thread_time() - start) / count
