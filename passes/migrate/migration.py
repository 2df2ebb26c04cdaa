"""One migration as data: it can be applied to the same network again, stored beside an artifact, and read back."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

import numpy as np

from qcc.errors import ModelError
from qcc.ir import Array, Graph
from qcc.passes.migrate.channels import Channels
from qcc.passes.migrate.rescale import rescale, values_of


@dataclass(frozen=True, eq=False)
class Migration:
    """What to do to a network.

    Attributes:
        method: "none", "equalize" or "smooth".
        numbers: the number of every root of `Channels`, float32.
    """

    method: str = "none"
    numbers: Array = field(default_factory=lambda: np.ones(1, np.float32))

    @staticmethod
    def opened(graph: Graph, method: str) -> Graph:
        """The network as the numbers refer to it."""
        return graph

    def apply(self, graph: Graph) -> Graph:
        """The migrated network: the same function. CLOSE.

        Raises:
            ModelError: the numbers belong to another network.
        """
        if self.method == "none":
            return graph
        opened = self.opened(graph, self.method)
        channels = Channels.of(opened)
        if channels.count != len(self.numbers):
            raise ModelError(f"graph {graph.name!r} leaves {channels.count} channels to scale, the migration holds {len(self.numbers)}: "
                             "it was made for another network")
        return rescale(opened, values_of(channels, self.numbers))

    def dumps(self) -> str:
        """As JSON; empty if there is nothing to do."""
        if self.method == "none":
            return ""
        numbers = base64.b64encode(self.numbers.astype("<f4").tobytes()).decode("ascii")
        return json.dumps({"method": self.method, "numbers": numbers}) + "\n"

    @staticmethod
    def loads(text: str) -> Migration:
        """What `dumps` wrote."""
        if not text:
            return Migration()
        record = json.loads(text)
        return Migration(record["method"], np.frombuffer(base64.b64decode(record["numbers"]), "<f4").astype(np.float32))
