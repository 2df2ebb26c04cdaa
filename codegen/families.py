"""Families of kernels: which groups a family takes, what its views may look like, and how it is planned. The first that fits wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qcc.codegen.groups import Group
from qcc.codegen.island import Island
from qcc.codegen.kernel import Kernel, View, unchanged
from qcc.codegen.placing import Capabilities, Place
from qcc.codegen.target import Target
from qcc.ir import Array, Graph

PREPARED = "@weights"    # behind the label of a layer: that of the call that prepares its constants
PART = "@to "            # and of one that computes some of its channels, with the number of the last
_HELP = re.compile(rf"({PART}\d+)?({PREPARED})?$")


@dataclass(frozen=True)
class Scratch:
    """Memory of `bytes` that a kernel needs while it runs."""

    bytes: int


@dataclass(frozen=True)
class Call:
    """A kernel and its arguments in the order of its operands: sources, constants, results, scratch memory."""

    label: str
    kernel: Kernel
    arguments: tuple[Place | Array | Scratch, ...]


@dataclass(frozen=True)
class Site:
    """Where a group is planned: the graph, the places of its values, the target, the float nodes that are lowered already, and what
    exchanges a planned kernel for one that computes the same faster."""

    graph: Graph
    places: Mapping[str, Place]
    target: Target
    group: Group
    islands: Mapping[str, Island]
    tuned: Callable[[Any], Any] = unchanged

    @property
    def label(self) -> str:
        return self.group.label

    def place(self, name: str) -> Place:
        """Where a value lies; an accumulator inside the group has a buffer of its own."""
        type = self.graph.types[name]
        return self.places.get(name) or Place(name, 0, View.contiguous(type.dtype, type.shape))

    def constant(self, name: str) -> Array:
        return self.graph.constants[name]

    def argument(self, name: str) -> Place | Array:
        """A kernel's operand: the constant itself, or the place of the value."""
        return self.graph.constants[name] if self.graph.is_constant(name) else self.place(name)


@dataclass(frozen=True)
class Family:
    """One kind of kernels.

    Attributes:
        accepts: whether a group is of this kind, by operators, types and shapes alone.
        capabilities: of its kernels' views.
        plan: the calls that compute the group.
    """

    name: str
    accepts: Callable[[Graph, Group], bool]
    capabilities: Capabilities
    plan: Callable[[Site], list[Call]]


def layer_of(label: str) -> str:
    """The label of the layer that a call helps with; that of any other call as it is."""
    return _HELP.sub("", label)


def choose(families: tuple[Family, ...], graph: Graph, entry: Group) -> Family:
    """The first family that takes the group (the last family takes all)."""
    return next(family for family in families if family.accepts(graph, entry))
