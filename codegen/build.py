"""From an INTEGER graph to a program and its objects, for one target or for several in one library.

Every variant of a library plans the same graph. Constants go into one pool, so that what variants have in common is there once, and
the arena is as large as the largest of them needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qcc.codegen.cuda.toolchain import machine_code
from qcc.codegen.families import layer_of
from qcc.codegen.floats import make_islands
from qcc.codegen.island import Island
from qcc.codegen.kernel import Nothing
from qcc.codegen.plan import ConstantPool, plan
from qcc.codegen.program import Program, Step
from qcc.codegen.target import Target
from qcc.codegen.tune import Tuner
from qcc.codegen.tuning import Tuning
from qcc.codegen.worker import KernelCompiler
from qcc.errors import CodegenError
from qcc.ir import Graph, Node

Progress = Callable[[str, int, int], None]
Export = Callable[[Graph, Node], bytes]


@dataclass(frozen=True)
class Built:
    """A program, the object files that define its kernels' symbols, and the choices that were measured."""

    program: Program
    objects: tuple[bytes, ...]
    tuning: Tuning | None


def build(
    graph: Graph, target: Target, name: str, compiler: KernelCompiler, export: Export, tuner: Tuner, folder: Path, progress: Progress
) -> Built:
    """Plan, tune and compile.

    Args:
        name: C identifier of the library.
        export: gives a float node as a serialized ONNX model.
        folder: for the objects.

    Raises:
        CodegenError, UnsupportedOperator: as the steps do.
    """
    islands = {part.name: make_islands(graph, replace(compiler, target=part), export) for part in target.parts}
    tuning = None
    if target.variants:
        program = plan_variants(graph, target, name, islands)
    else:
        program = plan(graph, target, name, islands[target.name])
        tuning = tuner.run(program, compiler, progress)
        program = program if tuning is None else plan(graph, target, name, islands[target.name], tuning.apply)
    total, done, objects = sum(len(part.kernels) for part in program.parts), 0, list[bytes]()
    for part, part_target in zip(program.parts, target.parts, strict=True):
        before = done
        files = replace(compiler, target=part_target).compile(
            part.kernels, folder, lambda count, _, before=before: progress("kernels", before + count, total))  # type: ignore[misc]
        objects += machine_code(files, part_target, folder, progress)
        done += len(part.kernels)
    return Built(program, tuple(objects), tuning)


def plan_variants(graph: Graph, target: Target, name: str, islands: Mapping[str, Mapping[str, Island]]) -> Program:
    """The first variant's program, with all of them.

    Raises:
        CodegenError: variants differ in more than how they compute a layer (the library has one list of steps).
    """
    pool = ConstantPool()
    parts = aligned([plan(graph, part, name, islands[part.name], pool=pool) for part in target.parts])
    arena = max(part.arena_bytes for part in parts)
    variants = tuple(
        replace(part, constants=bytes(pool.data), arena_bytes=arena, variant=f"{part_target.name.rpartition('-')[2]}_")
        for part, part_target in zip(parts, target.parts, strict=True))
    return replace(variants[0], arena_lower_bound=max(part.arena_lower_bound for part in parts), variants=variants)


def aligned(programs: Sequence[Program]) -> list[Program]:
    """The programs with equal names of steps: what only some of them do for a layer, the others have a place of no work for."""
    found = [_by_layer(program.steps) for program in programs]
    layers = [[step.node for _, step in steps] for steps in found]
    if any(names != layers[0] for names in layers):
        raise CodegenError(f"{programs[0].name}: the kernels of its targets fall into different steps; compile for one target each")
    wanted = [dict.fromkeys(step.node for before, _ in column for step in before) for column in zip(*found, strict=True)]
    result = []
    for program, steps in zip(programs, found, strict=True):
        every: list[Step] = []
        for names, (before, step) in zip(wanted, steps, strict=True):
            own = {helping.node: helping for helping in before}
            every += [*(own.get(name) or Step(name, Nothing(), ()) for name in names), step]
        result.append(replace(program, steps=tuple(every)))
    return result


def _by_layer(steps: Sequence[Step]) -> list[tuple[list[Step], Step]]:
    """Every step that completes a value, with those before it that help with that."""
    found: list[tuple[list[Step], Step]] = []
    before: list[Step] = []
    for step in steps:
        if layer_of(step.node) != step.node:
            before.append(step)
        else:
            found.append((before, step))
            before = []
    return found
