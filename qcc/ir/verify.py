"""The specification of a well-formed graph, stage by stage, as code that raises GraphError with the text around the culprit."""

from __future__ import annotations

from qcc.errors import GraphError, TypeMismatch
from qcc.ir.graph import Graph, Node
from qcc.ir.op import Stage
from qcc.ir.text import format_node, format_type
from qcc.ir.types import TensorType


def verify(graph: Graph) -> None:
    """Names defined once and before use; types as inferred; every operator allowed in the stage; no stray float among integers.

    Raises:
        GraphError: with the offending line of the text form and its neighbours.
    """
    defined = set(graph.inputs) | set(graph.constants)
    if len(set(graph.inputs)) != len(graph.inputs) or set(graph.inputs) & set(graph.constants):
        raise GraphError(f"graph {graph.name!r}: an input's name is used twice")
    untyped = {name for name in (*defined, *(n for node in graph.nodes for n in node.outputs)) if name not in graph.types}
    if untyped:
        raise GraphError(f"graph {graph.name!r}: values without a type: {sorted(untyped)[:5]}")
    for name, array in graph.constants.items():
        type = graph.types[name]
        if array.shape != type.shape or array.dtype != type.dtype.numpy:
            raise GraphError(f"constant %{name}: declared {type.dtype}{list(type.shape)}, holds {array.dtype}{list(array.shape)}")
    for index, node in enumerate(graph.nodes):
        _verify_node(graph, index, node, defined)
        defined.update(node.outputs)
    for port, name in graph.outputs.items():
        if name not in defined:
            raise GraphError(f"output {port!r} is %{name}, which nothing defines")
    for name, type in graph.types.items():
        if problem := _encoding_problem(graph.stage, type):
            raise GraphError(f"%{name}: {format_type(type)}: {problem}")
    extra = set(graph.types) - defined
    if extra:
        raise GraphError(f"graph {graph.name!r}: types of values that do not exist: {sorted(extra)[:5]}")


def _verify_node(graph: Graph, index: int, node: Node, defined: set[str]) -> None:
    missing = [name for name in node.inputs if name and name not in defined]
    if missing:
        _fail(graph, index, f"reads {', '.join('%' + n for n in missing)}, not defined above")
    twice = [name for name in node.outputs if name in defined]
    if twice:
        _fail(graph, index, f"defines {', '.join('%' + n for n in twice)} a second time")
    island = graph.stage is Stage.INTEGER and Stage.FLOAT in node.op.stages and _is_island(graph, node)
    if graph.stage not in node.op.stages and not island:
        allowed = ", ".join(stage.name for stage in sorted(node.op.stages))
        _fail(graph, index, f"{node.op.name} may stand in {allowed} graphs, not in {graph.stage.name}")
    try:
        inferred = node.op.infer(*graph.input_types(node))
    except TypeMismatch as error:
        _fail(graph, index, str(error))
    except (ValueError, IndexError) as error:      # too few or too many inputs, shapes that do not broadcast, axes out of range
        _fail(graph, index, f"{node.op.name} does not take {_shown(graph.input_types(node))}: {error}")
    declared = graph.output_types(node)
    if [(t.dtype, t.shape) for t in inferred] != [(t.dtype, t.shape) for t in declared]:
        _fail(graph, index, f"inferred and declared types differ: {_shown(inferred)} and {_shown(declared)}")
    if graph.stage is Stage.INTEGER and not node.op.float_border and not island:
        floats = [t for t in (*graph.input_types(node), *declared) if t.dtype.is_float]
        if floats:
            _fail(graph, index, f"{node.op.name} mixes float values with integers; only border operators may")


def _shown(types: tuple[TensorType, ...]) -> str:
    return ", ".join(f"{t.dtype}{list(t.shape)}" for t in types) or "nothing"


def _encoding_problem(stage: Stage, type: TensorType) -> str | None:
    """What is wrong with a type's encoding, if anything."""
    encoding = type.encoding
    if encoding is None:
        return None
    if not encoding.dtype.is_integer:
        return f"an encoding's integers cannot be {encoding.dtype}"
    if type.dtype.is_integer and encoding.dtype != type.dtype:
        return f"the encoding is for {encoding.dtype}"
    if stage is Stage.FLOAT:
        return "values of a FLOAT graph carry no encoding"
    if encoding.axis is not None and (not 0 <= encoding.axis < type.rank or len(encoding.scale) != type.shape[encoding.axis]):
        return f"{len(encoding.scale)} scales do not fit axis {encoding.axis}"
    low, high = encoding.dtype.range
    if not all(low <= zero <= high for zero in encoding.zero_point):
        return f"a zero point lies outside {encoding.dtype}, so that 0.0 is no integer"
    return None


def _is_island(graph: Graph, node: Node) -> bool:
    """Whether a node of an INTEGER graph touches no quantized value: it computes in float, and the summary reports it."""
    types = (*graph.input_types(node), *graph.output_types(node))
    return any(t.dtype.is_float for t in types) and all(t.encoding is None for t in types)


def _fail(graph: Graph, index: int, message: str) -> None:
    start = max(0, index - 2)
    lines = []
    for number in range(start, min(len(graph.nodes), index + 2)):
        mark = ">" if number == index else " "
        lines.append(f"  {mark} {format_node(graph, graph.nodes[number])}")
    raise GraphError(f"graph {graph.name!r} ({graph.stage.name}): {message}\n" + "\n".join(lines))
