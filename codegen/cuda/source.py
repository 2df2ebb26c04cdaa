"""TIR functions to CUDA C, and the texts of all kernels to one translation unit.

It decides what stands in front of the kernels: TVM's own preamble is cut off (it needs the toolkit's headers, whichever kernel follows),
and the text of runtime/csrc/qcc_device.cuh takes its place. Nothing is compiled here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from qcc.codegen.cuda.emit import ROLLED
from qcc.codegen.cuda.launch import CudaKernel
from qcc.codegen.target import Target
from qcc.errors import CodegenError

GENERATIONS = (0, 80, 90)      # of GPUs: without cp.async, with it, without products of 4-bit operands
_DEVICE_KERNEL = 2      # tvm::CallingConv::kDeviceKernelLaunch
DEVICE_HEADER = Path(__file__).resolve().parent.parent.parent / "runtime" / "csrc" / "qcc_device.cuh"
_ROLLED = re.compile(rf"^( *)for \(int {ROLLED}", re.MULTILINE)
_BOUNDS = re.compile(r"__launch_bounds__\((\d+)\)")
_KERNEL = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+(?:, *\d+)?\) )?(\w+)\([^)]*\)( \{|;)$', re.MULTILINE)


def kernel_source(kernels: Mapping[str, CudaKernel], target: Target) -> str:
    """CUDA C of kernels by symbol, without anything in front of the first.

    Where the code of a kernel differs between the target's generations of GPUs, the preprocessor chooses (QCC_SM, see qcc_device.cuh).

    Raises:
        CodegenError: TVM refused a kernel.
    """
    return "\n".join(_chosen(symbol, kernel, target) for symbol, kernel in kernels.items())


def _chosen(symbol: str, kernel: CudaKernel, target: Target) -> str:
    """A kernel's text, or its texts by generation, the latest first."""
    texts: list[tuple[int, str]] = []
    for first, sms in generations(target.sms):
        member = replace(target, sms=sms)
        text = _bounded(_source(symbol, kernel.emit(member), member), kernel)
        if texts and texts[-1][1] == text:
            continue
        texts.append((first, text))
    if len(texts) == 1:
        return texts[0][1]
    (_, oldest), *later = texts
    branches = [f"#{'el' if number else ''}if QCC_SM >= {first}\n{text}" for number, (first, text) in enumerate(reversed(later))]
    return "".join([*branches, f"#else\n{oldest}#endif\n"])


def _bounded(text: str, kernel: CudaKernel) -> str:
    """With the number of blocks that shall be resident in the kernel's launch bounds, and loops that stay loops."""
    text, resident = _ROLLED.sub(r"\1#pragma unroll 1\n\g<0>", text), kernel.launch.resident
    return _BOUNDS.sub(rf"__launch_bounds__(\1, {resident})", text) if resident else text


def generations(sms: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Compute capabilities that get the same code, ascending, each with the lowest capability of its generation."""
    groups = ((first, tuple(sm for sm in sms if first <= sm < end)) for first, end in pairwise((*GENERATIONS, 1000)))
    return [(first, group) for first, group in groups if group]


def _source(symbol: str, function: Any, target: Target) -> str:
    """CUDA C of a PrimFunc over raw pointers that binds blockIdx and threadIdx."""
    import tvm
    from tvm import tirx

    machine = tvm.target.Target({"kind": "cuda", "arch": f"sm_{target.sms[-1]}"})
    try:
        module = tvm.IRModule({symbol: function.with_attr("global_symbol", symbol).with_attr("calling_conv", _DEVICE_KERNEL)})
        module = tirx.transform.LowerIntrin()(tirx.transform.BindTarget(machine)(module))
        text = tvm.get_global_func("target.build.cuda")(module, machine).inspect_source()     # it compiles when it is run first
    except (RuntimeError, TypeError, ValueError) as error:
        raise CodegenError(f"CUDA source of {symbol} for {target.name}: {error}") from error
    return _without_preamble(text, [symbol])


def _without_preamble(text: str, symbols: Sequence[str]) -> str:
    found = list(_KERNEL.finditer(text))
    if sorted(match[1] for match in found if match[2] != ";") != sorted(symbols):
        raise CodegenError(f"TVM's CUDA source defines {[match[1] for match in found]}, expected {sorted(symbols)}")
    return text[found[0].start():].strip() + "\n"


def library_text(sources: Sequence[str]) -> str:
    """One translation unit of the kernels of a library. It includes nothing, so that it can be compiled where only it is."""
    return "\n".join([DEVICE_HEADER.read_text(encoding="ascii"), *sources])
