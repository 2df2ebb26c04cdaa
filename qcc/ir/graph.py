"""The graph: immutable, in topological order, with shared constants. Passes make new graphs; `GraphBuilder` is the one mutable thing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from qcc.errors import GraphError
from qcc.ir.op import Op, Stage
from qcc.ir.types import Array, DType, Encoding, TensorType


@dataclass(frozen=True, slots=True)
class Node:
    """An operator applied to values, by name. An empty input name is an optional input that is absent."""

    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network.

    Attributes:
        inputs: names of the input values, which are also what the caller names them.
        outputs: what the caller names an output -> the value it is.
        nodes: in topological order.
        constants: read-only arrays by name; shared between graphs.
        types: of every value, constants included.
    """

    name: str
    stage: Stage
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    types: Mapping[str, TensorType]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        return MappingProxyType({name: node for node in self.nodes for name in node.outputs})

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value (each once), in order; graph outputs do not count."""
        found: dict[str, list[Node]] = {name: [] for name in self.types}
        for node in self.nodes:
            for name in dict.fromkeys(n for n in node.inputs if n):
                found[name].append(node)
        return MappingProxyType({name: tuple(nodes) for name, nodes in found.items()})

    @cached_property
    def output_values(self) -> frozenset[str]:
        return frozenset(self.outputs.values())

    def only_user(self, name: str) -> Node | None:
        """The single node that reads this value, if the value is not also an output of the graph and is read once."""
        users = self.users[name]
        return users[0] if len(users) == 1 and name not in self.output_values and users[0].inputs.count(name) == 1 else None

    def constant(self, name: str) -> Array | None:
        return self.constants.get(name)

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def input_types(self, node: Node) -> tuple[TensorType, ...]:
        """Types of a node's inputs, absent optional ones left out."""
        return tuple(self.types[name] for name in node.inputs if name)

    def output_types(self, node: Node) -> tuple[TensorType, ...]:
        return tuple(self.types[name] for name in node.outputs)

    def node_macs(self, node: Node) -> int:
        return node.op.macs(self.input_types(node), self.output_types(node))

    def with_encodings(self, encodings: Mapping[str, Encoding]) -> Graph:
        """The same graph with these encodings on these values."""
        types = dict(self.types)
        for name, encoding in encodings.items():
            types[name] = replace(types[name], encoding=encoding)
        return replace(self, types=types)


def digest(array: Array) -> str:
    """SHA-256 over element type, shape and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    if array.dtype.kind == "O":      # strings: the bytes of the array are addresses
        return hashlib.sha256(head + repr(array.tolist()).encode("utf-8", "surrogatepass")).hexdigest()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


@dataclass
class GraphBuilder:
    """Builds a graph node by node; types are inferred on the way. The only mutable representation."""

    name: str = "graph"
    stage: Stage = Stage.FLOAT
    inputs: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)

    @staticmethod
    def like(graph: Graph, stage: Stage | None = None) -> GraphBuilder:
        """An empty graph with the same name, inputs and constants."""
        builder = GraphBuilder(graph.name, graph.stage if stage is None else stage)
        for name in graph.inputs:
            builder.input(name, graph.types[name])
        for name, array in graph.constants.items():
            builder.constants[name], builder.types[name] = array, graph.types[name]
        return builder

    def fresh(self, hint: str) -> str:
        """A name that is not in use: the hint itself, or the hint with a number."""
        if hint not in self.types:
            return hint
        number = 1
        while f"{hint}.{number}" in self.types:
            number += 1
        return f"{hint}.{number}"

    def input(self, name: str, type: TensorType) -> str:
        self.inputs.append(name)
        self.types[name] = type
        return name

    def constant(self, array: Array, hint: str = "constant", encoding: Encoding | None = None) -> str:
        name = self.fresh(hint)
        array = np.array(array, copy=True)
        array.flags.writeable = False
        type = TensorType.of(array, encoding)
        if encoding is not None and type.dtype == DType.of(encoding.dtype.numpy):      # integers of fewer bits, one per byte
            type = replace(type, dtype=encoding.dtype)
        self.constants[name], self.types[name] = array, type
        return name

    def add(self, op: Op, inputs: Iterable[str], outputs: Iterable[str] = (), encoding: Encoding | None = None) -> str:
        """Append a node; missing output names are invented. Returns the first output's name."""
        inputs = tuple(inputs)
        inferred = op.infer(*(self.types[name] for name in inputs if name))
        names = tuple(outputs) or tuple(self.fresh(f"{op.name}") for _ in inferred[:1])
        if len(names) != len(inferred):
            raise GraphError(f"{op}: has {len(inferred)} outputs, {len(names)} names given")
        for name, type in zip(names, inferred, strict=True):
            if name in self.types:
                raise GraphError(f"%{name} = {op}: the name is already taken")
            self.types[name] = replace(type, encoding=encoding)
        self.nodes.append(Node(op, inputs, names))
        return names[0]

    def build(self) -> Graph:
        """The finished graph, without constants that nothing reads."""
        used = {name for node in self.nodes for name in node.inputs} | set(self.outputs.values())
        dropped = {name for name in self.constants if name not in used}
        return Graph(
            self.name, self.stage, tuple(self.inputs), MappingProxyType(dict(self.outputs)), tuple(self.nodes),
            MappingProxyType({n: a for n, a in self.constants.items() if n not in dropped}),
            MappingProxyType({n: t for n, t in self.types.items() if n not in dropped}),
        )
