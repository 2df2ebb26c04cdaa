"""The state of one import: a graph under construction, what each ONNX name is in it, and what could not be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qcc.errors import ModelError, UnsupportedOperator
from qcc.ir import Array, GraphBuilder, Node, Op, TensorType
from qcc.onnx.inputs import element_type, type_name

LARGEST_CONSTANT = 2**31 - 1       # bytes; ONNX files cannot hold more in one piece, either


class Unsupported(Exception):
    """Raised by the import of one node; collected, so that all of them are reported at once. The text is the reason."""


def problem(node: onnx.NodeProto, opset: int, reason: str) -> str:
    """A line about a node that cannot be imported."""
    outputs = [name for name in node.output if name]
    label = repr(str(node.name)) if node.name else f"(without a name, makes {outputs[0] if outputs else 'nothing'!r})"
    return f"node {label}: {node.op_type} (domain {node.domain or 'ai.onnx'!r}, opset {opset}): {reason}"


def unsupported(model: str, problems: Sequence[str]) -> UnsupportedOperator:
    """The error that lists all of them."""
    count = f"{len(problems)} node{'s' if len(problems) > 1 else ''}"
    return UnsupportedOperator(f"{model}: {count} cannot be compiled:\n  " + "\n  ".join(problems))


@dataclass(frozen=True)
class Call:
    """One ONNX node to import: its inputs are names of qcc values ('' for an absent one)."""

    node: onnx.NodeProto
    opset: int
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def type(self) -> str:
        return str(self.node.op_type)

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and bool(self.inputs[index])

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute: int, float, string, tuple of these, or array; strings are decoded."""
        return self.attributes.get(name, default)


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute as plain Python: strings decoded, lists as tuples, tensors as arrays; graphs and references stay as they are."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, onnx.TensorProto):
        return tensor_array(value)
    if isinstance(value, onnx.GraphProto | onnx.SparseTensorProto | onnx.TypeProto):
        return value
    if isinstance(value, int | float):
        return value
    return tuple(v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for v in value)


def tensor_array(tensor: onnx.TensorProto) -> Array:
    """A tensor's elements.

    Raises:
        ModelError: NaN, or infinity in more than a single number; or data that does not fit the declared shape.
    """
    if element_type(tensor.data_type) is None:
        raise ModelError(f"tensor {tensor.name!r}: elements of type {type_name(tensor.data_type)} are not supported; export the model with "
                         "float32 weights.")
    try:
        array: Array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"tensor {tensor.name!r}: its data does not fit its declared type and shape ({error}). "
                         "The model is damaged.") from error
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        nan = bool(np.any(np.isnan(array)))
        # A single infinity is a bound ("no upper limit"), which Clip and Pad take.
        if nan or array.size > 1:
            count = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise ModelError(f"tensor {tensor.name!r}: {count} of its {array.size} numbers are {'NaN' if nan else 'infinite'}; weights "
                             "must be finite. The training has diverged or the file is damaged.")
    return array


@dataclass
class Conversion:
    """A graph under construction.

    Attributes:
        scope: what each ONNX name is in the graph; None where its node could not be imported.
        problems: one line per node that could not be imported.
        read: ONNX names that some node reads or that are outputs.
        hint: name of the first output of the node that is being imported; values inside it are named after it.
    """

    builder: GraphBuilder
    scope: dict[str, str | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    hint: str = ""

    def wants(self, call: Call, index: int) -> bool:
        """Whether anything reads this output of the node."""
        return index < len(call.node.output) and call.node.output[index] in self.read

    def type(self, value: str) -> TensorType:
        return self.builder.types[value]

    def shape(self, value: str) -> tuple[int, ...]:
        return self.builder.types[value].shape

    def is_float(self, *values: str) -> bool:
        return all(self.type(v).dtype.is_float for v in values)

    def constant(self, value: str) -> Array | None:
        """The array that a value is, if it is constant."""
        return self.builder.constants.get(value)

    def integers(self, value: str) -> tuple[int, ...] | None:
        """A constant as integers, flattened."""
        array = self.constant(value)
        return None if array is None else tuple(int(n) for n in array.reshape(-1))

    def scalar(self, value: str) -> float | None:
        """A constant of one element as a number."""
        array = self.constant(value)
        return None if array is None or array.size != 1 else float(array.reshape(()))

    def add_constant(self, array: Array, name: str = "") -> str:
        """A constant that shares the array's memory: nothing may change it afterwards."""
        name = self.builder.fresh(name or f"{self.hint}/constant")
        array = np.asarray(array).view()       # reductions of NumPy give bare numbers
        array.flags.writeable = False
        self.builder.constants[name], self.builder.types[name] = array, TensorType.of(array)
        return name

    def emit(self, op: Op, *inputs: str) -> str:
        """The first output of an operator; evaluated right away when all of its inputs are constant."""
        return self.emit_all(op, inputs)[0]

    def emit_all(self, op: Op, inputs: tuple[str, ...], outputs: int = 1) -> tuple[str, ...]:
        names = [name for name in inputs if name]
        arrays = [array for array in map(self.constant, names) if array is not None]
        if arrays and len(arrays) == len(names):
            size = sum(type.bytes for type in op.infer(*map(TensorType.of, arrays)))
            if size > LARGEST_CONSTANT:
                raise Unsupported(f"computes a constant of {size} bytes; at most {LARGEST_CONSTANT} are taken")
            return tuple(map(self.add_constant, op.evaluate(*arrays)))
        names = []
        for index in range(outputs):
            names.append(self.builder.fresh(f"{self.hint}/{op}" + (f".{index}" if index else "")))
        self.builder.add(op, inputs, names)
        return tuple(names)

    def rename_last(self, values: tuple[str, ...], wanted: tuple[str, ...], first: int) -> tuple[str, ...]:
        """Give the values that nodes since number `first` made the names that ONNX has for them, where those are free."""
        nodes, types = self.builder.nodes, self.builder.types
        made = {name for node in nodes[first:] for name in node.outputs}
        renamed = {old: new for old, new in zip(values, wanted, strict=False) if new and old in made and new not in types}
        for index in range(first, len(nodes)):
            node = nodes[index]
            nodes[index] = Node(node.op, tuple(renamed.get(n, n) for n in node.inputs), tuple(renamed.get(n, n) for n in node.outputs))
        for old, new in renamed.items():
            types[new] = types.pop(old)
        return tuple(renamed.get(name, name) for name in values)


Handler = Callable[[Conversion, Call], "str | tuple[str, ...] | None"]
TABLE: dict[str, Handler] = {}


def converts(*operators: str) -> Callable[[Handler], Handler]:
    """Register the import of standard operators: a function that returns the outputs' values, or None if it has no own form."""

    def register(handler: Handler) -> Handler:
        TABLE.update(dict.fromkeys(operators, handler))
        return handler

    return register


