"""`qcc run`: arrays from files through a compiled model. Decides how stacks of samples are run and joined again."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from qcc.commands.terminal import debug_option, force_option, json_option, print_json, quiet_option, table, threads_option, writing
from qcc.errors import DataError, UsageError

if TYPE_CHECKING:
    from qcc.runtime.module import Array, Module


@click.command(name="run")
@click.argument("artifact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--input", "files", multiple=True, required=True, metavar="FILE | NAME=FILE",
              help="A .npz file with an array for every input, or a .npy file for one input (repeatable).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs to this .npz file.")
@threads_option
@force_option
@quiet_option
@json_option
@debug_option
def command(artifact: Path, files: tuple[str, ...], output: Path | None, threads: int, force: bool, quiet: bool, as_json: bool) -> None:
    """Run a compiled model on arrays from files.

    Arrays have the input's element type and shape; a stack of several batches along the first axis is run batch by batch.
    """
    from qcc.runtime import load

    with load(artifact, threads) as module:
        outputs = run_stacks(module, read_inputs(files, [port.name for port in module.inputs]))
    if output is not None:
        with writing(output, force) as file:
            _write_arrays(file, outputs)
    summary = [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "min": array.min(), "max": array.max()}
               for name, array in outputs.items()]
    if as_json:
        print_json({"outputs": summary, "file": None if output is None else str(output)})
    elif not quiet:
        click.echo(table(("output", "type", "min", "max"), [
            (s["name"], f"{s['dtype']}{s['shape']}", f"{s['min']:.6g}", f"{s['max']:.6g}") for s in summary]))


def _write_arrays(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """An .npz file; unlike np.savez, whatever the arrays' names are."""
    import numpy as np

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_inputs(files: Sequence[str], names: Sequence[str]) -> dict[str, Array]:
    """Arrays by input name.

    Raises:
        UsageError: an input is given twice or not at all, or a file cannot be read.
    """
    from qcc.data_files import read_file

    found: dict[str, Array] = {}
    for text in files:
        name, path = _named(text, names)
        content = read_file(path, [name] if name else names, None, "RGB").content
        arrays = content if isinstance(content, Mapping) else _by_name(text, content, name, names)
        for key, array in arrays.items():
            if key in found:
                raise UsageError(f"--input {text}: input {key!r} is given twice")
            found[key] = array
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"--input: nothing given for {', '.join(map(repr, missing))}; the inputs are {', '.join(map(repr, names))}")
    return found


def _named(text: str, names: Sequence[str]) -> tuple[str, Path]:
    """NAME=FILE, or a file alone; a file whose name contains '=' is still a file."""
    name, equals, rest = text.partition("=")
    if not equals or (name not in names and Path(text).exists()):
        return "", Path(text)
    if name not in names:
        raise UsageError(f"--input {text}: the model has no input {name!r}; expected {', '.join(map(repr, names))}")
    return name, Path(rest)


def _by_name(text: str, content: Any, name: str, names: Sequence[str]) -> dict[str, Array]:
    if isinstance(content, tuple):
        if len(content) != len(names):
            raise UsageError(f"--input {text}: holds {len(content)} tensors, the model has {len(names)} inputs")
        return dict(zip(names, content, strict=True))
    if not name and len(names) != 1:
        raise UsageError(f"--input {text}: which of the inputs {', '.join(map(repr, names))} is it for? Give --input NAME={text}")
    return {name or names[0]: content}


def run_stacks(module: Module, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs for arrays that hold one batch, or several along the first axis: then outputs are joined along theirs.

    Raises:
        UsageError: a name, type or shape does not fit, or inputs hold different numbers of batches.
    """
    import numpy as np

    stacks = {port.name: _batches(port.name, arrays[port.name], port.shape) for port in module.inputs}
    counts = {name: len(stack) for name, stack in stacks.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"inputs: expected as many batches for every input, got {counts}")
    results = [module.run({name: np.asarray(stack[i]) for name, stack in stacks.items()}) for i in range(next(iter(counts.values()), 1))]
    if len(results) == 1:
        return results[0]
    return {name: np.concatenate([np.atleast_1d(result[name]) for result in results]) for name in results[0]}


def _batches(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """The array as [batches, *shape]; an array of another shape is left to the module to refuse."""
    if array.ndim == len(shape) and shape and array.shape[1:] == shape[1:] and array.shape != shape and len(array):
        if len(array) % shape[0]:
            raise DataError(f"input {name!r}: expected a multiple of {shape[0]} samples along the first axis, got {len(array)}")
        return array.reshape(-1, *shape)
    return array[None]
