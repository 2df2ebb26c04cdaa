"""A small network whose kernels are written in C by hand: float in, u8 inside, a matrix product, a float and a u8 output.

It stands in for the compiler, so that artifacts and the loader are tested without TVM.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc.codegen.artifact import ArtifactTexts, build_artifact
from qcc.codegen.golden import golden_pattern
from qcc.codegen.kernel import View
from qcc.codegen.program import Address, Port, Program, Space, Step
from qcc.codegen.target import Target
from qcc.ir.types import F32, I8, I32, U8, Encoding, TensorType
from qcc.runtime import Manifest

Array = npt.NDArray[Any]
BASELINE = Target("baseline", "x86_64-unknown-linux-gnu", (), ("pni",), 4, 16, "madd256")
INPUT_SCALE, OUTPUT_SCALE = 0.5, 0.25

BODIES = {
    "quantize": """
    const float *x = p0; uint8_t *q = p1;
    for (int32_t i = begin; i < end; ++i) {
        float scaled = x[i] * 2.0f;
        q[i] = scaled != scaled ? 0 : scaled < -128.0f ? 0 : scaled > 127.0f ? 255 : (uint8_t)((int)scaled + 128);
    }""",
    "dense": """
    const uint8_t *q = p0; const int8_t *w = p1; int32_t *y = p2;
    for (int32_t j = begin; j < end; ++j) {
        int32_t sum = 0;
        for (int32_t i = 0; i < WIDTH; ++i) sum += ((int32_t)q[i] - 128) * w[j * WIDTH + i];
        y[2 * j] = sum;
    }""",
    "dequantize": """
    const int32_t *y = p0; float *out = p1;
    for (int32_t j = begin; j < end; ++j) out[j] = 0.25f * (float)y[2 * j];""",
    "clamp": """
    const int32_t *y = p0; uint8_t *out = p1;
    for (int32_t j = begin; j < end; ++j) {
        int32_t v = (int32_t)(((int64_t)y[2 * j] + 32) >> 6) + 100;
        out[j] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }""",
    "fail": """
    (void)p0; (void)p1; (void)begin; (void)end;
    return 7;""",
}


@dataclass(frozen=True)
class HandKernel:
    """A kernel with a body in C."""

    body: str
    operands: tuple[View, ...]
    tasks: int
    macs: int = 0

    def emit(self, target: Target) -> Any:
        return BODIES[self.body].replace("WIDTH", str(self.operands[0].shape[0]))

    def source(self, symbol: str) -> str:
        pointers = ", ".join(f"void *p{i}" for i in range(len(self.operands)))
        return f"int32_t {symbol}({pointers}, int32_t begin, int32_t end) {{{self.emit(BASELINE)}\n    return 0;\n}}\n"


@dataclass(frozen=True)
class Network:
    """The program, its weights and what it computes."""

    program: Program
    weights: Array

    def evaluate(self, x: Array) -> dict[str, Array]:
        q = np.trunc(np.clip(np.nan_to_num(x, nan=-1e9), -64.0, 63.5) * 2.0).astype(np.int64)
        y = self.weights.astype(np.int64) @ q
        codes = np.clip(((y + 32) >> 6) + 100, 0, 255).astype(np.uint8)
        return {"real": np.float32(0.25) * y.astype(np.float32), "codes": codes}


def network(name: str = "toy", width: int = 24, height: int = 40, seed: int = 3, last: str = "clamp") -> Network:
    """x f32[width] -> real f32[height], codes u8[height]; the accumulators lie at every second int32 of the arena."""
    weights = np.random.default_rng(seed).integers(-127, 128, (height, width)).astype(np.int8)
    x, q = View.contiguous(F32, (width,)), View.contiguous(U8, (width,))
    w, y = View.contiguous(I8, (height, width)), View(I32, (height,), (2,))
    real, codes = View.contiguous(F32, (height,)), View.contiguous(U8, (height,))
    quantized, sums = Address(Space.ARENA, 0), Address(Space.ARENA, -(-width // 64) * 64)
    matrix, first, second = Address(Space.CONSTANT, 0), Address(Space.OUTPUT, 0), Address(Space.OUTPUT, 1)
    steps = (
        Step("q", HandKernel("quantize", (x, q), width), (Address(Space.INPUT, 0), quantized)),
        Step("y", HandKernel("dense", (q, w, y), height, height * width), (quantized, matrix, sums)),
        Step("real", HandKernel("dequantize", (y, real), height), (sums, first)),
        Step("codes", HandKernel(last, (y, codes), height), (sums, second)),
    )
    ports = (
        Port("real", TensorType(F32, (height,))),
        Port("codes", TensorType(U8, (height,), Encoding(U8, (64 * OUTPUT_SCALE,), (100,)))),
    )
    arena = sums.position + 8 * height
    program = Program(name, (Port("x", TensorType(F32, (width,))),), ports, steps, weights.tobytes(), arena, arena)
    return Network(program, weights)


def objects(program: Program, folder: Path, options: tuple[str, ...] = ()) -> list[Path]:
    """The program's kernels, compiled."""
    folder.mkdir(parents=True, exist_ok=True)
    source, result = folder / f"{program.name}_kernels.c", folder / f"{program.name}_kernels.o"
    code = "".join(kernel.source(symbol) for kernel, symbol in program.kernels.items())
    source.write_text(f"#include <stdint.h>\n{code}")
    subprocess.run(["cc", "-O2", "-fPIC", *options, "-c", str(source), "-o", str(result)], check=True)
    return [result]


def texts(net: Network) -> ArtifactTexts:
    """A golden pair made from a pattern, and short texts."""
    port = net.program.inputs[0]
    pattern = golden_pattern(port, -40.0, 40.0)
    x = pattern.array(port.type)
    return ArtifactTexts(
        graph="graph integer\n",
        recipe="bits = 8\n",
        golden_inputs={"x": x},
        golden_outputs=net.evaluate(x),
        golden_patterns={"x": pattern},
        layers=[{"node": "y", "op": "dense", "bits": "w8a8", "macs": net.weights.size, "bytes": net.weights.size}],
        proofs=[{"node": "y", "low": -1000, "high": 1000}],
        model="00",
        versions={"qcc": "0"},
    )


def build(net: Network, folder: Path, work: Path, target: Target = BASELINE, force: bool = False, **changes: Any) -> Manifest:
    """The artifact of a network in `folder`; `changes` replace fields of the texts."""
    return build_artifact(net.program, objects(net.program, work), target, replace(texts(net), **changes), folder, force)
