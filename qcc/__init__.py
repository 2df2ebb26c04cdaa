"""qcc: a quantizing compiler from ONNX to integer-only native libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from qcc.artifact import Artifact
    from qcc.compiler import Progress
    from qcc.data import DataOptions
    from qcc.mixed.goals import Goal
    from qcc.recipe import Recipe
    from qcc.runtime import Module, load

__all__ = ["Artifact", "DataOptions", "Goal", "Module", "Recipe", "compile", "load"]
_HOMES = {"Artifact": "qcc.artifact", "DataOptions": "qcc.data", "Goal": "qcc.mixed.goals", "Recipe": "qcc.recipe", "Module": "qcc.runtime",
          "load": "qcc.runtime"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `qcc.runtime` needs NumPy only."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qcc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def compile(
    model: Any,
    target: str = "host",
    bits: int | str = 8,
    calibration_data: Any = None,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    name: str = "",
    io: str = "float",
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    tune: str = "none",
    tuning_record: str | Path | None = None,
    data_options: DataOptions | None = None,
    goal: Goal | None = None,
) -> Artifact:
    """Compile an ONNX model to an integer library.

    Args:
        model: path, bytes or onnx.ModelProto; never modified.
        bits: of weights and activations, or both as in "w4a8".
        target, input_shapes, name, io, tune: see `Recipe`; these and bits are taken from `recipe` if that is given.
        calibration_data: batches of inputs: an iterable or callable of dicts, tuples or arrays, an object with `get_next()`, a .npz or
            .npy file, or a folder of them or of images, for which `data_options` say how pixels become numbers. None: made from BatchNorms.
        tuning_record: the tuning.json of an artifact, to choose the same kernels again without measuring.
        progress: called with (stage, done, total).
        goal: what `bits="mixed"` shall serve: budgets, or the least cost that keeps the loss.

    Raises:
        qcc.errors.QccError: with a message that says where, what was expected, what was found and what to do.
    """
    from qcc.compiler import compile_model, silent
    from qcc.data import calibration_batches
    from qcc.recipe import Recipe as RecipeType

    chosen = recipe or RecipeType(target, name, *_widths(bits, goal), io=io, tune=tune, input_shapes=dict(input_shapes or {}))
    chosen = replace(chosen, calibration="none") if calibration_data is None else chosen
    batches = None if calibration_data is None else lambda inputs: calibration_batches(calibration_data, inputs, data_options)
    return compile_model(model, batches, chosen, progress or silent, tuning_record, goal=goal)


def _widths(bits: int | str, goal: Goal | None) -> tuple[int, int]:
    """Of weights and activations; those that a goal leaves open have 8.

    Raises:
        UsageError: bits="mixed" without a goal, or a goal without it.
    """
    from qcc.errors import UsageError
    from qcc.recipe import bit_widths

    if (bits == "mixed") != (goal is not None):
        raise UsageError("bits='mixed' and goal=... go together: widths are chosen for a goal, such as qcc.Goal.within('size=0.6x')")
    return (8, 8) if goal is not None else bit_widths(str(bits))
