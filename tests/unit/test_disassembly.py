"""What counts as floating-point arithmetic, and that code is read whole."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from qcc.disassembly import MACHINES, Function, Instruction, functions, innermost
from qcc.errors import VerificationError

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="it builds libraries for this machine, and reads x86-64")

ARITHMETIC = (
    "addss addps vaddpd vsubsh mulsd vmulps divss sqrtps vsqrtsd minps vmaxss vfmadd231ps vfnmsub132sd vfmaddsub213pd vaddsubps "
    "cvtsi2ss cvttps2dq vcvtdq2ps vcvtph2ps vcvtneps2bf16 vdpbf16ps vrndscaleps roundss vroundpd rcpps vrcp14ps vrsqrt14sd comiss "
    "vucomisd cmpltps vcmpps vhaddps dppd vscalefps vreducess vfpclassps vgetexppd fld fadd fxch fistp vfcmaddcph"
)
OTHERS = (
    "movss vmovups movaps vxorps andps vandnps orpd unpcklps vshufps vpermilps vbroadcastss vinsertf128 vextractf32x4 vblendps insertps "
    "vpaddd paddw vpmulld pmaddwd vpdpbusd add sub mul div min cmp cmpsd cmove call fxsave64 vpmaxsd vpsubd vpminub vmaskmovps vgatherdps "
    "vtestps vpermps vmovmskps sqshrn cmpxchg adc imul maxkeys"
)


def is_float_arithmetic(mnemonic: str, machine: str = "EM_X86_64") -> bool:
    return MACHINES[machine].floats.fullmatch(mnemonic) is not None


@pytest.mark.parametrize("mnemonic", ARITHMETIC.split())
def test_arithmetic(mnemonic: str) -> None:
    assert is_float_arithmetic(mnemonic)


@pytest.mark.parametrize("mnemonic", [word for word in OTHERS.split() if word != "cmpsd"])
def test_no_arithmetic(mnemonic: str) -> None:
    assert not is_float_arithmetic(mnemonic)


ARM_ARITHMETIC = (
    "fadd fmul fmla fmls fmadd fnmsub fcmp fcmpe fcmgt fcvtzs fcvtn fcvt frintn fsqrt fdiv fmax fminnm frecpe "
    "scvtf ucvtf bfdot bfmmla"
)
ARM_OTHERS = "fmov fcsel add mul smull sdot usmmla ldr ld1 tbl bfi bfxil bic sqxtn srshl smlal mla cmgt cnt zip1 movi"


@pytest.mark.parametrize(
    ("mnemonic", "is_float"), [*((word, True) for word in ARM_ARITHMETIC.split()), *((word, False) for word in ARM_OTHERS.split())])
def test_arithmetic_of_arm(mnemonic: str, is_float: bool) -> None:
    assert is_float_arithmetic(mnemonic, "EM_AARCH64") == is_float


@pytest.mark.parametrize("lines", [
    # a loop in a loop, each with a jump back
    ["nop ", "add ", "sdot ", "cbnz x1, #0x8", "cbnz x2, #0x4", "ret "],
    # entered in the middle, where an outer loop's stretch holds a shorter one that is no loop by itself
    ["b #0x8", "add ", "cmp ", "b.gt #0x4", "sdot ", "b #0x4", "ret "],
])
def test_innermost_loops(lines: list[str]) -> None:
    code = [Instruction(4 * number, *line.split(" ", 1)) for number, line in enumerate(lines)]
    inside = {code[number].mnemonic for number in innermost(MACHINES["EM_AARCH64"], code)}
    assert "sdot" in inside
    assert ("add" in inside) == (lines[0] == "b #0x8")


SOURCE = r"""
#include <string.h>
float average(float a, float b) { return (a + b) * 0.5f; }
int same_bits(int a) { float f; memcpy(&f, &a, 4); int b; memcpy(&b, &f, 4); return b ^ 1; }
__attribute__((target("avx512f,avx512vnni"))) void wide(void) { __asm__("vpdpbusd %zmm1, %zmm2, %zmm3"); }
/* VEX forms: vpdpbusd %ymm2,%ymm1,%ymm0; the same from memory at 0x40(%rsp,%rcx,4); vpdpwssd %xmm9,%xmm8,%xmm10 */
void narrow(void) {
    __asm__(".byte 0xc4,0xe2,0x75,0x50,0xc2; .byte 0xc4,0xe2,0x75,0x50,0x44,0x8c,0x40; .byte 0xc4,0x42,0x39,0x52,0xd1");
}
void broken(void) { __asm__(BROKEN); }
"""


def built(folder: Path, broken: str = '"nop"', *options: str) -> Path:
    (folder / "code.c").write_text(f"#define BROKEN {broken}\n{SOURCE}")
    library = folder / "libcode.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", *options, str(folder / "code.c"), "-o", str(library)], check=True)
    return library


def by_name(library: Path) -> dict[str, Function]:
    return {function.name: function for function in functions(library) if function.name}


def test_functions(tmp_path: Path) -> None:
    found = by_name(built(tmp_path))
    assert [instruction.mnemonic for instruction in found["average"].floats] == ["addss", "mulss"]
    assert found["same_bits"].floats == ()
    assert found["wide"].instructions["vpdpbusd zmm"] == 1
    assert found["narrow"].instructions["vpdpbusd ymm"] == 2
    assert found["narrow"].instructions["vpdpwssd"] == 1
    assert found["narrow"].instructions["ret"] == 1
    assert str(found["average"].floats[0]).startswith(f"{found['average'].address:#x}: addss xmm")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"broken: no instruction at 0x[0-9a-f]+ \(06"):
        functions(built(tmp_path, '".byte 0x06"'))
    with pytest.raises(VerificationError, match="has no symbol table"):
        functions(built(tmp_path, '"nop"', "-s"))
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(VerificationError, match=r"text\.so: cannot be read as an ELF library"):
        functions(tmp_path / "text.so")
    with pytest.raises(VerificationError, match=r"none\.so: cannot be read"):
        functions(tmp_path / "none.so")
    library = built(tmp_path)
    content = bytearray(library.read_bytes())
    content[18:20] = (243).to_bytes(2, "little")
    library.write_bytes(bytes(content))
    with pytest.raises(VerificationError, match="expected code for EM_X86_64 or EM_AARCH64, got EM_RISCV"):
        functions(library)
