"""Other runtimes on the same model, to be compared with: each in float32 and in int8, quantized by its own static quantizer.

Every peer gets the same model file, calibration data and number of threads. Peers are imported when they are asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qcc.errors import UsageError
from qcc.ir.types import Array

Feeds = Mapping[str, Array]
PER_CHANNEL_OPSET = 13


class Peer(Protocol):
    """A model, loaded by another runtime."""

    @property
    def name(self) -> str:
        """The runtime: `onnxruntime` or `openvino`."""

    @property
    def precision(self) -> str:
        """`float32`, or `int8` when the runtime's quantizer made it so."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name; inputs have the types and shapes of the calibration data."""


def build(names: Sequence[str], model: str | Path, feeds: Sequence[Feeds], threads: int = 1) -> list[Peer]:
    """Every named peer in float32 and in int8.

    Args:
        names: among `PEERS`.
        model: an ONNX file; dynamic dimensions take the extents that the calibration data have.
        feeds: calibration data, batches of inputs by name; all of one shape.
        threads: threads that a run may use.

    Raises:
        UsageError: unknown name, a peer that is not installed or cannot load or quantize the model, or no calibration data.
    """
    if unknown := [name for name in names if name not in PEERS]:
        raise UsageError(f"cannot compare against {', '.join(map(repr, unknown))}: expected {' or '.join(PEERS)}")
    if not feeds:
        raise UsageError("the peers' quantizers need calibration data, and there are none: give at least one batch")
    peers: list[Peer] = []
    for name in names:
        with _explained(name, model):
            peers += PEERS[name](Path(model), feeds, threads)
    return peers


@dataclass(frozen=True)
class OnnxRuntime:
    """An onnxruntime session on the CPU."""

    session: Any
    precision: str
    name: str = "onnxruntime"

    def run(self, feeds: Feeds) -> dict[str, Array]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))


@dataclass(frozen=True)
class OpenVino:
    """A model that OpenVINO compiled for the CPU."""

    compiled: Any
    precision: str
    name: str = "openvino"

    def run(self, feeds: Feeds) -> dict[str, Array]:
        results = self.compiled(dict(feeds), share_inputs=True)
        return {port.get_any_name(): array for port, array in results.items()}


def _onnxruntime(model: Path, feeds: Sequence[Feeds], threads: int) -> list[Peer]:
    """Float32, and what `quantize_onnx` writes."""
    with tempfile.TemporaryDirectory(prefix="qcc-peers-") as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        quantize_onnx(model, feeds, prepared, quantized)
        return [OnnxRuntime(_session(model, feeds[0], threads), "float32"), OnnxRuntime(_session(quantized, feeds[0], threads), "int8")]


def quantize_onnx(model: Path, feeds: Sequence[Feeds], prepared: Path, quantized: Path) -> None:
    """Write u8 activations with per-channel s8 weights in QDQ form, ranges by minimum and maximum, as onnxruntime makes them."""
    quantization = _load("onnxruntime.quantization", "onnxruntime", "pip install onnxruntime")
    preprocess = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    _raise_opset(model, prepared)
    preprocess(str(prepared), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared), str(quantized), _reader(quantization.CalibrationDataReader, feeds), per_channel=True,
        quant_format=quantization.QuantFormat.QDQ, calibrate_method=quantization.CalibrationMethod.MinMax,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8)


def _raise_opset(model: Path, result: Path) -> None:
    """Write the model at the first opset at which scales per channel exist, or as it is if it is newer."""
    onnx = importlib.import_module("onnx")
    proto = onnx.load(model)
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=PER_CHANNEL_OPSET)
    if opset < PER_CHANNEL_OPSET:
        proto = importlib.import_module("onnx.version_converter").convert_version(proto, PER_CHANNEL_OPSET)
    onnx.save(proto, result)


def _reader(base: Any, feeds: Sequence[Feeds]) -> Any:
    """The feeds in the form that onnxruntime's quantizer reads."""

    class Reader(base):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self.rest, None)
            return None if batch is None else dict(batch)

    return Reader()


def _session(model: Path, example: Feeds, threads: int) -> Any:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Idle threads that go on spinning after a run would slow down whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for port in runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]).get_inputs():
        for extent, given in zip(port.shape, example[port.name].shape, strict=True):
            if isinstance(extent, str):
                options.add_free_dimension_override_by_name(extent, given)
    return runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _openvino(model: Path, feeds: Sequence[Feeds], threads: int) -> list[Peer]:
    """Float32 (not the bfloat16 that the runtime may take by itself), and int8 as NNCF makes it by default."""
    remedy = "pip install 'qcc[bench]'"
    openvino = _load("openvino", "openvino", remedy)
    os.environ.setdefault("NNCF_CI", "1")  # the package's own switch: a measurement must not be reported to anybody
    nncf = _load("nncf", "openvino", remedy)
    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({port.get_any_name(): list(feeds[0][port.get_any_name()].shape) for port in network.inputs})
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    exact = core.compile_model(network, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})
    quantized = nncf.quantize(network, nncf.Dataset([dict(batch) for batch in feeds]), subset_size=len(feeds))
    return [OpenVino(exact, "float32"), OpenVino(core.compile_model(quantized, "CPU", settings), "int8")]


PEERS: Mapping[str, Callable[[Path, Sequence[Feeds], int], list[Peer]]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def _load(module: str, peer: str, remedy: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"cannot compare against {peer}: {error}; install it with: {remedy}") from error


@contextlib.contextmanager
def _explained(name: str, model: str | Path) -> Iterator[None]:
    """Keeps a peer's chatter from the terminal, and gives its errors the form of qcc's."""
    root = logging.getLogger()
    level = root.level
    try:
        root.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # whatever a peer raises, the user is told which peer and which model
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"{name} cannot load or quantize {model}: {reason}; compare against another runtime") from error
    finally:
        root.setLevel(level)
