"""`qcc compare`: what quantization cost, end to end and layer by layer, the worst layers first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import (
    Progress,
    data_options,
    debug_option,
    json_option,
    pixel_options,
    print_json,
    quiet_option,
    shape_option,
    shapes,
    table,
    threads_option,
)
from qcc.errors import UsageError

if TYPE_CHECKING:
    from qcc.ir import Graph


@click.command(name="compare")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("artifact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A .npz or .npy file, or a folder of them or of pictures.")
@click.option("--layers", "worst", type=click.IntRange(0), default=10, show_default=True, 
              help="How many of the worst layers to list; 0: none.")
@click.option("--attribute", is_flag=True, help="Also split the error over layers and causes, and say what would help.")
@click.option("--attribute-samples", "most", type=click.IntRange(1), default=16, show_default=True,
              help="How many of the batches the error is split on, evenly spread.")
@pixel_options
@shape_option
@threads_option
@quiet_option
@json_option
@debug_option
def command(
    model: Path, artifact: Path, data: Path, worst: int, attribute: bool, most: int, mean: str, std: str, layout: str | None, color: str,
    input_shapes: tuple[str, ...], threads: int, quiet: bool, as_json: bool,
) -> None:
    """Compare a model with its compiled library on data: SQNR, cosine, largest difference and agreement of the top class, for every
    output and layer by layer.
    """
    from qcc.commands.attribution import chart, split
    from qcc.comparison import compare
    from qcc.data import calibration_batches
    from qcc.passes.rounding import thinned
    from qcc.runtime import load
    from qcc.verification import load_graph

    options = data_options(mean, std, layout, color)
    with load(artifact, threads) as module, Progress(quiet) as progress:
        integer = load_graph(artifact)
        graph = _float_graph(model, shapes(input_shapes), artifact)
        _same_ports(model, artifact, graph, integer)
        inputs = {name: graph.types[name] for name in graph.inputs}
        watched = progress.watch("compare", calibration_batches(data, inputs, options))
        result = compare(graph, integer, module, watched, worst > 0)
        parts = None
        if attribute:
            samples = thinned(calibration_batches(data, inputs, options), graph, most)
            parts = split(artifact, graph, integer, module, samples, progress)
    outputs = [_record(name, distance) for name, distance in result.outputs.items()]
    layers = sorted((_record(name, distance) for name, distance in result.layers.items()), key=lambda record: record["sqnr_db"])
    if as_json:
        print_json({"batches": result.batches, "outputs": outputs, "layers": layers, **({} if parts is None else {"attribution": parts})})
        return
    click.echo(table(_HEAD, [_row(record) for record in outputs]))
    if worst and layers:
        click.echo(f"\nThe worst of {len(layers)} layers:\n" + table(_HEAD[:-1], [_row(record)[:-1] for record in layers[:worst]]))
    if parts is not None:
        click.echo(chart(parts, worst))
    click.echo(f"\n{result.batches} batches compared.")


def _float_graph(model: Path, input_shapes: Mapping[str, tuple[int, ...]], artifact: Path) -> Graph:
    """The model as it was when the artifact was quantized: simplified, and its scales moved."""
    from qcc.codegen.artifact import MIGRATION_FILE
    from qcc.ir import Pipeline
    from qcc.onnx import import_model
    from qcc.passes.migrate import MIGRATE, Migration
    from qcc.passes.simplify import SIMPLIFY

    file = artifact / MIGRATION_FILE
    moved = Migration.loads(file.read_text("utf-8") if file.exists() else "")
    return Pipeline((*SIMPLIFY, MIGRATE.given(moved)))(import_model(model, input_shapes))


_HEAD = ("value", "SQNR dB", "cosine", "largest difference", "same top class")


def _record(name: str, distance: Any) -> dict[str, Any]:
    """Infinite ratios are written as 999: JSON knows no infinity. The top class is meant along the last axis, so for outputs only."""
    sqnr = max(-999.0, min(999.0, distance.sqnr))
    return {"name": name, "sqnr_db": sqnr, "cosine": distance.cosine, "max_error": distance.largest, "top1_agreement": distance.agreement}


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    sqnr = "equal" if record["sqnr_db"] >= 999 else f"{record['sqnr_db']:.2f}"
    return record["name"], sqnr, f"{record['cosine']:.6f}", f"{record['max_error']:.6g}", f"{100 * record['top1_agreement']:.2f} %"


def _same_ports(model: Path, artifact: Path, graph: Any, integer: Any) -> None:
    for kind in ("inputs", "outputs"):
        ours, theirs = list(getattr(graph, kind)), list(getattr(integer, kind))
        if ours != theirs:
            raise UsageError(f"{artifact} was not compiled from {model}: the model's {kind} are {ours}, the artifact's {theirs}")
    for name in graph.inputs:
        if graph.types[name].shape != integer.types[name].shape:
            raise UsageError(f"input {name!r}: the artifact was compiled for the shape {list(integer.types[name].shape)}, the model has "
                             f"{list(graph.types[name].shape)}; give --input-shape {name}:{'x'.join(map(str, integer.types[name].shape))}")
