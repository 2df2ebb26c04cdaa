"""`qcc profile`: measure the kernels that a network could have, for mixed precision; or write a program that does so on another device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import (
    Progress,
    debug_option,
    force_option,
    json_option,
    print_json,
    quiet_option,
    shape_option,
    shapes,
    table,
    time_text,
    writing,
)
from qcc.errors import UsageError

if TYPE_CHECKING:
    from qcc.codegen.target import Target
    from qcc.ir import Graph


@click.command(name="profile")
@click.argument("path", metavar="MODEL|OUT", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The profile to write (JSON).")
@click.option("--target", default="host", show_default=True, help="The machine; an artifact's own is taken for a folder.")
@click.option("--harness", type=click.Path(path_type=Path),
              help="Measure nothing here: write a C program into this new folder that prints the profile on the device it is run on.")
@shape_option
@force_option
@quiet_option
@json_option
@debug_option
def command(path: Path, **options: Any) -> None:
    """Measure every kernel that a model's layers could have, at each width of weights."""
    from qcc.codegen.floats import make_islands
    from qcc.codegen.harness import write_harness
    from qcc.codegen.profiling import measured
    from qcc.codegen.tuning_cache import Cache
    from qcc.codegen.worker import KernelCompiler
    from qcc.mixed.costs import Plans
    from qcc.onnx import export_node

    if (options["output"] is None) == (options["harness"] is None):
        raise UsageError("expected one of -o FILE, to measure here, and --harness FOLDER, to measure on another device")
    graph, target = integer_graph(path, options)
    refuse(target, options["harness"] is not None)
    with Progress(options["quiet"]) as progress, KernelCompiler(target) as kernels:
        plans = Plans.of(graph, target, make_islands(graph, kernels, export_node))
        steps = plans.steps
        if options["harness"] is not None:
            folder: Path = options["harness"]
            if folder.exists():
                raise UsageError(f"--harness {folder} exists; name a new folder")
            folder.mkdir(parents=True)
            program = write_harness(steps, kernels, folder, plans.constants)
            if not options["quiet"]:
                click.echo(f"{program}: {len(steps)} kernels for {target.name}; run it on the device and keep its output as the profile")
            return
        profile = measured(steps, kernels, Cache.here(target), progress, plans.constants)
    with writing(options["output"], options["force"]) as file:
        file.write(profile.dumps().encode())
    report = {"profile": str(options["output"]), "target": target.name, "kernels": dict(profile.seconds)}
    if options["as_json"]:
        print_json(report)
    elif not options["quiet"]:
        slowest = sorted(profile.seconds.items(), key=lambda item: -item[1])[:10]
        rows = [(time_text(seconds), name[:100]) for name, seconds in slowest]
        click.echo(f"{options['output']}: {len(profile.seconds)} kernels for {target.name}\n" + table(("time", "kernel"), rows))


def refuse(target: Target, elsewhere: bool) -> None:
    """Raises UsageError if this machine cannot time the target's kernels, or cannot write a program that does so elsewhere."""
    from qcc.codegen.tune import why_not

    if elsewhere and (target.is_gpu or target.variants):
        raise UsageError(f"--harness writes programs for one kind of CPU, and {target.name} is none")
    if not elsewhere and (obstacle := why_not(target)):
        raise UsageError(f"kernels are measured, but {obstacle}; profile on a machine that can run them, for a CPU with a program that "
                         "--harness FOLDER writes here, and give the profile to 'qcc compile --profile'")


def integer_graph(path: Path, options: dict[str, Any]) -> tuple[Graph, Target]:
    """The INTEGER graph of an artifact, or of a model with ranges that nothing depends on but numbers; and the target."""
    from qcc.codegen.target import find_target
    from qcc.ir import Pipeline
    from qcc.onnx import import_model
    from qcc.passes.calibrate import Range
    from qcc.passes.integer import to_integer
    from qcc.passes.quantize import Precision, encode, place
    from qcc.passes.simplify import SIMPLIFY
    from qcc.runtime.manifest import Manifest
    from qcc.verification import load_graph

    if path.is_dir():
        return load_graph(path), find_target(Manifest.read(path).target)
    graph = Pipeline(SIMPLIFY)(import_model(path, shapes(options["input_shapes"])))
    placement = place(graph)
    quantized = encode(graph, placement, {name: Range(-1.0, 1.0) for name in placement.encoded}, Precision())
    return to_integer(quantized, placement, False), find_target(options["target"])
