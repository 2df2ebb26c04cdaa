"""TIR functions to CUDA C, and the texts of all kernels to one translation unit.

It decides what stands in front of the kernels: TVM's own preamble is cut off (it needs the toolkit's headers, whichever kernel follows),
and runtime/csrc/qcc_device.cuh takes its place. Nothing is compiled here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qcc.codegen.target import Target
from qcc.errors import CodegenError

_DEVICE_KERNEL = 2      # tvm::CallingConv::kDeviceKernelLaunch
_KERNEL = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+(?:, *\d+)?\) )?(\w+)\([^)]*\)( \{|;)$', re.MULTILINE)


def kernel_source(functions: Mapping[str, Any], target: Target) -> str:
    """CUDA C of TIR functions, without anything in front of the first.

    Args:
        functions: symbol -> PrimFunc over raw pointers that binds blockIdx and threadIdx.

    Raises:
        CodegenError: TVM refused a function.
    """
    import tvm
    from tvm import tirx

    machine = tvm.target.Target({"kind": "cuda", "arch": f"sm_{target.sms[-1]}"})
    try:
        attributes = {"calling_conv": _DEVICE_KERNEL}
        module = tvm.IRModule({name: f.with_attr("global_symbol", name).with_attrs(attributes) for name, f in functions.items()})
        module = tirx.transform.LowerIntrin()(tirx.transform.BindTarget(machine)(module))
        text = tvm.get_global_func("target.build.cuda")(module, machine).inspect_source()     # it compiles when it is run first
    except (RuntimeError, TypeError, ValueError) as error:
        raise CodegenError(f"CUDA source of {', '.join(functions)} for {target.name}: {error}") from error
    return _without_preamble(text, list(functions))


def _without_preamble(text: str, symbols: Sequence[str]) -> str:
    found = list(_KERNEL.finditer(text))
    if sorted(match[1] for match in found if match[2] != ";") != sorted(symbols):
        raise CodegenError(f"TVM's CUDA source defines {[match[1] for match in found]}, expected {sorted(symbols)}")
    return text[found[0].start():].strip() + "\n"


def library_text(sources: Sequence[str]) -> str:
    """One translation unit of the kernels of a library."""
    return "\n".join(['#include "qcc_device.cuh"\n', *sources])
