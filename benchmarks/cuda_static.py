"""What the machine code of the main GPU kernels is like, on a machine without a GPU: one table per compute capability.

    python benchmarks/cuda_static.py                          # all compute capabilities
    python benchmarks/cuda_static.py --sm 80 --output static.json

For each kernel, with the tile that the planner takes: registers of a thread, shared memory, resident warps as a share of the most that
there can be (occupancy), spills, loads of 16 bytes from global memory (LDG.128, or LDGSTS.128, which is cp.async) of all loads,
steps that are on their way at the same time, matrix (IMMA) or dot (IDP) instructions as a share of what the inner loop issues, and how
many of them a step needs at least for the padded tile (a loop may hold several steps). Machine code
comes from the compiler that libraries are made with, and is disassembled by nvdisasm.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qcc.codegen import worker
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cuda.dense import DenseKernel, plan_dense
from qcc.codegen.cuda.depthwise import DepthwiseKernel, plan_depthwise
from qcc.codegen.cuda.gemv import GemvKernel, plan_gemv
from qcc.codegen.cuda.occupancy import occupancy
from qcc.codegen.cuda.source import library_text
from qcc.codegen.cuda.toolchain import compile_images
from qcc.codegen.kernel import View
from qcc.codegen.target import Target, find_target
from qcc.errors import CodegenError, QccError
from qcc.ir.types import U4, U8
from qcc.sass import Image, KernelCode, disassemble, find_disassembler, registers

SMS = (75, 80, 86, 89, 90)
WIDTH = 200
Kernel = DenseKernel | DepthwiseKernel | GemvKernel


@dataclass(frozen=True)
class Case:
    """A layer of a real network: image, channels, window; `bits` of weights and activations; what it adds."""

    name: str
    image: tuple[int, int, int]
    channels: tuple[int, int]
    window: int = 1
    stride: int = 1
    bits: str = "8/8"
    residual: bool = False
    depthwise: bool = False


CASES = (
    *(Case(f"3x3 256 {bits}", (8, 14, 14), (256, 256), 3, bits=bits) for bits in ("8/8", "4/8", "4/4")),
    *(Case(f"3x3 64 {bits}", (8, 56, 56), (64, 64), 3, bits=bits) for bits in ("8/8", "4/4")),
    *(Case(f"1x1 64->256 + residual {bits}", (8, 56, 56), (64, 256), bits=bits, residual=True) for bits in ("8/8", "4/4")),
    Case("1x1 1024->256 8/8", (8, 14, 14), (1024, 256)),
    Case("1x1 2048->512, one image, 8/8", (1, 7, 7), (2048, 512)),
    Case("7x7/2 of 3 channels 8/8", (8, 112, 112), (3, 64), 7, 2),
    Case("3x3 depthwise 576", (8, 14, 14), (576, 576), 3, depthwise=True),
    Case("5x5/2 depthwise 240", (8, 14, 14), (240, 240), 5, 2, depthwise=True),
    *(Case(f"vector by 4096x4096 {bits}", (1, 1, 1), (4096, 4096), bits=bits) for bits in ("8/8", "4/8")),
)


@dataclass(frozen=True)
class Row:
    """What was found in the machine code of one kernel."""

    kernel: str
    sm: int
    tile: str
    registers: int
    shared_bytes: int
    occupancy: float
    spilled: int
    wide_loads: int
    loads: int
    depth: int
    products: str
    products_in_loop: int
    fewest: int
    instructions_in_loop: int
    share: float


def plan(case: Case, target: Target) -> Kernel:
    """The planner's kernel for a layer."""
    rng, (inputs, outputs) = np.random.default_rng(0), case.channels
    weight_bits, activation_bits = (int(bits) for bits in case.bits.split("/"))
    images, rows, columns = case.image
    extents = tuple((n - 1) * case.stride + case.window for n in (rows, columns))
    packed = activation_bits == 4
    dtype = U4 if packed else U8
    source = replace(View.contiguous(dtype, (images, *extents, inputs)), packed=packed)
    output = replace(View.contiguous(dtype, (images, rows, columns, outputs)), packed=packed)
    top = 8 if weight_bits == 4 else 128
    weights = rng.integers(-top + 1, top, (outputs, case.window, case.window, 1 if case.depthwise else inputs)).astype(np.int8)
    form = Requantization(np.full(outputs, 1 << 29, np.int32), 42, 3, 0, 15 if packed else 255, 1 << 28 if case.residual else 0, 3)
    strides, bias = (case.stride, case.stride), np.zeros(outputs, np.int32)
    added = output if case.residual else None
    if case.depthwise:
        return plan_depthwise(source, weights, bias, strides, (1, 1), output, form, None, target)[0]
    if images * rows * columns == 1:
        return plan_gemv(source, weights, bias, output, form, None, target, weight_bits=weight_bits)[0]
    return plan_dense(source, weights, bias, strides, (1, 1), 1, output, form, added, target, weight_bits=weight_bits)[0]


def machine_code(kernels: Sequence[Kernel], target: Target) -> list[tuple[KernelCode, int]]:
    """Of kernels for one compute capability, each with the registers of a thread."""
    program = find_disassembler()
    if program is None:
        raise CodegenError("nvdisasm is missing: pip install 'qcc[cuda]'")
    symbols = {kernel: f"k{number}" for number, kernel in enumerate(dict.fromkeys(kernels))}
    with tempfile.TemporaryDirectory() as folder:
        files = worker.compile_kernels(symbols, target, Path(folder), workers=2)
        cubin, *_ = compile_images(library_text([file.read_text(encoding="ascii") for file in files]), target, Path(folder))
        found, counts = disassemble(Image(target.sms[0], cubin.read_bytes()), program), registers(cubin)
    return [(found[symbols[kernel]], counts[symbols[kernel]]) for kernel in kernels]


def examine(case: Case, kernel: Kernel, found: tuple[KernelCode, int], sm: int) -> Row:
    products = "IMMA" if isinstance(kernel, DenseKernel) else "IDP"
    code, count = found
    loop, launch = code.inner_loop(products), kernel.launch
    inside = [operation for operation in loop if operation.startswith(products)]
    loads = [line.instruction for line in code.lines if line.instruction.startswith(("LDG.", "LDGSTS."))]
    wide = sum(".128" in load for load in loads)
    tile, stages = "-", 1
    if isinstance(kernel, DenseKernel):
        tile = f"{kernel.tile.rows}x{kernel.tile.columns}/{kernel.tile.warps[0]}x{kernel.tile.warps[1]}"
        stages = kernel.tile.stages if any(load.startswith("LDGSTS") for load in loads) else 2
    resident, spills = occupancy(sm, count, launch), code.count("STL") + code.count("LDL")
    return Row(case.name, sm, tile, count, launch.shared_bytes, resident, spills, wide, len(loads), stages - 1,
               inside[0] if inside else "none", len(inside), fewest(kernel, sm), len(loop), len(inside) / max(1, len(loop)))


def fewest(kernel: Kernel, sm: int) -> int:
    """Matrix instructions of a warp in a step that the padded tile needs at least; 0 where there is no matrix product."""
    if not isinstance(kernel, DenseKernel):
        return 0
    whole = kernel.tile.warp_rows // 16 * (kernel.tile.warp_columns // 8) * 2
    return whole * (4 if sm < 80 else 2 if sm >= 90 and kernel.bits.source == 4 else 1)


def table(rows: Sequence[Row], sm: int) -> Table:
    shown = Table(title=f"sm_{sm}")
    for name in ("kernel", "tile/warps", "registers", "shared", "occupancy", "spills", "16-byte loads", "steps ahead", "products",
                 "in the loop", "of a step at least", "instructions", "share"):
        shown.add_column(name, justify="left" if name in ("kernel", "products") else "right", no_wrap=name in ("kernel", "products"))
    for row in rows:
        shown.add_row(row.kernel, row.tile, str(row.registers), str(row.shared_bytes), f"{row.occupancy:.0%}", str(row.spilled),
                      f"{row.wide_loads}/{row.loads}", str(row.depth), row.products, str(row.products_in_loop), str(row.fewest),
                      str(row.instructions_in_loop), f"{row.share:.0%}")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sm", type=int, action="append", choices=SMS, help="a compute capability times ten; all by default")
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    console, rows = Console(width=WIDTH), []
    for sm in arguments.sm or SMS:
        target = find_target(f"cuda:sm_{sm}")
        kernels = [plan(case, target) for case in CASES]
        found = [examine(*entry, sm) for entry in zip(CASES, kernels, machine_code(kernels, target), strict=True)]
        console.print(table(found, sm))
        rows += found
    if arguments.output is not None:
        arguments.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    spilled = [f"{row.kernel} for sm_{row.sm}" for row in rows if row.spilled]
    if spilled:
        console.print(f"these kernels keep registers in memory: {', '.join(spilled)}")
    return int(bool(spilled))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QccError as error:
        sys.exit(f"{error}")
