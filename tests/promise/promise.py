"""What the promises of passes mean, as an observer that holds every pass of a pipeline to its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcc.ir import Array, Graph, Numerics, Stage, Step, dump, interpret
from qcc.onnx import FloatRunner

CLOSE = 2e-5     # of the largest number
NOISE = 12.0     # dB that the outputs of a network keep above the errors of one LOSSY pass


@dataclass
class Watch:
    """Runs the network on `feeds` after every pass that changes it, and compares with what it was before.

    Attributes:
        noise: dB that a LOSSY pass must leave.
        fired: names of the passes that changed something.
    """

    feeds: Mapping[str, Array]
    noise: float = NOISE
    fired: list[str] = field(default_factory=list)
    _results: tuple[Graph, Mapping[str, Array]] | None = None

    def __call__(self, step: Step, before: Graph, after: Graph) -> None:
        if before is after:
            return
        self.fired.append(step.name)
        expected = self._results[1] if self._results and self._results[0] is before else values(before, self.feeds)
        got = values(after, self.feeds)
        self._results = after, got
        assert list(got) == list(expected), f"{step.name} changes the outputs"
        for port, array in expected.items():
            self.compare(step, array, got[port])
        if step.numerics is Numerics.LOSSY:
            assert dump(step.run(before)) == dump(after), f"{step.name} gives another graph the second time"

    def compare(self, step: Step, expected: Array, got: Array) -> None:
        message = f"{step.name} is {step.numerics.name}"
        assert got.shape == expected.shape, message
        if step.numerics is Numerics.EXACT:
            np.testing.assert_array_equal(got, expected, err_msg=message)
            return
        largest = float(np.max(np.abs(expected), initial=0.0))
        if step.numerics is Numerics.CLOSE:
            np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE * max(1.0, largest), err_msg=message)
            return
        wanted = expected.astype(np.float64)
        signal, error = float(np.square(wanted).sum()), float(np.square(got - wanted).sum())
        assert error <= signal * 10 ** (-self.noise / 10) + 1e-12, f"{message}, but leaves {10 * np.log10(signal / error):.1f} dB only"


def values(graph: Graph, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """A graph's outputs; those of a QDQ graph with its roundings simulated."""
    return FloatRunner(graph, []).run_ports(feeds) if graph.stage is Stage.QDQ else interpret(graph, feeds)
