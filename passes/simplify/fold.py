"""Folds constants, removes operators that change nothing, and merges equal ones."""

from __future__ import annotations

import hashlib

import numpy as np

from qcc.ir import Array, Graph, Node
from qcc.ops import Clip, Concat, Gather, OnnxOperator, Pad, Reshape, Slice, Transpose
from qcc.passes.simplify.rewrite import Rewriting, rewriting


def fold_constants(graph: Graph) -> Graph:
    """f(constants) -> a constant. Operators of ONNX without a class are folded by the importer, which can evaluate them."""
    return _fold(graph)


def _evaluated(rw: Rewriting, node: Node) -> str | tuple[str, ...] | None:
    arrays = [rw.constant(name) for name in node.inputs]
    if not arrays or any(a is None for a in arrays) or isinstance(node.op, OnnxOperator):
        return None
    results = node.op.evaluate(*(a for a in arrays if a is not None))
    return tuple(rw.add_constant(np.asarray(a), name) for a, name in zip(results, node.outputs, strict=True))


def remove_identities(graph: Graph) -> Graph:
    """Operators that return their input -> the input.

    reshape to the same shape, transpose (0, 1, 2), slice of everything, pad by nothing, clip without bounds, concat of one,
    gather of all in order, cast to the same type, cast to a wider float type and back
    """
    return _identities(graph)


def _identity(rw: Rewriting, node: Node) -> str | None:
    shape = rw.shape(node.inputs[0]) if node.inputs and node.inputs[0] else ()
    match node.op:
        case Reshape(target):
            same = target == shape
        case Transpose(permutation):
            same = permutation == tuple(range(len(shape)))
        case Slice(starts, stops, steps):
            same = not any(starts) and stops == shape and set(steps) <= {1}
        case Pad(before, after):
            same = not any((*before, *after))
        case Clip(low, high):
            same = set(low) == {-np.inf} and set(high) == {np.inf}
        case Concat():
            same = len(node.inputs) == 1
        case Gather(axis):
            same = _all_in_order(rw.constant(node.inputs[1]), shape[axis])
        case OnnxOperator("Cast", _, _, _, _, ((dtype, _),)):
            return _useless_cast(rw, node, dtype)
        case _:
            return None
    return node.inputs[0] if same else None


def _all_in_order(indices: Array | None, extent: int) -> bool:
    return indices is not None and indices.shape == (extent,) and bool(np.array_equal(indices, np.arange(extent)))


def _useless_cast(rw: Rewriting, node: Node, dtype: str) -> str | None:
    """A cast to the type that a value has, or back from a wider float type to the type that it had."""
    x = node.inputs[0]
    if str(rw.types[x].dtype) == dtype:
        return x
    before = rw.producer(x, OnnxOperator)
    if before is None or before.op.type != "Cast":  # type: ignore[attr-defined]  # its kind was asked for
        return None
    source, middle = rw.types[before.inputs[0]].dtype, rw.types[x].dtype
    widening = source.is_float and middle.is_float and middle.bits > source.bits
    return before.inputs[0] if widening and str(source) == dtype else None


def merge_equal(graph: Graph) -> Graph:
    """a = f(x); b = f(x) -> one of them; equal constants likewise."""
    seen: dict[object, tuple[str, ...]] = {}
    arrays: dict[object, str] = {}
    same: dict[str, str] = {}
    for name, array in graph.constants.items():
        # Large arrays are not looked at: equal ones are rare, and reading all weights costs more than it saves.
        if array.size <= 4096:
            key = (array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
            same[name] = arrays.setdefault(key, name)

    def known(rw: Rewriting, node: Node) -> tuple[str, ...] | None:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        outputs = seen.get((node.op, inputs))
        if outputs is not None:
            return outputs
        made = rw.emit_node(Node(node.op, inputs, node.outputs))
        seen[node.op, inputs] = made
        return made

    rewriting_once = Rewriting(graph)
    result = rewriting_once.run([known])
    return result if len(result.nodes) < len(graph.nodes) or len(result.constants) < len(graph.constants) else graph


def remove_dead(graph: Graph) -> Graph:
    """Operators and constants that no output needs -> nothing."""
    from qcc.passes.simplify.rewrite import live_nodes

    read = {name for node in live_nodes(list(graph.nodes), graph.outputs.values()) for name in node.inputs}
    alive = {name for node in graph.nodes for name in node.outputs if name in read} | graph.output_values
    dead = [node for node in graph.nodes if not alive.intersection(node.outputs)]
    if not dead and all(name in read or name in graph.output_values for name in graph.constants):
        return graph
    rewriter = Rewriting(graph)
    return rewriter.run([lambda rw, node: rw.emit_node(node)])


_fold = rewriting(_evaluated)
_identities = rewriting(_identity)
