"""Compiles mutants in a process of its own, so that a crash or a hang is seen from outside: one line of JSON per mutant, flushed.

Usage: worker.py MODEL.onnx FIRST COUNT FOLDER WHOLE. The first WHOLE mutants that import are compiled to the end, machine code included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from mutations import mutant

from qcc.codegen.floats import make_islands
from qcc.codegen.plan import plan
from qcc.codegen.target import TARGETS
from qcc.codegen.worker import KernelCompiler
from qcc.compiler import compile_model, silent
from qcc.data import calibration_batches
from qcc.errors import DataError, QccError
from qcc.ir import Pipeline, TensorType, verify
from qcc.ir.types import Array
from qcc.measuring import measure
from qcc.onnx import export_node, import_model
from qcc.passes.integer import prove, to_integer
from qcc.passes.quantize import Precision, encode, place
from qcc.passes.simplify import SIMPLIFY
from qcc.recipe import Recipe

MEMORY = 6 << 30
TARGET = TARGETS["x86-64-avx2"]


def batches(inputs: Mapping[str, TensorType]) -> list[dict[str, Array]]:
    """Two random batches; DataError for inputs of a size that nobody has data for."""
    if sum(type.bytes for type in inputs.values()) > MEMORY // 100:
        raise DataError("the inputs are too large")
    random = np.random.default_rng(0)
    return [{name: random.standard_normal(t.shape).astype(t.dtype.numpy) for name, t in inputs.items()} for _ in range(2)]


def to_program(content: bytes, kernels: KernelCompiler) -> None:
    """All of the compiler but the machine code; `kernels` lowers the float nodes."""
    recipe = Recipe(target=TARGET.name)
    graph = Pipeline(SIMPLIFY)(import_model(content))
    placement = place(graph, False)
    inputs = {name: graph.types[name] for name in graph.inputs}
    ranges = measure(graph, placement, calibration_batches(batches(inputs), inputs), recipe, silent).ranges
    quantized = encode(graph, placement, ranges, Precision())
    verify(quantized)
    integer = to_integer(quantized, placement, False)
    verify(integer)
    prove(integer)
    plan(integer, TARGET, "mutant", make_islands(integer, kernels, export_node))


def whole(content: bytes, folder: Path) -> None:
    """The compiler to the end; nothing may stay behind where it failed."""
    try:
        compile_model(content, batches, Recipe(target=TARGET.name, name="mutant")).save(folder / "result")
    except QccError:
        if list(folder.iterdir()):
            raise RuntimeError(f"left behind: {[path.name for path in folder.iterdir()]}") from None
        raise


def attempt(compile: Callable[[], None]) -> tuple[str, str]:
    """What became of a mutant: "ok", the kind of qcc's error, or "BUG", with the message."""
    try:
        compile()
    except QccError as error:
        return type(error).__name__, str(error)
    except Exception as error:  # what the test is about: nothing else may come out
        import traceback

        return "BUG", f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}"
    return "ok", ""


def main() -> None:
    path, first, count, work, left = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    model = path.read_bytes()
    with KernelCompiler(TARGET, 1) as kernels:
        for seed in range(first, first + count):
            print(json.dumps({"begin": seed}), flush=True)
            start = time.perf_counter()
            content = mutant(model, seed)
            kind, message = attempt(partial(to_program, content, kernels))
            if kind == "ok" and left:
                left -= 1
                folder = work / str(seed)
                folder.mkdir()
                kind, message = attempt(partial(whole, content, folder))
            print(json.dumps({"seed": seed, "kind": kind, "message": message, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
