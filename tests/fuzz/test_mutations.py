"""Broken models: whatever comes in, only qcc's own errors come out, in bounded time, and nothing stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qcc.models import zoo

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MUTANTS, WHOLE = 250, 1
# What must not be the answer to a bad model: other exceptions than qcc's, and qcc's word for its own mistakes.
BUGS = ("BUG", "GraphError", "PassError", "CodegenError")
SECONDS, SECONDS_EACH = 240.0, 20.0


def fuzz(model: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """What became of the mutants, and how the process ended if not well."""
    folder.mkdir()
    command = [sys.executable, str(HERE / "worker.py"), str(zoo.path(model)), "0", str(MUTANTS), str(folder), str(WHOLE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=ROOT, check=False)
        output, end = done.stdout, "" if done.returncode == 0 else f"ended with {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout.decode() if isinstance(expired.stdout, bytes) else ""
        end = f"did not end in {SECONDS} s"
    lines = [json.loads(line) for line in output.splitlines()]
    last = lines[-1].get("begin") if lines else None
    return [line for line in lines if "seed" in line], f"mutant {last}: {end}" if end else ""


@pytest.mark.parametrize("model", sorted(zoo.bundled()))
def test_mutants_end_in_errors_of_qcc(model: str, tmp_path: Path) -> None:
    results, death = fuzz(model, tmp_path / "work")
    assert not death, death
    assert len(results) == MUTANTS
    bugs = [f"mutant {r['seed']}: {r['kind']}: {r['message']}" for r in results if r["kind"] in BUGS]
    assert not bugs, f"{len(bugs)} mutants broke the compiler:\n" + "\n".join(bugs[:5])
    slow = [(r["seed"], r["seconds"]) for r in results if r["seconds"] > SECONDS_EACH]
    assert not slow, f"mutants that took too long: {slow}"
    kinds = Counter(r["kind"] for r in results)
    assert kinds["ok"] > 5, kinds
    assert kinds["ModelError"] + kinds["UnsupportedOperator"] > MUTANTS // 4, kinds

    for result in results:      # every error says something, and shows no Python object's address
        assert result["kind"] == "ok" or len(result["message"]) > 20, result
        assert " object at 0x" not in result["message"], result
