"""Files and functions stay short enough to be read. There is no list of exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("qcc", "passes", "codegen", "runtime", "models", "benchmarks", "examples", "tests")
SUFFIXES = {".py", ".c", ".cpp", ".h"}
MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 40


def sources() -> list[str]:
    """Every source file by its real path, once (links are not followed)."""
    linked = {ROOT / "qcc" / name for name in ("passes", "codegen", "runtime", "models")}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return sorted(str(path.relative_to(ROOT)) for path in files if not linked.intersection(path.parents))


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("name", sources())
def test_short(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= MOST_LINES_OF_A_FILE, f"{name} has {lines} lines, the most is {MOST_LINES_OF_A_FILE}: split it"
    if name.endswith(".py"):
        long = [f"{function} ({lines} lines)" for function, lines in functions(ast.parse(text)) if lines > MOST_LINES_OF_A_FUNCTION]
        assert not long, f"{name}: functions over {MOST_LINES_OF_A_FUNCTION} lines: {', '.join(long)}"
