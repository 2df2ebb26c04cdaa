"""Which migration a network gets: candidates are quantized as the network will be, and the one whose outputs err least on samples that
nothing was measured on is taken, if it is clearly better than none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array, Graph
from qcc.ops import OnnxOperator
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.equalize import equalized_numbers
from qcc.passes.migrate.migration import Migration, migrate
from qcc.passes.migrate.noise import Bits, Noise
from qcc.passes.migrate.norms import movable
from qcc.passes.migrate.scales import Chooser
from qcc.passes.migrate.statistics import collect_channels
from qcc.passes.quantize import place

HELD_OUT = 4            # every fourth sample judges what was chosen on the others
GAIN = 0.9              # of the error without migration: less gain than this may be chance
GAIN_OF_BYTES = 0.8     # the same where weights and values have 8 bits, which need it less, and clips with bounds per channel cost time
LEAST = 12              # samples: a judgement of two or three says nothing
JUDGED = 48             # samples that a decision looks at, at most,
WORK = 40e9             # and as many as the float network computes with so many multiplications;
WORK_OF_BYTES = 10e9    # fewer where weights and values have 8 bits
NORMALIZING = frozenset({"Softmax", "LogSoftmax"})
METHODS = ("equalize", "smooth", "shift")

Prepare = Callable[[Graph, Sequence[str]], Callable[[Mapping[str, Array]], Mapping[str, Array]]]
Quantize = Callable[[Graph, Sequence[Mapping[str, Array]]], Graph]      # FLOAT -> QDQ, ranges and corrections from these samples
Batches = Iterable[Mapping[str, Array]]


@dataclass(frozen=True)
class Judge:
    """What migrations are chosen and judged with.

    Attributes:
        prepare: makes a function that computes values of a graph.
        bits: what predicted noise is about.
        integer_outputs: as for `place`.
    """

    prepare: Prepare
    bits: Bits
    integer_outputs: bool = False

    def find(self, graph: Graph, method: str, batches: Batches | None) -> Migration:
        """The migration by one method: "equalize" looks at weights alone, "smooth" and "shift" at all batches.

        Raises:
            DataError: these without data.
        """
        if method == "equalize":
            return Migration(method, equalized_numbers(graph, Channels.of(graph)).astype(np.float32))
        if batches is None:
            raise DataError(f"migration {method!r} needs calibration data: give --calibration-data, or choose 'equalize' or 'none'")
        shifts = self._shifts(graph, batches) if method == "shift" else {}
        opened = Migration(method, shifts=shifts).opened(graph)
        channels, placement = Channels.of(opened), place(opened, self.integer_outputs)
        shapes = {name: channels.labels[name].shape for name in placement.encoded}
        statistics = collect_channels(shapes, self.prepare(opened, placement.encoded), batches)
        numbers = Chooser(channels, Noise(opened, placement, statistics, self.bits)).choose().numbers
        return Migration(method, numbers.astype(np.float32), shifts)

    def _shifts(self, graph: Graph, batches: Batches) -> dict[str, Array]:
        """The middles of the channels that norms make."""
        names = movable(graph)
        if not names:
            return {}
        shapes = {name: (1,) * (graph.types[name].rank - 1) + graph.types[name].shape[-1:] for name in names}
        found = collect_channels(shapes, self.prepare(graph, names), batches)
        return {name: seen.middle.reshape(-1).astype(np.float32) for name, seen in found.items()}

    def decide(
        self, graph: Graph, samples: Sequence[Mapping[str, Array]], quantize: Quantize, progress: Callable[[int, int], None]
    ) -> str:
        """The name of the best method on held-out samples, or "none".

        Args:
            quantize: as the network will be, or so nearly that it tells which method ends up best.
        """
        if len(samples) < LEAST:
            return "none"
        unseen = samples[HELD_OUT - 1 :: HELD_OUT]
        seen = [sample for number, sample in enumerate(samples) if number % HELD_OUT != HELD_OUT - 1]
        names = [scores(graph, name) for name in dict.fromkeys(graph.outputs.values()) if graph.types[name].dtype.is_float]
        methods = [method for method in METHODS if self._sensible(graph, method)]
        candidates = {"none": graph} | {method: migrate(graph, self.find(graph, method, seen)) for method in methods}
        if all(candidate is graph for candidate in candidates.values()):
            return "none"
        errors = {}
        for done, (method, candidate) in enumerate(candidates.items()):
            if method == "none" or candidate is not graph:
                errors[method] = self._error(graph, quantize(candidate, seen), names, unseen)
            progress(done + 1, len(candidates))
        best = min(errors, key=errors.__getitem__)
        return best if errors[best] < (GAIN_OF_BYTES if self.bits.plain else GAIN) * errors["none"] else "none"

    def samples(self, graph: Graph) -> int:
        """How many samples a decision may look at: in networks that are so large that this is less than LEAST, there is none."""
        work = WORK_OF_BYTES if self.bits.plain else WORK
        return int(min(JUDGED, work / max(1, sum(graph.node_macs(node) for node in graph.nodes))))

    def _sensible(self, graph: Graph, method: str) -> bool:
        """Weights with a scale per channel gain nothing from equal ranges, and a network without norms nothing from shifts."""
        return {"equalize": self.bits.per_tensor, "shift": bool(movable(graph))}.get(method, True)

    def _error(self, graph: Graph, quantized: Graph, names: Sequence[str], samples: Sequence[Mapping[str, Array]]) -> float:
        """Noise-to-signal ratio of each value in each sample, summed up: loud samples count no more than others."""
        exact, found = self.prepare(graph, names), self.prepare(quantized, names)
        total = 0.0
        for sample in samples:
            real, rounded = exact(sample), found(sample)
            for name in names:
                wanted = real[name].astype(np.float64)
                total += float(np.square(rounded[name] - wanted).sum()) / max(float(np.square(wanted).sum()), 1e-300)
        return total


def scores(graph: Graph, output: str) -> str:
    """What a network is judged by: an output, or what a softmax made it of; probabilities hide most errors and show a few hugely."""
    while (node := graph.producers.get(output)) is not None and isinstance(node.op, OnnxOperator) and node.op.type in NORMALIZING:
        output = node.inputs[0]
    return output
