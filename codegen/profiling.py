"""How long each kernel takes: measured on this machine, read from a profile that another device made, or estimated.

A profile maps subjects to seconds. A subject is a kernel's description without what hardly changes its time (the numbers' signs in
its epilogue) and without its tile, which is a matter of tuning: a profile holds for every network that has such a layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qcc.codegen.arm import tiles as arm_tiles
from qcc.codegen.arm.dense import NeonDenseKernel
from qcc.codegen.arm.intrinsics import dot_product_of
from qcc.codegen.program import Space, Step
from qcc.codegen.target import Target
from qcc.codegen.tune import Races, candidates_library, constants_of, contender, races_for
from qcc.codegen.tuning import choice_names, value_text
from qcc.codegen.tuning_cache import Cache, versions
from qcc.codegen.tuning_race import Rules
from qcc.codegen.worker import KernelCompiler
from qcc.codegen.x86 import tiles as x86_tiles
from qcc.codegen.x86.dense import DenseKernel
from qcc.codegen.x86.pairs import PairsKernel
from qcc.codegen.x86.winograd import WinogradKernel
from qcc.errors import UsageError

FORMAT = 1
CHOICES = frozenset({"tile", "rows", "fold"})     # of kernels that tuning leaves alone, too
RULES = Rules(heats=9, turns=9, hopeless=math.inf, duel=1)      # every kernel runs in every turn
COMPILED_AT_ONCE = 48
ROTATED_STEP, MOST_ROTATED = 1 << 18, 1 << 26      # bytes
CLOCK = 3.0e9            # cycles per second that the estimate assumes
BANDWIDTH = 1.0e10       # bytes per second that it assumes of the outer caches
CALL_SECONDS = 1e-7      # of any kernel

Progress = Callable[[str, int, int], None]


def subject(kernel: Any) -> str:
    """What a kernel computes, in one line, as profiles name it."""
    parts, skipped = [], CHOICES.union(choice_names(kernel))
    for f in fields(kernel):
        if f.name not in skipped:
            value = getattr(kernel, f.name)
            parts.append(f"{f.name}=" + ("-" if value is None else "yes" if f.name == "epilogue" else value_text(value)))
    return f"{type(kernel).__name__} " + " ".join(parts)


@dataclass(frozen=True)
class Profile:
    """Seconds by subject on one target.

    Attributes:
        measured: they were measured; otherwise estimated.
        origin: where they are from, for messages and reports.
    """

    target: Target
    seconds: Mapping[str, float]
    measured: bool
    origin: str

    def of(self, kernel: Any) -> float:
        """Seconds of one run.

        Raises:
            UsageError: the profile lacks the kernel.
        """
        found = self.seconds.get(subject(kernel))
        if found is None:
            raise UsageError(f"{self.origin} lacks the kernel {subject(kernel)[:300]}; it was made for another network: profile this one "
                             "with 'qcc profile', on the device that it will run on")
        return found

    def dumps(self) -> str:
        """As JSON."""
        return profile_text(self.target, self.seconds)


def profile_text(target: Target, seconds: Mapping[str, float]) -> str:
    head = {"format": FORMAT, "target": target.name, "versions": versions(target), "seconds": dict(sorted(seconds.items()))}
    return json.dumps(head, indent=1) + "\n"


def load_profile(path: str | Path, target: Target) -> Profile:
    """Read a profile.

    Raises:
        UsageError: it cannot be read, or is of another target or of other versions of qcc or TVM, whose kernels take other times.
    """
    origin = f"profile {path}"
    try:
        values = json.loads(Path(path).read_text("utf-8"))
        form, name, version = values["format"], values["target"], values["versions"]
        seconds = {str(key): float(value) for key, value in values["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{origin} cannot be read: {type(error).__name__} {error}; expected what 'qcc profile' writes") from error
    if name != target.name:
        raise UsageError(f"{origin} was measured for target {name}, but {target.name} is compiled for; profile that target")
    if (form, version) != (FORMAT, versions(target)):
        raise UsageError(f"{origin} was measured with kernels of another version of qcc or TVM ({version[:60]}...); profile again")
    if not seconds or not all(0.0 < value < math.inf for value in seconds.values()):
        raise UsageError(f"{origin} holds no kernels, or times that are not positive; profile again")
    return Profile(target, seconds, True, origin)


def distinct(steps: Iterable[Step]) -> dict[str, Step]:
    """One step per subject."""
    found: dict[str, Step] = {}
    for step in steps:
        found.setdefault(subject(step.kernel), step)
    return found


def measured(
    steps: Mapping[str, Step], compiler: KernelCompiler, cache: Cache, progress: Progress, constants: int, races: Races | None = None
) -> Profile:
    """Time every kernel that is not in the cache, in child processes.

    Args:
        steps: by subject (`distinct`).
        constants: bytes of the network's: so many are read between two runs of a kernel.
        progress: told ("profile", kernels done, kernels in all).

    Raises:
        CodegenError: a kernel cannot be compiled, or crashes.
    """
    rotated = rotation(constants)
    found = {name: cache.find_seconds(f"{name} among {rotated}") for name in steps}
    seconds = {name: value for name, value in found.items() if value is not None}
    waiting = [name for name in steps if name not in seconds]
    progress("profile", len(seconds), len(steps))
    races = races or races_for(compiler.target)
    for start in range(0, len(waiting), COMPILED_AT_ONCE):
        portion = waiting[start : start + COMPILED_AT_ONCE]
        for name, value in zip(portion, _times([steps[name] for name in portion], compiler, rotated, races), strict=True):
            seconds[name] = value
            cache.store_seconds(f"{name} among {rotated}", value)
        progress("profile", len(seconds), len(steps))
    return Profile(compiler.target, seconds, True, "the profile measured on this machine")


def rotation(constants: int) -> int:
    """Bytes among which a kernel's constants rotate: those of the network, in coarse steps so that networks share measurements."""
    return min(MOST_ROTATED, -(-constants // ROTATED_STEP) * ROTATED_STEP)


def _times(steps: Sequence[Step], compiler: KernelCompiler, rotated: int, races: Races) -> list[float]:
    """All kernels of a portion take turns in one race, so that they meet the same disturbances; the least time is the least disturbed."""
    symbols = {step.kernel: f"candidate{number}" for number, step in enumerate(steps)}
    with TemporaryDirectory(prefix="qcc-profile-") as folder:
        library = candidates_library(symbols, compiler, Path(folder))
        contenders = [contender(step.kernel, symbols[step.kernel], constants_of(step)) for step in steps]
        return list(races(library, [contenders], RULES, rotated)[0].least)


def estimated(steps: Mapping[str, Step], target: Target) -> Profile:
    """Times by the tiles' model of cycles and by the bytes that a kernel touches, at an assumed clock and bandwidth."""
    return Profile(target, {name: estimate(step, target) for name, step in steps.items()}, False, "an estimate: nothing was measured")


def estimate(step: Step, target: Target) -> float:
    """Seconds of one run of a step's kernel on one core, or on a GPU."""
    kernel = step.kernel
    if target.is_gpu:
        from qcc.codegen.cuda.costs import seconds

        return seconds(kernel, target)
    moved = sum(view.dtype.bytes * prod(view.shape) for view in kernel.operands[: len(kernel.operands) - step.scratch])
    cycles = kernel.macs / target.lanes
    if isinstance(kernel, DenseKernel):
        cycles = x86_tiles.cycles(kernel.work, kernel.tile, target)
    elif isinstance(kernel, PairsKernel | WinogradKernel):
        cycles = kernel.cycles(target)
    elif isinstance(kernel, NeonDenseKernel):
        cycles = arm_tiles.cycles(kernel.work, kernel.tile, dot_product_of(target, kernel.paired), arm_tiles.CORES[target.core])
    return CALL_SECONDS + max(cycles / CLOCK, moved / BANDWIDTH)


def constant_bytes(step: Step) -> int:
    """Bytes of the constants that a step reads: weights, biases, multipliers."""
    return sum(view.span * view.dtype.bytes for view, address in zip(step.kernel.operands, step.arguments, strict=True)
               if address.space is Space.CONSTANT)
