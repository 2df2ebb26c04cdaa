"""How groups without a kernel of tuned tiles are recognised and planned, on CPUs and GPUs alike: the machine's `plan` gives the kernel.

Sums and maxima over windows, products, tables, bounds and borders; and whatever else there is, through `Op.lower`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from qcc.codegen.families import Call, Site
from qcc.codegen.groups import Group
from qcc.codegen.kernel import Kernel, View
from qcc.codegen.placing import Place
from qcc.codegen.te import TeKernel
from qcc.ir import Array, DType, Graph, Node
from qcc.ops import Clamp, Dequantize, IntegerMultiply, Lookup, Quantize, ReduceSum, Requantize, WindowMax, WindowSum

Plain = tuple[Kernel, tuple[Array, ...]]


def gives_bytes(graph: Graph, entry: Group) -> bool:
    """Whether the requantization behind a layer, if there is one, adds and makes bytes."""
    if entry.requantize is None:
        return True
    return all(graph.types[name].dtype.is_byte for name in (*entry.requantize.inputs[2::2], *entry.requantize.outputs))


def view_of(argument: Place | Array) -> View:
    return argument.view if isinstance(argument, Place) else View.contiguous(DType.of(argument.dtype), argument.shape)


def _between(site: Site, plan: Callable[[View, View], Plain]) -> list[Call]:
    """A kernel that reads the node's first input and constants, and writes the group's result."""
    x, y = site.place(site.group.node.inputs[0]), site.place(site.label)
    kernel, constants = plan(x.view, y.view)
    return [Call(site.label, kernel, (x, *constants, y))]


def is_product(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, IntegerMultiply) and entry.requantize is not None


def plan_product(plan: Callable[..., Plain], site: Site) -> list[Call]:
    node, requantize = site.group.node, cast(Node, site.group.requantize)
    a, b = (site.argument(name) for name in node.inputs)
    y = site.place(site.label)
    op, multiplier = cast(Requantize, requantize.op), site.constant(requantize.inputs[1])
    kernel, constants = plan(cast(IntegerMultiply, node.op).zero_points, op, [view_of(a), view_of(b)], multiplier, y.view)
    return [Call(site.label, kernel, (a, b, *constants, y))]


def is_pooled_sum(graph: Graph, entry: Group) -> bool:
    op, shape = entry.node.op, graph.types[entry.node.inputs[0]].shape if entry.node.inputs else ()
    image_sum = isinstance(op, ReduceSum) and op.axes == (1, 2) and len(shape) == 4
    bits = graph.types[entry.node.inputs[0]].dtype.bits if entry.node.inputs else 0
    return entry.requantize is not None and gives_bytes(graph, entry) and bits <= 8 and (image_sum or isinstance(op, WindowSum))


def plan_pooled_sum(window: Callable[..., Plain], whole: Callable[..., Plain], site: Site) -> list[Call]:
    node, requantize = site.group.node, cast(Node, site.group.requantize)
    op, multiplier = cast(Requantize, requantize.op), site.constant(requantize.inputs[1])
    plan = partial(window, node.op) if isinstance(node.op, WindowSum) else whole
    return _between(site, partial(plan, op, multiplier))


def is_byte_maximum(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, WindowMax) and graph.types[entry.label].dtype.is_byte


def plan_maximum(plan: Callable[..., Plain], site: Site) -> list[Call]:
    return _between(site, partial(plan, site.group.node.op))


def is_lookup(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, Lookup)


def plan_table(plan: Callable[..., Plain], site: Site) -> list[Call]:
    table = site.constant(site.group.node.inputs[1])
    return _between(site, lambda source, destination: plan(source, table, destination))


def is_clamp(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, Clamp)


def plan_clamps(plan: Callable[..., Plain], site: Site) -> list[Call]:
    low, high = (site.constant(name) for name in site.group.node.inputs[1:])
    return _between(site, lambda source, destination: plan(source, low, high, destination))


def takes_anything(graph: Graph, entry: Group) -> bool:
    return True


def plan_generic(site: Site, kind: type[TeKernel] = TeKernel) -> list[Call]:
    """One call per node through `Op.lower`, as a kernel of this kind; an accumulator between two nodes lies in the arena."""
    calls = []
    for node in site.group.nodes:
        constant = tuple(i for i, name in enumerate(node.inputs) if site.graph.is_constant(name))
        outputs = tuple(site.place(name) for name in node.outputs)
        views = tuple(View.contiguous(t.dtype, t.shape) for t in site.graph.input_types(node))
        kernel = kind(node.op, views, tuple(place.view for place in outputs), constant)
        arguments = (site.argument(node.inputs[position]) for position in kernel.order)
        calls.append(Call(node.outputs[0], kernel, (*arguments, *outputs)))
    return calls


def is_quantize(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, Quantize)


def plan_quantizes(plan: Callable[..., Plain], site: Site) -> list[Call]:
    return _between(site, partial(plan, site.group.node.op))


def is_dequantize(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, Dequantize)


def plan_dequantizes(plan: Callable[..., Plain], site: Site) -> list[Call]:
    return _between(site, partial(plan, site.group.node.op, site.constant(site.group.node.inputs[1])))
