"""What the commands share: options, tables, numbers as text, JSON, progress bars and output files."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from qcc.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from qcc.data import DataOptions

Command = Callable[..., Any]
T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bars and no summary; errors only.")
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error.")
force_option = click.option("--force", is_flag=True, help="Replace what is there.")
threads_option = click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads that work on one run.")
shape_option = click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME:1x3x224x224",
                            help="Fix the shape of an input (repeatable); an open batch is 1.")


def pixel_options(function: Command) -> Command:
    """--mean --std --layout --color: how pictures become numbers."""
    options = (
        click.option("--mean", default="", metavar="M[,M,M]",
                     help="Mean of the pixels (0 to 255), one or one per channel: x = (pixel - mean) / std."),
        click.option("--std", default="", metavar="S[,S,S]", help="Deviation of the pixels, in the same unit."),
        click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), default=None,
                     help="Order of axes of the model's input, where its shape leaves it open."),
        click.option("--color", type=click.Choice(["RGB", "BGR"]), default="RGB", show_default=True, help="The model's order of channels."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def data_options(mean: str, std: str, layout: str | None, color: str) -> DataOptions:
    """The options of `pixel_options` as data."""
    from qcc.data import DataOptions

    return DataOptions(numbers("--mean", mean), numbers("--std", std), layout or "", color)


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers that are separated by commas; UsageError if they are not numbers."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"{option} {text!r}: expected a number, or one per channel separated by commas: 123.7,116.3,103.5") from None


def shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """NAME:1x3x224x224 (or with commas) as name and shape; UsageError for anything else, or a name given twice."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, colon, extents = text.rpartition(":")
        parts = extents.replace(",", "x").split("x")
        if not colon or not name or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise UsageError(f"--input-shape {text!r}: expected NAME:1x3x224x224, the input's name and positive extents")
        if name in found:
            raise UsageError(f"--input-shape: input {name!r} is given twice")
        found[name] = tuple(map(int, parts))
    return found


def print_json(values: Mapping[str, Any]) -> None:
    click.echo(json.dumps(values, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    """NumPy's numbers and paths, for JSON."""
    return value.item() if hasattr(value, "item") else str(value)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns, numbers to the right, never cut off: the same on a terminal and in a file."""
    cells = [[cell if isinstance(cell, str) else "" if cell is None else str(cell) for cell in row] for row in rows]
    right = [bool(cells) and all(row[i][:1].isdigit() or row[i][:1] in "-+<" for row in cells) for i in range(len(headers))]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def size_text(count: float) -> str:
    """Bytes as a person reads them: 512 B, 1.5 kB, 3.20 MB (powers of 1000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def weights_text(layer: Mapping[str, Any]) -> str:
    """Bits and bytes of a layer's weights as the library holds them, "4 bit, 2.3 kB"; empty where it has none."""
    return f"{layer['weight_bits']} bit, {size_text(layer['weight_bytes'])}" if layer.get("weight_bits") else ""


def count_text(count: float) -> str:
    """A number of operations: 950, 12.5 k, 4.09 G."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f}"


def time_text(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


class Progress:
    """Progress bars on standard error, if that is a terminal: call it with a stage, what is done of it, and the total (0: not known)."""

    def __init__(self, quiet: bool) -> None:
        self.bars: Any = None
        self.tasks: dict[str, TaskID] = {}
        self.shown = not quiet and sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.bars is None:
            return
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total or None)
        self.bars.update(self.tasks[stage], completed=done, total=total or None)

    def watch(self, stage: str, items: Iterable[T], total: int = 0) -> Iterator[T]:
        """The items, counted."""
        for number, item in enumerate(items):
            self(stage, number, total)
            yield item

    def __enter__(self) -> Progress:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            self.bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()


@contextlib.contextmanager
def writing(path: Path, force: bool) -> Iterator[IO[bytes]]:
    """A file to write to, which appears under its name only when it is complete.

    Raises:
        OutputError: it exists and `force` is not set, or it cannot be written.
    """
    if path.is_dir() or (path.is_file() and not force):
        raise OutputError(f"output {path} is a folder; choose another name" if path.is_dir() else
                          f"output {path} exists; choose another name, or replace it with --force")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            with path.open("wb") as file:
                yield file
            return
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(aside, 0o666 & ~mask)
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; nothing was written") from error
