"""How good code for ARM is, without a machine of that kind: modelled cycles of inner loops, and instructions per inference.

    python benchmarks/arm_model.py loops                                    # dense layers, each target on its cores
    python benchmarks/arm_model.py loops --target aarch64-i8mm --bits 4
    python benchmarks/arm_model.py instructions mobilenet_v2 resnet50 --target aarch64-dotprod
    python benchmarks/arm_model.py instructions mobilenet_v2 --peer "qemu-aarch64 -L ROOT -E PYTHONPATH=SITE ROOT/usr/bin/python3.11" --ncnn

`loops` takes the innermost loop of each kernel from its object and gives it to llvm-mca: cycles per multiply-accumulate, and the share of
the products per cycle that the same model allows when nothing waits. `instructions` runs the network once and thrice under qemu-user with a
plugin that counts, and gives the difference; with --peer also onnxruntime's int8 model in a Python for ARM under the same emulator, and
with --ncnn ncnn's in the same Python. ROOT/proc/cpuinfo must be that of a machine for ARM: onnxruntime 1.32 crashes on another.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import arm_ncnn
import numpy as np
import onnx
from arm_loops import cycles, hot_loop, instructions_of, limit

import qcc
from qcc import peers
from qcc.codegen.arm.dense import NeonDenseKernel, plan_dense
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.link import find_toolchain
from qcc.codegen.target import find_target
from qcc.codegen.worker import BATCH, compile_kernels
from qcc.ir.types import U8
from qcc.models import samples, zoo
from qcc.recipe import Recipe

CORES = {"aarch64-dotprod": ("neoverse-n1", "cortex-a76"), "aarch64-i8mm": ("neoverse-v1", "neoverse-n2"), "aarch64-neon": ("cortex-a72",)}
CPUS = {"aarch64-i8mm": "max", "aarch64-dotprod": "neoverse-n1", "aarch64-neon": "cortex-a72"}
LAYERS = {"3x3 56x56 64->64": (56, 64, 64, 3), "3x3 28x28 128->128": (28, 128, 128, 3), "3x3 14x14 256->256": (14, 256, 256, 3),
          "3x3 7x7 512->512": (7, 512, 512, 3), "1x1 56x56 64->256": (56, 64, 256, 1), "1x1 56x56 256->64": (56, 256, 64, 1),
          "1x1 28x28 512->128": (28, 512, 128, 1), "1x1 14x14 1024->256": (14, 1024, 256, 1), "1x1 14x14 96->576": (14, 96, 576, 1)}
PEER_IR = 9     # of ONNX, that onnxruntime 1.17 reads
HERE = Path(__file__).resolve().parent

PROGRAM = """
#include <stdlib.h>
#include "network.h"
int main(int count, char **arguments) {
    network_context *context;
    if (count != 2 || network_init(&context, NULL, NULL, 1) != network_OK) return 1;
    const void *inputs[network_INPUTS];
    void *outputs[network_OUTPUTS];
    for (int i = 0; i < network_INPUTS; ++i) inputs[i] = calloc(1, network_input(i)->bytes);
    for (int i = 0; i < network_OUTPUTS; ++i) outputs[i] = calloc(1, network_output(i)->bytes);
    for (int run = atoi(arguments[1]); run > 0; --run)
        if (network_run(context, inputs, outputs) != network_OK) return 2;
    return 0;
}
"""
PEER = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {i.name: numpy.zeros([n if isinstance(n, int) else 1 for n in i.shape], numpy.float32) for i in session.get_inputs()}
for _ in range(int(sys.argv[2])):
    session.run(None, feeds)
"""


def layer(name: str, target: str, bits: int) -> NeonDenseKernel:
    """The kernel of a layer of LAYERS with random weights, requantized to bytes."""
    pixels, inputs, outputs, window = LAYERS[name]
    largest = (1 << bits >> 1) - 1
    weights = np.random.default_rng(0).integers(-largest, largest + 1, (outputs, window, window, inputs)).astype(np.int8)
    extent = pixels + window - 1
    source, output = (View.contiguous(U8, (1, n, n, channels)) for n, channels in ((extent, inputs), (pixels, outputs)))
    after = Requantization(np.full(outputs, 1 << 30, np.int32), 38)
    return plan_dense(source, weights, np.zeros(outputs, np.int32), (1, 1), (1, 1), 1, output, after, None, find_target(target))[0]


def loops(target: str, bits: int) -> None:
    kernels: dict[Kernel, tuple[str, NeonDenseKernel]] = {}
    for name in LAYERS:
        kernel = layer(name, target, bits)
        kernels[kernel] = name, kernel
    with tempfile.TemporaryDirectory() as folder:
        symbols = {kernel: f"k{number}" for number, kernel in enumerate(kernels)}
        objects = compile_kernels(symbols, find_target(target), Path(folder), workers=2)
        for number, (name, kernel) in enumerate(kernels.values()):
            loop = hot_loop(instructions_of(objects[number // BATCH], symbols[kernel]))
            if loop is None:
                print(f"{name}: no products in any innermost loop")
                continue
            words = next(line.split()[0] for line in loop.lines if line.split()[0] in ("sdot", "usdot", "sudot", "usmmla", "smull"))
            tile = f"{kernel.tile.rows}x{kernel.tile.columns}x{kernel.tile.blocks}"
            cells = []
            for core in CORES[target]:
                taken = cycles(loop.lines, core)
                share = len(loop.products) / taken / limit(words, core)
                cells.append(f"{core} {taken / loop.macs:.4f} cycles/MAC, {share:.1%} of the limit")
            head = f"{name:20} tile {tile:7} {len(loop.lines):4} instructions, {len(loop.products)} {words}, {loop.spills} spills; "
            print(head + "; ".join(cells), flush=True)


def count(command: list[str], cpu: str, plugin: Path) -> int:
    """Instructions of a program under qemu-user; the command begins with the emulator."""
    emulator, *rest = command
    done = subprocess.run([emulator, "-cpu", cpu, "-plugin", plugin, "-d", "plugin", *rest], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return int(done.stderr.rpartition("instructions: ")[2].split()[0])


def instructions(name: str, options: argparse.Namespace, folder: Path) -> None:
    model, feeds, target = zoo.path(name), samples.samples(name, 2), find_target(options.target)
    recipe = Recipe(options.target, "network", options.bits, rounding="nearest", correction="none")
    artifact, tools = qcc.compile(model, calibration_data=feeds, recipe=recipe), find_toolchain(target)
    artifact.save(folder / "network", force=True)
    (folder / "program.c").write_text(PROGRAM, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", folder / "plugin.so", HERE / "instructions.c"], check=True)
    subprocess.run([*tools.compiler, "-O2", "-static", f"-I{folder / 'network'}", "-o", folder / "program", folder / "program.c",
                    folder / "network" / "libnetwork.a", "-lm", "-lpthread"], check=True)
    macs = sum(int(str(row["macs"])) for row in artifact.texts.layers)

    def per_inference(*command: str) -> float:
        once, thrice = (count([*command, str(runs)], CPUS[options.target], folder / "plugin.so") for runs in (1, 3))
        return (thrice - once) / 2

    ours = per_inference("qemu-aarch64", str(folder / "program"))
    print(f"{name}: {macs / 1e6:.1f} MMACs; qcc {ours / 1e6:.2f} M instructions, {ours / macs:.4f} per MAC", flush=True)
    if options.peer:
        emulator, *rest = shlex.split(options.peer)
        others = {"onnxruntime": _onnxruntime(name, folder)} | ({"ncnn": _ncnn(name, folder)} if options.ncnn else {})
        for peer, arguments in others.items():
            theirs = per_inference(emulator, *rest, *arguments)
            figures = f"{theirs / 1e6:.2f} M instructions, {theirs / macs:.4f} per MAC, {theirs / ours:.2f} x qcc"
            print(f"{name}: {peer} int8 {figures}", flush=True)


def _onnxruntime(name: str, folder: Path) -> tuple[str, str]:
    """What Python shall run for onnxruntime's int8 model of the network, which is made here."""
    quantized, script = folder / "peer.onnx", folder / "onnxruntime_runs.py"
    peers.quantize_onnx(zoo.path(name), samples.samples(name, 2), folder / "prepared.onnx", quantized)
    graph = onnx.load(quantized)
    graph.ir_version = min(graph.ir_version, PEER_IR)
    used = [entry for entry in graph.opset_import if entry.domain in {node.domain for node in graph.graph.node}]
    del graph.opset_import[:]
    graph.opset_import.extend(used)
    onnx.save(graph, quantized)
    script.write_text(PEER, encoding="utf-8")
    return str(script), str(quantized)


def _ncnn(name: str, folder: Path) -> tuple[str, str]:
    """The same for ncnn."""
    script = folder / "ncnn_runs.py"
    script.write_text(arm_ncnn.PROGRAM, encoding="utf-8")
    arm_ncnn.write(zoo.path(name), folder / "ncnn")
    return str(script), str(folder / "ncnn")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("loops", "instructions"))
    parser.add_argument("models", nargs="*", default=["mobilenet_v2"], help="for `instructions`: names from models/README.md")
    parser.add_argument("--target", default="", choices=("", *CPUS), help="by default all for `loops`, aarch64-dotprod for `instructions`")
    parser.add_argument("--bits", type=int, default=8, help="of weights (default: %(default)s)")
    parser.add_argument("--peer", default="", help="an emulated Python for ARM that has onnxruntime, beginning with the emulator")
    parser.add_argument("--ncnn", action="store_true", help="the same Python has ncnn; only for ResNets and MobileNets")
    options = parser.parse_args()
    if options.what == "loops":
        for target in [options.target] if options.target else CORES:
            print(f"{target}, weights of {options.bits} bits")
            loops(target, options.bits)
        return 0
    options.target = options.target or "aarch64-dotprod"
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            instructions(name, options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
