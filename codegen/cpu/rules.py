"""The table of kernel families of a CPU, and how each is planned from nodes, constants and places.

What the table needs of an architecture is an `Architecture`: how it plans the layers for which it has instructions of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from qcc.codegen import elementary
from qcc.codegen.cpu.border import plan_dequantize, plan_quantize
from qcc.codegen.cpu.elementwise import plan_clamp, plan_multiply
from qcc.codegen.cpu.lookup import plan_lookup
from qcc.codegen.cpu.pool import plan_global_sum, plan_window_max, plan_window_sum
from qcc.codegen.cpu.requantization import Requantization
from qcc.codegen.elementary import gives_bytes, view_of
from qcc.codegen.families import PART, PREPARED, Call, Family, Site
from qcc.codegen.floats import is_island, plan_island
from qcc.codegen.groups import Group
from qcc.codegen.kernel import Kernel, Prepared, View
from qcc.codegen.moves import is_move, plan_move
from qcc.codegen.placing import DENSE, Capabilities, Place
from qcc.codegen.target import Target
from qcc.ir import Array, Graph, Node
from qcc.ops import (
    IntegerConvolution,
    IntegerMatMul,
    Requantize,
    WindowMax,
)

STRIDED = Capabilities(True)
SCATTERED = Capabilities(True, scattered=True)
Planned = tuple[Kernel, tuple[Array | Prepared, ...]]


def any_weights(weights: Array) -> bool:
    return True


def all_channels(weights: Array, groups: int, output: View, target: Target) -> list[slice]:
    return [slice(0, len(weights))]


@dataclass(frozen=True)
class Architecture:
    """How one architecture plans what is written for its instructions. Kernel and constants come in the order of the operands.

    Attributes:
        plan_dense: (source, weights, bias, strides, dilations, groups, output, requantization, residual, target, tuned=...), and pool=...
            for groups with a maximum, where the architecture fuses any.
        plan_depthwise: the same without groups.
        plan_requantize: (op, views of the terms, multipliers, destination).
        parts: the output channels of a dense layer that are computed one after the other, by (weights, groups, output, target).
        wide: whether its dense layers take activations of 16 bits.
        takes: whether the kernels of linear layers compute with such weights (i8 [OC, ...]).
    """

    plan_dense: Callable[..., Planned]
    plan_depthwise: Callable[..., Planned]
    plan_requantize: Callable[[Requantize, Sequence[View], Sequence[Array], View], tuple[Kernel, tuple[Array, ...]]]
    takes: Callable[[Array], bool] = any_weights
    parts: Callable[[Array, int, View, Target], list[slice]] = all_channels
    wide: bool = False


def requantization(site: Site) -> Requantization | None:
    """The epilogue of a linear group."""
    node = site.group.requantize
    if node is None:
        return None
    op = cast(Requantize, node.op)
    multiplier = site.constant(node.inputs[1]).reshape(-1)
    residual = int(site.constant(node.inputs[3]).reshape(())) if len(node.inputs) > 2 else 0
    zero = op.zero_points[1] if len(node.inputs) > 2 else 0
    return Requantization(
        multiplier if multiplier.size > 1 else multiplier.reshape(()), op.shift, op.zero_point, op.low, op.high, residual, zero
    )


def image(view: View) -> View:
    """A matrix of rows as an image one pixel high: (..., K) -> (B, H, W, K)."""
    shape, strides = view.shape, view.strides
    if len(shape) > 4:
        return image(replace(View.contiguous(view.dtype, (int(np.prod(shape[:-1])), shape[-1])), packed=view.packed))
    missing = 4 - len(shape)
    return View(view.dtype, (1,) * missing + shape, (0,) * missing + strides, view.packed)


def is_depthwise(graph: Graph, entry: Group) -> bool:
    op = entry.node.op
    if not isinstance(op, IntegerConvolution):
        return False
    x, w = (graph.types[name].shape for name in entry.node.inputs[:2])
    return op.groups == x[3] == w[0] and op.groups > 1


def is_linear(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, IntegerConvolution | IntegerMatMul)


def is_deep_linear(graph: Graph, entry: Group) -> bool:
    """A matrix product of more than four axes: its rows must follow each other, for a kernel's view has four."""
    return is_linear(graph, entry) and graph.types[entry.node.inputs[0]].rank > 4


def plan_linear(architecture: Architecture, site: Site) -> list[Call]:
    """A convolution or matrix product, with what follows it."""
    node, requantize = site.group.node, site.group.requantize
    x, y = site.place(node.inputs[0]), site.place(site.group.outputs[0])
    residual = site.place(requantize.inputs[2]) if requantize is not None and len(requantize.inputs) > 2 else None
    weights, bias = site.constant(node.inputs[1]), site.constant(node.inputs[2])
    op = node.op if isinstance(node.op, IntegerConvolution) else IntegerConvolution()
    if isinstance(node.op, IntegerMatMul):
        weights = weights[:, None, None, :]
    divide = all_channels if is_depthwise(site.graph, site.group) else architecture.parts
    calls: list[Call] = []
    for own in divide(weights, op.groups, y.view, site.target):
        places = (x, None if residual is None else _channels(residual, own), _channels(y, own))
        form = (image(x.view), weights[own], bias[own], op.strides, op.dilations)
        calls += _linear_part(architecture, site, op.groups, form, places, own)
    return calls


def _linear_part(
    architecture: Architecture, site: Site, groups: int, form: tuple[Any, ...], places: tuple[Place, Place | None, Place], own: slice
) -> list[Call]:
    """The calls that compute some of the channels: their source, residual and result lie at `places`."""
    x, residual, y = places
    numbers, label = requantization(site), site.label
    after = (image(y.view), None if numbers is None else numbers.of(own), None if residual is None else image(residual.view), site.target)
    if is_depthwise(site.graph, site.group):
        kernel, constants = architecture.plan_depthwise(*form, *after, tuned=site.tuned)
    elif site.group.maximum is None:
        kernel, constants = architecture.plan_dense(*form, groups, *after, tuned=site.tuned)
    else:
        pool = cast(WindowMax, site.group.maximum.op).kernel
        kernel, constants = architecture.plan_dense(*form, groups, *after, tuned=site.tuned, pool=pool)
    if own.stop < site.graph.types[site.group.node.outputs[0]].shape[-1]:
        label += f"{PART}{own.stop - 1}"
    return prepared_calls(label, kernel, (x, *([residual] if residual else [])), constants, y)


def _channels(place: Place, own: slice) -> Place:
    """The place of some of the channels of a value."""
    view = place.view
    if own == slice(0, view.shape[-1]):
        return place
    return Place(place.root, place.offset + own.start * view.strides[-1], replace(view, shape=(*view.shape[:-1], own.stop - own.start)))


def prepared_calls(label: str, kernel: Kernel, before: tuple[Place, ...], constants: Sequence[Array | Prepared], y: Place) -> list[Call]:
    """The call of a kernel, and before it those that prepare its constants."""
    calls, arguments = [], list[Place | Array]()
    for constant in constants:
        if isinstance(constant, Prepared):
            place = Place(f"{label}{PREPARED}", 0, constant.kernel.operands[-1])
            calls.append(Call(place.root, constant.kernel, (constant.constant, place)))
            arguments.append(place)
        else:
            arguments.append(constant)
    return [*calls, Call(label, kernel, (*before, *arguments, y))]


def plan_sums(architecture: Architecture, site: Site) -> list[Call]:
    """A layer whose accumulators are written, and the requantization of these."""
    requantize = cast(Node, site.group.requantize)
    calls = plan_linear(architecture, replace(site, group=Group(site.group.node)))
    return calls + plan_elementwise(architecture, replace(site, group=Group(requantize)))


def is_requantize(graph: Graph, entry: Group) -> bool:
    op = entry.node.op
    if not isinstance(op, Requantize):
        return False
    return all(zero == 0 or graph.types[name].dtype.bits <= 16 for name, zero in zip(entry.node.inputs[::2], op.zero_points, strict=True))


def plan_elementwise(architecture: Architecture, site: Site) -> list[Call]:
    """Sums of scaled terms, some of which may be constants."""
    node = site.group.node
    terms = [site.argument(name) for name in node.inputs[::2]]
    y = site.place(node.outputs[0])
    multipliers = [site.constant(name) for name in node.inputs[1::2]]
    kernel, constants = architecture.plan_requantize(cast(Requantize, node.op), [view_of(term) for term in terms], multipliers, y.view)
    return [Call(site.label, kernel, (*terms, *constants, y))]


def families(architecture: Architecture) -> tuple[Family, ...]:
    """The table of an architecture; the first family that takes a group plans it."""

    def fits_wide(graph: Graph, entry: Group) -> bool:
        """Linear layers of which an activation has 16 bits, whatever the kernel does with that."""
        if not is_linear(graph, entry) or not architecture.takes(graph.constants[entry.node.inputs[1]]):
            return False
        return graph.types[entry.node.inputs[0]].dtype.is_byte or (architecture.wide and not is_depthwise(graph, entry))

    def fits(graph: Graph, entry: Group) -> bool:
        return fits_wide(graph, entry) and gives_bytes(graph, entry)

    def fits_deep(graph: Graph, entry: Group) -> bool:
        return is_deep_linear(graph, entry) and fits(graph, entry)

    linear, elementwise = partial(plan_linear, architecture), partial(plan_elementwise, architecture)
    sums = partial(plan_sums, architecture)
    return (
        Family("deep linear", fits_deep, DENSE, linear),
        Family("linear", fits, STRIDED, linear),
        Family("linear of 16 bits", fits_wide, DENSE, sums),
        Family("requantize", is_requantize, STRIDED, elementwise),
        Family("product", elementary.is_product, STRIDED, partial(elementary.plan_product, plan_multiply)),
        Family("sum", elementary.is_pooled_sum, STRIDED, partial(elementary.plan_pooled_sum, plan_window_sum, plan_global_sum)),
        Family("maximum", elementary.is_byte_maximum, STRIDED, partial(elementary.plan_maximum, plan_window_max)),
        Family("lookup", elementary.is_lookup, STRIDED, partial(elementary.plan_table, plan_lookup)),
        Family("clamp", elementary.is_clamp, STRIDED, partial(elementary.plan_clamps, plan_clamp)),
        Family("move", is_move, STRIDED, plan_move),
        Family("quantize", elementary.is_quantize, SCATTERED, partial(elementary.plan_quantizes, plan_quantize)),
        Family("dequantize", elementary.is_dequantize, SCATTERED, partial(elementary.plan_dequantizes, plan_dequantize)),
        Family("float", is_island, DENSE, plan_island),
        Family("generic", elementary.takes_anything, DENSE, elementary.plan_generic),
    )
