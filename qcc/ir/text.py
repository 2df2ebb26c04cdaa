"""The text form of graphs: `parse(dump(g), constants) == g`.

One line per value, in order. Small constants are written out; larger ones by digest, and `parse` looks those up::

    graph "lenet" INTEGER
    input %x: f32[1,1,28,28]
    const %w: i8[20,5,5,1] <i8 axis=0 s=(0.01, ...) z=0> = sha256:5d0c...
    %a: i32[1,24,24,20] = integer_convolution(%q, %w, %b) {strides=(1, 1), dilations=(1, 1), groups=1}
    output "y" = %a
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from qcc.errors import GraphError, QccError
from qcc.ir.graph import Graph, GraphBuilder, Node, digest
from qcc.ir.op import Op, Stage
from qcc.ir.types import Array, DType, Encoding, TensorType

INLINE = 8                     # constants of up to this many elements are written out
_NAME = r'%(?:"(?:[^"\\]|\\.)*"|[\w.\-/:@]+)'
_TYPE = r"(?P<type>\w+\[[\d,]*\](?: <[^>]*>)?)"
_CONST = re.compile(rf"const (?P<name>{_NAME}): {_TYPE} = (?P<value>.*)")
_INPUT = re.compile(rf"input (?P<name>{_NAME}): {_TYPE}")
_OUTPUT = re.compile(rf'output (?P<port>"(?:[^"\\]|\\.)*") = (?P<name>{_NAME})')
_RESULT = re.compile(rf"(?P<name>{_NAME}): {_TYPE}(?:, )?")
_CALL = re.compile(rf" = (?P<op>\w+)\((?P<inputs>(?:(?:{_NAME}|_)(?:, )?)*)\)(?: (?P<attributes>\{{.*\}}))?$")


def format_name(name: str) -> str:
    return "%" + (name if re.fullmatch(r"[\w.\-/:@]+", name) else json.dumps(name))


def format_type(type: TensorType) -> str:
    text = f"{type.dtype}[{','.join(map(str, type.shape))}]"
    if type.encoding is None:
        return text
    encoding = type.encoding
    axis = "" if encoding.axis is None else f" axis={encoding.axis}"
    scale, zero = (values[0] if len(set(values)) == 1 and (len(values) == 1 or i) else values
                   for i, values in enumerate((encoding.scale, encoding.zero_point)))
    return f"{text} <{encoding.dtype}{axis} s={scale} z={zero}>"


def format_node(graph: Graph, node: Node) -> str:
    results = ", ".join(f"{format_name(n)}: {format_type(graph.types[n])}" for n in node.outputs)
    attributes = ", ".join(f"{k}={_literal(v)}" for k, v in node.op.attributes().items())
    inputs = ", ".join(format_name(n) if n else "_" for n in node.inputs)
    return f"{results} = {node.op.name}({inputs})" + (f" {{{attributes}}}" if attributes else "")


def dump(graph: Graph) -> str:
    """The graph as text, ending in a newline."""
    lines = [f"graph {json.dumps(graph.name)} {graph.stage.name}"]
    lines += [f"input {format_name(n)}: {format_type(graph.types[n])}" for n in graph.inputs]
    for name, array in graph.constants.items():
        inline = array.size <= INLINE and array.dtype.kind in "iufb" and bool(np.all(np.isfinite(array)))
        value = json.dumps(array.tolist()) if inline else f"sha256:{digest(array)}"
        lines.append(f"const {format_name(name)}: {format_type(graph.types[name])} = {value}")
    lines += [format_node(graph, node) for node in graph.nodes]
    lines += [f"output {json.dumps(port)} = {format_name(name)}" for port, name in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def parse(text: str, constants: Mapping[str, Array] | None = None) -> Graph:
    """Read a graph back. `constants` are looked up by name for those that the text gives by digest; the digest is checked.

    Raises:
        GraphError: with the line that cannot be read.
    """
    builder = GraphBuilder()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            _parse_line(builder, line.strip(), constants or {})
        except (ValueError, KeyError, SyntaxError, TypeError, AttributeError, QccError) as error:
            raise GraphError(f"line {number}: {type(error).__name__}: {error}\n  > {line.strip()[:200]}") from error
    return builder.build()


def _parse_line(builder: GraphBuilder, line: str, constants: Mapping[str, Array]) -> None:
    if line.startswith("graph "):
        title, _, stage = line[6:].rpartition(" ")
        builder.name, builder.stage = json.loads(title), Stage[stage]
    elif match := _INPUT.fullmatch(line):
        builder.input(_name(match["name"]), _parse_type(match["type"]))
    elif match := _CONST.fullmatch(line):
        _parse_constant(builder, match, constants)
    elif match := _OUTPUT.fullmatch(line):
        port = json.loads(match["port"])
        if port in builder.outputs:
            raise GraphError(f"output {port!r} is defined a second time")
        builder.outputs[port] = _name(match["name"])
    else:
        _parse_node(builder, line)


def _parse_constant(builder: GraphBuilder, match: re.Match[str], constants: Mapping[str, Array]) -> None:
    name, type, value = _name(match["name"]), _parse_type(match["type"]), match["value"]
    if value.startswith("sha256:"):
        if name not in constants:
            raise GraphError(f"constant %{name} is given by digest; pass its array to parse")
        array = constants[name]
        if f"sha256:{digest(array)}" != value:
            raise GraphError(f"constant %{name}: the array does not have the digest that the text names")
    else:
        array = np.array(json.loads(value), type.dtype.numpy).reshape(type.shape)
    if name in builder.types:
        raise GraphError(f"constant %{name}: the name is already taken")
    array = array.view()      # the caller's array stays as it was
    array.flags.writeable = False
    builder.constants[name], builder.types[name] = array, type


def _parse_node(builder: GraphBuilder, line: str) -> None:
    position, outputs, types = 0, [], []
    while match := _RESULT.match(line, position):
        outputs.append(_name(match["name"]))
        types.append(_parse_type(match["type"]))
        position = match.end()
    call = _CALL.match(line, position)
    if call is None or not outputs:
        raise GraphError("expected 'graph', 'input', 'const', 'output' or '%name: type = operator(%inputs) {attributes}'")
    if call["op"] not in Op.registry:
        raise GraphError(f"unknown operator {call['op']!r}")
    op = Op.registry[call["op"]](**_parse_attributes(Op.registry[call["op"]], call["attributes"] or "{}"))
    inputs = tuple(_name(n) if n != "_" else "" for n in re.findall(rf"{_NAME}|_", call["inputs"]))
    builder.nodes.append(Node(op, inputs, tuple(outputs)))
    builder.types.update(zip(outputs, types, strict=True))


def _name(text: str) -> str:
    return str(json.loads(text[1:])) if text.startswith('%"') else text[1:]


def _parse_type(text: str) -> TensorType:
    match = re.fullmatch(r"(\w+)\[([\d,]*)\](?: <(\w+)(?: axis=(-?\d+))? s=(.*) z=(.*)>)?", text)
    if match is None:
        raise GraphError(f"{text!r} is not a type")
    shape = tuple(int(n) for n in match[2].split(",") if n)
    encoding = None
    if match[3]:
        scale, zero = ast.literal_eval(match[5]), ast.literal_eval(match[6])
        scale = scale if isinstance(scale, tuple) else (scale,)
        zero = zero if isinstance(zero, tuple) else (zero,) * len(scale)
        encoding = Encoding(DType.parse(match[3]), scale, zero, None if match[4] is None else int(match[4]))
    return TensorType(DType.parse(match[1]), shape, encoding)


def _literal(value: Any) -> str:
    if isinstance(value, DType):
        return repr(str(value))
    if isinstance(value, float):
        return repr(value).replace("inf", "1e999")
    if isinstance(value, tuple):
        return "(" + ", ".join(_literal(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


class _NotANumber(ast.NodeTransformer):
    """Reads the word nan as the number."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float("nan")) if node.id == "nan" else node


def _parse_attributes(kind: type[Op], text: str) -> dict[str, Any]:
    call = ast.parse(f"f({text[1:-1]})", mode="eval").body
    if not isinstance(call, ast.Call):
        raise GraphError(f"attributes {text!r} cannot be read")
    values = {str(k.arg): ast.literal_eval(_NotANumber().visit(k.value)) for k in call.keywords}
    typed = {f.name for f in fields(kind) if f.type == "DType"}  # type: ignore[arg-type]  # operators are dataclasses
    return {name: DType.parse(value) if name in typed else value for name, value in values.items()}
