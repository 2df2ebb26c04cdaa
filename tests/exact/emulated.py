"""Libraries for 64-bit ARM on this machine: a C program around the static library, cross-compiled and run by qemu."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcc.artifact import Artifact

Array = npt.NDArray[Any]
COMPILER, EMULATOR, ROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
CPUS = {"aarch64-i8mm": "max", "aarch64-dotprod": "neoverse-n1", "aarch64-neon": "cortex-a72"}    # each has no more than the target needs

needed = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"ARM IS NOT TESTED: {COMPILER} or {EMULATOR} is missing (Debian packages gcc-aarch64-linux-gnu and qemu-user)",
)

# Tests itself, then reads inputs from the file until there are no more, and writes what the network makes of them.
RUNNER = """
#include <stdio.h>
#include <stdlib.h>
#include "NAME.h"

int main(int count, char **files) {
    NAME_context *context;
    FILE *source = count == 3 ? fopen(files[1], "rb") : NULL, *sink = count == 3 ? fopen(files[2], "wb") : NULL;
    if (NAME_init(&context, NULL, NULL, 2) != NAME_OK || NAME_selftest(context) != NAME_OK || source == NULL || sink == NULL) {
        fprintf(stderr, "%s\\n", NAME_error(context));
        return 1;
    }
    const void *inputs[NAME_INPUTS];
    void *outputs[NAME_OUTPUTS];
    for (int i = 0; i < NAME_INPUTS; ++i) inputs[i] = malloc(NAME_input(i)->bytes);
    for (int i = 0; i < NAME_OUTPUTS; ++i) outputs[i] = malloc(NAME_output(i)->bytes);
    for (;;) {
        for (int i = 0; i < NAME_INPUTS; ++i)
            if (fread((void *)inputs[i], 1, NAME_input(i)->bytes, source) != NAME_input(i)->bytes) return i != 0 || fclose(sink) != 0;
        if (NAME_run(context, inputs, outputs) != NAME_OK) return 2;
        for (int i = 0; i < NAME_OUTPUTS; ++i) fwrite(outputs[i], 1, NAME_output(i)->bytes, sink);
    }
}
"""


def emulate(program: Path, cpu: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EMULATOR, "-L", ROOT, "-cpu", cpu, program, *arguments], capture_output=True, text=True, check=False)


def build_runner(artifact: Artifact, folder: Path) -> Path:
    """The program, linked with the static library of the artifact that was saved in the folder."""
    name, program = artifact.program.name, folder / "runner"
    (folder / "runner.c").write_text(RUNNER.replace("NAME", name))
    subprocess.run([COMPILER, "-O1", "-Wall", "-Werror", "-I", folder, "-o", program, folder / "runner.c", folder / f"lib{name}.a",
                    "-lm", "-lpthread"], check=True)
    return program


def run_emulated(artifact: Artifact, folder: Path, feeds: Sequence[Mapping[str, Array]], cpu: str) -> list[dict[str, Array]]:
    """Outputs of the library for every feed, after its self-test has passed."""
    program, source, sink = build_runner(artifact, folder), folder / "inputs", folder / "outputs"
    source.write_bytes(b"".join(feed[port.name].tobytes() for feed in feeds for port in artifact.program.inputs))
    done = emulate(program, cpu, source, sink)
    assert done.returncode == 0, done.stderr
    data, found = sink.read_bytes(), []
    for _ in feeds:
        outputs = {}
        for port in artifact.program.outputs:
            outputs[port.name] = np.frombuffer(data[: port.type.bytes], port.type.dtype.numpy).reshape(port.type.shape)
            data = data[port.type.bytes :]
        found.append(outputs)
    assert not data
    return found
