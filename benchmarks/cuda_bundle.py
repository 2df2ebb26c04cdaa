"""Makes a folder with everything that benchmarks/cuda.py runs on a machine with a GPU; needs no GPU, and the whole of qcc.

    python benchmarks/cuda_bundle.py bundle                                   # the bundled models, ResNet-18/50, MobileNetV2
    python benchmarks/cuda_bundle.py bundle resnet50 --batches 8,64 --bits 8,w4a8,4 --target cuda:sm_90 --tune quick

Per network, batch and bits: an artifact (NAME/, without what only a compiler or a linker needs), and beside it NAME.layers.json: for every
step whose result is exact, the checksum of what the interpreter computes for the golden input. "awkward" is a network of single
convolutions with shapes that fit no tile. Also the kernels that measure the GPU's peak (peak.*) and, for one compute capability, kernels
to be timed alone: those of cuda_static.py for every batch (kernels.races/) and, with --tune, the candidates of every layer of every
network (NAME.races/); benchmarks/cuda.py makes a tuning record of what it measures there, which `qcc compile --tuning-record` takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cuda_static import CASES, Case, plan
from onnx import helper, numpy_helper

import qcc
from qcc.artifact import Artifact
from qcc.codegen.cuda.candidates import candidates_image
from qcc.codegen.cuda.source import library_text
from qcc.codegen.cuda.toolchain import architectures, compile_images
from qcc.codegen.golden import checksum
from qcc.codegen.target import Target, find_target
from qcc.codegen.tune import EFFORTS, Effort, constants_of, contender, shortlist
from qcc.codegen.tuning import alternatives, choice_of, workload
from qcc.codegen.tuning_clock import Contender
from qcc.codegen.worker import KernelCompiler
from qcc.errors import QccError
from qcc.ir import Array, interpret
from qcc.models import samples, zoo
from qcc.recipe import Recipe
from qcc.summary import is_float_node

MODELS = ("awkward", *zoo.BUNDLED, "mobilenet_v2", "resnet18", "resnet50")
BITS = {"8": (8, 8), "w4a8": (4, 8), "4": (4, 4)}
# channels in, channels out, side, kernel, stride, dilation, groups
AWKWARD = (
    (3, 17, 23, 7, 2, 1, 1), (3, 64, 15, 3, 2, 1, 1), (17, 17, 9, 1, 1, 1, 1), (17, 33, 11, 3, 1, 1, 1), (64, 1000, 3, 1, 1, 1, 1),
    (1000, 17, 2, 1, 1, 1, 1), (32, 48, 13, 3, 1, 2, 1), (24, 24, 12, 5, 1, 1, 24), (17, 17, 14, 3, 2, 1, 17), (32, 32, 10, 3, 1, 1, 4),
    (16, 16, 9, 2, 1, 1, 1), (16, 20, 8, 4, 2, 1, 1), (12, 16, 9, 6, 1, 1, 1),
)  # fmt: skip


def awkward_network(batch: int) -> onnx.ModelProto:
    """Convolutions side by side, each with an input and an output of its own; seeded weights."""
    random, nodes, inputs, outputs, weights = np.random.default_rng(11), [], [], [], []
    for number, (channels, filters, side, kernel, stride, dilation, groups) in enumerate(AWKWARD):
        shape = (filters, channels // groups, kernel, kernel)
        for name, array in ((f"w{number}", random.standard_normal(shape) * 0.2), (f"b{number}", random.standard_normal(filters))):
            weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        pads = [dilation * (kernel - 1) // 2] * 4
        node = helper.make_node("Conv", [f"x{number}", f"w{number}", f"b{number}"], [f"y{number}"], pads=pads, strides=[stride] * 2,
                                dilations=[dilation] * 2, group=groups)
        nodes.append(node)
        extent = (side + 2 * pads[0] - dilation * (kernel - 1) - 1) // stride + 1
        inputs.append(helper.make_tensor_value_info(f"x{number}", onnx.TensorProto.FLOAT, [batch, channels, side, side]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", onnx.TensorProto.FLOAT, [batch, filters, extent, extent]))
    graph = helper.make_graph(nodes, "awkward", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds_for(model: str, batch: int) -> dict[str, Array]:
    """One batch to calibrate with: samples over and over until there are enough."""
    if model == "awkward":
        random = np.random.default_rng(12)
        shapes = {f"x{number}": (batch, row[0], row[2], row[2]) for number, row in enumerate(AWKWARD)}
        return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    found = samples.samples(model, batch)
    return {name: np.concatenate([found[i % len(found)][name] for i in range(batch)]) for name in found[0]}


def layers(artifact: Artifact) -> list[dict[str, Any]]:
    """What the interpreter computes for the golden input, as checksums: every step's result that no float operator reaches."""
    graph, inputs = artifact.graph, dict(artifact.texts.golden_inputs)
    tainted: set[str] = set()
    for node in graph.nodes:
        if is_float_node(graph, node) or tainted.intersection(node.inputs):
            tainted.update(node.outputs)
    values = interpret(graph, inputs, None)
    rows = []
    for number, step in enumerate(artifact.program.steps):
        node = graph.producers.get(step.node)
        name = node.outputs[-1] if node is not None else step.node
        if name in values and name not in tainted:
            array = np.ascontiguousarray(values[name])
            rows.append({"step": number, "node": step.node, "form": form_of(step.kernel), "dtype": str(array.dtype),
                         "elements": array.size, "checksum": checksum(array.tobytes())})
    return rows


def form_of(kernel: Any) -> str:
    """Of a layer: "dense 3x3", "depthwise 5x5", "vector"."""
    kind = {"DenseKernel": "dense", "DepthwiseKernel": "depthwise", "GemvKernel": "vector"}.get(type(kernel).__name__, "")
    return f"{kind} {'x'.join(map(str, kernel.window))}" if hasattr(kernel, "window") and kind else kind


def race(label: str, kernels: Sequence[Any], contenders: Sequence[Contender]) -> dict[str, Any]:
    """Kernels that compute the same, the planned one first, as benchmarks/cuda_jobs.py runs them."""
    planned = kernels[0]
    moved = sum(view.dtype.bytes * prod(view.shape) for view in planned.operands)
    return {"label": label, "form": form_of(planned), "workload": workload(planned), "macs": planned.macs, "bytes": moved,
            "choices": [choice_of(kernel) for kernel in kernels], "contenders": [asdict(contender) for contender in contenders]}


def write_races(races: Mapping[str, tuple[list[Any], Sequence[bool]]], target: Target, level: str, folder: Path) -> None:
    """Candidates of layers by label, with which of their operands are constants: machine code, and the list of races."""
    folder.mkdir(exist_ok=True)
    symbols = {kernel: f"candidate{number}" for number, kernel in enumerate(
        dict.fromkeys(kernel for kernels, _ in races.values() for kernel in kernels))}
    with KernelCompiler(target) as compiler:
        candidates_image(compiler.compile(symbols, folder), target, folder)
    rows = []
    for label, (kernels, constant) in races.items():
        entries = [contender(kernel, symbols[kernel], constant) for kernel in kernels]
        rows.append(race(label, kernels, entries))
    content = {"target": target.name, "level": level, "races": rows}
    (folder / "races.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    for path in folder.glob("kernels*.cu"):
        path.unlink()      # their text is in candidates*.cu


def single_kernels(target: Target, effort: Effort | None, batches: Sequence[int]) -> dict[str, tuple[list[Any], list[bool]]]:
    """The layers of cuda_static.py for each batch, and a product with a vector whose weights no cache holds."""
    found = {}
    for case in (*CASES, *(Case(f"vector by 16384x4096 {bits}", (1, 1, 1), (4096, 16384), bits=bits) for bits in ("8/8", "4/8"))):
        for batch in batches if case.image[0] > 1 else (1,):
            kernel: Any = plan(replace(case, image=(batch, *case.image[1:])), target)
            sources = 1 if getattr(kernel, "residual", None) is None else 2
            constant = [sources <= number < len(kernel.operands) - 1 for number in range(len(kernel.operands))]
            found[f"{case.name}, batch {batch}"] = ([kernel] if effort is None else shortlist(kernel, target, effort), constant)
    return found


def network_layers(artifact: Artifact, effort: Effort) -> dict[str, tuple[list[Any], list[bool]]]:
    """The candidates of every distinct layer."""
    steps = {workload(step.kernel): step for step in artifact.program.steps if alternatives(step.kernel, artifact.target)}
    return {step.node: (shortlist(step.kernel, artifact.target, effort), constants_of(step))
            for step in steps.values()}


def keep_what_runs(folder: Path) -> None:
    """Remove what only compilers and linkers need, and compress the golden pair: a bundle has to travel."""
    for path in (*folder.glob("*.a"), *folder.glob("*.cmake"), folder / "constants.npz", folder / "graph.qir"):
        path.unlink(missing_ok=True)
    with np.load(folder / "golden.npz") as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez_compressed(folder / "golden.npz", **content)


def build(model: str, batch: int, bits: str, target: str, folder: Path, tune: str) -> str:
    """One artifact and its layers' checksums; returns its name."""
    name = f"{model}_b{batch}_{bits if bits.startswith('w') else f'w{bits}a{bits}'}"
    feeds = feeds_for(model, batch)
    source = awkward_network(batch) if model == "awkward" else zoo.path(model)
    weight_bits, activation_bits = BITS[bits]
    shapes = {key: array.shape for key, array in feeds.items()}
    recipe = Recipe(target, name, weight_bits, activation_bits, rounding="nearest", correction="none", input_shapes=shapes)
    artifact = qcc.compile(source, calibration_data=[feeds], recipe=recipe)
    artifact.save(folder / name, force=True)
    keep_what_runs(folder / name)
    if tune != "none":
        write_races(network_layers(artifact, EFFORTS[tune]), artifact.target, tune, folder / f"{name}.races")
    (folder / f"{name}.layers.json").write_text(json.dumps(layers(artifact), indent=1) + "\n")
    return name


def build_peak(target: str, folder: Path) -> None:
    """The kernels of cuda_peak.cu, for every architecture of the target: peak.cu, peak.sm_80, ..., peak.compute_90."""
    text = library_text([Path(__file__).with_name("cuda_peak.cu").read_text(encoding="ascii")])
    (folder / "peak.cu").write_text(text, encoding="ascii")
    with tempfile.TemporaryDirectory() as work:
        images = compile_images(text, find_target(target), Path(work))
        for architecture, image in zip(architectures(find_target(target)), images, strict=True):
            (folder / f"peak.{architecture}").write_bytes(image.read_bytes())


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the bundle goes; artifacts of the same name are replaced")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}, or any of the zoo's; all of these by default")
    parser.add_argument("--batches", default="1,8,64", help="batch sizes")
    parser.add_argument("--bits", default="8,w4a8,4", help=f"of {', '.join(BITS)}")
    parser.add_argument("--target", default="cuda", help="cuda, or cuda:sm_NN")
    parser.add_argument("--tune", choices=["none", *EFFORTS], default="none", help="candidates of layers, too (with cuda:sm_NN)")
    parser.add_argument("--no-kernels", action="store_true", help="no single kernels (they are compiled for cuda:sm_NN only)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    build_peak(options.target, options.folder)
    target, batches = find_target(options.target), [int(text) for text in options.batches.split(",")]
    if len(target.sms) > 1 and options.tune != "none":
        print("--tune needs a target of one compute capability, as cuda:sm_90", file=sys.stderr)
        return 2
    if len(target.sms) == 1 and not options.no_kernels:
        write_races(single_kernels(target, EFFORTS.get(options.tune), batches), target, "", options.folder / "kernels.races")
    failed: dict[str, str] = {}
    chosen: Mapping[str, None] = dict.fromkeys(options.models or MODELS)
    for model in chosen:
        for batch in batches:
            for bits in options.bits.split(","):
                try:
                    print(build(model, batch, bits, options.target, options.folder, options.tune), flush=True)
                except QccError as error:
                    failed[f"{model}, batch {batch}, {bits} bits"] = str(error)
    print(f"{options.folder}: {sum(path.stat().st_size for path in options.folder.rglob('*') if path.is_file()) >> 20} MiB")
    for what, message in failed.items():
        print(f"FAILED {what}: {message}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
