"""`qcc verify`: does a library compute exactly what its graph says, without floating-point arithmetic where none may be?"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import Progress, debug_option, json_option, print_json, quiet_option, table, threads_option
from qcc.errors import RuntimeFailure, VerificationError

if TYPE_CHECKING:
    from qcc.runtime import Manifest, Module


@click.command(name="verify")
@click.argument("artifact", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--inputs", "count", type=click.IntRange(1), default=2, show_default=True, help="Random inputs to compare every layer on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the random inputs.")
@click.option("--static", is_flag=True, help="Check files and machine code only: run nothing (for a GPU's library where there is none).")
@click.option("--layers", "show_layers", is_flag=True, help="List every layer, not only those that differ.")
@threads_option
@quiet_option
@json_option
@debug_option
def command(
    artifact: Path, count: int, seed: int, static: bool, show_layers: bool, threads: int, quiet: bool, as_json: bool
) -> None:
    """Check an artifact: its files against their hashes, its machine code for floating-point arithmetic, its golden pair, and every
    layer against the interpreter (integers bit for bit). Ends with exit code 5 if anything differs.
    """
    report = examine(artifact, 0 if static else count, seed, threads, quiet)
    if as_json and not report["failures"]:
        print_json(report)
    elif not as_json and not quiet:
        _show(report, show_layers)
    if report["failures"]:
        shown = "; ".join(report["failures"][:3])
        more = f"; and {len(report['failures']) - 3} more" if len(report["failures"]) > 3 else ""
        raise VerificationError(f"{artifact}: verification failed: {shown}{more}. Do not use this library; compile the model again, "
                                "and report it if that fails too")


def examine(artifact: Path, count: int, seed: int, threads: int, quiet: bool) -> dict[str, Any]:
    """Everything that was checked, as plain values; nothing is run for a count of 0.

    Raises:
        RuntimeFailure: the folder cannot be loaded at all.
        VerificationError: the code or the graph cannot be read.
    """
    from qcc import verification
    from qcc.runtime import Manifest

    manifest = Manifest.read(artifact)
    findings = [*verification.check_files(artifact, manifest)]
    code = verification.check_code(artifact, manifest)
    findings += code.findings
    worst: dict[str, verification.Layer] = {}
    if count and not any(finding.where == manifest.library for finding in findings):   # a changed library is not run
        graph = verification.load_graph(artifact)
        golden = verification.load_arrays(artifact / verification.GOLDEN_FILE)
        ranges = verification.input_ranges(graph)
        feeds = (verification.random_feeds(manifest, seed + number, ranges) for number in range(count))
        with _loaded(artifact, manifest, threads) as module, Progress(quiet) as progress:
            findings += verification.check_golden(module, golden)
            inputs = chain((verification.golden_inputs(manifest, golden),), feeds)
            for given in progress.watch("compare layers", inputs, count + 1):
                for layer in verification.check_layers(module, graph, given):
                    known = worst.get(layer.node)
                    if known is None or (layer.error or 0.0) - layer.bound > (known.error or 0.0) - known.bound:
                        worst[layer.node] = layer
        findings += verification.failures(list(worst.values()))
    return {
        "artifact": str(artifact), "name": manifest.name, "target": manifest.target, "files": len(manifest.files),
        "code": {"functions": code.functions, "instructions": code.instructions, "float_functions": dict(code.float_functions),
                 "dot_instruction": code.promised, "dot_uses": code.promised_uses, "dot_kernels": code.promised_kernels,
                 "integer_product_kernels": code.integer_kernels},
        "inputs": count, "layers": [{"node": x.node, "elements": x.elements, "error": x.error, "bound": x.bound} for x in worst.values()],
        "failures": [str(finding) for finding in findings],
    }


def _loaded(artifact: Path, manifest: Manifest, threads: int) -> Module:
    from qcc.runtime import load

    try:
        return load(artifact, threads)
    except RuntimeFailure as error:
        if not manifest.sms:
            raise
        raise RuntimeFailure(f"{error}; 'qcc verify --static' checks a library's files and machine code where it cannot run") from error


def _show(report: dict[str, Any], show_layers: bool) -> None:
    code, layers = report["code"], report["layers"]
    exact = sum(layer["error"] is not None and layer["bound"] == 0.0 for layer in layers)
    close = sum(layer["error"] is not None and layer["bound"] > 0.0 for layer in layers)
    skipped = [layer["node"] for layer in layers if layer["error"] is None]
    if show_layers:
        rows = [(x["node"], x["elements"], "not compared" if x["error"] is None else f"{x['error']:g}", f"{x['bound']:g}") for x in layers]
        click.echo(table(("layer", "elements", "largest difference", "allowed"), rows) + "\n")
    click.echo(f"{report['artifact']}: {report['name']} for {report['target']}")
    click.echo(f"  files    {report['files']} with their hashes")
    floats = ", ".join(f"{name} ({count})" for name, count in code["float_functions"].items()) or "none"
    click.echo(f"  code     {code['functions']} functions, {code['instructions']} instructions; "
               f"float arithmetic in declared functions only: {floats}" if code["functions"] else
               "  code     NOT CHECKED: nvdisasm is needed for a GPU's machine code; pip install 'qcc[cuda]'")
    if code["dot_instruction"]:
        click.echo(f"           {code['dot_instruction']}: {code['dot_uses']} uses, in {code['dot_kernels']} of "
                   f"{code['integer_product_kernels']} integer kernels that multiply")
    if not report["inputs"]:
        click.echo("  FAILED" if report["failures"] else "  layers   NOT RUN (--static)\nfiles and machine code are as promised")
        return
    click.echo(f"  layers   {exact} compared bit for bit and {close} float ones within their bounds, "
               f"on the golden and {report['inputs']} random inputs")
    if skipped:
        click.echo(f"           not compared, because the graph has no such value: {', '.join(skipped[:5])}")
    click.echo("  FAILED" if report["failures"] else "  golden   reproduced\nverified")
