"""The mapped folders: the declared packages are the ones in the tree, and each is only importable under its own name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("passes", "codegen", "runtime", "models")


def declared() -> dict[str, object]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        setuptools: dict[str, object] = tomllib.load(file)["tool"]["setuptools"]
    return setuptools


def packages_in_tree() -> set[str]:
    """Names of all folders with an __init__.py, as packages."""
    found = set()
    for top, name in (("qcc", "qcc"), *((folder, f"qcc.{folder}") for folder in MAPPED)):
        for init in (ROOT / top).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / top).parts
            if top == "qcc" and inside and inside[0] in MAPPED:
                continue  # seen through a link
            found.add(".".join((name, *inside)))
    return found


def test_every_package_of_the_tree_is_declared() -> None:
    packages = declared()["packages"]
    assert isinstance(packages, list)
    assert len(packages) == len(set(packages))
    assert set(packages) == packages_in_tree()


def test_every_folder_with_modules_is_a_package() -> None:
    for top in ("qcc", *MAPPED):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent.relative_to(ROOT)} has modules but no __init__.py"


def test_mapped_folders_are_the_declared_ones() -> None:
    assert declared()["package-dir"] == {"qcc": "qcc"} | {f"qcc.{folder}": folder for folder in MAPPED}


@pytest.mark.parametrize("folder", MAPPED)
def test_links_lead_to_the_mapped_folders(folder: str) -> None:
    link = ROOT / "qcc" / folder
    if not link.is_symlink():
        pytest.skip("this checkout keeps no symbolic links")
    assert link.resolve() == ROOT / folder


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # Without -P the current folder comes first on the path, which is just what the guard is for.
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folder", MAPPED)
def test_mapped_folders_refuse_their_bare_name(folder: str, tmp_path: Path) -> None:
    outside = run(f"import {folder}", tmp_path)
    assert outside.returncode != 0
    assert "ModuleNotFoundError" in outside.stderr
    inside = run(f"import {folder}", ROOT)
    assert inside.returncode != 0
    assert f"write 'import qcc.{folder}', never 'import {folder}'" in inside.stderr
