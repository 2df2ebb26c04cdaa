"""QDQ to INTEGER: the dyadic rewrite. Walks the graph once and lets each operator's rule emit its integer form."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qcc.ir import Graph, Node, Op
from qcc.ops import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution,
    Function,
    Gather,
    Interpolate,
    MatMul,
    MaxPool,
    Multiply,
    Pad,
    PRelu,
    ReduceMean,
    Reshape,
    Slice,
    Subtract,
    Transpose,
)
from qcc.passes.integer import moves, rules
from qcc.passes.integer.lowering import Lowering
from qcc.passes.quantize import Placement

RULES: Mapping[type[Op], Callable[[Lowering, Node], None]] = {
    Add: rules.add, Subtract: rules.add, Multiply: rules.multiply, Convolution: rules.convolution, MatMul: rules.matmul, Clip: rules.clip,
    Function: rules.table, PRelu: rules.table,
    AveragePool: moves.average_pool, ReduceMean: moves.reduce_mean, Interpolate: moves.interpolate, MaxPool: moves.max_pool,
    Concat: moves.move, Gather: moves.move, Pad: moves.move, Slice: moves.move, Transpose: moves.transpose, Reshape: moves.reshape,
}


def to_integer(graph: Graph, placement: Placement, integer_io: bool = False) -> Graph:
    """Operators of encoded values -> integer operators with one rounding each; the others stay float between border operators.

    before: %y: f32 <u8 ...> = convolution(%x: f32 <u8 ...>, %w: f32 <i8 ...>, %b)
    after:  %s: i32 = integer_convolution(%x: u8, %w: i8, %b: i32);  %y: u8 = requantize(%s, %m)

    Args:
        integer_io: inputs and outputs that carry encodings are integers at the border, too.
    """
    lowering = Lowering.start(graph, placement, integer_io)
    for node in graph.nodes:
        if node.outputs[0] in placement.forms:
            RULES[type(node.op)](lowering, node)
        else:
            inputs = [lowering.real(name) if name else "" for name in node.inputs]
            lowering.builder.add(node.op, inputs, node.outputs)
            lowering.reals.update({name: name for name in node.outputs})
    for port, name in graph.outputs.items():
        lowering.builder.outputs[port] = _output(lowering, name, integer_io)
    return lowering.builder.build()


def _output(lowering: Lowering, name: str, integer_io: bool) -> str:
    type = lowering.source.types[name]
    if integer_io and type.encoding is not None:
        return lowering.get(name, tuple(range(type.rank)))
    return lowering.real(name)
