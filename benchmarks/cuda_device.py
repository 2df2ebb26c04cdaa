"""What a GPU reaches at most, for benchmarks/cuda.py: int8 products and bytes per second. NumPy and the driver only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import RuntimeFailure
from qcc.runtime.device import Gpu, Shape
from qcc.runtime.device_array import DeviceArray

_THREADS = 256
_WARPS, _PRODUCTS, _MACS = _THREADS // 32, 8, 16 * 8 * 32     # of a block, of a warp's turn, of one product (cuda_peak.cu)


@dataclass(frozen=True)
class Peak:
    """int8 multiply-accumulates, and bytes read and written, per second."""

    products: float
    bandwidth: float


def image_for(folder: Path, sm: int) -> bytes:
    """The peak's machine code for a GPU: of its generation and not later, else PTX; RuntimeFailure when there is neither."""
    found = {int(path.suffix[4:]): path for path in folder.glob("peak.sm_*")}
    fitting = [known for known in found if known <= sm and known // 10 == sm // 10]
    if fitting:
        return found[max(fitting)].read_bytes()
    texts = sorted(folder.glob("peak.compute_*"), key=lambda path: int(path.suffix[9:]))
    if not texts or int(texts[-1].suffix[9:]) > sm:
        raise RuntimeFailure(f"{folder} holds no peak kernels for sm_{sm}: make it with --target cuda")
    return texts[-1].read_bytes()


def measure_peak(gpu: Gpu, bundle: Path, blocks: int = 2048, turns: int = 4096, megabytes: int = 512) -> Peak:
    """The rates of cuda_peak.cu's kernels, the best of ten."""
    module, stream = gpu.module(image_for(bundle, gpu.sm)), gpu.stream()
    products, copy = gpu.kernel(module, "qcc_peak_products"), gpu.kernel(module, "qcc_peak_copy")
    sums, count = DeviceArray((blocks * _THREADS,), np.int32, gpu.device), DeviceArray.of(np.array([turns], np.int32), gpu.device)
    source, result = (DeviceArray((megabytes << 20,), np.uint8, gpu.device) for _ in range(2))
    copies = (megabytes << 20) // (16 * _THREADS)

    def best(function: Any, blocks: int, *arrays: DeviceArray) -> float:
        shape, addresses = Shape((blocks, 1, 1), (_THREADS, 1, 1)), [array.pointer for array in arrays]
        return min(gpu.seconds(stream, lambda: gpu.launch(function, shape, stream, *addresses)) for _ in range(10))

    macs = blocks * _WARPS * turns * _PRODUCTS * _MACS
    return Peak(macs / best(products, blocks, sums, count), 2 * (megabytes << 20) / best(copy, copies, source, result))
