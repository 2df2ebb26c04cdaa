"""Kernels of a few instructions, to test the assembler rather than the arithmetic of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcc.codegen.emit import Function, broadcast, cast, constant, shuffle, store_first
from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.ir.types import F32, I32, U8


@dataclass(frozen=True, slots=True)
class SumOfProducts:
    """out[t] = ((0 + a[t][0] * b[t][0]) + a[t][1] * b[t][1]) + ... for every lane t of `tasks` vectors: each step rounded."""

    tasks: int
    terms: int

    @property
    def operands(self) -> tuple[View, ...]:
        shape = (self.tasks, self.terms, 8)
        return View.contiguous(F32, shape), View.contiguous(F32, shape), View.contiguous(F32, (self.tasks, 8))

    @property
    def macs(self) -> int:
        return self.tasks * self.terms * 8

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        a, b, out = function.operands
        with function.loop(function.begin, function.end) as task:
            total = function.register(constant(0.0, "float32", 8))
            with function.loop(0, self.terms) as term:
                offset = function.let((task * self.terms + term) * 8)
                total.set(total.get() + a.load(offset, 8) * b.load(offset, 8))
            out.store(task * 8, total.get())
        return function.finish()


@dataclass(frozen=True, slots=True)
class ReversePrefix:
    """Per task: where a[0] > 100, the first `width` of 16 bytes, each plus a[1], in reverse order; else nothing."""

    tasks: int
    width: int

    @property
    def operands(self) -> tuple[View, ...]:
        return View.contiguous(U8, (self.tasks, 16)), View.contiguous(I32, (self.tasks, self.width))

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function = Function(self.operands)
        source, out = function.operands
        with function.loop(function.begin, function.end) as task:
            first = function.let(source.load(task * 16), "first")
            with function.when(first > constant(100, "uint8")):
                sums = cast(source.load(task * 16, 16), "int32") + broadcast(cast(source.load(task * 16 + 1), "int32"), 16)
                ordered = function.let(shuffle([function.let(sums)], [*range(self.width - 1, -1, -1), *range(self.width, 16)]))
                store_first(out, task * self.width, ordered, self.width)
        return function.finish()
