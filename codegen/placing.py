"""Where values lie: which share a buffer, and at what offset and strides. Padding, concatenation, slicing, reshaping and layout
changes move no byte where producers can write and consumers can read strided views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qcc.codegen.groups import Group
from qcc.codegen.kernel import View
from qcc.ir import Graph, Node
from qcc.ops import Concat, Pad, Reshape, Slice, Transpose


@dataclass(frozen=True, slots=True)
class Place:
    """A value's view of the buffer that `root` owns, `offset` elements from its start."""

    root: str
    offset: int
    view: View


@dataclass(frozen=True)
class Capabilities:
    """What a group's kernel can do with views whose channels lie side by side but whose rows do not follow each other.

    Attributes:
        strided: reads and writes such views.
        scattered: writes any strides at all (it can transpose on the way).
        packed: reads and writes values of at most 4 bits that share bytes in pairs (`View.packed`).
        alike: only if those that it reads and those that it writes both do.
    """

    strided: bool
    scattered: bool = False
    packed: bool = False
    alike: bool = False


DENSE = Capabilities(False)
MOVES = (Concat, Pad, Reshape, Slice, Transpose)


def is_reshape(graph: Graph, node: Node) -> bool:
    """A reshape, or a transposition that keeps the order of all axes longer than 1."""
    if isinstance(node.op, Transpose):
        shape = graph.types[node.inputs[0]].shape
        axes = [axis for axis in node.op.permutation if shape[axis] > 1]
        return axes == sorted(axes)
    return isinstance(node.op, Reshape)


@dataclass
class Placer:
    """Decides places. A value has at most one parent, in whose buffer it lies."""

    graph: Graph
    groups: Sequence[Group]
    capabilities: Callable[[Group], Capabilities]
    parents: dict[str, tuple[str, Node]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def run(self) -> Mapping[str, Place]:
        """The place of every value that is computed or given at run time."""
        self._abilities = {name: self.capabilities(entry) for entry in self.groups for name in entry.outputs}
        for entry in self.groups:
            self._choose_parents(entry.node)
        names = [*self.graph.inputs, *(name for entry in self.groups for name in entry.outputs)]
        for name in names:
            self._place(name)
        return self.places | pack(self.graph, self.places, self._abilities)

    def _choose_parents(self, node: Node) -> None:
        graph, op = self.graph, node.op
        if not node.outputs or not isinstance(op, MOVES):
            return
        result = node.outputs[0]
        if is_reshape(graph, node):
            source = node.inputs[0]
            if not graph.is_constant(source) and (source not in self.parents or is_reshape(graph, self.parents[source][1])):
                self.parents[result] = (node.inputs[0], node)
        elif isinstance(op, Slice):
            source = node.inputs[0]
            if op.steps[-1:] in ((), (1,)) and self._movable(result) and not graph.is_constant(source) and source not in graph.inputs:
                self.parents[result] = (source, node)
        elif isinstance(op, Transpose):
            source = node.inputs[0]
            direct = source in graph.producers and not isinstance(graph.producers[source].op, MOVES)      # nobody else writes into it
            if direct and self._movable(source) and self._abilities[source].scattered and graph.only_user(source) is node:
                self.parents[source] = (result, node)
        else:
            for name in dict.fromkeys(node.inputs):
                if node.inputs.count(name) == 1 and self._movable(name):
                    self.parents[name] = (result, node)

    def _movable(self, name: str) -> bool:
        """Whether a value may lie strided in another's buffer: nobody insists on it lying dense."""
        graph = self.graph
        if name in self.parents or name in graph.inputs or graph.is_constant(name) or name in graph.output_values:
            return False
        if not self._writes_strided(name):
            return False
        return all(self._reads_strided(user) for user in graph.users[name])

    def _writes_strided(self, name: str) -> bool:
        producer = self.graph.producers[name]
        if isinstance(producer.op, MOVES):
            return not is_reshape(self.graph, producer)
        return self._abilities[name].strided

    def _reads_strided(self, user: Node) -> bool:
        if isinstance(user.op, MOVES):
            return not is_reshape(self.graph, user)
        return abilities_of(self.graph, user, self._abilities).strided

    def _place(self, name: str) -> Place:
        if name in self.places:
            return self.places[name]
        type = self.graph.types[name]
        if name not in self.parents:
            place = Place(name, 0, View.contiguous(type.dtype, type.shape))
        else:
            parent, node = self.parents[name]
            position = None if name in node.outputs else node.inputs.index(name)
            place = inside(self.graph, position, self._place(parent), node)
        self.places[name] = place
        return place


def inside(graph: Graph, position: int | None, parent: Place, node: Node) -> Place:
    """The view that one value has in the buffer of another, which a moving operator relates to it.

    Args:
        position: number of the node's input that lies in its output's place `parent`; None: the output lies in its input's.
    """
    op, strides = node.op, parent.view.strides
    type = graph.types[node.outputs[0] if position is None else node.inputs[position]]
    if is_reshape(graph, node):
        return Place(parent.root, parent.offset, replace(View.contiguous(type.dtype, type.shape), packed=parent.view.packed))
    if isinstance(op, Transpose):
        inner = tuple(strides[op.permutation.index(axis)] for axis in range(type.rank))
        return Place(parent.root, parent.offset, View(type.dtype, type.shape, inner))
    start, steps = [0] * type.rank, [1] * type.rank
    if isinstance(op, Pad):
        start = list(op.before)
    elif isinstance(op, Slice):
        start, steps = list(op.starts), list(op.steps)
    elif isinstance(op, Concat) and position is not None:
        start[op.axis] = sum(graph.types[name].shape[op.axis] for name in node.inputs[:position])
    offset = parent.offset + sum(a * s for a, s in zip(start, strides, strict=True))
    view = View(type.dtype, type.shape, tuple(s * k for s, k in zip(strides, steps, strict=True)), parent.view.packed)
    return Place(parent.root, offset, view)


def pack(graph: Graph, places: Mapping[str, Place], abilities: Mapping[str, Capabilities]) -> dict[str, Place]:
    """Places of the values that lie two in a byte: all of a buffer's, where every kernel that touches them can do that.

    What is moved between two buffers lies alike in both, as does what a kernel reads and writes that takes both or neither. The network's
    inputs and outputs have one value per byte.
    """
    roots = {name: place.root for name, place in places.items()}
    plain = {roots[name] for name, place in places.items() if not _may_share(graph, name, place, abilities)}
    tied = [[roots[name] for name in (*node.inputs, *node.outputs) if name in roots] for node in graph.nodes
            if isinstance(node.op, MOVES) or abilities_of(graph, node, abilities).alike]
    while spread := {root for group in tied if plain.intersection(group) for root in group} - plain:
        plain |= spread
    return {name: replace(place, view=replace(place.view, packed=True)) for name, place in places.items() if roots[name] not in plain}


def _may_share(graph: Graph, name: str, place: Place, abilities: Mapping[str, Capabilities]) -> bool:
    """Whether a value's elements can share bytes, by its type, its place, its producer and its users."""
    type, even = graph.types[name], (*place.view.strides[:-1], place.view.shape[-1] if place.view.shape else 1, place.offset)
    if not type.dtype.is_byte or type.dtype.bits > 4 or name in graph.inputs or name in graph.output_values:
        return False
    if not place.view.shape or place.view.strides[-1] != 1 or any(count % 2 for count in even):
        return False
    return all(_can_share(graph, node, abilities) for node in (graph.producers[name], *graph.users[name]))


def _can_share(graph: Graph, node: Node, abilities: Mapping[str, Capabilities]) -> bool:
    if isinstance(node.op, MOVES):
        kept = isinstance(node.op, Concat | Reshape) or (isinstance(node.op, Pad) and node.op.before[-1] % 2 == node.op.after[-1] % 2 == 0)
        return kept and not any(graph.is_constant(name) for name in node.inputs)
    return abilities_of(graph, node, abilities).packed


def abilities_of(graph: Graph, node: Node, abilities: Mapping[str, Capabilities]) -> Capabilities:
    """What the kernel of a node can do; the last node of a fused group stands for the others."""
    while node.outputs[0] not in abilities:
        node = graph.users[node.outputs[0]][0]
    return abilities[node.outputs[0]]
