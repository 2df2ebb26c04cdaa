"""Runs networks a stretch of nodes at a time, so that a layer can be changed before what follows it is computed.

Each node is computed once per sample. Memory: the values that later nodes still read, for all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from qcc.ir import Array, Graph, Node

Evaluate = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Prepare = Callable[[Graph, Sequence[str]], Evaluate]      # a graph, and the values to compute


def last_reads(graph: Graph) -> dict[str, int]:
    """Number of the last node that reads each value; values that nothing reads are not listed."""
    return {name: number for number, node in enumerate(graph.nodes) for name in node.inputs if name}


def live_elements(graph: Graph) -> int:
    """The largest number of elements that must be held at once when a graph's nodes run in order."""
    last, live, most = last_reads(graph), 0, 0
    ends: dict[int, int] = {}
    sizes = {**{name: -1 for name in graph.inputs}, **{name: i for i, node in enumerate(graph.nodes) for name in node.outputs}}
    starts: dict[int, int] = {}
    for name, start in sizes.items():
        starts[start] = starts.get(start, 0) + graph.types[name].size
        ends[last.get(name, start)] = ends.get(last.get(name, start), 0) + graph.types[name].size
    for number in range(-1, len(graph.nodes)):
        live += starts.get(number, 0)
        most = max(most, live)
        live -= ends.get(number, 0)
    return most


@dataclass
class Walker:
    """One network on its way: the values of all samples that later nodes still read."""

    graph: Graph
    prepare: Prepare
    values: list[dict[str, Array]]
    done: int = 0

    @staticmethod
    def start(graph: Graph, prepare: Prepare, samples: Sequence[Mapping[str, Array]]) -> Walker:
        return Walker(graph, prepare, [{name: sample[name] for name in graph.inputs} for sample in samples])

    def advance(self, stop: int, also: Sequence[str] = ()) -> None:
        """Compute the nodes before number `stop` that were not computed yet, and keep what is read from there on, and `also`."""
        nodes = self.graph.nodes[self.done : stop]
        last = last_reads(self.graph)
        kept = {name for name in last if last[name] >= stop} | set(also)
        made = [name for node in nodes for name in node.outputs if name in kept]
        if made:
            run = self.prepare(segment(self.graph, nodes), made)
            read = dict.fromkeys(n for node in nodes for n in node.inputs if n)
            for sample in self.values:
                sample.update(run({name: sample[name] for name in read if name in sample}))
        for sample in self.values:
            for name in [name for name in sample if name not in kept]:
                del sample[name]
        self.done = stop


def segment(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """These nodes as a graph: what they read and do not make are its inputs, which are given as they are."""
    made = {name for node in nodes for name in node.outputs}
    read = dict.fromkeys(name for node in nodes for name in node.inputs if name)
    inputs = tuple(name for name in read if name not in made and name not in graph.constants)
    types = {name: graph.types[name] for name in (*read, *made)}
    return replace(graph, inputs=inputs, outputs={}, nodes=tuple(nodes), types=types,
                   constants={name: graph.constants[name] for name in read if name in graph.constants})
