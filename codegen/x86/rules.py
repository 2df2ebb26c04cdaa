"""The table of kernel families for x86."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import cast

from qcc.codegen.cpu.elementwise import plan_requantize
from qcc.codegen.cpu.rules import Architecture, families, is_depthwise, plan_elementwise
from qcc.codegen.elementary import gives_bytes
from qcc.codegen.families import Call, Family, Scratch, Site
from qcc.codegen.groups import Group
from qcc.codegen.placing import DENSE
from qcc.codegen.x86.batch import plan_batch
from qcc.codegen.x86.choice import parts, plan_product
from qcc.codegen.x86.depthwise import plan_depthwise
from qcc.ir import Graph, Node
from qcc.ops import IntegerBatchMatMul, IntegerConvolution, WindowMax

ARCHITECTURE = Architecture(plan_product, plan_depthwise, plan_requantize, parts=parts, wide=True)
NARROWEST = 16      # columns of a product of two activations: those of the widest vector
MOST_POOLED = 4     # sums of a maximum that is fused: they must fit the registers times the blocks of a tile


def fuses_maximum(graph: Graph, entry: Group, maximum: Node) -> bool:
    """Whether the kernel of a convolution takes the maxima of its sums, and requantizes only these: the same where windows do not overlap
    and no multiplier is negative, since a requantization never decreases then."""
    op, requantize = cast(WindowMax, maximum.op), entry.requantize
    if requantize is None or not isinstance(entry.node.op, IntegerConvolution) or is_depthwise(graph, entry):
        return False
    apart = op.strides == op.kernel and op.dilations == (1, 1) and prod(op.kernel) <= MOST_POOLED
    single = len(requantize.inputs) == 2 and gives_bytes(graph, entry) and graph.types[entry.node.inputs[0]].dtype.is_byte
    return apart and single and bool(graph.constants[requantize.inputs[1]].min() >= 0)


def is_contraction(graph: Graph, entry: Group) -> bool:
    """A product of two activations with columns enough for a vector; narrower ones take the generic kernel."""
    return isinstance(entry.node.op, IntegerBatchMatMul) and graph.types[entry.node.outputs[0]].shape[-1] >= NARROWEST


def plan_contraction(site: Site) -> list[Call]:
    """The product, and the requantization behind it if there is one."""
    node, requantize = site.group.node, site.group.requantize
    a, b, acc = (site.place(name) for name in (*node.inputs, node.outputs[0]))
    kernel = plan_batch(a.view, b.view, acc.view, cast(IntegerBatchMatMul, node.op).zero_points, site.target)
    calls = [Call(node.outputs[0], kernel, (a, b, acc, Scratch(kernel.packed.span), Scratch(4 * kernel.numbers.span)))]
    return calls if requantize is None else calls + plan_elementwise(ARCHITECTURE, replace(site, group=Group(requantize)))


FAMILIES = (Family("contraction", is_contraction, DENSE, plan_contraction), *families(ARCHITECTURE))
