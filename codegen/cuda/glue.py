"""The C source of a library for GPUs: tables of kernels, steps and machine code around runtime/csrc/qcc_cuda.h."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from qcc.codegen import glue
from qcc.codegen.cuda import header
from qcc.codegen.cuda.launch import CudaKernel
from qcc.codegen.glue import Source
from qcc.codegen.golden import Golden, checksum
from qcc.codegen.header import quoted
from qcc.codegen.program import Address, Program, Space
from qcc.codegen.target import Target

# enum qcc_cuda_space
_SPACES = {space: f"QCC_CUDA_{space.name}" for space in Space}


def _table(declaration: str, rows: Sequence[str], empty: str) -> str:
    """A C array; one that would have no element gets one that is not counted, as C has no empty arrays."""
    return "\n".join([f"static const struct {declaration}[] = {{", *(f"    {row}," for row in rows or [empty]), "};"])


def _images(program: Program, target: Target) -> list[tuple[str, int, bool]]:
    """Symbol, compute capability and kind of the images, in the order of `toolchain.compile_images`."""
    images = [(f"{program.name}_sm_{sm}", sm, False) for sm in target.sms]
    return [*images, (f"{program.name}_ptx_{target.sms[-1]}", target.sms[-1], True)]


def _kernels(program: Program) -> str:
    rows = []
    for kernel, symbol in program.kernels.items():
        launch = cast(CudaKernel, kernel).launch
        grid, block = (", ".join(map(str, extents)) for extents in (launch.grid, launch.block))
        rows.append(f"{{{quoted(symbol)}, {{{grid}}}, {{{block}}}, {launch.shared_bytes}u}}")
    return _table("qcc_cuda_kernel kernels", rows, "{NULL, {1, 1, 1}, {1, 1, 1}, 0}")


def _argument(address: Address) -> str:
    return f"{{{_SPACES[address.space]}, {address.position}u, {address.offset}u}}"


def _steps(program: Program) -> str:
    numbers = {kernel: number for number, kernel in enumerate(program.kernels)}
    rows: list[str] = []
    arguments: list[str] = []
    for step in program.steps:
        rows.append(f"{{{quoted(step.node)}, {numbers[step.kernel]}, {len(arguments)}, {len(step.arguments)}}}")
        arguments += [_argument(address) for address in step.arguments]
    tables = _table("qcc_cuda_argument arguments", arguments, "{0, 0, 0}"), _table("qcc_engine_step steps", rows, "{NULL, 0, 0, 0}")
    return "\n\n".join(tables)


def _model(program: Program, target: Target) -> str:
    return f"""static const struct qcc_engine_model model = {{
    .name = {quoted(program.name)},
    .images = images,
    .kernels = kernels,
    .arguments = arguments,
    .steps = steps,
    .inputs = input_ports,
    .outputs = output_ports,
    .constants = {program.name}_constants,
    .constants_bytes = {len(program.constants)},
    .constants_checksum = {checksum(program.constants)}u,
    .arena_bytes = {glue.arena_bytes(program)},
    .image_count = {len(_images(program, target))},
    .kernel_count = {len(program.kernels)},
    .argument_count = {sum(len(step.arguments) for step in program.steps)},
    .step_count = {len(program.steps)},
    .input_count = {len(program.inputs)},
    .output_count = {len(program.outputs)},
}};"""


def library_source(program: Program, target: Target, golden: Mapping[str, Golden], digest: str, images: Sequence[Path]) -> Source:
    """The source of the library. Arguments are those of `qcc.codegen.glue.library_source`; `images` are what `compile_images` made."""
    glue.check(program)
    name, (arrays, placed) = program.name, glue.place_golden(golden)
    files = {glue.CONSTANTS_FILE: program.constants, glue.GOLDEN_FILE: arrays}
    blobs, rows = [], []
    for (symbol, sm, is_ptx), path in zip(_images(program, target), images, strict=True):
        files[f"{symbol}.bin"] = path.read_bytes()
        blobs.append(glue.blob(symbol, f"{symbol}.bin"))
        rows.append(f"{{{sm}, {int(is_ptx)}, {symbol}}}")
    parts = [
        f'#include "{name}.h"\n\n#include "qcc_cuda_run.h"\n#include "qcc_selftest.h"',
        glue.blob(f"{name}_constants", glue.CONSTANTS_FILE),
        glue.blob(f"{name}_golden", glue.GOLDEN_FILE),
        *blobs,
        _table("qcc_cuda_image images", rows, ""),
        _kernels(program),
        _steps(program),
        glue.port_tables(program, placed, "input", program.inputs),
        glue.port_tables(program, placed, "output", program.outputs),
        glue.descriptors(program, "input", program.inputs),
        glue.descriptors(program, "output", program.outputs),
        _model(program, target),
        glue.functions(program, digest),
        header.FUNCTIONS.replace("NAME", name),
    ]
    return Source("\n\n".join(parts), files)
