"""Gives the outputs of norms room to move: per-channel shift and scale into the norm, and out again where the layers behind it read it
(Outlier Suppression+, Wei et al. 2023, sections 4.1 and 4.2).

Layers take both into weights and bias. Readers of other kinds, such as the residual stream of a network that norms after it adds, get
the old numbers back from one product and one sum, float operators among float operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qcc.ir import Array, Graph, Node, TensorType
from qcc.ops import Add, MatMul, Multiply
from qcc.passes.migrate.channels import is_norm


def open_norms(graph: Graph, shifts: Mapping[str, Array]) -> Graph:
    """The same function; norms whose outputs are read by layers and by others get a product with ones for the others. CLOSE.

    before: %n = norm(%x, %g, %b);  %a = matmul(%n, %w, %c);  %y = add(%n, %r)
    after:  %n = norm(%x, %g, %b - z);  %a = matmul(%n, %w, %c + z @ %w);  %m = multiply(%n, 1);  %s = add(%m, z);  %y = add(%s, %r)

    Args:
        shifts: z by the norm's output; norms that are not named keep their zero.
    """
    edit = _Edit(graph, shifts)
    nodes = [changed for node in graph.nodes for changed in edit.node(node)]
    return edit.finished(nodes) if edit.renamed or edit.shifted else graph


def close_norms(graph: Graph) -> Graph:
    """Products with ones that `open_norms` made and nothing was written into -> nothing."""
    names = {node.outputs[0]: node.inputs[0] for node in graph.nodes
             if isinstance(node.op, Multiply) and node.outputs[0].endswith(_BRANCH) and np.all(graph.constants[node.inputs[1]] == 1.0)}
    if not names:
        return graph
    nodes = [replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))
             for node in graph.nodes if node.outputs[0] not in names]
    return _rebuilt(graph, nodes, graph.constants, graph.types, {port: names.get(name, name) for port, name in graph.outputs.items()})


def movable(graph: Graph) -> tuple[str, ...]:
    """Outputs of norms that can be shifted: the norm has a bias, and some layer reads the result."""
    return tuple(node.outputs[0] for node in graph.nodes if is_norm(graph, node) and len(node.inputs) > 2 and node.inputs[2]
                 and any(reads_by_weights(graph, user, node.outputs[0]) for user in graph.users[node.outputs[0]]))


def reads_by_weights(graph: Graph, user: Node, name: str) -> bool:
    """Whether a reader is a matrix product with constant weights, which can take a shift and a scale into them."""
    return (isinstance(user.op, MatMul) and user.inputs[0] == name and user.inputs.count(name) == 1
            and all(graph.is_constant(n) for n in user.inputs[1:]) and graph.types[user.inputs[1]].rank == 2)


_BRANCH, _SHIFTED = "@unscaled", "@unshifted"


@dataclass
class _Edit:
    graph: Graph
    shifts: Mapping[str, Array]
    renamed: dict[str, str] = field(default_factory=dict)      # what others read in place of a norm's output
    shifted: bool = False

    def __post_init__(self) -> None:
        self.constants, self.types = dict(self.graph.constants), dict(self.graph.types)

    def constant(self, name: str, array: Array) -> str:
        array = np.ascontiguousarray(array, np.float32)
        array.flags.writeable = False
        self.constants[name], self.types[name] = array, TensorType.of(array)
        return name

    def node(self, node: Node) -> list[Node]:
        if is_norm(self.graph, node):
            return self.norm(node)
        inputs = list(node.inputs)
        if inputs and inputs[0] in self.shifts and reads_by_weights(self.graph, node, inputs[0]):
            return [self.layer(node)]
        for position, name in enumerate(inputs):
            if name in self.renamed and not (position == 0 and reads_by_weights(self.graph, node, name)):
                inputs[position] = self.renamed[name]
        return [replace(node, inputs=tuple(inputs))]

    def norm(self, node: Node) -> list[Node]:
        graph, name = self.graph, node.outputs[0]
        users = graph.users[name]
        layers = [user for user in users if reads_by_weights(graph, user, name)]
        if not layers:
            return [node]
        made, type, shift = [node], graph.types[name], self.shifts.get(name)
        if shift is not None:
            old = graph.constants[node.inputs[2]].astype(np.float64)
            made = [replace(node, inputs=(*node.inputs[:2], self.constant(f"{node.inputs[2]}@{name}", old - shift)))]
            self.shifted = True
        if len(layers) == len(users) and name not in graph.output_values:
            return made
        ones = self.constant(f"{name}{_BRANCH}/factor", np.ones(type.shape[-1]))
        made.append(Node(Multiply(), (name, ones), (f"{name}{_BRANCH}",)))
        if shift is not None:
            made.append(Node(Add(), (f"{name}{_BRANCH}", self.constant(f"{name}{_SHIFTED}/shift", shift)), (f"{name}{_SHIFTED}",)))
        for extra in made[1:]:
            self.types[extra.outputs[0]] = type
        self.renamed[name] = made[-1].outputs[0]
        return made

    def layer(self, node: Node) -> Node:
        weights = self.graph.constants[node.inputs[1]].astype(np.float64)
        given = self.graph.constants[node.inputs[2]].astype(np.float64) if len(node.inputs) > 2 else 0.0
        bias = self.constant(f"{node.outputs[0]}{_SHIFTED}/bias", given + self.shifts[node.inputs[0]] @ weights)
        return replace(node, inputs=(*node.inputs[:2], bias))

    def finished(self, nodes: Sequence[Node]) -> Graph:
        outputs = {port: self.renamed.get(name, name) for port, name in self.graph.outputs.items()}
        return _rebuilt(self.graph, nodes, self.constants, self.types, outputs)


def _rebuilt(
    graph: Graph, nodes: Sequence[Node], constants: Mapping[str, Array], types: Mapping[str, TensorType], outputs: Mapping[str, str]
) -> Graph:
    """The graph with these nodes, and what they read and make."""
    read = {name for node in nodes for name in node.inputs} | set(outputs.values())
    kept = {name: array for name, array in constants.items() if name in read}
    values = {*graph.inputs, *kept, *(name for node in nodes for name in node.outputs)}
    held = {name: type for name, type in types.items() if name in values}
    return replace(graph, nodes=tuple(nodes), constants=kept, types=held, outputs=outputs)
