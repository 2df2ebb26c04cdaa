"""The table of kernel families for 64-bit ARM. What is plain vector code is shared with x86; everything else is `Op.lower`."""

from __future__ import annotations

from typing import cast

from qcc.codegen.arm.dense import LEAST_WEIGHT, plan_dense
from qcc.codegen.arm.depthwise import plan_depthwise
from qcc.codegen.arm.elementwise import plan_requantize
from qcc.codegen.families import Call, Family, Site
from qcc.codegen.floats import is_island, plan_island
from qcc.codegen.groups import Group
from qcc.codegen.kernel import Kernel
from qcc.codegen.moves import is_move, plan_move
from qcc.codegen.placing import DENSE
from qcc.codegen.rules import (
    SCATTERED,
    STRIDED,
    image,
    is_byte_maximum,
    is_clamp,
    is_deep_linear,
    is_depthwise,
    is_dequantize,
    is_linear,
    is_lookup,
    is_pooled_sum,
    is_product,
    is_quantize,
    is_requantize,
    plan_clamps,
    plan_dequantizes,
    plan_generic,
    plan_maximum,
    plan_pooled_sum,
    plan_product,
    plan_quantizes,
    plan_table,
    requantization,
    takes_anything,
    view_of,
)
from qcc.ir import Graph
from qcc.ops import IntegerConvolution, Requantize


def has_room(graph: Graph, entry: Group) -> bool:
    """A linear layer whose products fit where kernels add them in 16 bits; quantization makes no others, but a model may bring its own."""
    return is_linear(graph, entry) and int(graph.constants[entry.node.inputs[1]].min()) >= LEAST_WEIGHT


def is_deep(graph: Graph, entry: Group) -> bool:
    return is_deep_linear(graph, entry) and has_room(graph, entry)


def plan_linear(site: Site) -> list[Call]:
    """A convolution or matrix product, with what follows it."""
    node, requantize = site.group.node, site.group.requantize
    x, y = site.place(node.inputs[0]), site.place(site.group.outputs[0])
    residual = site.place(requantize.inputs[2]) if requantize is not None and len(requantize.inputs) > 2 else None
    weights, bias = site.constant(node.inputs[1]), site.constant(node.inputs[2])
    op = node.op if isinstance(node.op, IntegerConvolution) else IntegerConvolution()
    weights = weights if isinstance(node.op, IntegerConvolution) else weights[:, None, None, :]
    source, target = image(x.view), image(y.view)
    added, after = None if residual is None else image(residual.view), requantization(site)
    kernel: Kernel
    if is_depthwise(site.graph, site.group):
        kernel, constants = plan_depthwise(source, weights, bias, op.strides, op.dilations, target, after, added, site.target)
    else:
        kernel, constants = plan_dense(source, weights, bias, op.strides, op.dilations, op.groups, target, after, added, site.target)
    return [Call(site.label, kernel, (x, *([residual] if residual else []), *constants, y))]


def plan_elementwise(site: Site) -> list[Call]:
    """Sums of scaled terms, some of which may be constants."""
    node = site.group.node
    terms = [site.argument(name) for name in node.inputs[::2]]
    y = site.place(node.outputs[0])
    multipliers = [site.constant(name) for name in node.inputs[1::2]]
    kernel, constants = plan_requantize(cast(Requantize, node.op), [view_of(term) for term in terms], multipliers, y.view)
    return [Call(site.label, kernel, (*terms, *constants, y))]


FAMILIES: tuple[Family, ...] = (
    Family("deep linear", is_deep, DENSE, plan_linear),
    Family("linear", has_room, STRIDED, plan_linear),
    Family("requantize", is_requantize, STRIDED, plan_elementwise),
    Family("product", is_product, STRIDED, plan_product),
    Family("sum", is_pooled_sum, STRIDED, plan_pooled_sum),
    Family("maximum", is_byte_maximum, STRIDED, plan_maximum),
    Family("lookup", is_lookup, STRIDED, plan_table),
    Family("clamp", is_clamp, STRIDED, plan_clamps),
    Family("move", is_move, STRIDED, plan_move),
    Family("quantize", is_quantize, SCATTERED, plan_quantizes),
    Family("dequantize", is_dequantize, SCATTERED, plan_dequantizes),
    Family("float", is_island, DENSE, plan_island),
    Family("generic", takes_anything, DENSE, plan_generic),
)
