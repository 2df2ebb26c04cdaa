"""Any operator of ONNX that has no class of its own: it runs in float32 (or whatever its types are) as an island in the artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from qcc.errors import TypeMismatch
from qcc.ir import Array, DType, Op, TensorType, expect


@dataclass(frozen=True)
class OnnxOperator(Op):
    """One ONNX node, with the types that ONNX's own shape inference gave it.

    Attributes:
        type: the operator's type, for example "Softmax".
        domain: its domain, "" for the standard one.
        opset: version of the domain.
        arguments: attributes as (name, value) pairs of ints, floats, strings, tuples of these, or ("tensor", dtype, shape, values).
        absent: positions of optional inputs that are left out.
        results: (element type, shape) per output.
    """

    type: str
    domain: str
    opset: int
    arguments: tuple[tuple[str, Any], ...]
    absent: tuple[int, ...]
    results: tuple[tuple[str, tuple[int, ...]], ...]
    name: ClassVar[str] = "onnx"
    float_border = True

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(bool(self.results), f"{self.type}: types of the outputs are not known")
        return tuple(TensorType(DType.parse(dtype), shape) for dtype, shape in self.results)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        """By the function that `set_evaluator` was given; importing `qcc.onnx` gives it one."""
        if not _EVALUATORS:
            raise TypeMismatch(f"{self.type}: an operator of ONNX is evaluated by qcc.onnx, which this process has not imported")
        return _EVALUATORS[-1](self, *inputs)

    def __str__(self) -> str:
        return self.type


_EVALUATORS: list[Callable[..., tuple[Array, ...]]] = []


def set_evaluator(evaluate: Callable[..., tuple[Array, ...]]) -> None:
    """Say how operators of ONNX are evaluated: a function of the operator and its inputs. This layer knows no ONNX runtime."""
    _EVALUATORS[:] = [evaluate]
