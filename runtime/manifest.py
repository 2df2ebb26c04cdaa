"""The manifest of an artifact folder: what the library is, needs and promises, as manifest.json.

It stands alone: reading a manifest needs neither the compiler nor the IR.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import RuntimeFailure

FORMAT = 1
ABI_VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class PortRecord:
    """An input or output: `scale` and `zero_point` are None where the values are not quantized."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    scale: float | None = None
    zero_point: int | None = None

    @property
    def numpy(self) -> np.dtype[Any]:
        return numpy_dtype(self.dtype)


@dataclass(frozen=True, slots=True)
class ArgumentRecord:
    """An operand of a step: `space` is arena, constant, input or output.

    `position` is a byte offset in the arena or the constants, else the port's number, with `offset` bytes added to its address.
    Strides are in elements.
    """

    space: str
    position: int
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One kernel call; `arguments` are sources, constants, what it writes, then `scratch` arguments that mean nothing afterwards."""

    node: str
    kernel: str
    tasks: int
    macs: int
    arguments: tuple[ArgumentRecord, ...]
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """The kernels for one target in a library that has those of several; features as in the manifest."""

    target: str
    features: tuple[str, ...]
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything that a user of the folder may want to know without loading the library.

    Attributes:
        name: prefix of the library's symbols.
        target, triple, machine, features: what it was compiled for; `machine` as `uname -m` prints it, features as in /proc/cpuinfo.
        sms: for a GPU, the compute capabilities (times ten) that it has machine code for; PTX of the last serves later ones.
        digest: of weights and code; the library returns the same text.
        arena_bytes, arena_lower_bound, context_bytes, constants_bytes: memory; no plan can need less arena than the bound.
        layers: for every layer its node, op, bits, multiply-accumulates and bytes.
        proofs: for every accumulator the bounds that were proved.
        output_bounds: the largest absolute difference that the self-test allows; outputs not named are compared byte for byte.
        model: SHA-256 of the model that was compiled.
        calibration: what ranges were taken from: the number of batches, their digest, the observer, and what is to be known about them.
        rounding: by layer: the method that rounded its weights, and what was corrected.
        variants: in a library that chooses among the kernels of several targets when it starts: each of them, best first. `features` are
            those of the least demanding then, `steps` the first one's, and constants count once where variants share them.
        versions: of the programs that made the library.
        files: SHA-256 of every other file of the folder.
    """

    name: str
    target: str
    triple: str
    machine: str
    features: tuple[str, ...]
    digest: str
    arena_bytes: int
    arena_lower_bound: int
    context_bytes: int
    constants_bytes: int
    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    steps: tuple[StepRecord, ...]
    layers: tuple[Mapping[str, Any], ...] = ()
    proofs: tuple[Mapping[str, Any], ...] = ()
    output_bounds: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    variants: tuple[VariantRecord, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    sms: tuple[int, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    abi_version: int = ABI_VERSION
    format: int = FORMAT

    @property
    def library(self) -> str:
        return f"lib{self.name}.so"

    def dump(self) -> str:
        """The JSON text: keys sorted, so that equal manifests are equal files; lists of numbers on one line."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)
        # A line break never occurs inside a JSON string, so this changes lists only.
        return re.sub(r"\[\n\s+[^][{}\"]*\n\s+\]", lambda found: " ".join(found[0].split()), text) + "\n"

    @staticmethod
    def parse(text: str, where: str = FILE_NAME) -> Manifest:
        """The manifest in the text; `where` is named in errors.

        Raises:
            RuntimeFailure: it is not a manifest, or one of another format.
        """
        try:
            values = json.loads(text)
            found = values["format"]
            if found == FORMAT:
                return _manifest(values)
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeFailure(f"{where}: not a manifest of a compiled model ({type(error).__name__}: {error})") from error
        raise RuntimeFailure(f"{where}: the manifest has format {found}, this qcc reads format {FORMAT}; compile the model again")

    @staticmethod
    def read(folder: Path) -> Manifest:
        """The manifest of an artifact folder; RuntimeFailure when there is none."""
        path = folder / FILE_NAME
        try:
            return Manifest.parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise RuntimeFailure(f"{folder} is not a folder that 'qcc compile' wrote: cannot read {FILE_NAME} "
                                 f"({getattr(error, 'strerror', None) or error})") from error

    def write(self, folder: Path) -> None:
        (folder / FILE_NAME).write_text(self.dump(), encoding="utf-8")


def _ports(values: Sequence[Mapping[str, Any]]) -> tuple[PortRecord, ...]:
    return tuple(PortRecord(**{**port, "shape": tuple(port["shape"])}) for port in values)


def _argument(values: Mapping[str, Any]) -> ArgumentRecord:
    return ArgumentRecord(**{**values, "shape": tuple(values["shape"]), "strides": tuple(values["strides"])})


def _steps(values: Sequence[Mapping[str, Any]]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord(**{**step, "arguments": tuple(map(_argument, step["arguments"]))}) for step in values)


def _manifest(values: Mapping[str, Any]) -> Manifest:
    changed = {
        "features": tuple(values["features"]),
        "sms": tuple(values.get("sms", ())),
        "inputs": _ports(values["inputs"]),
        "outputs": _ports(values["outputs"]),
        "steps": _steps(values["steps"]),
        "layers": tuple(values["layers"]),
        "proofs": tuple(values["proofs"]),
        "variants": tuple(VariantRecord(v["target"], tuple(v["features"]), _steps(v["steps"])) for v in values["variants"]),
    }
    return Manifest(**{**values, **changed})


def numpy_dtype(text: str) -> np.dtype[Any]:
    """The NumPy type for an element type's text; integers narrower than a byte lie one in each byte."""
    if text == "bool":
        return np.dtype(np.bool_)
    kind, bits = text[0], int(text[1:])
    return np.dtype(f"{kind}{max(8, 1 << (bits - 1).bit_length()) // 8}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
