"""`qcc targets`: the table of machines, and which of them this one can run."""

from __future__ import annotations

from typing import Any

import click

from qcc.commands.terminal import debug_option, json_option, print_json, table


@click.command(name="targets")
@json_option
@debug_option
def command(as_json: bool) -> None:
    """List the machines to compile for. All of them can be compiled for on any machine."""
    from qcc.codegen.target import ALIASES, CORES, FAT_TARGETS, GPU_TARGETS, TARGETS, find_target, host_features
    from qcc.errors import UnknownTarget

    features = host_features()
    try:
        host = find_target("host").name
    except UnknownTarget:
        host = ""
    records: list[dict[str, Any]] = [
        {"name": target.name, "runs_here": features.issuperset(target.features), "host": target.name == host,
         "aliases": [alias for alias, name in ALIASES.items() if name == target.name], "vector_bits": 32 * target.lanes,
         "features": list(target.features), "missing": [f for f in target.features if f not in features], "triple": target.triple}
        for target in (TARGETS | FAT_TARGETS).values()
    ]
    gpus, absent = _gpus()
    records += [
        {"name": target.name, "runs_here": any(target.serves(sm) for sm in gpus), "host": False, "aliases": [], "vector_bits": 0,
         "features": [f"sm_{sm}" for sm in target.sms], "missing": [] if any(target.serves(sm) for sm in gpus) else [absent],
         "triple": target.triple}
        for target in GPU_TARGETS.values()
    ]
    if as_json:
        print_json({"host": host or None, "targets": records})
        return
    rows = []
    for record in records:
        here = "host" if record["host"] else "runs here" if record["runs_here"] else "lacks " + " ".join(record["missing"])
        rows.append((record["name"], ", ".join(record["aliases"]), record["vector_bits"] or "-", here, " ".join(record["features"])))
    click.echo(table(("target", "alias", "vector bits", "this machine", "needs"), rows))
    click.echo("\n" + "; ".join(f"{target.name} holds {', '.join(target.variants)}" for target in FAT_TARGETS.values()))
    click.echo(f"aarch64-NAME:CORE chooses tiles for a core: {', '.join(CORES)}")
    click.echo(f"\n'--target host' means {host} here." if host else "\nThis machine can run none of them: name one instead of 'host'.")


def _gpus() -> tuple[list[int], str]:
    """Compute capabilities (times ten) of this machine's GPUs, and what a target lacks that none of them serves."""
    from qcc.errors import RuntimeFailure
    from qcc.runtime.device_array import driver

    try:
        found = driver().capabilities()
    except RuntimeFailure:
        return [], "an NVIDIA driver"
    return found, "such a GPU"
