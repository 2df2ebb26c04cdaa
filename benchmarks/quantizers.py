"""Other quantizers, for `accuracy.py`: each makes a function from inputs to outputs out of a model, calibration data and bits.

Granularity is the same for all: one scale per output channel of the weights, one per tensor of the activations. The network's inputs keep
8 bits, as qcc's do. What a package does not offer at these bits is not listed; what it offers and fails at is a line of the table.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcc import peers

Array = npt.NDArray[Any]
Feeds = Sequence[dict[str, Array]]
Run = Callable[[dict[str, Array]], dict[str, Array]]
Make = Callable[[Path, Feeds, int, int], Run]
CALIBRATORS = ("MinMax", "Entropy", "Percentile")
ADAROUND_ITERATIONS = 1000      # of 10000 that the package proposes, which take hours here


def onnxruntime_static(method: str) -> Make:
    """onnxruntime's static quantizer: u8 activations, signed weights, after its own preprocessing."""

    def make(model: Path, feeds: Feeds, weight_bits: int, _activation_bits: int) -> Run:
        quantization = importlib.import_module("onnxruntime.quantization")
        with tempfile.TemporaryDirectory() as folder:
            prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
            peers._raise_opset(model, prepared)
            importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process(
                str(prepared), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared), str(quantized), peers._reader(quantization.CalibrationDataReader, feeds), per_channel=True,
                calibrate_method=quantization.CalibrationMethod[method], activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType[f"QInt{weight_bits}"])
            return peers.OnnxRuntime(peers._session(quantized, feeds[0], 2), "int8").run

    return make


def nncf(**options: Any) -> Make:
    """NNCF's post-training quantization, run by OpenVINO."""

    def make(model: Path, feeds: Feeds, _weight_bits: int, _activation_bits: int) -> Run:
        openvino, package = importlib.import_module("openvino"), importlib.import_module("nncf")
        core = openvino.Core()
        network = core.read_model(str(model))
        network.reshape({port.get_any_name(): list(feeds[0][port.get_any_name()].shape) for port in network.inputs})
        quantized = package.quantize(network, package.Dataset([dict(batch) for batch in feeds]), subset_size=len(feeds), **options)
        return peers.OpenVino(core.compile_model(quantized, "CPU", {"INFERENCE_NUM_THREADS": 2}), "int8").run

    return make


def aimet(scheme: str, equalize: bool = False, adaround: bool = False, sequential_mse: bool = False) -> Make:
    """AIMET's simulation in float: with cross-layer equalization, AdaRound or sequential MSE, if asked for."""

    def make(model: Path, feeds: Feeds, weight_bits: int, activation_bits: int) -> Run:
        package = importlib.import_module("aimet_onnx")
        proto = importlib.import_module("onnx").load(model)
        if equalize:
            importlib.import_module("aimet_onnx.cross_layer_equalization").equalize_model(proto)
        widths = (package.qtype.int(bits) for bits in (weight_bits, activation_bits))
        sim = package.QuantizationSimModel(
            proto, **dict(zip(("param_type", "activation_type"), widths, strict=True)), quant_scheme=scheme)
        for port in sim.session.get_inputs():
            if port.name in sim.qc_quantize_op_dict:
                sim.qc_quantize_op_dict[port.name].set_bitwidth(8)
        if sequential_mse:
            package.apply_seq_mse(sim, list(feeds))
        if adaround:
            package.apply_adaround(sim, list(feeds), num_iterations=ADAROUND_ITERATIONS)
        sim.compute_encodings(list(feeds))
        names = [port.name for port in sim.session.get_outputs()]
        return lambda feed: dict(zip(names, sim.session.run(None, feed), strict=True))

    return make


def quantizers(weight_bits: int, activation_bits: int) -> Iterator[tuple[str, Make]]:
    """What there is for these bits, by label."""
    if activation_bits == 8 and weight_bits in (4, 8):
        yield from ((f"onnxruntime, {method}", onnxruntime_static(method)) for method in CALIBRATORS)
    if (weight_bits, activation_bits) == (8, 8):
        yield "NNCF", nncf()
        yield "NNCF, full bias correction", nncf(fast_bias_correction=False)
    yield "AIMET", aimet("min_max")
    yield "AIMET, enhanced ranges", aimet("tf_enhanced")
    yield "AIMET, equalized", aimet("min_max", equalize=True)
    if weight_bits < 8:
        yield "AIMET, sequential MSE", aimet("min_max", sequential_mse=True)
        yield f"AIMET, AdaRound of {ADAROUND_ITERATIONS}", aimet("min_max", adaround=True)


def run_all(run: Run, feeds: Feeds) -> Array:
    """The first output of every sample, flat: float64 [samples, classes]."""
    return np.stack([next(iter(run(feed).values())).ravel() for feed in feeds]).astype(np.float64)
