"""The documentation lists what the code has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import qcc.commands
from qcc.cli import BROKEN_PIPE, INTERRUPTED, TERMINATED
from qcc.commands.compile import command as compile_command
from qcc.errors import QccError
from qcc.passes.registry import PASSES
from qcc.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent


def kinds(base: type[QccError] = QccError) -> Iterator[type[QccError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_error_has_a_documented_exit_code_of_its_own() -> None:
    for module in iter_modules(qcc.commands.__path__, "qcc.commands."):     # errors may be defined anywhere
        import_module(module.name)
    rows = re.findall(r"^\| ([\d, ]+) \| (.+?) \| (.*?) ?\|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    listed = {name: int(code) for code, _, names in rows for name in re.findall(r"`(\w+)`", names)}
    own = {kind: kind.exit_code for kind in kinds() if "exit_code" in vars(kind)}
    assert len(set(own.values())) == len(own), "two kinds of errors share an exit code"
    assert QccError.exit_code not in own.values()
    assert listed == {kind.__name__: kind.exit_code for kind in kinds() if kind in own or QccError in kind.__bases__}
    codes = [int(code) for row in rows for code in row[0].split(", ")]
    assert codes == [0, *sorted({QccError.exit_code, *own.values()}), INTERRUPTED, BROKEN_PIPE, TERMINATED]


def test_every_pass_is_listed_with_its_contract() -> None:
    rows = {}
    for step in PASSES:
        stages = step.takes.name if step.takes is step.gives else f"{step.takes.name} -> {step.gives.name}"
        summary = (step.run.__doc__ or "").partition("\n")[0].rstrip(".:")
        assert summary, step.name
        rows[step.name] = f"| `{step.name}` | {stages} | {step.numerics.name} | {summary} |"
    listed = re.findall(r"^\| `.*$", (ROOT / "docs" / "passes.md").read_text("utf-8"), re.MULTILINE)
    assert listed == list(rows.values()), "expected in docs/passes.md:\n" + "\n".join(rows.values())


def test_every_key_of_a_recipe_is_listed_with_its_option_and_default() -> None:
    text = (ROOT / "docs" / "recipe.md").read_text("utf-8")
    listed = {key: (option, default) for key, option, default in re.findall(r"^\| `(\w+)` \| (.*?) ?\| `(.*?)` \|", text, re.MULTILINE)}
    blank = Recipe()
    assert {key: default for key, (_, default) in listed.items()} == {
        field.name: json.dumps(getattr(blank, field.name)) for field in fields(Recipe)}
    options = {option for parameter in compile_command.params for option in parameter.opts}
    assert {option.strip("`") for option, _ in listed.values()} - {""} <= options


def test_links_lead_somewhere_and_the_readme_leads_to_every_page() -> None:
    pages = [page for folder in ("", "docs", "examples", "models", "benchmarks") for page in (ROOT / folder).glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}, which is not there"
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in readme] == []
