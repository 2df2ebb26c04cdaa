"""`qcc inspect`: what a model (nodes, operators, parameters, work) or an artifact (ports, memory, steps) consists of."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcc.commands.terminal import (
    count_text,
    debug_option,
    json_option,
    print_json,
    shape_option,
    shapes,
    size_text,
    table,
    weights_text,
)

if TYPE_CHECKING:
    from qcc.ir import Graph
    from qcc.runtime.manifest import VariantRecord


@click.command(name="inspect")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--layers", is_flag=True, help="List every node of a model, or every step of an artifact.")
@shape_option
@json_option
@debug_option
def command(path: Path, layers: bool, input_shapes: tuple[str, ...], as_json: bool) -> None:
    """Show what a model (MODEL.onnx) or an artifact (a folder) consists of."""
    report = artifact_report(path) if path.is_dir() else model_report(path, shapes(input_shapes))
    if as_json:
        print_json(report)
    else:
        click.echo((_artifact_text if path.is_dir() else _model_text)(report, layers))


def model_report(path: Path, input_shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """A model as it was imported, and how many nodes are left when it is simplified."""
    from qcc.ir import Pipeline
    from qcc.onnx import import_model
    from qcc.passes.simplify import SIMPLIFY

    imported = import_model(path, input_shapes)
    graph = Pipeline(SIMPLIFY)(imported)
    return {
        "model": str(path), "bytes": path.stat().st_size, "imported_nodes": len(imported.nodes), "nodes": len(graph.nodes),
        "inputs": [_value(graph, name, name) for name in graph.inputs],
        "outputs": [_value(graph, port, name) for port, name in graph.outputs.items()],
        "parameters": sum(array.size for array in graph.constants.values() if array.dtype.kind == "f"),
        "parameter_bytes": sum(array.nbytes for array in graph.constants.values()),
        "macs": sum(graph.node_macs(node) for node in graph.nodes),
        "operators": dict(Counter(str(node.op) for node in graph.nodes).most_common()),
        "layers": [
            {"node": node.outputs[0], "op": str(node.op), "type": str(graph.types[node.outputs[0]].dtype),
             "shape": list(graph.types[node.outputs[0]].shape), "macs": graph.node_macs(node),
             "parameters": sum(graph.types[name].size for name in node.inputs if graph.is_constant(name))}
            for node in graph.nodes
        ],
    }


def _value(graph: Graph, label: str, name: str) -> dict[str, Any]:
    type = graph.types[name]
    return {"name": label, "dtype": str(type.dtype), "shape": list(type.shape)}


def _model_text(report: dict[str, Any], layers: bool) -> str:
    lines = [
        f"{report['model']}: {size_text(report['bytes'])}",
        *(f"  input      {_port(port)}" for port in report["inputs"]),
        *(f"  output     {_port(port)}" for port in report["outputs"]),
        f"  nodes      {report['nodes']} ({report['imported_nodes']} before simplification)",
        f"  parameters {count_text(report['parameters'])}, {size_text(report['parameter_bytes'])}",
        f"  MACs       {count_text(report['macs'])}",
        "", table(("operator", "nodes"), list(report["operators"].items())),
    ]
    if layers:
        rows = [
            (x["node"], x["op"], f"{x['type']}{x['shape']}", count_text(x["macs"]), count_text(x["parameters"])) for x in report["layers"]
        ]
        lines += ["", table(("node", "operator", "result", "MACs", "parameters"), rows)]
    return "\n".join(lines)


def _port(port: dict[str, Any]) -> str:
    text = f"{port['name']} {port['dtype']}{list(port['shape'])}"
    if port.get("scale") is not None:
        text += f", real = {port['scale']:.6g} * (q - {port['zero_point']})"
    return text


def artifact_report(folder: Path) -> dict[str, Any]:
    """The manifest, sizes of files, and which steps handle float values."""
    from qcc.runtime import Manifest

    manifest = Manifest.read(folder)
    values = asdict(manifest)
    steps = []
    for step in manifest.steps:
        if not step.arguments:    # the place of a kernel that another variant has
            continue
        floats = any(argument.dtype.startswith("f") for argument in step.arguments)
        written = step.arguments[-1]
        steps.append({"node": step.node, "kernel": step.kernel, "macs": step.macs, "float": floats,
                      "type": written.dtype, "shape": list(written.shape), "space": written.space})
    keep = ("name", "target", "features", "sms", "digest", "arena_bytes", "arena_lower_bound", "constants_bytes", "inputs", "outputs",
            "layers", "proofs", "output_bounds", "model", "versions")
    variants = [{"target": v.target, "features": v.features, "constant_bytes": _constant_bytes(v)} for v in manifest.variants]
    return {"artifact": str(folder), **{key: values[key] for key in keep}, "variants": variants, "steps": steps,
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())}}


def _needs(report: dict[str, Any]) -> str:
    if report["sms"]:
        return f"an NVIDIA GPU (machine code for {', '.join(f'sm_{sm}' for sm in report['sms'])}; PTX for later ones)"
    return " ".join(report["features"]) or "nothing special"


def _constant_bytes(variant: VariantRecord) -> int:
    """Bytes of constants that a variant's kernels read, of which others may read some, too."""
    from qcc.runtime.manifest import numpy_dtype

    constants = [argument for step in variant.steps for argument in step.arguments if argument.space == "constant"]
    return sum({a.position: math.prod(a.shape) * numpy_dtype(a.dtype).itemsize for a in constants}.values())


def _artifact_text(report: dict[str, Any], layers: bool) -> str:
    steps, bound = report["steps"], report["arena_lower_bound"]
    floats = [step for step in steps if step["float"]]
    above = f" ({report['arena_bytes'] / bound:.2f} x the lower bound of {size_text(bound)})" if bound else ""
    lines = [
        f"{report['artifact']}: {report['name']} for {report['target']}, which needs {_needs(report)}",
        *(f"  variant    {v['target']}, which needs {' '.join(v['features'])}, reads {size_text(v['constant_bytes'])} of constants"
          for v in report["variants"]),
        *(f"  input      {_port(port)}" for port in report["inputs"]),
        *(f"  output     {_port(port)}" for port in report["outputs"]),
        f"  arena      {size_text(report['arena_bytes'])}{above}",
        f"  constants  {size_text(report['constants_bytes'])}",
        f"  steps      {len(steps)}, {count_text(sum(step['macs'] for step in steps))} MACs; {len(floats)} read or write float values",
        f"  model      SHA-256 {report['model'] or 'unknown'}",
        "", table(("file", "size"), [(name, size_text(size)) for name, size in report["files"].items()]),
    ]
    shown = steps if layers else floats
    if shown:
        bits = {layer.get("node"): layer.get("bits", "") for layer in report["layers"]}
        ops = {layer.get("node"): layer.get("op", "") for layer in report["layers"]}
        weights = {layer.get("node"): weights_text(layer) for layer in report["layers"]}
        rows = [(step["node"], str(ops.get(step["node"], "")), str(bits.get(step["node"], "")), weights.get(step["node"], ""),
                 f"{step['type']}{step['shape']}", count_text(step["macs"]), "float" if step["float"] else "", step["kernel"])
                for step in shown]
        lines += ["", "" if layers else "Steps that read or write float values (--layers lists all):",
                  table(("step", "operator", "bits", "weights", "writes", "MACs", "", "kernel"), rows)]
    return "\n".join(lines)
