"""A compiler as a program: `python nvrtc.py LIBRARY SOURCE ARCHITECTURE RESULT OPTION...` compiles CUDA C with NVRTC's library.

It runs in a process of its own, so that a crash in there is an error message, and imports nothing of qcc. ARCHITECTURE is sm_NN (the
result is a cubin) or compute_NN (PTX).
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def compile_source(library: str, source: Path, architecture: str, result: Path, options: list[str]) -> str:
    """Write the machine code or PTX; the text of an error, or nothing."""
    nvrtc = ctypes.CDLL(library)
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    if status == 0:
        arguments = [f"--gpu-architecture={architecture}", *options]
        texts = (ctypes.c_char_p * len(arguments))(*(text.encode() for text in arguments))
        status = nvrtc.nvrtcCompileProgram(program, len(arguments), texts)
        if status != 0:
            return _text(nvrtc, "ProgramLog", program)
        kind = "PTX" if architecture.startswith("compute") else "CUBIN"
        size = ctypes.c_size_t()
        status = nvrtc[f"nvrtcGet{kind}Size"](program, ctypes.byref(size))
        content = ctypes.create_string_buffer(max(1, size.value))
        status = status or nvrtc[f"nvrtcGet{kind}"](program, content)
        if status == 0:
            result.write_bytes(content.raw)
    return "" if status == 0 else str(nvrtc.nvrtcGetErrorString(status).decode())


def _text(nvrtc: ctypes.CDLL, name: str, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc[f"nvrtcGet{name}Size"](program, ctypes.byref(size))
    text = ctypes.create_string_buffer(max(1, size.value))
    nvrtc[f"nvrtcGet{name}"](program, text)
    return text.value.decode(errors="replace")


if __name__ == "__main__":
    failure = compile_source(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5:])
    if failure:
        sys.exit(failure)
