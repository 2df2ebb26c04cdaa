"""Layers: who may import whom, checked in the sources and in fresh processes.

arith < ir < ops < (onnx, passes, codegen) < compiler < cli; runtime and models stand alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("passes", "codegen", "runtime", "models")
COMPILER, COMMAND_LINE = 6, 7
LAYERS = {"errors": 0, "runtime": 1, "models": 1, "arith": 1, "ir": 2, "ops": 3, "recipe": 3, "onnx": 4, "passes": 4, "codegen": 4}
ALONE = {"runtime", "models"}
HOMES = {"tvm": ("qcc.codegen.", "qcc.ops."), "tvm_ffi": ("qcc.codegen.", "qcc.ops."), "onnx": ("qcc.onnx.", "qcc.models.", "qcc.peers.")}
HEAVY = ("tvm", "tvm_ffi", "onnx", "onnxruntime", "scipy", "networkx", "openvino", "nncf")


def modules() -> dict[str, Path]:
    """Dotted name and file of every module of the package."""
    found = {}
    for top in ("qcc", *MAPPED):
        prefix = ("qcc",) if top == "qcc" else ("qcc", top)
        for path in (ROOT / top).rglob("*.py"):
            inside = path.relative_to(ROOT / top).with_suffix("").parts
            if top == "qcc" and inside[0] in MAPPED:
                continue
            found[".".join((*prefix, *inside)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every imported module's full name, with the names of the functions around the import."""

    def walk(node: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}; write the full name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else str(node.module)), inside
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = (*inside, node.name)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), ())


def part(module: str) -> str:
    """The part of the package that a module belongs to: its second name, '' for the package itself."""
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> float:
    name = part(module)
    if module == "qcc.ir.types":
        return LAYERS["arith"] - 0.5  # the words that all of it is written in, arithmetic included
    return COMMAND_LINE if name in ("cli", "commands", "__main__") else LAYERS.get(name, COMPILER)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"qcc"}))
def test_imports_only_downward(module: str) -> None:
    for imported, _ in imports(MODULES[module]):
        if imported.split(".")[0] != "qcc" or imported == "qcc" or part(imported) == part(module):
            continue
        assert part(module) not in ALONE or part(imported) == "errors", f"{module} imports {imported}, but must stand alone"
        same_level = layer(imported) == layer(module) >= COMPILER
        assert layer(imported) < layer(module) or same_level, f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_large_packages_stay_at_home(module: str) -> None:
    for imported, inside in imports(MODULES[module]):
        top = imported.split(".")[0]
        if top not in HOMES:
            continue
        assert f"{module}.".startswith(HOMES[top]), f"{module} imports {imported}: {top} belongs in {', '.join(HOMES[top])}"
        if top in ("tvm", "tvm_ffi") and part(module) == "ops":
            assert inside, f"{module} imports {imported} at module level: only lowering may, when it is called"


def loaded(code: str) -> set[str]:
    """The modules in a fresh process after running some code from the root of the tree or, if installed, the package."""
    lines = [f"import sys; sys.path[:] = {sys.path!r}", code, "print('\\n'.join(sys.modules))"]
    process = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.split())


def test_importing_qcc_is_light() -> None:
    names = loaded("import qcc")
    assert "qcc" in names
    assert not names.intersection((*HEAVY, "numpy", "click", "rich"))


def test_importing_the_runtime_loads_nothing_else() -> None:
    names = loaded("import qcc.runtime")
    ours = {name for name in names if name.split(".")[0] == "qcc"}
    assert all(name in ("qcc", "qcc.errors") or name.startswith("qcc.runtime") for name in ours), sorted(ours)
    assert not names.intersection((*HEAVY, "click", "rich"))


@pytest.mark.parametrize("module", [name for name in ("qcc.compiler", "qcc.cli") if name in MODULES])
def test_the_compiling_process_never_loads_tvm(module: str) -> None:
    names = loaded(f"import {module}")
    assert module in names
    assert not names.intersection(("tvm", "tvm_ffi"))
    if module == "qcc.cli":
        assert not names.intersection(HEAVY), "the command line must answer --help at once"
