"""What PyTorch reaches on the same GPU, for benchmarks/cuda.py: its int8 matrix product, and torchvision's networks in float16."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
_RUNS = 10


def _seconds(torch: Any, work: Callable[[], object], rounds: int) -> float:
    """Of one piece of work: the median over rounds."""
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(_RUNS):
            work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / _RUNS)
    return median(times)


def _ready() -> Any:
    """PyTorch; RuntimeError where it sees no GPU, ImportError where it is missing."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU that it can use")
    return torch


def products() -> Iterator[dict[str, Any]]:
    """Multiply-accumulates per second of torch._int_mm, and of a product in float16, on 8192 x 8192 matrices."""
    torch, size = _ready(), 8192
    a, b = (torch.randint(-128, 128, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
    best = min(_seconds(torch, lambda: torch._int_mm(a, b.t()), 1) for _ in range(5))
    yield {"version": torch.__version__, "int8": size**3 / best}
    x, y = (matrix.to(torch.float16) * 0.01 for matrix in (a, b))
    yield {"version": torch.__version__, "int8": size**3 / best,
           "float16": size**3 / min(_seconds(torch, lambda: x @ y.t(), 1) for _ in range(5))}


def network(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds of "NETWORK_bBATCH" in float16, channels last: as a CUDA graph of eager kernels, then compiled with each mode."""
    matched = re.fullmatch(r"(\w+)_b(\d+)", name)
    if matched is None or matched[1] not in NETWORKS:
        raise RuntimeError(f"{name}: expected one of {', '.join(NETWORKS)} and a batch, as in resnet50_b8")
    torch = _ready()
    import torchvision

    torch.backends.cudnn.benchmark = True
    model = getattr(torchvision.models, matched[1])().half().cuda().eval().to(memory_format=torch.channels_last)
    x = torch.randn(int(matched[2]), 3, 224, 224, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    found: dict[str, Any] = {"version": torch.__version__, "seconds": {}, "failed": {}}
    modes: dict[str, Callable[[], Callable[[], object]]] = {
        "eager": lambda: _captured(torch, model, x),
        "reduce-overhead": lambda: _compiled(torch, model, x, "reduce-overhead"),
        "max-autotune": lambda: _compiled(torch, model, x, "max-autotune"),
    }
    with torch.inference_mode():
        for mode, prepare in modes.items():
            try:
                found["seconds"][mode] = _seconds(torch, prepare(), rounds)
            except Exception as error:  # what a compiler of PyTorch's raises is its own; the other modes still count
                found["failed"][mode] = f"{type(error).__name__}: {error}"[:300]
            yield found
            torch.compiler.reset()


def _captured(torch: Any, model: Any, x: Any) -> Callable[[], object]:
    """The network's kernels as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    replay: Callable[[], object] = graph.replay
    return replay


def _compiled(torch: Any, model: Any, x: Any, mode: str) -> Callable[[], object]:
    compiled = torch.compile(model, mode=mode)
    for _ in range(5):
        compiled(x)
    return lambda: compiled(x)
