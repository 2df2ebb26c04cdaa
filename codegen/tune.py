"""Measured choices: which tiles are fastest for the layers of a program, on this machine.

It decides which candidates of a layer are worth compiling, how many are compiled and linked at a time, and that what was measured
before is not measured again. How candidates are timed is in tuning_clock.py, how a winner is found in tuning_race.py.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from qcc.codegen import link
from qcc.codegen.cuda import candidates as gpu
from qcc.codegen.cuda.launch import CudaKernel
from qcc.codegen.program import Program, Space, Step
from qcc.codegen.target import Target, host_features
from qcc.codegen.tuning import Choice, Tuning, alternatives, choice_of, kind_of, load_tuning, workload
from qcc.codegen.tuning_cache import Cache
from qcc.codegen.tuning_clock import Contender, run_races
from qcc.codegen.tuning_race import Result, Rules
from qcc.codegen.worker import KernelCompiler
from qcc.errors import UsageError

Progress = Callable[[str, int, int], None]
Races = Callable[..., list[Result]]      # as tuning_clock.run_races
AnyKernel = TypeVar("AnyKernel")


@dataclass(frozen=True, slots=True)
class Effort:
    """How many candidates of a layer are measured, and how long.

    Attributes:
        most: candidates in all.
        alike: of those with the same channel blocks (depthwise: rows).
        same: of those that also have the same number of pixels (depthwise: the same fold).
        rules: of their race.
    """

    most: int
    alike: int
    same: int
    rules: Rules


EFFORTS = {"quick": Effort(6, 2, 1, Rules(duel=21)), "full": Effort(32, 8, 3, Rules(duel=41))}
COMPILED_AT_ONCE = 24      # kernels: a few objects for every compiling process, and little that an interruption loses


def shortlist(kernel: AnyKernel, target: Target, effort: Effort) -> list[AnyKernel]:
    """The layer's own choice, then the most promising others by the cost model, of several kinds."""
    chosen = [kernel]
    alike: Counter[int] = Counter()
    same: Counter[tuple[int, int]] = Counter([kind_of(kernel)])
    for candidate in alternatives(kernel, target):
        kind = kind_of(candidate)
        if candidate != kernel and len(chosen) < effort.most and alike[kind[0]] < effort.alike and same[kind] < effort.same:
            chosen.append(candidate)
            alike[kind[0]] += 1
            same[kind] += 1
    return chosen


@dataclass(frozen=True)
class Tuner:
    """Where a network's choices come from: a record, measurements, or neither (level "none")."""

    level: str
    target: Target
    record: Tuning | None = None

    @staticmethod
    def of(level: str, target: Target, record: str | Path | None) -> Tuner:
        """Refuses at once what could only fail later.

        Args:
            level: "none", "quick" or "full"; a record replaces it.
            record: file of a tuning record to replay.

        Raises:
            UsageError: a bad record, or measurements that this machine cannot make.
        """
        if record is not None:
            tuning = load_tuning(record, target)
            return Tuner(tuning.level, target, tuning)
        if level != "none" and (obstacle := why_not(target)):
            raise UsageError(f"--tune {level} measures kernels, but {obstacle}; tune on a machine that can run them and replay the record "
                             "here with --tuning-record FILE, or take --tune none")
        return Tuner(level, target)

    def run(self, program: Program, compiler: KernelCompiler, progress: Progress) -> Tuning | None:
        """The choices for this program's layers; None where the planned ones stay."""
        if self.record is not None:
            self.record.check_used(program.kernels)
            return self.record
        if self.level == "none":
            return None
        return tune(program, compiler, self.level, Cache.here(self.target), progress)


def why_not(target: Target) -> str:
    """Why kernels of a target cannot be timed on this machine, as a sentence; nothing where they can."""
    if target.is_gpu:
        obstacle = gpu.why_not(target)
        return obstacle and f"this machine cannot time those of target {target.name}: {obstacle}"
    if target.variants:
        return f"target {target.name} has some for {', '.join(target.variants)} each, and they are timed for one target: name one of them"
    if target.architecture != platform.machine():
        return f"those for {target.name} are cross-compiled here: a machine of {platform.machine()} cannot run them"
    missing = sorted(set(target.features) - host_features())
    return "" if not missing else f"this machine cannot run target {target.name}: its CPU lacks {', '.join(missing)}"


def races_for(target: Target) -> Races:
    """What times kernels of a target."""
    return gpu.run_races if target.is_gpu else run_races


def tune(
    program: Program, compiler: KernelCompiler, level: str, cache: Cache, progress: Progress, races: Races | None = None
) -> Tuning:
    """Measure every distinct layer that has choices and is not in the cache.

    Args:
        program: as the cost models plan it; their choices defend.
        compiler: compiles the candidates.
        level: "quick" or "full".
        progress: told ("tuning", layers done, layers in all).
        races: finds the winners among compiled candidates; by default those of the target.

    Raises:
        CodegenError: a candidate cannot be compiled, or crashes.
    """
    target, effort = compiler.target, EFFORTS[level]
    steps = {workload(step.kernel): step for step in program.steps if alternatives(step.kernel, target)}
    found = {name: cache.find(name, level) for name in steps}
    choices: dict[str, Choice] = {name: choice for name, choice in found.items() if choice is not None}
    waiting = {name: step for name, step in steps.items() if name not in choices}
    progress("tuning", len(choices), len(steps))
    for subjects in _portions([_Subject(name, step, shortlist(step.kernel, target, effort)) for name, step in waiting.items()]):
        results = _measure(subjects, compiler, effort.rules, races or races_for(target))
        for subject, result in zip(subjects, results, strict=True):
            choices[subject.workload] = choice_of(subject.kernels[result.winner])
            times = {str(choice_of(kernel)): seconds for kernel, seconds in zip(subject.kernels, result.seconds, strict=True)}
            cache.store(subject.workload, level, choices[subject.workload], times)
        progress("tuning", len(choices), len(steps))
    return Tuning(target, level, {name: choices[name] for name in steps})


@dataclass(frozen=True)
class _Subject:
    """A layer to tune: one of its steps, and the candidates, the planned one first."""

    workload: str
    step: Step
    kernels: Sequence[Any]


def _portions(subjects: Sequence[_Subject]) -> Iterator[list[_Subject]]:
    """Layers whose candidates are compiled together."""
    portion: list[_Subject] = []
    for subject in subjects:
        portion.append(subject)
        if sum(len(member.kernels) for member in portion) >= COMPILED_AT_ONCE:
            yield portion
            portion = []
    if portion:
        yield portion


def _measure(subjects: Sequence[_Subject], compiler: KernelCompiler, rules: Rules, races: Races) -> list[Result]:
    kernels = [kernel for subject in subjects for kernel in subject.kernels]
    symbols = {kernel: f"candidate{number}" for number, kernel in enumerate(kernels)}
    with TemporaryDirectory(prefix="qcc-tuning-") as folder:
        library = candidates_library(symbols, compiler, Path(folder))
        contenders = [[contender(kernel, symbols[kernel], constants_of(subject.step)) for kernel in subject.kernels]
                      for subject in subjects]
        return races(library, contenders, rules)


def candidates_library(symbols: Mapping[Any, str], compiler: KernelCompiler, folder: Path) -> str:
    """What `races_for` the target takes: path of a shared object in the folder that defines every symbol, or of images for a GPU."""
    objects = compiler.compile(symbols, folder)
    if compiler.target.is_gpu:
        (folder / "device").write_text(str(gpu.gpu_for(compiler.target)), encoding="ascii")
        return gpu.candidates_image(objects, compiler.target, folder)
    library = str(folder / "candidates.so")
    tools = link.find_toolchain(compiler.target)
    command = [*tools.compiler, "-shared", "-nostdlib", "-Wl,-z,defs", "-o", library, *map(str, objects), "-lm", "-lc"]
    link.execute(command, folder, "linking candidates")
    return library


def constants_of(step: Step) -> list[bool]:
    """Which of a step's operands are constants."""
    return [address.space is Space.CONSTANT for address in step.arguments]


def contender(kernel: Any, symbol: str, constant: Sequence[bool]) -> Contender:
    """A candidate has the operands of the planned kernel in the same places, but packed constants of another size."""
    sizes = (view.span * view.dtype.bytes for view in kernel.operands)
    operands = tuple(zip(sizes, constant, strict=True))
    if not isinstance(kernel, CudaKernel):
        return Contender(symbol, kernel.tasks, operands)
    tables = tuple((position, tuple(values.tolist())) for position, values in getattr(kernel, "tables", {}).items())
    return Contender(symbol, kernel.tasks, operands, kernel.launch.numbers, tables)
