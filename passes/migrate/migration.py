"""One migration as data, which can be stored beside an artifact and read back, and the pass that carries it out."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcc.errors import ModelError
from qcc.ir import Array, Graph
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.norms import close_norms, open_norms
from qcc.passes.migrate.rescale import rescale, values_of


@dataclass(frozen=True, eq=False)
class Migration:
    """What to do to a network.

    Attributes:
        method: "none", "equalize", "smooth" or "shift".
        numbers: the number of every root of `Channels`, float32.
        shifts: what is subtracted from the outputs of norms, per channel, float32.
    """

    method: str = "none"
    numbers: Array = field(default_factory=lambda: np.ones(1, np.float32))
    shifts: Mapping[str, Array] = field(default_factory=dict)

    def opened(self, graph: Graph) -> Graph:
        """The network as the numbers refer to it: shifted, and with norms opened where data say what to do with them."""
        return open_norms(graph, self.shifts) if self.method in ("smooth", "shift") else graph

    def dumps(self) -> str:
        """As JSON; empty if there is nothing to do."""
        if self.method == "none":
            return ""
        shifts = {name: _text(array) for name, array in self.shifts.items()}
        return json.dumps({"method": self.method, "numbers": _text(self.numbers), "shifts": shifts}, indent=1) + "\n"

    @staticmethod
    def loads(text: str) -> Migration:
        """What `dumps` wrote."""
        if not text:
            return Migration()
        record = json.loads(text)
        return Migration(record["method"], _array(record["numbers"]), {name: _array(text) for name, text in record["shifts"].items()})


def migrate(graph: Graph, found: Migration) -> Graph:
    """Scales, and shifts behind norms, move between neighbouring layers: the same function.

    before: %h = relu(convolution(%x, %w));  %y = convolution(%h, %v)
    after:  the same with w' = w / s per output channel and v' = v * s per input channel

    Raises:
        ModelError: the numbers belong to another network.
    """
    if found.method == "none":
        return graph
    opened = found.opened(graph)
    channels = Channels.of(opened)
    if channels.count != len(found.numbers):
        raise ModelError(f"graph {graph.name!r} leaves {channels.count} channels to scale, the migration holds {len(found.numbers)}: "
                         "it was made for another network")
    return close_norms(rescale(opened, values_of(channels, found.numbers)))


def _text(array: Array) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _array(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
