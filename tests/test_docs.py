"""The documentation lists what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from qcc.passes.registry import PASSES

ROOT = Path(__file__).resolve().parent.parent


def test_every_pass_is_listed_with_its_contract() -> None:
    rows = {}
    for step in PASSES:
        stages = step.takes.name if step.takes is step.gives else f"{step.takes.name} -> {step.gives.name}"
        summary = (step.run.__doc__ or "").partition("\n")[0].rstrip(".:")
        assert summary, step.name
        rows[step.name] = f"| `{step.name}` | {stages} | {step.numerics.name} | {summary} |"
    listed = re.findall(r"^\| `.*$", (ROOT / "docs" / "passes.md").read_text("utf-8"), re.MULTILINE)
    assert listed == list(rows.values()), "expected in docs/passes.md:\n" + "\n".join(rows.values())
