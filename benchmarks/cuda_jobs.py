"""The jobs of benchmarks/cuda.py, each a process of its own: what goes wrong in one (a crash, a GPU that hangs) is that one's loss.

    python benchmarks/cuda_jobs.py JOB BUNDLE NAME [--rounds N] [--device N]

Every line on standard output that begins with "{" is what is known so far, as JSON; the last one counts. NumPy and the driver suffice.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
# This folder has a cuda.py, and PyTorch imports NVIDIA's package `cuda`; qcc is beside this folder, where it is not installed.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE] + [str(HERE.parent)]

from qcc.errors import QccError  # noqa: E402
from qcc.runtime import Module  # noqa: E402
from qcc.runtime.device import Gpu, Shape  # noqa: E402
from qcc.runtime.device_array import DeviceArray  # noqa: E402
from qcc.runtime.gpu import GpuModule  # noqa: E402
from qcc.runtime.manifest import numpy_dtype  # noqa: E402

Array = npt.NDArray[Any]
Result = dict[str, Any]
BEYOND_CACHES = 256 << 20      # bytes of weights among which products with a vector take theirs: no cache holds them
_THREADS = 256
_WARPS, _PRODUCTS, _MACS = _THREADS // 32, 8, 16 * 8 * 32     # of a block, of a warp's turn, of one product (cuda_peak.cu)


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


def layer_rows(folder: Path) -> dict[int, Result]:
    """What cuda_bundle.py wrote about an artifact's steps, by number."""
    rows = json.loads(folder.with_name(f"{folder.name}.layers.json").read_text(encoding="utf-8"))
    return {row["step"]: row for row in rows}


def device(_bundle: Path, _name: str, options: argparse.Namespace) -> Iterator[Result]:
    """Which GPU this is."""
    gpu = Gpu(options.device)
    yield {"gpu": gpu.name, "sm": gpu.sm, "driver": gpu.driver.version(), "emulated": gpu.is_emulated}


def check(bundle: Path, name: str, options: argparse.Namespace) -> Iterator[Result]:
    """How many layers were compared, and what is wrong: the golden pair's message, and layers that differ."""
    folder, wrong = bundle / name, []
    with GpuModule(folder, device=options.device) as module:
        try:
            module.selftest()
        except QccError as error:
            wrong.append(str(error))
        rows = layer_rows(folder)
        for number, (step, read) in enumerate(module.trace(golden_inputs(folder))):
            row = rows.get(number)
            if row is not None:
                found = declared(read(), row["dtype"], row["elements"])
                if found.size != row["elements"] or checksum(np.ascontiguousarray(found).tobytes()) != row["checksum"]:
                    wrong.append(f"layer {step.node} differs from the interpreter")
    yield {"layers_compared": len(rows), "wrong": wrong}


def image_for(folder: Path, sm: int) -> bytes:
    """The peak's machine code for a GPU: of its generation and not later, else PTX; RuntimeError when there is neither."""
    found = {int(path.suffix[4:]): path for path in folder.glob("peak.sm_*")}
    fitting = [known for known in found if known <= sm and known // 10 == sm // 10]
    if fitting:
        return found[max(fitting)].read_bytes()
    texts = sorted(folder.glob("peak.compute_*"), key=lambda path: int(path.suffix[9:]))
    if not texts or int(texts[-1].suffix[9:]) > sm:
        raise RuntimeError(f"{folder} holds no peak kernels for sm_{sm}: make it with --target cuda")
    return texts[-1].read_bytes()


def peak(bundle: Path, _name: str, options: argparse.Namespace) -> Iterator[Result]:
    """The rates of cuda_peak.cu's kernels, the best of ten: int8 multiply-accumulates, and bytes read and written, per second."""
    gpu = Gpu(options.device)
    blocks, turns, megabytes = (2, 2, 1) if gpu.is_emulated else (2048, 4096, 512)
    module, stream = gpu.module(image_for(bundle, gpu.sm)), gpu.stream()
    products, copy = gpu.kernel(module, "qcc_peak_products"), gpu.kernel(module, "qcc_peak_copy")
    sums, count = DeviceArray((blocks * _THREADS,), np.int32, gpu.device), DeviceArray.of(np.array([turns], np.int32), gpu.device)
    source, result = (DeviceArray((megabytes << 20,), np.uint8, gpu.device) for _ in range(2))
    copies = (megabytes << 20) // (16 * _THREADS)

    def best(function: Any, blocks: int, *arrays: DeviceArray) -> float:
        shape, addresses = Shape((blocks, 1, 1), (_THREADS, 1, 1)), [array.pointer for array in arrays]
        return min(gpu.seconds(stream, lambda: gpu.launch(function, shape, stream, *addresses)) for _ in range(10))

    macs = blocks * _WARPS * turns * _PRODUCTS * _MACS
    yield {"products": macs / best(products, blocks, sums, count), "bandwidth": 2 * (megabytes << 20) / best(copy, copies, source, result)}
    del sums, count, source, result
    gpu.close()


def network(bundle: Path, name: str, options: argparse.Namespace) -> Iterator[Result]:
    """Seconds of one run, arrays on the GPU: the median over rounds of runs that follow each other; then seconds of every step."""
    gpu, folder = Gpu(options.device), bundle / name
    with GpuModule(folder, device=gpu.device) as module:
        feeds = golden_inputs(folder)
        inputs = [DeviceArray.of(feeds[port.name], gpu.device) for port in module.inputs]
        outputs = [DeviceArray(port.shape, port.numpy, gpu.device) for port in module.outputs]
        places, stream = ([array.pointer for array in inputs], [array.pointer for array in outputs]), gpu.stream()
        once = gpu.seconds(stream, lambda: module.start(*places, stream), 2 if gpu.is_emulated else 10)
        times = max(1, int(0.02 / once))
        seconds = median(gpu.seconds(stream, lambda: module.start(*places, stream), times) for _ in range(options.rounds))
        yield {"seconds": seconds, "batch": module.inputs[0].shape[0] if module.inputs[0].shape else 1}
        yield {"seconds": seconds, "batch": module.inputs[0].shape[0] if module.inputs[0].shape else 1,
               "layers": steps(module, feeds, layer_rows(folder), options.rounds)}
        del inputs, outputs
    gpu.close()


def steps(module: Module, feeds: Mapping[str, Array], rows: Mapping[int, Result], rounds: int) -> list[Result]:
    """Median time of every step, launched one by one, its products, and the bytes of its operands."""
    runs = [dict(enumerate(module.profile(feeds))) for _ in range(rounds + 1)][1:]
    found = []
    for number, step in enumerate(module.manifest.steps):
        seconds = max(1e-9, median(run[number][1] for run in runs) * 1e-9)
        moved = sum(int(np.prod(argument.shape)) * numpy_dtype(argument.dtype).itemsize for argument in step.arguments)
        found.append({"node": step.node, "kernel": step.kernel, "form": rows.get(number, {}).get("form", ""), "seconds": seconds,
                      "macs": step.macs, "bytes": moved})
    return found


def races(bundle: Path, name: str, options: argparse.Namespace) -> Iterator[Result]:
    """Seconds of single kernels, each with the tiles that cuda_bundle.py compiled, the planned one first; layers as they are done."""
    from qcc.codegen.tuning_clock import contender_of, run_races
    from qcc.codegen.tuning_race import Rules

    folder = bundle / name
    listed = json.loads((folder / "races.json").read_text(encoding="utf-8"))
    (folder / "device").write_text(str(options.device), encoding="ascii")
    found: list[Result] = []
    for race in listed["races"]:
        contenders = [contender_of(values) for values in race["contenders"]]
        rotated = BEYOND_CACHES if race["form"] == "vector" else None
        result = run_races(str(folder), [contenders], Rules(duel=options.rounds), rotated, "qcc.codegen.cuda.clock")[0]
        found.append({key: race[key] for key in ("label", "form", "workload", "choices", "macs", "bytes")} | {
            "winner": result.winner, "gain": result.gain, "seconds": result.seconds})
        yield {"target": listed["target"], "level": listed["level"], "kernels": found}


def torch(bundle: Path, name: str, options: argparse.Namespace) -> Iterator[Result]:
    """PyTorch's int8 matrix product, or a network ("resnet50_b8") in float16; see cuda_torch.py."""
    sys.path.append(str(HERE))
    import cuda_torch

    sys.path.remove(str(HERE))
    yield from cuda_torch.products() if name == "products" else cuda_torch.network(name, options.rounds)


JOBS = {"device": device, "check": check, "peak": peak, "network": network, "races": races, "torch": torch}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        for result in JOBS[options.job](options.bundle, options.name, options):
            print(json.dumps(result), flush=True)
    except (QccError, RuntimeError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
