"""Checks and times compiled models on an NVIDIA GPU. Needs NumPy, the driver, and a folder of cuda_bundle.py; no TVM, no toolkit.

    python benchmarks/cuda.py bundle                    # everything
    python benchmarks/cuda.py bundle --only resnet50 --rounds 50 --output results.json
    python benchmarks/cuda.py bundle --check            # exactness only

For every artifact: its golden pair, and every layer's result against the checksum of what the interpreter computes (tolerance 0); the same
under compute-sanitizer, if that is on the PATH; time of the whole network (CUDA events around launches of its graph, arrays on the
GPU) and of every layer, its share of the int8 products and of the bytes per second that this GPU reached in the same run. Beside
it, where PyTorch is installed: the int8 matrix product of torch._int_mm, and networks of torchvision in float16, channels last, compiled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda_device import Peak, measure_peak

from qcc.errors import QccError
from qcc.runtime import Module
from qcc.runtime.device import Gpu
from qcc.runtime.device_array import DeviceArray
from qcc.runtime.gpu import GpuModule
from qcc.runtime.manifest import numpy_dtype

Array = npt.NDArray[Any]
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TORCHVISION = {"resnet18": "resnet18", "resnet50": "resnet50", "mobilenet_v2": "mobilenet_v2"}


def checksum(data: bytes) -> int:
    """The checksum of libraries' golden outputs: 64-bit words times odd numbers, modulo 2**64 (runtime/csrc/qcc_selftest.h)."""
    words = np.frombuffer(data + bytes(-len(data) % 8), "<u8")
    return int(np.sum(words * (np.arange(len(words), dtype=np.uint64) * np.uint64(2) + np.uint64(1)), dtype=np.uint64))


def declared(array: Array, dtype: str, elements: int) -> Array:
    """A step's result as the graph has it: two values of 4 bits may share a byte, and a copy moves floats as integers."""
    if 2 * array.size == elements:
        array = np.stack([array & 15, array >> 4], axis=-1)
    return array.view(dtype) if array.dtype != dtype and array.dtype.itemsize == np.dtype(dtype).itemsize else array.astype(dtype)


def golden_inputs(folder: Path) -> dict[str, Array]:
    with np.load(folder / "golden.npz") as arrays:
        return {name.removeprefix("input."): arrays[name] for name in arrays.files if name.startswith("input.")}


def check(module: Module, folder: Path) -> tuple[int, list[str]]:
    """How many layers were compared, and what is wrong: the golden pair's message, and layers that differ."""
    wrong = []
    try:
        module.selftest()
    except QccError as error:
        wrong.append(str(error))
    rows = {row["step"]: row for row in json.loads(folder.with_name(f"{folder.name}.layers.json").read_text(encoding="utf-8"))}
    for number, (step, read) in enumerate(module.trace(golden_inputs(folder))):
        row = rows.get(number)
        if row is not None:
            found = declared(read(), row["dtype"], row["elements"])
            if found.size != row["elements"] or checksum(np.ascontiguousarray(found).tobytes()) != row["checksum"]:
                wrong.append(f"layer {step.node} differs from the interpreter")
    return len(rows), wrong


def whole(module: GpuModule, gpu: Gpu, folder: Path, rounds: int) -> float:
    """Seconds of one run, arrays on the GPU: the median over rounds of runs that follow each other."""
    inputs = [DeviceArray.of(golden_inputs(folder)[port.name], gpu.device) for port in module.inputs]
    outputs = [DeviceArray(port.shape, port.numpy, gpu.device) for port in module.outputs]
    places, stream = ([array.pointer for array in inputs], [array.pointer for array in outputs]), gpu.stream()
    once = gpu.seconds(stream, lambda: module.start(*places, stream), 10)
    times = max(1, int(0.02 / once))
    return median(gpu.seconds(stream, lambda: module.start(*places, stream), times) for _ in range(rounds))


def layers(module: Module, folder: Path, rounds: int, peak: Peak) -> list[dict[str, Any]]:
    """Median time of every step, launched one by one, and its shares of the peak rates."""
    runs = [dict(enumerate(module.profile(golden_inputs(folder)))) for _ in range(rounds + 1)][1:]
    found = []
    for number, step in enumerate(module.manifest.steps):
        seconds = max(1e-9, median(run[number][1] for run in runs) * 1e-9)
        moved = sum(int(np.prod(argument.shape)) * numpy_dtype(argument.dtype).itemsize for argument in step.arguments)
        found.append({"node": step.node, "kernel": step.kernel, "seconds": seconds, "macs": step.macs, "bytes": moved,
                      "of_products": step.macs / seconds / peak.products, "of_bandwidth": moved / seconds / peak.bandwidth})
    return found


def sanitize(bundle: Path, name: str) -> dict[str, str]:
    """What compute-sanitizer says of the check of one artifact, by tool; nothing where it is not installed."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {}
    results = {}
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, str(bundle), "--check", "--only", name]
        done = subprocess.run([*command, "--no-sanitizer"], capture_output=True, text=True, check=False)
        results[tool] = "clean" if done.returncode == 0 else f"exit code {done.returncode}: {done.stdout.strip()[-400:]}"
    return results


def torch_reference(name: str, batch: int, rounds: int) -> float | None:
    """Seconds of torchvision's network in float16, channels last, compiled; None where it cannot be had."""
    model = next((text for text in TORCHVISION if name.startswith(text)), None)
    try:
        import torch
        import torchvision
    except ImportError:
        return None
    if model is None or not torch.cuda.is_available():
        return None
    network = getattr(torchvision.models, TORCHVISION[model])().half().cuda().eval().to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    compiled = torch.compile(network, mode="max-autotune")
    with torch.inference_mode():
        for _ in range(10):
            compiled(x)
        times = []
        for _ in range(rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(10):
                compiled(x)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e-4)
    return median(times)


def torch_products() -> float | None:
    """Multiply-accumulates per second of torch._int_mm on 8192 x 8192 matrices; None where it cannot be had."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    size = 8192
    a, b = (torch.randint(-128, 128, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
    times = []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch._int_mm(a, b.t())
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return float(size**3 / min(times))


def examine(bundle: Path, name: str, gpu: Gpu, peak: Peak | None, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one artifact."""
    folder = bundle / name
    with GpuModule(folder, device=gpu.device) as module:
        compared, wrong = check(module, folder)
        report: dict[str, Any] = {"name": name, "layers_compared": compared, "wrong": wrong}
        if peak is not None:
            report["seconds"] = whole(module, gpu, folder, options.rounds)
            report["layers"] = layers(module, folder, options.rounds, peak)
            batch = module.inputs[0].shape[0] if module.inputs[0].shape else 1
            report["torch_float16_seconds"] = torch_reference(name, batch, options.rounds)
    report["sanitizer"] = {} if options.no_sanitizer else sanitize(bundle, name)
    return report


def show(report: Mapping[str, Any]) -> None:
    state = "exact" if not report["wrong"] else "WRONG"
    print(f"\n{report['name']}: {state}, golden pair and {report['layers_compared']} layers")
    for message in report["wrong"]:
        print(f"  {message}")
    for tool, text in report["sanitizer"].items():
        print(f"  compute-sanitizer {tool}: {text}")
    if "seconds" not in report:
        return
    reference = report["torch_float16_seconds"]
    beside = "" if reference is None else f"; PyTorch float16 {reference * 1e3:.3f} ms, {reference / report['seconds']:.2f} x"
    print(f"  {report['seconds'] * 1e3:.3f} ms{beside}")
    for row in report["layers"]:
        shares = f"{100 * row['of_products']:5.1f} % of products {100 * row['of_bandwidth']:5.1f} % of bandwidth"
        print(f"  {row['seconds'] * 1e6:9.1f} us {shares}  {row['node']} ({row['kernel']})")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the folder that benchmarks/cuda_bundle.py made")
    parser.add_argument("--only", default="", help="artifacts whose names begin so")
    parser.add_argument("--check", action="store_true", help="compare results, measure nothing")
    parser.add_argument("--no-sanitizer", action="store_true", help="do not run compute-sanitizer")
    parser.add_argument("--rounds", type=int, default=20, help="of every measurement")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--output", type=Path, help="write everything as JSON, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    names = sorted(path.parent.name for path in options.bundle.glob("*/manifest.json") if path.parent.name.startswith(options.only))
    if not names:
        print(f"{options.bundle}: no artifact of a name that begins with {options.only!r}; make them with cuda_bundle.py", file=sys.stderr)
        return 2
    try:
        gpu = Gpu(options.device)
        print(f"GPU {gpu.device}: {gpu.name}, sm_{gpu.sm}")
        if gpu.is_emulated:
            print("this GPU is EMULATED: results are compared, and NO TIMES are measured")
        peak = None if options.check or gpu.is_emulated else measure_peak(gpu, options.bundle)
    except QccError as error:
        print(f"no GPU, so NOTHING was checked: {error}", file=sys.stderr)
        return 1
    library = None if peak is None else torch_products()
    if peak is not None:
        beside = "" if library is None else f"; torch._int_mm reaches {library * 1e-12:.1f}"
        print(f"peak: {peak.products * 1e-12:.1f} T int8 multiply-accumulates/s{beside}; {peak.bandwidth * 1e-9:.0f} GB/s")
    reports = []
    for name in names:
        try:
            reports.append(examine(options.bundle, name, gpu, peak, options))
        except QccError as error:
            reports.append({"name": name, "layers_compared": 0, "wrong": [str(error)], "sanitizer": {}})
        show(reports[-1])
    if options.output is not None:
        rates = None if peak is None else {"products": peak.products, "bandwidth": peak.bandwidth, "torch_products": library}
        options.output.write_text(json.dumps({"gpu": gpu.name, "sm": gpu.sm, "peak": rates, "artifacts": reports}, indent=1) + "\n")
    bad = [report["name"] for report in reports if report["wrong"] or any(text != "clean" for text in report["sanitizer"].values())]
    print(f"\n{len(reports) - len(bad)} of {len(reports)} artifacts are exact" + (f"; WRONG: {', '.join(bad)}" if bad else ""))
    return 5 if bad else 0


if __name__ == "__main__":
    # What PyTorch imports may import NVIDIA's package `cuda`, which this file must not hide.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    sys.exit(main(sys.argv[1:]))
