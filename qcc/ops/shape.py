"""Operators that move elements and compute nothing: valid in every stage, for every element type."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from qcc.ir import Array, Op, TensorType, expect


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order under another shape."""

    shape: tuple[int, ...]
    name: ClassVar[str] = "reshape"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(prod(self.shape) == inputs[0].size, f"reshape of {list(inputs[0].shape)} to {list(self.shape)}")
        return (TensorType(inputs[0].dtype, self.shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0].reshape(self.shape),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import topi

        return [topi.reshape(inputs[0], self.shape)]


@dataclass(frozen=True)
class Transpose(Op):
    """y.shape[i] = x.shape[permutation[i]]."""

    permutation: tuple[int, ...]
    name: ClassVar[str] = "transpose"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(
            sorted(self.permutation) == list(range(inputs[0].rank)), f"transpose: {self.permutation} does not permute rank {inputs[0].rank}"
        )
        return (TensorType(inputs[0].dtype, tuple(inputs[0].shape[p] for p in self.permutation)),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0].transpose(self.permutation).copy(),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import topi

        return [topi.transpose(inputs[0], self.permutation)]


@dataclass(frozen=True)
class Slice(Op):
    """x[starts[i]:stops[i]:steps[i]] on every axis; starts and stops lie in 0..extent, steps are positive."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]
    name: ClassVar[str] = "slice"

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b, s) for a, b, s in zip(self.starts, self.stops, self.steps, strict=True))

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x = inputs[0]
        expect(len(self.starts) == x.rank, f"slice: {len(self.starts)} ranges for rank {x.rank}")
        expect(
            all(a >= 0 and b <= n and s > 0 for a, b, s, n in zip(self.starts, self.stops, self.steps, x.shape, strict=True)),
            f"slice {self.starts}:{self.stops}:{self.steps} leaves {list(x.shape)}",
        )
        return (TensorType(x.dtype, tuple(len(range(n)[s]) for n, s in zip(x.shape, self.slices, strict=True))),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0][self.slices],)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        def element(*index: Any) -> Any:
            return inputs[0](*(i * s + a for i, a, s in zip(index, self.starts, self.steps, strict=True)))

        return [te.compute(outputs[0].shape, element, name="slice")]

    def transposed(self, permutation: tuple[int, ...]) -> Op:
        return Slice(*(tuple(values[p] for p in permutation) for values in (self.starts, self.stops, self.steps)))


@dataclass(frozen=True)
class Pad(Op):
    """Constant padding; `before` and `after` count per axis and are not negative. For integers `value` is the integer."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float | int
    name: ClassVar[str] = "pad"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        expect(len(self.before) == len(self.after) == inputs[0].rank, f"pad: {len(self.before)} amounts for rank {inputs[0].rank}")
        expect(min((*self.before, *self.after), default=0) >= 0, "pad: negative amounts (a slice does that)")
        shape = tuple(n + a + b for n, a, b in zip(inputs[0].shape, self.before, self.after, strict=True))
        return (TensorType(inputs[0].dtype, shape),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        widths = tuple(zip(self.before, self.after, strict=True))
        return (np.pad(inputs[0], widths, constant_values=self.value) if widths else inputs[0],)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import tirx, topi

        value = tirx.const(self.value, str(outputs[0].dtype.numpy))
        return [topi.nn.pad(inputs[0], self.before, self.after, value)]

    def transposed(self, permutation: tuple[int, ...]) -> Op:
        return Pad(tuple(self.before[p] for p in permutation), tuple(self.after[p] for p in permutation), self.value)


@dataclass(frozen=True)
class Concat(Op):
    """The inputs one after the other along `axis` (not negative)."""

    axis: int
    name: ClassVar[str] = "concat"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        first = inputs[0]
        expect(0 <= self.axis < first.rank, f"concat along axis {self.axis} of rank {first.rank}")
        expect(len({t.dtype for t in inputs}) == 1, f"concat of {sorted({str(t.dtype) for t in inputs})}")
        others = {(*t.shape[: self.axis], *t.shape[self.axis + 1 :]) for t in inputs}
        expect(
            len(others) == 1 and all(t.rank == first.rank for t in inputs),
            f"concat of shapes {[list(t.shape) for t in inputs]} along {self.axis}",
        )
        total = sum(t.shape[self.axis] for t in inputs)
        return (TensorType(first.dtype, (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.concatenate(inputs, axis=self.axis),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import topi

        return [topi.concatenate(inputs, self.axis)]

    def transposed(self, permutation: tuple[int, ...]) -> Op:
        return Concat(permutation.index(self.axis))


@dataclass(frozen=True)
class Gather(Op):
    """x[..., indices, ...] along `axis`. Inputs: x, indices (constant integers, not negative)."""

    axis: int
    name: ClassVar[str] = "gather"

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, indices = inputs
        expect(0 <= self.axis < x.rank and indices.dtype.is_integer, f"gather along axis {self.axis} of rank {x.rank} by {indices.dtype}")
        return (TensorType(x.dtype, (*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :])),)

    def evaluate(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices = inputs
        expect(indices.dtype.kind in "iu", f"gather: indices must be integers, got {indices.dtype}")
        expect(bool(np.all((indices >= 0) & (indices < x.shape[self.axis]))), f"gather: an index lies outside 0..{x.shape[self.axis] - 1}")
        return (np.take(x, indices, axis=self.axis),)

    def lower(self, inputs: list[Any], outputs: tuple[TensorType, ...]) -> list[Any]:
        from tvm import te

        x, indices = inputs
        rank = len(indices.shape)

        def element(*index: Any) -> Any:
            position = indices(*index[self.axis : self.axis + rank])
            return x(*index[: self.axis], position, *index[self.axis + rank :])

        return [te.compute(outputs[0].shape, element, name="gather")]

    def transposed(self, permutation: tuple[int, ...]) -> Op:
        """Holds for indices of rank 1, which keep the rank."""
        return Gather(permutation.index(self.axis))
