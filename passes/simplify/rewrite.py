"""The engine of the simplifying passes: one walk over a graph that copies it node by node and lets rules replace nodes on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from types import MappingProxyType

import numpy as np

from qcc.ir import Array, Graph, Node, Op, TensorType, until_stable

# A rule looks at one node, whose inputs are already values of the new graph, and returns the values that replace its outputs
# (one name stands for one output), or None where it does not apply.
Rule = Callable[["Rewriting", Node], "str | tuple[str, ...] | None"]


class Rewriting:
    """The new graph during a walk. Rules see everything before the current node in its rewritten form, and may add nodes.

    Attributes:
        source: the graph that is being rewritten.
        producers: the node that makes a value of the new graph.
        types, constants: of the new graph.
    """

    def __init__(self, source: Graph) -> None:
        self.source = source
        self.producers: dict[str, Node] = {}
        self.types: dict[str, TensorType] = {name: source.types[name] for name in (*source.inputs, *source.constants)}
        self.constants: dict[str, Array] = dict(source.constants)
        self.changed = False
        self._new_names: dict[str, str] = {name: name for name in self.types}
        self._reads: Counter[str] = Counter()          # by nodes of the new graph
        self._pending: Counter[str] = Counter()        # by nodes still to come, and by outputs
        self._old_reads = Counter(name for node in source.nodes for name in node.inputs)
        self._old_reads.update(source.outputs.values())
        self._pending.update({name: self._old_reads[name] for name in self.types})
        self._made: list[Node] = []

    def uses(self, value: str) -> int:
        """How often a value of the new graph is read, counting what is still to come (the current node does not count any more)."""
        return self._reads[value] + self._pending[value]

    def constant(self, value: str) -> Array | None:
        return self.constants.get(value)

    def shape(self, value: str) -> tuple[int, ...]:
        return self.types[value].shape

    def producer(self, value: str, kind: type[Op] | tuple[type[Op], ...] = Op, alone: bool = False) -> Node | None:
        """The node that makes a value, if its operator is of this kind; `alone`: and if nothing but the current node reads the value."""
        node = self.producers.get(value)
        return node if node is not None and isinstance(node.op, kind) and not (alone and self.uses(value)) else None

    def emit(self, op: Op, inputs: Iterable[str], name: str) -> str:
        """Add a node with one output, called `name` or something like it; returns the output."""
        return self.emit_node(Node(op, tuple(inputs), (name,)))[0]

    def emit_node(self, node: Node) -> tuple[str, ...]:
        """Add a node; its outputs' names are changed where they are taken."""
        outputs = tuple(self.fresh(name, node.outputs) for name in node.outputs)
        made = Node(node.op, node.inputs, outputs)
        inferred = node.op.infer(*(self.types[name] for name in node.inputs if name))
        self.types.update(zip(outputs, inferred, strict=True))
        self.producers.update(dict.fromkeys(outputs, made))
        self._reads.update(name for name in node.inputs if name)
        self._made.append(made)
        return outputs

    def add_constant(self, array: Array, name: str) -> str:
        """A new constant, called `name` or something like it."""
        name = self.fresh(name)
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        array.flags.writeable = False
        self.constants[name], self.types[name] = array, TensorType.of(array)
        return name

    def fresh(self, wanted: str, allowed: tuple[str, ...] = ()) -> str:
        """The wanted name if nothing in the new graph has it (`allowed`: though the old graph does), else one with a number."""
        name, number = wanted, 0
        while name in self.types or (name in self.source.types and name not in allowed):
            number += 1
            name = f"{wanted}.{number}"
        return name

    def run(self, rules: Iterable[Rule]) -> Graph:
        """The rewritten graph; the very source if no rule applied."""
        rules = tuple(rules)
        for old in self.source.nodes:
            node = Node(old.op, tuple(self._new_names[name] if name else "" for name in old.inputs), old.outputs)
            self._pending.subtract(name for name in node.inputs if name)
            outputs = self._apply(rules, node)
            for before, after in zip(old.outputs, outputs, strict=True):
                self._new_names[before] = after
                self._pending[after] += self._old_reads[before]
            self._sweep(node.inputs)
        return self._finish() if self.changed else self.source

    def _apply(self, rules: tuple[Rule, ...], node: Node) -> tuple[str, ...]:
        for rule in rules:
            result = rule(self, node)
            if result is not None:
                self.changed = True
                return (result,) if isinstance(result, str) else result
        return self.emit_node(node)

    def _sweep(self, values: Iterable[str]) -> None:
        """Forget nodes that nothing will read."""
        stack = list(values)
        while stack:
            node = self.producers.get(stack.pop())
            if node is not None and not any(self.uses(name) for name in node.outputs):
                for name in node.outputs:
                    del self.producers[name]
                self._reads.subtract(name for name in node.inputs if name)
                stack += node.inputs

    def _finish(self) -> Graph:
        outputs = {port: self._new_names[name] for port, name in self.source.outputs.items()}
        nodes = live_nodes([node for node in self._made if self.producers.get(node.outputs[0]) is node], outputs.values())
        read = {name for node in nodes for name in node.inputs} | set(outputs.values())
        constants = {name: array for name, array in self.constants.items() if name in read}
        values = {*self.source.inputs, *constants, *(name for node in nodes for name in node.outputs)}
        types = {name: type for name, type in self.types.items() if name in values}
        return Graph(self.source.name, self.source.stage, self.source.inputs, MappingProxyType(outputs), tuple(nodes),
                     MappingProxyType(constants), MappingProxyType(types))


def live_nodes(nodes: list[Node], outputs: Iterable[str]) -> list[Node]:
    """The nodes that the outputs depend on."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]


def rewriting(*rules: Rule) -> Callable[[Graph], Graph]:
    """A pass's function: walk with these rules, the first that applies to a node wins, again and again until none applies."""
    return until_stable(lambda graph: Rewriting(graph).run(rules))
