"""The table of kernel families for 64-bit ARM. What is plain vector code is shared with x86; everything else is `Op.lower`."""

from __future__ import annotations

from typing import cast

from qcc.codegen.arm.elementwise import plan_requantize
from qcc.codegen.families import Call, Family, Site
from qcc.codegen.floats import is_island, plan_island
from qcc.codegen.moves import is_move, plan_move
from qcc.codegen.placing import DENSE
from qcc.codegen.rules import (
    SCATTERED,
    STRIDED,
    is_byte_maximum,
    is_clamp,
    is_dequantize,
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
    takes_anything,
    view_of,
)
from qcc.ops import Requantize


def plan_elementwise(site: Site) -> list[Call]:
    """Sums of scaled terms, some of which may be constants."""
    node = site.group.node
    terms = [site.argument(name) for name in node.inputs[::2]]
    y = site.place(node.outputs[0])
    multipliers = [site.constant(name) for name in node.inputs[1::2]]
    kernel, constants = plan_requantize(cast(Requantize, node.op), [view_of(term) for term in terms], multipliers, y.view)
    return [Call(site.label, kernel, (*terms, *constants, y))]


FAMILIES: tuple[Family, ...] = (
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
