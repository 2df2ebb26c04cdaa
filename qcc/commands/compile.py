"""`qcc compile`: options to a recipe, a recipe to an artifact folder, and a summary of what became of the model."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from qcc.commands.mixed_options import goal_of, mixed_options, mixed_text
from qcc.commands.terminal import (
    Progress,
    count_text,
    data_options,
    debug_option,
    force_option,
    json_option,
    pixel_options,
    print_json,
    quiet_option,
    shape_option,
    shapes,
    size_text,
    table,
    time_text,
)
from qcc.errors import UsageError

if TYPE_CHECKING:
    from qcc.artifact import Artifact
    from qcc.recipe import Recipe
    from qcc.runtime import Manifest

BITS = "2 to 8 for both, wXaY such as w4a8 or w4a16, or mixed"
_LISTED = 20
# Named as in qcc.recipe, which is not imported for --help alone.
ROUNDINGS = ("auto", "nearest", "mse", "second-order", "adaround", "adaquant", "decoupleq")
MIGRATIONS = ("auto", "none", "equalize", "smooth", "shift")
OBSERVERS = ("auto", "minmax", "average", "percentile", "entropy", "mse")


_RECIPE_OPTIONS = (                 # named as in Recipe
    "target", "observer", "percentile", "seed", "migration", "rounding", "correction", "correction_samples", "weight_granularity", "io",
    "name", "tune")


@click.command(name="compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The artifact folder to write.")
@click.option("--target", default="host", show_default=True, help="The machine to compile for; see 'qcc targets'.")
@click.option("--bits", default="8", show_default=True, help=f"Bits of weights and activations: {BITS}.")
@click.option("--calibration-data", "calibration", type=click.Path(path_type=Path),
              help="Typical inputs: a .npz or .npy file, or a folder of such files, of pictures (with --mean and --std), or of "
                   "test_data_set_* folders. The word none: make inputs from what the model's BatchNorms remember.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the inputs that --calibration-data none makes.")
@click.option("--observer", type=click.Choice(OBSERVERS), default="auto", show_default=True,
              help="How ranges follow from what was measured; auto: whichever serves the network's outputs best.")
@click.option("--migration", type=click.Choice(MIGRATIONS), default="auto", show_default=True,
              help="Moves scales between layers before anything is rounded: by the weights (equalize), by the data (smooth, shift), or "
                   "whichever errs least (auto).")
@click.option("--rounding", type=click.Choice(ROUNDINGS), default="auto", show_default=True,
              help="How weights are rounded: one method for all layers, or in each the one that errs least on held-out data (auto).")
@click.option("--correction", type=click.Choice(["auto", "affine", "bias", "none"]), default="auto", show_default=True,
              help="What makes up for rounding in each channel: scale and bias (affine), bias alone, or nothing.")
@click.option("--correction-samples", type=click.IntRange(1), default=64, show_default=True,
              help="How many calibration samples rounding and correction look at.")
@click.option("--weight-granularity", type=click.Choice(["channel", "tensor"]), default="channel", show_default=True,
              help="Weights have one scale per output channel of a layer, or one per layer.")
@click.option("--percentile", type=float, default=99.999, show_default=True,
              help="How many of the values --observer percentile keeps, in percent.")
@click.option("--calibration-cache", "cache", type=click.Path(path_type=Path), metavar="FILE",
              help="Keeps what calibration measures in a JSON file: an interrupted one goes on from it, a later one uses it again.")
@click.option("--io", type=click.Choice(["float", "integer"]), default="float", show_default=True,
              help="What the library's inputs and outputs are: float32, or the integers themselves.")
@click.option("--name", default="", help="Name of the library and prefix of its symbols; by default from the model's file name.")
@click.option("--tune", type=click.Choice(["none", "quick", "full"]), default="none", show_default=True,
              help="Measure on this machine which kernels are fastest; results stay the same, bit for bit.")
@click.option("--tuning-record", "tuning_record", type=click.Path(path_type=Path),
              help="The tuning.json of an artifact: take its choices instead of measuring.")
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path),
              help="A recipe.toml with every choice, as artifacts hold one; options given here override it.")
@click.option("--dump-passes", "dumps", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Write the network as text after every pass that changes it.")
@mixed_options
@pixel_options
@shape_option
@force_option
@quiet_option
@json_option
@debug_option
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Compile an ONNX model into an artifact folder: libraries, header, manifest, graph and recipe."""
    from qcc.codegen.artifact import refuse_existing
    from qcc.data import calibration_batches

    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    recipe, output, source = recipe_of(options, given), options["output"], options["calibration"]
    goal = goal_of(options, given)
    pixels = data_options(options["mean"], options["std"], options["layout"], options["color"])
    refuse_existing(output, options["force"])
    start = time.perf_counter()
    with Progress(options["quiet"]) as progress:
        from qcc.commands.pass_dumps import PassDumps
        from qcc.compiler import compile_model
        from qcc.ir import unobserved

        calibration = None if source is None or recipe.calibration == "none" else lambda inputs: calibration_batches(source, inputs, pixels)
        record = record_of(options, given, recipe)
        observe = unobserved if options["dumps"] is None else PassDumps(options["dumps"])
        artifact = compile_model(options["model"], calibration, recipe, progress, record, options["cache"], goal, observe)
        manifest = artifact.save(output, options["force"])
    report = report_of(options["model"], output, artifact, manifest, time.perf_counter() - start)
    if options["as_json"]:
        print_json(report)
    elif not options["quiet"]:
        click.echo(summary_text(report) + ("\n\n" + mixed_text(report["mixed"]) if report["mixed"] else ""))


def recipe_of(options: Mapping[str, Any], given: set[str]) -> Recipe:
    """The recipe file, if there is one, with the options that the user gave on the command line in place of its own.

    Raises:
        UsageError: an option cannot be read, or asks for what does not exist.
    """
    from qcc.recipe import Recipe, bit_widths

    recipe = Recipe() if options["recipe_file"] is None else Recipe.load(options["recipe_file"])
    changes: dict[str, Any] = {name: options[name] for name in _RECIPE_OPTIONS if name in given}
    if "bits" in given:
        mixed = options["bits"] == "mixed"
        changes["weight_bits"], changes["activation_bits"] = (8, 8) if mixed else bit_widths(options["bits"])
        changes |= {"weights": {}, "activations": {}} if mixed else {}
    if options["calibration"] is not None:
        changes["calibration"] = "none" if str(options["calibration"]) == "none" else "data"
    if options["input_shapes"]:
        changes["input_shapes"] = {**recipe.input_shapes, **shapes(options["input_shapes"])}
    return replace(recipe, **changes)


def record_of(options: Mapping[str, Any], given: set[str], recipe: Recipe) -> Path | None:
    """The tuning record to replay: the one that was named, or that of the recipe's own artifact unless --tune asks for measurements.

    Raises:
        UsageError: a record and a level are given, which contradict each other.
    """
    named, recipe_file = options["tuning_record"], options["recipe_file"]
    if named is not None and "tune" in given:
        raise UsageError("--tune and --tuning-record exclude each other: a record already says which kernels to take")
    if named is not None or recipe_file is None or "tune" in given or recipe.tune == "none":
        return cast("Path | None", named)
    beside: Path = recipe_file.parent / "tuning.json"
    return beside if beside.is_file() else None


def report_of(model: Path, output: Path, artifact: Artifact, manifest: Manifest, seconds: float) -> dict[str, Any]:
    """The figures of a compile as plain values."""
    folder_bytes = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    return {
        "model": str(model), "output": str(output), "name": manifest.name, "target": manifest.target,
        "bits": widths_text(artifact.recipe), "seconds": seconds,
        "model_bytes": model.stat().st_size, "library_bytes": folder_bytes[manifest.library], "files": folder_bytes,
        "inputs": [asdict(port) for port in manifest.inputs], "outputs": [asdict(port) for port in manifest.outputs],
        "summary": asdict(artifact.summary), "calibration": dict(artifact.texts.calibration), "rounding": dict(artifact.texts.rounding),
        "recipe": str(output / "recipe.toml"), "mixed": json.loads(artifact.texts.mixed) if artifact.texts.mixed else None,
    }


def widths_text(recipe: Recipe) -> str:
    """w8a8, or that widths differ."""
    uniform = f"w{recipe.weight_bits}a{recipe.activation_bits}"
    return f"mixed ({uniform} but for {len(recipe.weights) + len(recipe.activations)})" if recipe.weights or recipe.activations else uniform


def summary_text(report: Mapping[str, Any]) -> str:
    """What a user wants to know after a compile, in a few lines."""
    summary = report["summary"]
    floats, bound, arena = summary["float_nodes"], summary["arena_lower_bound"], summary["arena_bytes"]
    float_macs = sum(node["macs"] for node in floats)
    above = f", {arena / bound:.2f} x the lower bound of {size_text(bound)}" if bound else ""
    lines = [
        f"{report['output']}: {report['name']} for {report['target']}, {report['bits']}, in {time_text(report['seconds'])}",
        f"  integer  {summary['integer_nodes']} nodes, {count_text(summary['integer_macs'])} MACs, in {summary['kernels']} kernels",
        f"  float    {len(floats)} nodes, {count_text(float_macs)} MACs; {summary['crossings']} border crossings of "
        f"{size_text(summary['crossing_bytes'])}" + (": " + _operators(floats) if floats else ""),
        f"  size     model {size_text(report['model_bytes'])} -> library {size_text(report['library_bytes'])} "
        f"(weights {size_text(summary['weight_bytes'])})",
        f"  arena    {size_text(arena)}{above}",
        *([f"  rounding {rounding_text(report['rounding'])}"] if report["rounding"] else []),
        f"  recipe   {report['recipe']}",
        *(f"  note     {note}" for note in report["calibration"].get("notes", ())),
    ]
    if floats:
        rows = [(node["name"], node["operator"], count_text(node["macs"])) for node in floats[:_LISTED]]
        more = f"\n  and {len(floats) - _LISTED} more" if len(floats) > _LISTED else ""
        lines.append("\nNodes that stay float:\n" + table(("node", "operator", "MACs"), rows) + more)
    return "\n".join(lines)


def rounding_text(rounding: Mapping[str, Mapping[str, str]]) -> str:
    """How many layers were rounded in which way, and what was corrected in them."""
    counts = [Counter(how[key].partition(",")[0] for how in rounding.values()).most_common() for key in ("method", "correction")]
    methods, corrections = (", ".join(f"{count} x {name}" for name, count in counted) for counted in counts)
    return f"{methods}; corrected {corrections}"


def _operators(floats: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for node in floats:
        counts[node["operator"]] = counts.get(node["operator"], 0) + 1
    return ", ".join(f"{count} x {operator}" for operator, count in sorted(counts.items()))
