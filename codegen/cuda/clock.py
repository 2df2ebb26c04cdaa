"""The process that times kernels of GPUs. It needs the driver and NumPy, and neither TVM nor a compiler: candidates.py makes its images.

It decides how a kernel is run: as networks run it, as a node of a CUDA graph behind other nodes. A turn is a graph of some runs between
two events; the same graph goes first, untimed, so that the GPU is busy while the rest is started. Constants rotate over copies, as for
CPUs (tuning_clock.py): with them all in registers' reach, every tile would look alike.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from qcc.codegen import tuning_clock
from qcc.codegen.kernel import READ_SLACK
from qcc.codegen.tuning_clock import MOST_COPIES, TURN_SECONDS, Contender, Request, answer, constant_room
from qcc.codegen.tuning_race import race
from qcc.errors import RuntimeFailure
from qcc.runtime.device import Gpu, Shape
from qcc.runtime.device_array import DeviceArray

ROTATED_BYTES = 32 << 20     # of constants: those of a common network, which the second-level caches of large GPUs hold
MOST_RUNS = 256              # of a turn
_FEW = 8                     # runs that tell about how long one takes
_ALIGNMENT = 256
_IMAGE, _DEVICE = "candidates*.image", "device"      # files of a folder of candidates; the GPU's number is 0 if there is none

def serve() -> None:
    """The process: a request on standard input, the results on standard output."""
    request = Request.read()
    folder = Path(request.library)
    named = folder / _DEVICE
    gpu = Gpu(int(named.read_text(encoding="ascii")) if named.exists() else 0)
    images = [gpu.module(path.read_bytes()) for path in sorted(folder.glob(_IMAGE))]
    memory = Memory.for_contenders([contender for contenders in request.races for contender in contenders], request.rotated, gpu)
    stream, results = gpu.stream(), []
    for contenders in request.races:
        runners = [Runner(gpu, stream, _find(gpu, images, contender), contender, memory) for contender in contenders]
        results.append(race(len(runners), lambda number, runners=runners: runners[number].turn(), request.rules))  # type: ignore[misc]
    del memory
    gpu.close()
    answer(results)


def _find(gpu: Gpu, images: Sequence[ctypes.c_void_p], contender: Contender) -> ctypes.c_void_p:
    """The kernel, in whichever image it is."""
    for image in images[:-1]:
        try:
            return gpu.kernel(image, contender.symbol, contender.launch[6])
        except RuntimeFailure as error:
            if "NOT_FOUND" not in str(error):
                raise
    return gpu.kernel(images[-1], contender.symbol, contender.launch[6])


@dataclass(frozen=True)
class Memory:
    """Random bytes on the GPU: one block for all constants but tables of addresses, and a block per position of the other operands."""

    constants: DeviceArray
    others: tuple[DeviceArray, ...]
    tables: Mapping[tuple[int, ...], DeviceArray]

    @staticmethod
    def for_contenders(contenders: Sequence[Contender], rotated: int | None, gpu: Gpu) -> Memory:
        rng = np.random.default_rng(0)

        def block(size: int) -> DeviceArray:
            return DeviceArray.of(rng.integers(0, 256, size + READ_SLACK + _ALIGNMENT, dtype=np.uint8), gpu.device)

        sizes = [[size for size, constant in position if not constant] for position in zip_longest(
            *(contender.operands for contender in contenders), fillvalue=(0, False))]
        room = max(ROTATED_BYTES if rotated is None else rotated, max(map(constant_room, contenders)))
        tables = {values: DeviceArray.of(np.array(values, np.int32), gpu.device) for c in contenders for _, values in c.tables}
        return Memory(block(room), tuple(block(max(found, default=0)) for found in sizes), tables)

    def calls(self, contender: Contender) -> list[tuple[int, ...]]:
        """Addresses of one call per copy of the constants."""
        step = constant_room(contender)
        copies = min(MOST_COPIES, (self.constants.nbytes - READ_SLACK) // max(1, step) or 1)
        return [self._addresses(contender, copy * step) for copy in range(copies)]

    def _addresses(self, contender: Contender, position: int) -> tuple[int, ...]:
        found, tables = [], dict(contender.tables)
        for number, (size, constant) in enumerate(contender.operands):
            if number in tables:
                found.append(self.tables[tables[number]].pointer)
            else:
                found.append(self.constants.pointer + position if constant else self.others[number].pointer)
            position += tuning_clock.room(size) if constant else 0
        return tuple(found)


class Runner:
    """One kernel, as a graph of several runs."""

    def __init__(self, gpu: Gpu, stream: int, function: ctypes.c_void_p, contender: Contender, memory: Memory) -> None:
        self.gpu, self.stream = gpu, stream
        grid, block = contender.launch[:3], contender.launch[3:6]
        shape: Any = Shape((grid[0], grid[1], grid[2]), (block[0], block[1], block[2]), contender.launch[6])
        calls = memory.calls(contender)

        def graph(runs: int) -> ctypes.c_void_p:
            self.count = runs
            return gpu.graph(function, shape, islice(cycle(calls), runs))

        self.graph = graph(_FEW)
        self.graph = graph(min(MOST_RUNS, max(1, round(TURN_SECONDS / self.turn()))))

    def turn(self) -> float:
        """Seconds of a run, on average over a turn."""
        def start() -> None:
            self.gpu.start(self.graph, self.stream)

        return self.gpu.seconds(self.stream, start, before=start) / self.count
