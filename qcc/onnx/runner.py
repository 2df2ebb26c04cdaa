"""Evaluates float graphs fast: exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qcc.errors import ModelError, UsageError
from qcc.ir import Array, Graph, check_feeds
from qcc.onnx.exporter import export_model, extra_output


class FloatRunner:
    """Runs a FLOAT or QDQ graph and returns values by their names in the graph.

    Args:
        outputs: the values to return: any values of the graph, inputs and constants too.
        threads: of ONNX Runtime; None leaves it to the runtime.
    """

    def __init__(self, graph: Graph, outputs: Sequence[str], threads: int | None = None) -> None:
        unknown = [name for name in outputs if name not in graph.types]
        if unknown:
            raise UsageError(f"graph {graph.name!r} has no values {unknown[:5]}")
        self.graph = graph
        self.outputs = tuple(dict.fromkeys(outputs))
        self._session = open_session(export_model(graph, self.outputs).SerializeToString(), threads) if self.outputs else None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Values by name for one set of inputs.

        Raises:
            UsageError: an input is missing, unknown, or not of the declared type and shape.
        """
        check_feeds(self.graph, feeds)
        if self._session is None:
            return {}
        return dict(zip(self.outputs, self._session.run([extra_output(name) for name in self.outputs], dict(feeds)), strict=True))

    def run_ports(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by port name.

        Raises:
            UsageError: as for `run`.
        """
        check_feeds(self.graph, feeds)
        if self._session is None:
            self._session = open_session(export_model(self.graph).SerializeToString(), None)
        return dict(zip(self.graph.outputs, self._session.run(list(self.graph.outputs), dict(feeds)), strict=True))


def prepare(graph: Graph, values: Sequence[str]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """A function that computes these values of a float graph."""
    return FloatRunner(graph, values).run


def open_session(model: bytes, threads: int | None) -> Any:
    """A session of ONNX Runtime on the CPU that computes what the model says: no quantize-dequantize pair becomes an integer kernel.

    Raises:
        ModelError: the runtime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")     # idle between runs, not busy
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common base but Exception
        raise ModelError(f"ONNX Runtime refuses the graph: {error}") from error
