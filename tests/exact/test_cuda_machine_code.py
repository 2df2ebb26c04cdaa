"""What kernels for GPUs are compiled to: the promised instructions, nothing in floating point, no registers that are kept in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.cuda.costs import seconds
from qcc.codegen.cuda.dense import plan_dense
from qcc.codegen.cuda.depthwise import plan_depthwise
from qcc.codegen.cuda.elements import plan_requantize
from qcc.codegen.cuda.launch import Launch
from qcc.codegen.cuda.occupancy import resident_blocks
from qcc.codegen.cuda.source import generations, library_text
from qcc.codegen.cuda.tiles import DEVICES
from qcc.codegen.cuda.toolchain import compile_images
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.target import Target, find_target
from qcc.codegen.worker import compile_kernels
from qcc.ir.types import U4, U8
from qcc.ops import Requantize
from qcc.sass import Image, disassemble, find_disassembler

needed = pytest.mark.skipif(
    find_disassembler() is None,
    reason="MACHINE CODE OF GPUS IS NOT TESTED: nvdisasm is missing (pip install 'qcc[cuda]')")
FORM = Requantization(np.full(128, 1 << 29, np.int32), 42, 3, 0, 15, 1 << 28, 3)
# Per compute capability: the matrix instruction of bytes by bytes, bytes by 4 bits, 4 by 4 bits; and how many make one of m16n8k32.
PROMISED = {
    75: (("IMMA.8816.U8.S8", "IMMA.8816.U8.S8", "IMMA.8832.U4.S4"), (4, 4, 4)),
    80: (("IMMA.16832.U8.S8", "IMMA.16832.U8.S8", "IMMA.16864.U4.S4"), (1, 1, 1)),
    90: (("IMMA.16832.U8.S8", "IMMA.16832.U8.S8", "IMMA.16832.U8.S8"), (1, 1, 2)),
}


def dense(target: Target, source_bits: int, weight_bits: int) -> Kernel:
    """A layer of 40 steps, with a residual."""
    dtype, narrow = (U4, True) if source_bits == 4 else (U8, False)
    source = replace(View.contiguous(dtype, (4, 16, 16, 640 if narrow else 320)), packed=narrow)
    output = replace(View.contiguous(dtype, (4, 16, 16, 128)), packed=narrow)
    weights = np.ones((128, 1, 1, source.shape[3]), np.int8)
    return plan_dense(source, weights, np.zeros(128, np.int32), (1, 1), (1, 1), 1, output, FORM, output, target, weight_bits=weight_bits)[0]


def others(target: Target) -> list[Kernel]:
    image = View.contiguous(U8, (1, 16, 16, 32))
    layer = plan_depthwise(image, np.ones((32, 3, 3, 1), np.int8), np.zeros(32, np.int32), (1, 1), (1, 1),
                           View.contiguous(U8, (1, 14, 14, 32)), replace(FORM, multiplier=FORM.multiplier[:32]), None, target)[0]
    sum_of_two = plan_requantize(Requantize((3, 5), 40, 7, 0, 255), [image, image], [np.array(9, np.int32)] * 2, image)[0]
    return [layer, sum_of_two]


@needed
@pytest.mark.parametrize("sm", PROMISED)
def test_promised_instructions(sm: int, tmp_path: Path) -> None:
    target = find_target(f"cuda:sm_{sm}")
    products = [dense(target, *bits) for bits in ((8, 8), (8, 4), (4, 4))]
    symbols = {kernel: f"k{number}" for number, kernel in enumerate([*products, *others(target)])}
    files = compile_kernels(symbols, target, tmp_path)
    cubin, *_ = compile_images(library_text([file.read_text(encoding="ascii") for file in files]), target, tmp_path)
    program = find_disassembler()
    assert program is not None
    code = disassemble(Image(sm, cubin.read_bytes()), program)
    assert set(code) == set(symbols.values())
    for kernel, instruction, factor in zip(products, *PROMISED[sm], strict=True):
        found = code[symbols[kernel]]
        kinds = {entry for entry in found.instructions if entry.startswith("IMMA")}
        assert all(kind.startswith(instruction) for kind in kinds), kinds
        whole = kernel.tile.warp_rows // 16 * (kernel.tile.warp_columns // 8) * 2 * factor  # type: ignore[attr-defined]
        inside = sum(operation.startswith("IMMA") for operation in found.inner_loop("IMMA"))
        assert inside == whole, f"{inside} matrix instructions in a step, {whole} are enough for the padded tile"
        assert (found.count("LDGSTS") > 0) == (sm >= 80)
        assert found.count("LDSM") > 0
    assert code[symbols[others(target)[0]]].count("IDP.4A.U8.S8") > 0
    for symbol, found in code.items():
        assert not found.floats, symbol
        assert found.count("STL") + found.count("LDL") == 0, f"{symbol} keeps registers in memory"


def test_generations_of_gpus() -> None:
    assert generations((75, 80, 86, 89, 90)) == [(0, (75,)), (80, (80, 86, 89)), (90, (90,))]
    assert generations((86,)) == [(80, (86,))]


def test_blocks_of_a_multiprocessor() -> None:
    assert resident_blocks(80, 64, Launch((1, 1, 1), (256, 1, 1))) == 4           # registers
    assert resident_blocks(86, 32, Launch((1, 1, 1), (128, 1, 1), 48 << 10)) == 2     # shared memory, with 1 KiB for each block
    assert resident_blocks(75, 16, Launch((1, 1, 1), (32, 1, 1))) == 16           # blocks


def test_costs_follow_work_and_width() -> None:
    """Half of the bits cost no more anywhere, and less where there is an instruction for them."""
    for sm in DEVICES:
        target = find_target(f"cuda:sm_{sm}")
        bytes, nibbles = (seconds(dense(target, bits, bits), target) for bits in (8, 4))
        assert nibbles > 1e-6
        assert nibbles <= 2.01 * bytes      # twice the depth, in this test
