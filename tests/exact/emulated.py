"""Libraries for 64-bit ARM on this machine: a C program around the static library, cross-compiled and run by qemu."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcc.artifact import Artifact
from qcc.codegen.floats import make_islands
from qcc.codegen.kernel import Kernel
from qcc.codegen.plan import plan
from qcc.codegen.target import TARGETS, Target
from qcc.codegen.worker import KernelCompiler
from qcc.ir import Graph
from qcc.onnx import export_node
from qcc.runtime.manifest import ArgumentRecord, Manifest, StepRecord, numpy_dtype
from qcc.runtime.module import _read
from qcc.verification import _written

Array = npt.NDArray[Any]
COMPILER, EMULATOR, ROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
CPUS = {"aarch64-i8mm": "max", "aarch64-dotprod": "neoverse-n1", "aarch64-neon": "cortex-a72"}    # each has no more than the target needs

needed = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"ARM IS NOT TESTED: {COMPILER} or {EMULATOR} is missing (Debian packages gcc-aarch64-linux-gnu and qemu-user)",
)

# Tests itself (with SELFTEST), then reads inputs from the file until there are no more, and writes after every step the part of the
# arena that it wrote and the outputs; with a STRIDE beyond all steps only what the outputs hold at the end.
RUNNER = """
#include <stdio.h>
#include <stdlib.h>
#include "NAME.h"

static const size_t windows[][2] = {WINDOWS};      /* where in the arena a step writes, and how many bytes */

int main(int count, char **files) {
    NAME_context *context;
    FILE *source = count == 3 ? fopen(files[1], "rb") : NULL, *sink = count == 3 ? fopen(files[2], "wb") : NULL;
    if (NAME_init(&context, NULL, NULL, 2) != NAME_OK || (SELFTEST && NAME_selftest(context) != NAME_OK) || !source || !sink) {
        fprintf(stderr, "%s\\n", NAME_error(context));
        return 1;
    }
#ifdef FAT
    puts(NAME_variant(context));
#endif
    const void *inputs[NAME_INPUTS];
    void *outputs[NAME_OUTPUTS];
    for (int i = 0; i < NAME_INPUTS; ++i) inputs[i] = malloc(NAME_input(i)->bytes);
    for (int i = 0; i < NAME_OUTPUTS; ++i) outputs[i] = calloc(1, NAME_output(i)->bytes);
    for (;;) {
        for (int i = 0; i < NAME_INPUTS; ++i)
            if (fread((void *)inputs[i], 1, NAME_input(i)->bytes, source) != NAME_input(i)->bytes) return i != 0 || fclose(sink) != 0;
        for (int step = 0; step < NAME_steps(); step += STRIDE) {
            if (NAME_run_steps(context, inputs, outputs, step, STRIDE > 1 ? NAME_steps() : step + 1) != NAME_OK) return 2;
            if (STRIDE == 1) fwrite((const char *)NAME_arena(context) + windows[step][0], 1, windows[step][1], sink);
            for (int i = 0; i < NAME_OUTPUTS; ++i) fwrite(outputs[i], 1, NAME_output(i)->bytes, sink);
        }
    }
}
"""


def emulate(program: Path, cpu: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EMULATOR, "-L", ROOT, "-cpu", cpu, program, *arguments], capture_output=True, text=True, check=False)


def retargeted(artifacts: Sequence[Artifact], name: str) -> list[Artifact]:
    """The same integer graphs compiled for another target; what an artifact's tuning and its summary say is not made anew."""
    target, found = TARGETS[name], []
    with KernelCompiler(target, 2) as compiler:
        for artifact in artifacts:
            islands = make_islands(artifact.graph, compiler, export_node)
            program = plan(artifact.graph, target, artifact.program.name, islands)
            with tempfile.TemporaryDirectory() as folder:
                objects = tuple(path.read_bytes() for path in compiler.compile(program.kernels, Path(folder)))
            found.append(replace(artifact, target=target, program=program, objects=objects))
    return found


def build_runner(artifact: Artifact, folder: Path, windows: Sequence[range] = (), selftest: bool = True) -> Path:
    """The program, linked with the static library of the artifact that was saved in the folder; it writes what is in the windows of the
    arena after every step, without any only outputs at the end."""
    name, program, stride = artifact.program.name, folder / "runner", 1 if windows else 1 << 20
    table = ", ".join(f"{{{window.start}, {len(window)}}}" for window in windows or [range(0)])
    (folder / "runner.c").write_text(RUNNER.replace("NAME", name).replace("WINDOWS", table))
    options = ["-O1", "-Wall", "-Werror", f"-DSTRIDE={stride}", f"-DSELFTEST={int(selftest)}", "-I", folder]
    options += ["-DFAT"] if artifact.program.variants else []
    subprocess.run([COMPILER, *options, "-o", program, folder / "runner.c", folder / f"lib{name}.a", "-lm", "-lpthread"], check=True)
    return program


def written_windows(graph: Graph, manifest: Manifest) -> list[range]:
    """For every step the bytes of the arena from the first to the last that it writes; none where it writes to outputs."""
    windows = []
    for step in manifest.steps:
        count = len(_written(graph, step))
        results = step.arguments[len(step.arguments) - step.scratch - count : len(step.arguments) - step.scratch]
        places = [range(a.position, a.position + _span(a)) for a in results if a.space == "arena"]
        windows.append(range(min((p.start for p in places), default=0), max((p.stop for p in places), default=0)))
    return windows


def _span(argument: ArgumentRecord) -> int:
    """Bytes from the first to the last element."""
    last = sum((extent - 1) * stride for extent, stride in zip(argument.shape, argument.strides, strict=True))
    return (last + 1) * numpy_dtype(argument.dtype).itemsize


@dataclass(frozen=True)
class Trace:
    """What every step of one run wrote; stands for the module in `verification.check_layers`.

    Attributes:
        steps: per step its window of the arena, and what the outputs held after it.
    """

    manifest: Manifest
    windows: Sequence[range]
    steps: tuple[tuple[Array, list[Array]], ...]

    def trace(self, feeds: Mapping[str, Array]) -> Iterator[tuple[StepRecord, Callable[..., Array]]]:
        for step, window, (content, results) in zip(self.manifest.steps, self.windows, self.steps, strict=True):
            arguments = tuple(replace(a, position=a.position - window.start) if a.space == "arena" else a for a in step.arguments)
            yield step, partial(_read, replace(step, arguments=arguments), partial(np.asarray, content), results)

    @property
    def outputs(self) -> dict[str, Array]:
        return {port.name: array for port, array in zip(self.manifest.outputs, self.steps[-1][1], strict=True)}


def run_emulated(
    artifact: Artifact, folder: Path, feeds: Sequence[Mapping[str, Array]], cpu: str, selftest: bool = True
) -> list[Trace]:
    """A run of the library for every feed, by default after its self-test has passed. The folder gets the artifact."""
    manifest = artifact.save(folder)
    windows = written_windows(artifact.graph, manifest)
    program, source, sink = build_runner(artifact, folder, windows, selftest), folder / "inputs", folder / "outputs"
    source.write_bytes(b"".join(feed[port.name].tobytes() for feed in feeds for port in manifest.inputs))
    done = emulate(program, cpu, source, sink)
    assert done.returncode == 0, done.stderr
    data = memoryview(sink.read_bytes())
    traces = []
    for _ in feeds:
        steps = []
        for window in windows:
            content, data = np.frombuffer(data[: len(window)], np.uint8), data[len(window) :]
            results, data = _outputs(manifest, data)
            steps.append((content, results))
        traces.append(Trace(manifest, windows, tuple(steps)))
    assert not data
    return traces


def _outputs(manifest: Manifest, data: memoryview) -> tuple[list[Array], memoryview]:
    """All outputs at the beginning of the data, and what follows them."""
    results = []
    for port in manifest.outputs:
        results.append(np.frombuffer(data[: port.bytes], port.numpy).reshape(port.shape))
        data = data[port.bytes :]
    return results, data


def run_saved(program: Path, folder: Path, feeds: Sequence[Mapping[str, Array]], cpu: str) -> tuple[list[dict[str, Array]], str]:
    """The outputs for every feed of the program that `build_runner` made for an artifact's folder, and what it printed."""
    manifest, source, sink = Manifest.read(folder), folder / "inputs", folder / "outputs"
    source.write_bytes(b"".join(feed[port.name].tobytes() for feed in feeds for port in manifest.inputs))
    done = emulate(program, cpu, source, sink)
    assert done.returncode == 0, done.stderr
    data, found = memoryview(sink.read_bytes()), []
    for _ in feeds:
        results, data = _outputs(manifest, data)
        found.append({port.name: array for port, array in zip(manifest.outputs, results, strict=True)})
    assert not data
    return found, done.stdout.strip()


MOST_OPERANDS = 10
# Reads per call: which function, operands, tasks, pieces (done in reverse); per operand its bytes and where it starts in them.
# Writes the last operand's bytes.
DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

DECLARATIONS
static void *const functions[] = {NAMES};

int main(int count, char **files) {
    FILE *source = count == 3 ? fopen(files[1], "rb") : NULL, *sink = count == 3 ? fopen(files[2], "wb") : NULL;
    int32_t head[4], size[2];
    if (source == NULL || sink == NULL) return 1;
    while (fread(head, sizeof head, 1, source) == 1) {
        unsigned char *memory[MOST] = {0}, *start[MOST] = {0};
        for (int i = 0; i < head[1]; ++i) {
            if (fread(size, sizeof size, 1, source) != 1) return 2;
            memory[i] = aligned_alloc(64, (size_t)(size[0] + 63) / 64 * 64);
            start[i] = memory[i] + size[1];
            if (fread(memory[i], 1, (size_t)size[0], source) != (size_t)size[0]) return 3;
        }
        for (int piece = head[3] - 1; piece >= 0; --piece) {
            int32_t range[2] = {head[2] * piece / head[3], head[2] * (piece + 1) / head[3]};
            int status = 1;
            switch (head[1]) {
CALLS
            }
            if (status != 0) return 4;
        }
        fwrite(memory[head[1] - 1], 1, (size_t)size[0], sink);
    }
    return fclose(sink) != 0;
}
"""


@dataclass(frozen=True)
class Operand:
    """Bytes in which an operand lies, and where it starts."""

    data: bytes
    start: int


def _driver(symbols: Sequence[str]) -> str:
    """A program that calls kernels as a file says."""
    calls, declarations = [], [f"int32_t {name}();" for name in symbols]
    for count in range(2, MOST_OPERANDS + 1):
        types = "void *, " * count + "int32_t, int32_t"
        given = ", ".join([*(f"start[{i}]" for i in range(count)), "range[0]", "range[1]"])
        calls.append(f"            case {count}: status = ((int32_t (*)({types}))functions[head[0]])({given}); break;")
    text = DRIVER.replace("CALLS", "\n".join(calls)).replace("DECLARATIONS", "\n".join(declarations)).replace("MOST", str(MOST_OPERANDS))
    return text.replace("NAMES", ", ".join(f"(void *){name}" for name in symbols))


def call_kernels(
    calls: Sequence[tuple[Kernel, Sequence[Operand]]], target: Target, folder: Path, cpu: str, pieces: int = 2
) -> list[bytes]:
    """What the memory of every call's last operand holds after it."""
    symbols = {kernel: f"k{number}" for number, kernel in enumerate(dict.fromkeys(kernel for kernel, _ in calls))}
    with KernelCompiler(target, 2) as compiler:
        objects = compiler.compile(symbols, folder)
    (folder / "driver.c").write_text(_driver(list(symbols.values())))
    program, source, sink = folder / "driver", folder / "calls", folder / "results"
    subprocess.run([COMPILER, "-O1", "-std=gnu11", "-o", program, folder / "driver.c", *objects, "-lm"], check=True)
    numbers = {kernel: number for number, kernel in enumerate(symbols)}
    with open(source, "wb") as file:
        for kernel, operands in calls:
            file.write(struct.pack("<4i", numbers[kernel], len(operands), kernel.tasks, min(pieces, max(1, kernel.tasks))))
            for operand in operands:
                file.write(struct.pack("<2i", len(operand.data), operand.start) + operand.data)
    done = emulate(program, cpu, source, sink)
    assert done.returncode == 0, (done.returncode, done.stderr)
    data, found = sink.read_bytes(), []
    for _, operands in calls:
        found.append(data[: len(operands[-1].data)])
        data = data[len(operands[-1].data) :]
    assert not data
    return found
