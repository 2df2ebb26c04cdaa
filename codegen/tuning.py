"""What a tuning decides: for every layer that has choices, which of them is taken; and the record of that as a file.

A choice is a field of a kernel that changes how fast the kernel is, but no bit of what it computes: the tile of a dense layer, the
rows and the fold (on a GPU, columns) of a depthwise one. A kernel without its choices is a workload, and a tuning maps workloads to
choices. This module knows which choices are legal and how the cost model orders them; it knows nothing of measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from qcc.codegen.cuda import dense as gpu_dense
from qcc.codegen.cuda import depthwise as gpu_depthwise
from qcc.codegen.cuda.gemv import GemvKernel
from qcc.codegen.cuda.gemv import alternatives as gemv_alternatives
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.codegen.x86.dense import DenseKernel
from qcc.codegen.x86.depthwise import DepthwiseKernel
from qcc.codegen.x86.pairs import PairsKernel
from qcc.codegen.x86.tiles import DEPTHWISE_ROWS, MOST_FOLD, candidates, cycles
from qcc.codegen.x86.winograd import WinogradKernel
from qcc.errors import UsageError

FILE_NAME = "tuning.json"
FORMAT = 1
Choice = tuple[tuple[int, ...], ...]     # the fields of `_CHOICES`, each as its numbers
AnyKernel = TypeVar("AnyKernel")


def _dense(kernel: DenseKernel, target: Target) -> list[DenseKernel]:
    """The layer with every tile, best first."""
    work = kernel.work
    tiles = sorted(candidates(work, target), key=lambda tile: (cycles(work, tile, target), -tile.columns, tile))
    return [replace(kernel, tile=tile) for tile in tiles]


def _depthwise(kernel: DepthwiseKernel, target: Target) -> list[DepthwiseKernel]:
    """The layer with every number of rows and, where pixels lie side by side, every fold that computes least or next to least."""
    _, rows, columns, channels = kernel.output.shape
    views = [kernel.source, kernel.output] + ([kernel.residual] if kernel.residual is not None else [])
    foldable = kernel.strides[1] == 1 and all(view.strides[2] == channels for view in views)
    kernels = [replace(kernel, rows=count, fold=fold) for count in range(1, min(rows, DEPTHWISE_ROWS[target.registers]) + 1)
               for fold in range(1, (min(columns, MOST_FOLD) if foldable else 1) + 1)]

    def computed(choice: DepthwiseKernel) -> tuple[float, int, int]:
        strips, width = -(-rows // choice.rows), -(-columns // choice.fold) * choice.blocks
        return strips * (choice.rows + 1.0) * width, -choice.rows, choice.fold

    return sorted(kernels, key=computed)


def _kind(kernel: DenseKernel | PairsKernel | WinogradKernel) -> tuple[int, int]:
    return kernel.tile.blocks, kernel.tile.rows * kernel.tile.columns


@dataclass(frozen=True)
class _Choices:
    """Of one family of kernels.

    Attributes:
        names: the fields that are choices.
        kernels: all kernels that compute the same, likely fast ones first.
        kind: kernels of one kind differ little; those whose first numbers agree are alike.
    """

    names: tuple[str, ...]
    kernels: Callable[[Any, Target], Sequence[Any]]
    kind: Callable[[Any], tuple[int, int]]


_CHOICES: Mapping[type, _Choices] = {
    DenseKernel: _Choices(("tile",), _dense, _kind),
    PairsKernel: _Choices(("tile",), PairsKernel.tiles, _kind),
    WinogradKernel: _Choices(("tile",), WinogradKernel.tiles, _kind),
    DepthwiseKernel: _Choices(("rows", "fold"), _depthwise, lambda kernel: (kernel.rows, kernel.fold)),
    gpu_dense.DenseKernel: _Choices(("tile", "resident"), gpu_dense.alternatives, lambda kernel: (kernel.tile.columns, kernel.tile.rows)),
    gpu_depthwise.DepthwiseKernel: _Choices(("rows", "columns"), gpu_depthwise.alternatives, lambda kernel: (kernel.columns, kernel.rows)),
    GemvKernel: _Choices(("channels",), gemv_alternatives, lambda kernel: (kernel.channels, 0)),
}


def alternatives(kernel: AnyKernel, target: Target) -> list[AnyKernel]:
    """All kernels that compute what this one computes, itself included, likely fast ones first; none where there is no choice."""
    if type(kernel) not in _CHOICES:
        return []
    found = list(_CHOICES[type(kernel)].kernels(kernel, target))
    return found if len(found) > 1 else []


def choice_names(kernel: Any) -> tuple[str, ...]:
    """The fields of a kernel that are choices."""
    return _CHOICES[type(kernel)].names if type(kernel) in _CHOICES else ()


def workload(kernel: Any) -> str:
    """What a kernel computes, in one line: its description without its choices."""
    skipped = choice_names(kernel)
    parts = (f"{f.name}={value_text(getattr(kernel, f.name))}" for f in fields(kernel) if f.name not in skipped)
    return f"{type(kernel).__name__} " + " ".join(parts)


def value_text(value: Any) -> str:
    """A field of a kernel without spaces."""
    if isinstance(value, View):
        return f"{value.dtype}{list(value.shape)}{list(value.strides)}".replace(" ", "")
    if is_dataclass(value):
        return "(" + ",".join(f"{f.name}={value_text(getattr(value, f.name))}" for f in fields(value)) + ")"
    return "-" if value is None else str(value).replace(" ", "")


def choice_of(kernel: Any) -> Choice:
    return tuple(_numbers(getattr(kernel, name)) for name in choice_names(kernel))


def _numbers(value: Any) -> tuple[int, ...]:
    """A number, or those of a tile's fields in order."""
    if is_dataclass(value):
        return tuple(number for f in fields(value) for number in _numbers(getattr(value, f.name)))
    return tuple(value) if isinstance(value, tuple) else (value,)


def kind_of(kernel: Any) -> tuple[int, int]:
    """Kernels of one kind differ little, those whose first numbers agree less than others."""
    return _CHOICES[type(kernel)].kind(kernel)


@dataclass(frozen=True)
class Tuning:
    """The choices of one network's layers on one target.

    Attributes:
        level: how they were searched for ("quick" or "full").
        choices: by workload; every layer of the network that has a choice.
        origin: where the record is from, for messages.
    """

    target: Target
    level: str
    choices: Mapping[str, Choice]
    origin: str = "the tuning record"

    def apply(self, kernel: AnyKernel) -> AnyKernel:
        """The same layer with the recorded choice.

        Raises:
            UsageError: the record lacks the layer, or names a choice that it does not have.
        """
        legal = alternatives(kernel, self.target)
        if not legal:
            return kernel
        wanted = self.choices.get(workload(kernel))
        if wanted is None:
            raise UsageError(f"{self.origin} does not fit this network: it lacks the layer {workload(kernel)}; {self._remedy}")
        for candidate in legal:
            if choice_of(candidate) == wanted:
                return candidate
        raise UsageError(f"{self.origin}: the layer {workload(kernel)} has no choice {list(map(list, wanted))}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"expected the record of an artifact of this network; or tune again with --tune {self.level}"

    def check_used(self, kernels: Iterable[Any]) -> None:
        """Raises UsageError for layers in the record that are none of these kernels: it was made for another network."""
        unused = set(self.choices) - {workload(kernel) for kernel in kernels if type(kernel) in _CHOICES}
        if unused:
            raise UsageError(f"{self.origin} does not fit this network: {len(unused)} of its {len(self.choices)} layers do not occur, "
                             f"for example {min(unused)}; {self._remedy}")

    def dumps(self) -> str:
        """The record as JSON; equal tunings are equal texts."""
        layers = [{"workload": name, "choice": [list(part) for part in choice]} for name, choice in sorted(self.choices.items())]
        head = {"format": FORMAT, "target": self.target.name, "level": self.level}
        lines = ",\n".join("  " + json.dumps(layer) for layer in layers)
        return json.dumps(head)[:-1] + ', "layers": [\n' + lines + "\n]}\n"


def load_tuning(path: str | Path, target: Target) -> Tuning:
    """Read a record.

    Raises:
        UsageError: it cannot be read, is no record, or is for another target.
    """
    origin = f"tuning record {path}"
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{origin} cannot be read: {error}; expected the {FILE_NAME} of an artifact") from error
    try:
        version, name, level = values["format"], values["target"], values["level"]
        choices = {layer["workload"]: tuple(tuple(map(_number, part)) for part in layer["choice"]) for layer in values["layers"]}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{origin} is malformed ({type(error).__name__}: {error}); expected the {FILE_NAME} of an artifact") from error
    if version != FORMAT or level not in ("quick", "full") or not all(isinstance(workload, str) for workload in choices):
        raise UsageError(f"{origin} has format {version!r} and level {level!r}: expected format {FORMAT}, quick or full; tune again")
    if name != target.name:
        raise UsageError(f"{origin} is for target {name}, but this compile is for {target.name}: choose that target, or tune again")
    return Tuning(target, level, choices, origin)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")
    return value
