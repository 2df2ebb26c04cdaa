"""Recipes: every choice that a compile makes, as data. A recipe that is read back gives the same bytes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qcc.errors import RecipeError

CALIBRATIONS = ("data", "none")
OBSERVERS = ("auto", "minmax", "average", "percentile", "entropy", "mse")
MIGRATIONS = ("auto", "none", "equalize", "smooth", "shift")
ROUNDINGS = ("auto", "nearest", "mse", "second-order", "adaround", "adaquant", "decoupleq")
CORRECTIONS = ("auto", "affine", "bias", "none")
GRANULARITIES = ("channel", "tensor")
BORDERS = ("float", "integer")
WIDTH_TABLES = ("weights", "activations")
WIDTHS = tuple(range(2, 9))      # of weights
WIDER = (*WIDTHS, 16)            # of activations
TUNING_LEVELS = ("none", "quick", "full")


@dataclass(frozen=True)
class Recipe:
    """What to build and how.

    Attributes:
        target: name of the machine (codegen/target.py), "host" included; the artifact's recipe holds the resolved name.
        name: C identifier of the library; empty: from the model's file name.
        weight_bits, activation_bits: width of weights, 2 to 8, and of values between layers, 2 to 8 or 16 (docs/low-bits.md).
        weights, activations: other widths, by the name of a layer (of the value that it computes) and by the name of a value.
        weight_granularity: scales of weights: one per output "channel" of a layer, or one per "tensor".
        calibration: "data", or "none": inputs are made (docs/calibration.md), from this `seed`.
        observer: how ranges are measured: "minmax"; "average" of the batches' extremes; "percentile" of the values seen;
            "entropy", which keeps most information (KL divergence); "mse", the range whose rounding and clipping together err least.
            "auto": the one of these (without average) whose ranges make the outputs err least on calibration data that were held out.
        percentile: share of values inside the range, in percent (both tails together lose the rest).
        migration: of scales between layers before anything is rounded (docs/migration.md): "equalize" looks at the weights, "smooth" at
            what channels do on the calibration data, and "shift" also moves what norms make to the middle; "auto" takes what errs
            clearly least on samples that were held out, or none; or "none".
        rounding: of weights: "auto" takes for each layer what errs least on calibration data that was held out; or the method for all
            layers: "nearest", "mse", "second-order", "adaround", "adaquant", "decoupleq" (docs/rounding.md).
        correction: of each channel's results after rounding: "affine" changes scales and biases, "bias" biases only; or "none".
            "auto" is "bias" in layers whose weights have 8 bits, whose scales have little to gain, else "affine".
        correction_samples: how much of the calibration data rounding and correction look at.
        io: "float" converts at the border; "integer" hands over the integers of the encodings.
        tune: how the kernels' tiles are chosen: "none" by a cost model, "quick" or "full" by measuring few or many of them.
        input_shapes: fixed shapes of inputs, for models that leave some open.
    """

    target: str = "host"
    name: str = ""
    weight_bits: int = 8
    activation_bits: int = 8
    weight_granularity: str = "channel"
    calibration: str = "data"
    seed: int = 0
    observer: str = "auto"
    percentile: float = 99.999
    migration: str = "auto"
    rounding: str = "auto"
    correction: str = "auto"
    correction_samples: int = 64
    io: str = "float"
    tune: str = "none"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises RecipeError for values that make no sense."""
        widths = {"weight_bits": self.weight_bits, "activation_bits": self.activation_bits}
        widths |= {f"weights.{name}": bits for name, bits in self.weights.items()}
        widths |= {f"activations.{name}": bits for name, bits in self.activations.items()}
        for name, bits in widths.items():
            possible = WIDER if name.startswith("activation") else WIDTHS
            if bits not in possible:
                raise RecipeError(f"{name} = {bits} is out of range: expected {_widths_text(possible)} bits")
        if self.observer not in OBSERVERS:
            raise RecipeError(f"observer {self.observer!r} is unknown: expected one of {', '.join(OBSERVERS)}")
        if self.calibration not in CALIBRATIONS or self.seed < 0:
            raise RecipeError(f"calibration {self.calibration!r}, seed {self.seed}: expected {' or '.join(CALIBRATIONS)}, and 0 or more")
        if not 50.0 < self.percentile <= 100.0:
            raise RecipeError(f"percentile {self.percentile} is out of range: expected more than 50 and at most 100")
        if self.migration not in MIGRATIONS:
            raise RecipeError(f"migration {self.migration!r} is unknown: expected one of {', '.join(MIGRATIONS)}")
        if self.rounding not in ROUNDINGS:
            raise RecipeError(f"rounding {self.rounding!r} is unknown: expected one of {', '.join(ROUNDINGS)}")
        if self.correction not in CORRECTIONS:
            raise RecipeError(f"correction {self.correction!r} is unknown: expected one of {', '.join(CORRECTIONS)}")
        if self.correction_samples < 1:
            raise RecipeError(f"correction_samples {self.correction_samples} is out of range: expected at least 1")
        if self.weight_granularity not in GRANULARITIES:
            raise RecipeError(f"weight_granularity {self.weight_granularity!r} is unknown: expected one of {', '.join(GRANULARITIES)}")
        if self.io not in BORDERS:
            raise RecipeError(f"io {self.io!r} is unknown: expected one of {', '.join(BORDERS)}")
        if self.tune not in TUNING_LEVELS:
            raise RecipeError(f"tune {self.tune!r} is unknown: expected one of {', '.join(TUNING_LEVELS)}")

    @staticmethod
    def from_text(text: str, origin: str = "recipe") -> Recipe:
        """Read TOML.

        Raises:
            RecipeError: not TOML, unknown keys, or values of the wrong kind.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{origin} is not TOML: {error}") from error
        known = {f.name: getattr(Recipe(), f.name) for f in fields(Recipe)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise RecipeError(f"{origin}: unknown keys {', '.join(unknown)}; expected some of {', '.join(known)}")
        for key, value in values.items():
            wanted = (int, float) if isinstance(known[key], float) else type(known[key])
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise RecipeError(f"{origin}: {key} = {value!r} has the wrong kind, expected for example {known[key]!r}")
        if "input_shapes" in values:
            values["input_shapes"] = {name: _shape(origin, name, shape) for name, shape in values["input_shapes"].items()}
        for table in WIDTH_TABLES:
            values[table] = {name: _width(origin, f"{table}.{name}", bits) for name, bits in values.get(table, {}).items()}
        return Recipe(**values)

    @staticmethod
    def load(path: str | Path) -> Recipe:
        """Read a recipe file (see `from_text`)."""
        try:
            return Recipe.from_text(Path(path).read_text("utf-8"), f"recipe {path}")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def dumps(self) -> str:
        """The recipe as TOML, all keys written out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if not isinstance(value, Mapping)]
        for name, table in values.items():
            if isinstance(table, Mapping):
                lines.append(f"\n[{name}]")
                lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in sorted(table.items())]
        return "\n".join(lines) + "\n"


def bit_widths(text: str) -> tuple[int, int]:
    """Widths of weights and activations from "8" (both) or "w4a8".

    Raises:
        RecipeError: the text is neither.
    """
    match = re.fullmatch(r"(\d{1,2})|w(\d{1,2})a(\d{1,2})", text)
    widths = (0, 0) if match is None else (int(match[1] or match[2]), int(match[1] or match[3]))
    if widths[0] not in WIDTHS or widths[1] not in WIDER:
        raise RecipeError(f"bits {text!r}: expected a width of {_widths_text(WIDTHS)} bits for weights and activations, or one for each, "
                          "such as w4a8; activations may have 16")
    return widths


def _widths_text(widths: tuple[int, ...]) -> str:
    return f"{WIDTHS[0]} to {WIDTHS[-1]}" + (" or 16" if widths is WIDER else "")


def _width(origin: str, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RecipeError(f"{origin}: {name} = {value!r} is no width, expected a number of bits such as 4")
    return value


def _shape(origin: str, name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(n, int) and n > 0 for n in value):
        raise RecipeError(f"{origin}: the shape of input {name!r} is {value!r}, expected a list of positive integers")
    return tuple(value)
