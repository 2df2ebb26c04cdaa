"""Which migration a network gets: candidates are quantized as they come, and the one whose outputs err least on samples that
nothing was measured on is taken, if it is clearly better than none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcc.errors import DataError
from qcc.ir import Array, Graph
from qcc.passes.calibrate import Range
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.equalize import equalized_numbers
from qcc.passes.migrate.migration import Migration, migrate
from qcc.passes.migrate.noise import Bits, Noise
from qcc.passes.migrate.norms import movable
from qcc.passes.migrate.scales import Chooser
from qcc.passes.migrate.statistics import collect_channels
from qcc.passes.quantize import Placement, Precision, encode, place

HELD_OUT = 4            # every fourth sample judges what was chosen on the others
GAIN = 0.9              # of the error without migration: less gain than this is not worth other numbers
LEAST = 4               # samples without which nothing can be judged
JUDGED = 16             # samples that a decision looks at
METHODS = ("equalize", "smooth", "shift")

Prepare = Callable[[Graph, Sequence[str]], Callable[[Mapping[str, Array]], Mapping[str, Array]]]
Batches = Iterable[Mapping[str, Array]]


@dataclass(frozen=True)
class Judge:
    """What migrations are chosen and judged with.

    Attributes:
        prepare: makes a function that computes values of a graph.
        integer_outputs: as for `place`.
    """

    prepare: Prepare
    precision: Precision
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

    def decide(self, graph: Graph, samples: Sequence[Mapping[str, Array]], progress: Callable[[int, int], None]) -> str:
        """The name of the best method on held-out samples, or "none"."""
        if len(samples) < LEAST:
            return "none"
        unseen = samples[HELD_OUT - 1 :: HELD_OUT]
        seen = [sample for number, sample in enumerate(samples) if number % HELD_OUT != HELD_OUT - 1]
        ports = [port for port, name in graph.outputs.items() if graph.types[name].dtype.is_float]
        run = self.prepare(graph, names := [graph.outputs[port] for port in ports])
        exact = [[found[name] for name in names] for found in map(run, unseen)]
        errors = {}
        methods = ("none", *(method for method in METHODS if self._sensible(graph, method)))
        for done, method in enumerate(methods):
            migrated = graph if method == "none" else migrate(graph, self.find(graph, method, seen))
            names = [migrated.outputs[port] for port in ports]
            errors[method] = self._error(migrated, names, seen, unseen, exact) if method == "none" or migrated is not graph else np.inf
            progress(done + 1, len(methods))
        best = min(errors, key=errors.__getitem__)
        return best if errors[best] < GAIN * errors["none"] else "none"

    def _sensible(self, graph: Graph, method: str) -> bool:
        """Weights with a scale per channel gain nothing from equal ranges, and a network without norms nothing from shifts."""
        return {"equalize": self.bits.per_tensor, "shift": bool(movable(graph))}.get(method, True)

    def _error(
        self, graph: Graph, outputs: Sequence[str], seen: Sequence[Mapping[str, Array]], unseen: Sequence[Mapping[str, Array]],
        exact: Sequence[Sequence[Array]],
    ) -> float:
        """Noise-to-signal ratio of the outputs, all together, of the network that was quantized as it comes."""
        placement = place(graph, self.integer_outputs)
        quantized = encode(graph, placement, self._ranges(graph, placement, seen), self.precision)
        run, total = self.prepare(quantized, outputs), 0.0
        for sample, wanted in zip(unseen, exact, strict=True):
            found = run(sample)
            for name, real in zip(outputs, wanted, strict=True):
                signal = float(np.square(real, dtype=np.float64).sum())
                total += float(np.square(found[name].astype(np.float64) - real).sum()) / max(signal, 1e-300)
        return total

    def _ranges(self, graph: Graph, placement: Placement, samples: Sequence[Mapping[str, Array]]) -> dict[str, Range]:
        """The extremes of all encoded values."""
        run = self.prepare(graph, placement.encoded)
        ranges: dict[str, Range] = {}
        for sample in samples:
            for name, array in run(sample).items():
                found = Range(float(array.min(initial=0.0)), float(array.max(initial=0.0)))
                ranges[name] = ranges[name].union(found) if name in ranges else found
        return ranges
