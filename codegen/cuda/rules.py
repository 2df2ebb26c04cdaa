"""The table of kernel families of GPUs, and how each is planned from nodes, constants and places."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

from qcc.codegen import elementary
from qcc.codegen.cpu import rules as shared
from qcc.codegen.cpu.rules import SCATTERED, STRIDED, image, requantization
from qcc.codegen.cuda.border import plan_dequantize, plan_quantize
from qcc.codegen.cuda.dense import plan_dense, takes_narrow
from qcc.codegen.cuda.depthwise import plan_depthwise
from qcc.codegen.cuda.elements import plan_clamp, plan_lookup, plan_multiply, plan_requantize
from qcc.codegen.cuda.gemv import is_gemv, plan_gemv
from qcc.codegen.cuda.island import plan_float
from qcc.codegen.cuda.move import plan_copy, plan_fill_halo
from qcc.codegen.cuda.pool import plan_global_sum, plan_window_max, plan_window_sum
from qcc.codegen.cuda.te import GpuTeKernel
from qcc.codegen.elementary import view_of
from qcc.codegen.families import Call, Family, Site
from qcc.codegen.floats import is_island
from qcc.codegen.groups import Group
from qcc.codegen.kernel import Kernel
from qcc.codegen.moves import Mover, is_move, plan_move
from qcc.codegen.placing import DENSE, Capabilities
from qcc.ir import Graph
from qcc.ops import (
    IntegerConvolution,
    IntegerMatMul,
    Requantize,
    WindowMax,
)

MOVER = Mover(plan_copy, plan_fill_halo)
PAIRED = Capabilities(True, packed=True)


def is_narrow(graph: Graph, entry: Group) -> bool:
    """A layer whose weights share bytes; values that it reads and writes may, too."""
    return shared.is_linear(graph, entry) and not shared.is_depthwise(graph, entry) and takes_narrow(
        graph.constants[entry.node.inputs[1]], graph.types[entry.node.inputs[1]].dtype.bits)


def plan_linear(site: Site) -> list[Call]:
    """A convolution or matrix product, with what follows it."""
    node, requantize = site.group.node, site.group.requantize
    x, y = site.place(node.inputs[0]), site.place(site.group.outputs[0])
    residual = site.place(requantize.inputs[2]) if requantize is not None and len(requantize.inputs) > 2 else None
    weights, bias = site.constant(node.inputs[1]), site.constant(node.inputs[2])
    op = node.op if isinstance(node.op, IntegerConvolution) else IntegerConvolution()
    if isinstance(node.op, IntegerMatMul):
        weights = weights[:, None, None, :]
    offsets = (x.offset, 0 if residual is None else residual.offset, y.offset)
    form = (image(x.view), weights, bias, op.strides, op.dilations)
    after = (image(y.view), requantization(site), None if residual is None else image(residual.view), site.target, offsets)
    bits = site.graph.types[node.inputs[1]].dtype.bits
    kernel: Kernel
    if shared.is_depthwise(site.graph, site.group):
        kernel, constants = plan_depthwise(*form, *after, tuned=site.tuned)
    elif is_gemv(form[0], weights, op.groups, op.strides, after[0], after[2]):
        kernel, constants = plan_gemv(form[0], weights, bias, after[0], after[1], after[2], site.target, bits, site.tuned)
    else:
        kernel, constants = plan_dense(*form, op.groups, *after, bits, site.tuned)
    return [Call(site.label, kernel, (x, *([residual] if residual else []), *constants, y))]


def plan_elementwise(site: Site) -> list[Call]:
    """Sums of scaled terms, some of which may be constants."""
    node, y = site.group.node, site.place(site.label)
    terms = [site.argument(name) for name in node.inputs[::2]]
    multipliers = [site.constant(name) for name in node.inputs[1::2]]
    kernel, constants = plan_requantize(cast(Requantize, node.op), [view_of(term) for term in terms], multipliers, y.view)
    return [Call(site.label, kernel, (*terms, *constants, y))]


def is_requantize(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, Requantize)


def is_maximum(graph: Graph, entry: Group) -> bool:
    return isinstance(entry.node.op, WindowMax)


def plan_moves(site: Site) -> list[Call]:
    return plan_move(site, MOVER)


def plan_generic(site: Site) -> list[Call]:
    return elementary.plan_generic(site, GpuTeKernel)


FAMILIES: tuple[Family, ...] = (
    Family("deep linear", shared.is_deep_linear, DENSE, plan_linear),
    Family("linear of 4 bits", is_narrow, PAIRED, plan_linear),
    Family("linear", shared.is_linear, STRIDED, plan_linear),
    Family("requantize", is_requantize, SCATTERED, plan_elementwise),
    Family("product", elementary.is_product, SCATTERED, partial(elementary.plan_product, plan_multiply)),
    Family("sum", elementary.is_pooled_sum, STRIDED, partial(elementary.plan_pooled_sum, plan_window_sum, plan_global_sum)),
    Family("maximum", is_maximum, replace(PAIRED, alike=True), partial(elementary.plan_maximum, plan_window_max)),
    Family("lookup", elementary.is_lookup, STRIDED, partial(elementary.plan_table, plan_lookup)),
    Family("clamp", elementary.is_clamp, SCATTERED, partial(elementary.plan_clamps, plan_clamp)),
    Family("move", is_move, STRIDED, plan_moves),
    Family("quantize", elementary.is_quantize, SCATTERED, partial(elementary.plan_quantizes, plan_quantize)),
    Family("dequantize", elementary.is_dequantize, SCATTERED, partial(elementary.plan_dequantizes, plan_dequantize)),
    Family("float", is_island, DENSE, plan_float),
    Family("generic", elementary.takes_anything, DENSE, plan_generic),
)
