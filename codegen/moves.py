"""How moving operators become calls: none where producers and consumers already share a buffer, copies where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from qcc.codegen.cpu.move import plan_copy, plan_fill_halo
from qcc.codegen.families import Call, Site
from qcc.codegen.groups import Group
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.placing import MOVES, Place, inside, is_reshape
from qcc.ir import Array, Graph
from qcc.ops import Pad, Slice, Transpose


@dataclass(frozen=True)
class Mover:
    """How one kind of machine moves bytes. Kernel and constants come in the order of the operands.

    Attributes:
        plan_copy: (source, destination).
        plan_fill_halo: (destination, padding before and after, value).
    """

    plan_copy: Callable[[View, View], tuple[Kernel, tuple[Array, ...]]]
    plan_fill_halo: Callable[[View, tuple[int, ...], tuple[int, ...], int | float], tuple[Kernel, tuple[Array, ...]]]


CPU = Mover(plan_copy, plan_fill_halo)


def copy(mover: Mover, label: str, source: Place | Array, destination: Place) -> Call:
    """A call that moves a value, or a constant, between any two views."""
    view = source.view if isinstance(source, Place) else View.contiguous(destination.view.dtype, source.shape)
    kernel, constants = mover.plan_copy(view, destination.view)
    return Call(label, kernel, (source, *constants, destination))


def is_move(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, MOVES)


def plan_move(site: Site, mover: Mover = CPU) -> list[Call]:
    """Copies of the inputs that do not lie inside the output already, and the padding around them."""
    node, y = site.group.node, site.place(site.label)
    if is_reshape(site.graph, node):
        return _reshape(site, mover, y)
    if isinstance(node.op, Slice):
        x = site.argument(node.inputs[0])
        part = inside(site.graph, None, x, node) if isinstance(x, Place) else x[node.op.slices]
        return [] if part == y else [copy(mover, site.label, part, y)]
    if isinstance(node.op, Transpose):
        return _transpose(site, mover, node.op.permutation, y)
    calls = []
    for position, name in enumerate(node.inputs):
        x, part = site.argument(name), inside(site.graph, position, y, node)
        if not isinstance(x, Place) or x != part:
            calls.append(copy(mover, site.label, x, part))
    if isinstance(node.op, Pad) and any((*node.op.before, *node.op.after)):
        kernel, constants = mover.plan_fill_halo(y.view, node.op.before, node.op.after, node.op.value)
        calls.append(Call(site.label, kernel, (*constants, y)))
    return calls


def _transpose(site: Site, mover: Mover, permutation: tuple[int, ...], y: Place) -> list[Call]:
    x = site.argument(site.group.node.inputs[0])
    if not isinstance(x, Place):
        return [copy(mover, site.label, x.transpose(permutation), y)]
    shape, strides = (tuple(values[axis] for axis in permutation) for values in (x.view.shape, x.view.strides))
    turned = Place(x.root, x.offset, View(x.view.dtype, shape, strides))
    return [] if (x.root, x.offset) == (y.root, y.offset) else [copy(mover, site.label, turned, y)]


def _reshape(site: Site, mover: Mover, y: Place) -> list[Call]:
    x = site.argument(site.group.node.inputs[0])
    if isinstance(x, Place) and (x.root, x.offset) == (y.root, y.offset):
        return []
    shape = x.view.shape if isinstance(x, Place) else x.shape
    view = replace(View.contiguous(y.view.dtype, shape), packed=y.view.packed)
    return [copy(mover, site.label, x, Place(y.root, y.offset, view))]
