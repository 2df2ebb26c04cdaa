"""The machine code of libraries for GPUs: the tensor-core instructions that were promised, no float arithmetic in integer kernels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import qcc
from qcc.codegen.cuda import toolchain
from qcc.codegen.target import find_target
from qcc.errors import CodegenError
from qcc.runtime import Manifest
from qcc.sass import disassemble, find_disassembler, images, parse
from qcc.verification import check_code

LISTING = """
	.section	.text.net_k0,"ax",@progbits
.text.net_k0:
        /*0000*/                   HFMA2.MMA R9, -RZ, RZ, 0, 2.384185791015625e-07 ;
        /*0010*/               @P0 IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0020*/              @!P1 FADD.FTZ R2, R3, R4 ;
        /*0030*/                   I2FP.F32.S32 R2, R3 ;
        /*0040*/                   IMMA.16832.U8.S8 R4, R4.ROW, R8.COL, R12 ;
        /*0050*/                   HFMA2.MMA R9, R1, R2, R3 ;
.text.net_k1:
        /*0000*/                   IDP.4A.U8.S8 R2, R3, R4, R2 ;
        /*0010*/                   FSEL R2, R3, R4, P0 ;
"""


@pytest.fixture(scope="module")
def disassembler() -> Path:
    found = find_disassembler()
    if found is None:
        pytest.skip("there is no nvdisasm: machine code for GPUs is NOT looked at")
    return found


def test_what_counts_as_arithmetic() -> None:
    code = parse(LISTING)
    assert code["net_k0"].floats == {"FADD.FTZ": 1, "I2FP.F32.S32": 1, "HFMA2.MMA": 1}
    assert code["net_k0"].count("IMMA.16832") == 1
    assert code["net_k1"].floats == {}


def test_tensor_core_instructions(compiled: qcc.Artifact, shared_artifact: Path, disassembler: Path) -> None:
    symbols = [symbol for kernel, symbol in compiled.program.kernels.items() if kernel.macs > 10_000]      # the convolution
    assert symbols
    found = images(shared_artifact / "libsmall.so")
    assert [image.sm for image in found] == [75, 80, 86, 89, 90]
    for image in found:
        kernels = disassemble(image, disassembler)
        promised = "IMMA.8816.U8.S8" if image.sm == 75 else "IMMA.16832.U8.S8"
        for symbol in symbols:
            assert kernels[symbol].count(promised) > 0, f"{symbol} for sm_{image.sm}: {kernels[symbol].instructions}"


def test_no_float_arithmetic_in_integer_kernels(shared_artifact: Path, disassembler: Path) -> None:
    manifest = Manifest.read(shared_artifact)
    code = check_code(shared_artifact, manifest)
    assert code.findings == ()
    assert code.functions >= 5 * len({step.kernel for step in manifest.steps})
    assert code.float_functions, "the borders compute with floats"


def test_compilers_are_found_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = toolchain.packaged("lib/libnvrtc.so.*")
    if packages:
        assert toolchain.find_compiler().name == "nvrtc"
    monkeypatch.setattr(toolchain, "packaged", lambda pattern: [])
    program = tmp_path / "bin" / "nvcc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.9, V12.9.86\n")
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.find_compiler() == toolchain.Compiler(program, "12.9.86")


def test_both_compilers_and_the_same_bytes_twice(
    shared_artifact: Path, cuda_compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, target = (shared_artifact / "small.cu").read_text(), find_target("cuda:sm_80")
    results = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        results.append([path.read_bytes() for path in toolchain.compile_images(text, target, tmp_path / name)])
    assert results[0] == results[1]
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc: only NVRTC is tested")
    monkeypatch.setattr(toolchain, "packaged", lambda pattern: [])
    (tmp_path / "nvcc").mkdir()
    cubin, ptx = toolchain.compile_images(text, target, tmp_path / "nvcc")
    assert cubin.read_bytes().startswith(b"\x7fELF")
    assert b".target sm_80" in ptx.read_bytes()


def test_a_compiler_that_fails_says_why(cuda_compiler: str, tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match=r"compiling the kernels for sm_80 failed(.|\n)*error"):
        toolchain.compile_images("__global__ void broken() { nonsense; }", find_target("cuda:sm_80"), tmp_path)
