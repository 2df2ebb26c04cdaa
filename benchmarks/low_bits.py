"""Speed and bytes of weights of 8, 4, 3 and 2 bits: kernels of every kind, a matrix-vector product beside a plain read, and networks.

    python benchmarks/low_bits.py                                          # kernels, matrix-vector products, networks
    python benchmarks/low_bits.py --networks resnet18 --markdown results.md

Everything that is compared takes turns in one process, and the best turn of each counts: ratios of minima are what a shared machine
can tell. Kernels of a layer read and write the same memory, since a few per cent depend on which pages that is; activations are bytes.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import qcc
from qcc.codegen import link
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.kernel import View
from qcc.codegen.target import Target, find_target
from qcc.codegen.tuning_clock import Contender, Memory, Runner
from qcc.codegen.worker import compile_kernels
from qcc.codegen.x86.dense import plan_dense
from qcc.codegen.x86.depthwise import plan_depthwise
from qcc.errors import QccError
from qcc.ir.types import U8
from qcc.models import samples, zoo
from qcc.recipe import Recipe

BITS = (8, 4, 3, 2)
NETWORKS = ("efficientnet_lite0", "mobilenet_v2", "resnet18")
TURNS = 40
AHEAD = (0, 512, 2048, 8192)     # bytes, of plain reads; the fastest counts


@dataclass(frozen=True)
class Layer:
    """Pixels of a side of the output, channels, window; depthwise layers have as many outputs as inputs."""

    kind: str
    size: int
    inputs: int
    outputs: int
    window: int = 1
    depthwise: bool = False

    @property
    def name(self) -> str:
        where = f" {self.size}x{self.size}" if self.size > 1 else ""
        return f"{self.kind}{where} {self.inputs} to {self.outputs}"


LAYERS = (
    Layer("3x3", 56, 64, 64, 3), Layer("3x3", 28, 128, 128, 3), Layer("3x3", 14, 256, 256, 3), Layer("3x3", 7, 512, 512, 3),
    Layer("1x1", 56, 64, 256), Layer("1x1", 56, 256, 64), Layer("1x1", 14, 1024, 256), Layer("1x1", 112, 16, 96), Layer("1x1", 28, 32, 192),
    Layer("1x1", 14, 576, 96), Layer("1x1", 7, 320, 1280),
    Layer("depthwise 3x3", 56, 144, 144, 3, True), Layer("depthwise 3x3", 14, 480, 480, 3, True),
    Layer("depthwise 5x5", 7, 1152, 1152, 5, True),
)
PRODUCTS = (Layer("product", 1, 4096, 4096), Layer("product", 1, 3136, 200), Layer("product", 1, 1280, 1000))


def planned(layer: Layer, bits: int, target: Target) -> Any:
    """The kernel of a layer, whose weights reach both ends of their range."""
    rng, top = np.random.default_rng(0), (1 << bits - 1) - 1
    side = layer.size + layer.window - 1
    source, output = (View.contiguous(U8, (1, n, n, c)) for n, c in ((side, layer.inputs), (layer.size, layer.outputs)))
    shape = (layer.outputs, layer.window, layer.window, 1 if layer.depthwise else layer.inputs)
    weights = rng.integers(-top, top + 1, shape).astype(np.int8)
    after = Requantization(rng.integers(1 << 20, 1 << 21, layer.outputs).astype(np.int32), 36, 10)
    form = (source, weights, np.zeros(layer.outputs, np.int32), (1, 1), (1, 1))
    if layer.depthwise:
        return plan_depthwise(*form, output, after, None, target)[0]
    return plan_dense(*form, 1, output, after, None, target)[0]


def weight_bytes(kernel: Any) -> int:
    return int(kernel.operands[1].span)


def library(kernels: Sequence[Any], target: Target, folder: Path) -> Callable[[Any], Any]:
    """Compile kernels; returns kernel -> C function."""
    symbols = {kernel: f"kernel{number}" for number, kernel in enumerate(dict.fromkeys(kernels))}
    objects = compile_kernels(symbols, target, folder, workers=1)
    path = str(folder / "kernels.so")
    link.execute([*link.find_toolchain(target).compiler, "-shared", "-nostdlib", "-o", path, *map(str, objects)], folder, "linking kernels")
    loaded = ctypes.CDLL(path)
    return lambda kernel: getattr(loaded, symbols[kernel])


def runners(function: Callable[[Any], Any], kernels: Sequence[Any]) -> tuple[list[Runner], Memory]:
    """Kernels of one layer, each on one set of weights, in the same memory, which must be kept."""
    contenders = []
    for kernel in kernels:
        sizes = [view.span * view.dtype.bytes for view in kernel.operands]
        contenders.append(Contender("", kernel.tasks, tuple((size, 0 < place < len(sizes) - 1) for place, size in enumerate(sizes))))
    memory = Memory.for_contenders(contenders)
    calls = [memory.calls(contender)[:1] for contender in contenders]
    return [Runner(function(kernel), call) for kernel, call in zip(kernels, calls, strict=True)], memory


def readers(kernels: Sequence[Any], memory: Memory, folder: Path) -> list[list[Runner]]:
    """Per kernel: plain reads of as many bytes as its weights have, where they lie, with prefetches from several distances or none."""
    path = folder / "read.so"
    source = Path(__file__).with_name("read.c")
    compiler = link.find_toolchain(find_target("host")).compiler
    link.execute([*compiler, "-O2", "-march=native", "-shared", "-fPIC", "-o", str(path), str(source)], folder, "compiling read.c")
    function = ctypes.CDLL(str(path)).read_bytes
    address, integer = ctypes.c_void_p(memory.constants.ctypes.data), ctypes.c_int64
    return [[Runner(function, [(address, integer(weight_bytes(kernel)), integer(ahead))]) for ahead in AHEAD] for kernel in kernels]


def best(runners: Sequence[Callable[[], float]], turns: int) -> list[float]:
    """The shortest turn of each, in seconds."""
    return [min(times) for times in zip(*([turn() for turn in runners] for _ in range(turns)), strict=True)]


def kernel_rows(target: Target, turns: int, folder: Path) -> list[list[str]]:
    """Per layer: microseconds at 8 bits, then how many times faster the others are, and share of the bytes at 8 bits."""
    kernels = {(layer, bits): planned(layer, bits, target) for layer in (*LAYERS, *PRODUCTS) for bits in BITS}
    functions = library(list(kernels.values()), target, folder)
    rows = []
    for layer in (*LAYERS, *PRODUCTS):
        own = [kernels[layer, bits] for bits in BITS]
        contenders, _memory = runners(functions, own)
        times = best([contender.turn for contender in contenders], turns)
        cells = [f"{times[0] / time:.2f}x ({weight_bytes(kernel) / weight_bytes(own[0]):.3f})"
                 for time, kernel in zip(times[1:], own[1:], strict=True)]
        rows.append([layer.name, f"{times[0] * 1e6:.1f} µs", *cells])
    return rows


def bandwidth_rows(target: Target, turns: int, folder: Path) -> list[list[str]]:
    """Per bits: bytes per second that the largest product reads, and the share of what plain reads of as many bytes reach."""
    layer = PRODUCTS[0]
    own = [planned(layer, bits, target) for bits in BITS]
    contenders, memory = runners(library(own, target, folder), own)
    every = [[product, *plain] for product, plain in zip(contenders, readers(own, memory, folder), strict=True)]
    found = [best([contender.turn for contender in group], turns) for group in every]
    times = [group[0] for group in found]
    rates, reads = ([weight_bytes(kernel) / seconds for kernel, seconds in zip(own, column, strict=True)]
                    for column in (times, [min(group[1:]) for group in found]))
    return [[f"{bits}", f"{time * 1e6:.1f} µs", f"{times[0] / time:.2f}x", f"{rate * 1e-9:.1f}", f"{read * 1e-9:.1f}", f"{rate / read:.0%}"]
            for bits, time, rate, read in zip(BITS, times, rates, reads, strict=True)]


def network_row(name: str, target: Target, turns: int, folder: Path) -> list[str]:
    """Milliseconds and bytes of weights at 8 bits, then the same relative to that; activations have 8 bits."""
    feeds, modules, sizes = samples.samples(name, 2), [], []
    for bits in BITS:
        recipe = Recipe(target.name, weight_bits=bits, rounding="nearest", correction="none")    # speed does not depend on the weights
        artifact = qcc.compile(zoo.path(name), calibration_data=feeds, recipe=recipe)
        artifact.save(folder / f"{name}{bits}")
        sizes.append(artifact.summary.weight_bytes)
        modules.append(qcc.load(folder / f"{name}{bits}"))
    times = shortest_steps(modules, feeds[0], turns)
    cells = [f"{times[0] / time:.2f}x ({size / sizes[0]:.3f})" for time, size in zip(times[1:], sizes[1:], strict=True)]
    return [name, f"{times[0] * 1e3:.3f} ms, {sizes[0] * 1e-6:.2f} MB", *cells]


def shortest_steps(modules: Sequence[Any], feeds: Any, turns: int) -> list[float]:
    """Seconds of each module: its steps' shortest times, together. Steps are short enough that some of their turns are not disturbed."""
    runs = [[[time for _, time in module.profile(feeds)] for module in modules] for _ in range(turns)]
    return [sum(map(min, zip(*(turn[number] for turn in runs), strict=True))) * 1e-9 for number in range(len(modules))]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help=f"names from models/README.md (default: {', '.join(NETWORKS)})")
    parser.add_argument("--target", default="host", help="an x86 target that this machine runs (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=TURNS, help="of everything that is timed (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    target = find_target(options.target)
    headings = (f"bits of {PRODUCTS[0].name}", "time", "speed", "GB/s", "plain read, GB/s", "share")
    faster = [f"{bits} bits: speed, bytes" for bits in BITS[1:]]
    with tempfile.TemporaryDirectory(prefix="qcc-low-bits-") as name:
        folders = [Path(name, part) for part in ("kernels", "products", "networks")]
        for part in folders:
            part.mkdir()
        try:
            texts = [table(("layer", "8 bits", *faster), kernel_rows(target, options.turns, folders[0]))]
            texts.append(table(headings, bandwidth_rows(target, options.turns, folders[1])))
            rows = [network_row(network, target, options.turns, folders[2]) for network in options.networks]
            texts += [table(("network", "8 bits", *faster), rows)] if rows else []
        except QccError as error:
            print(f"low_bits: {error}", file=sys.stderr)
            return error.exit_code
    print("\n".join(texts))
    if options.markdown is not None:
        options.markdown.write_text("\n".join(texts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
