"""What an operator is: a frozen dataclass whose fields are its attributes, with its types, its meaning and its lowering in one place."""

from __future__ import annotations

from dataclasses import fields
from enum import IntEnum
from typing import Any, ClassVar

from qcc.errors import TypeMismatch
from qcc.ir.types import Array, TensorType


class Stage(IntEnum):
    """What a graph may contain; `verify` is the specification."""

    FLOAT = 0      # the imported network
    QDQ = 1        # the same graph; every value that will be an integer carries an encoding
    INTEGER = 2    # integers, save for declared float islands and the border kernels around them


FLOATING = frozenset({Stage.FLOAT, Stage.QDQ})
ALL_STAGES = frozenset(Stage)
INTEGER_ONLY = frozenset({Stage.INTEGER})


class Op:
    """Base of all operators. Subclasses are frozen dataclasses; `name` is the word in the text form.

    Attributes:
        stages: where the operator may stand.
        elementwise: each output element depends only on the same element of each input (with NumPy broadcasting).
        float_border: in an INTEGER graph this operator may read or write float values, and says so in the summary.
    """

    name: ClassVar[str]
    stages: ClassVar[frozenset[Stage]] = ALL_STAGES
    elementwise: ClassVar[bool] = False
    float_border: ClassVar[bool] = False
    registry: ClassVar[dict[str, type[Op]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            Op.registry[cls.name] = cls

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Types of the outputs (encodings are the graph's business and left out).

        Raises:
            TypeMismatch: the inputs are not what the operator takes.
        """
        raise TypeMismatch(f"{self.name}: no type rule")

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        """The meaning, in NumPy: float32 for float operators, exact for integer ones."""
        raise TypeMismatch(f"{self.name}: cannot be evaluated by itself")

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        """Tensor expressions (tvm.te) of the outputs, equal to `evaluate` bit for bit for integers. Imports TVM."""
        raise TypeMismatch(f"{self.name}: has no lowering")

    def macs(self, inputs: tuple[TensorType, ...], outputs: tuple[TensorType, ...]) -> int:
        """Multiply-accumulate operations of one evaluation."""
        return 0

    def transposed(self, permutation: tuple[int, ...]) -> Op | None:
        """The operator f' with f'(T(x), ...) == T(f(x, ...)) for T the given transposition of all inputs, or None."""
        return self if self.elementwise else None

    def attributes(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses

    def __str__(self) -> str:
        return self.name


def expect(condition: bool, message: str) -> None:
    """Raise TypeMismatch unless the condition holds."""
    if not condition:
        raise TypeMismatch(message)
