"""Products of two activations: the second operand is packed into the layout of weights while the kernel runs, then multiplied like weights.

With b' = b - 128, which is signed, sum (a - za)(b - zb) = sum a b' + (128 - zb) sum_k a - za sum_k (b - zb): the last sum is a number per
column that is made while packing, and the one before a number per row, for which a vector of ones is multiplied along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from qcc.codegen.emit import Function, Register, broadcast, constant, reinterpret, shuffle
from qcc.codegen.kernel import View
from qcc.codegen.x86.intrinsics import DotProduct, dot_product_for
from qcc.ir.types import I8, I32

if TYPE_CHECKING:
    from qcc.codegen.target import Target

WORD = 4
MIDDLE = 128


@dataclass(frozen=True)
class BatchKernel:
    """acc[..., m, n] = sum_k (a[..., m, k] - zero_a) * (b[..., k, n] - zero_b). A task is one matrix of the result.

    Operands: a (u8), b (u8), acc (i32), all contiguous; scratch memory for the packed b and for its columns' numbers.

    Attributes:
        lanes: 32-bit lanes of a vector; n has at least as many.
        rows, blocks: of a tile of accumulators.
    """

    a: View
    b: View
    acc: View
    zero_points: tuple[int, int]
    lanes: int
    rows: int
    blocks: int

    @property
    def words(self) -> int:
        return -(-self.a.shape[-1] // WORD)

    @property
    def panels(self) -> int:
        """Vectors of columns; the last is moved back so that it ends with the last column."""
        return -(-self.acc.shape[-1] // self.lanes)

    @property
    def packed(self) -> View:
        return View.contiguous(I8, (self.tasks, self.panels, self.words, self.lanes * WORD))

    @property
    def numbers(self) -> View:
        return View.contiguous(I32, (self.tasks, self.panels, self.lanes))

    @property
    def operands(self) -> tuple[View, ...]:
        return (self.a, self.b, self.acc, self.packed, self.numbers)

    @property
    def tasks(self) -> int:
        return prod(self.acc.shape[:-2])

    @property
    def macs(self) -> int:
        return prod(self.acc.shape) * self.a.shape[-1]

    def emit(self, target: Target) -> Any:
        return _Code(self, dot_product_for(target, self.lanes)).emit()


def plan_batch(a: View, b: View, acc: View, zero_points: tuple[int, int], target: Target) -> BatchKernel:
    """The kernel for these operands: as many accumulators as fit the registers beside the vectors that they share."""
    panels = -(-acc.shape[-1] // target.lanes)
    blocks = min(4 if target.registers >= 32 else 2, panels)
    free = target.registers - blocks - 3
    return BatchKernel(a, b, acc, zero_points, target.lanes, min(max(1, free // (blocks + 1)), 6, acc.shape[-2]), blocks)


class _Code:
    def __init__(self, kernel: BatchKernel, dot: DotProduct) -> None:
        self.kernel, self.dot = kernel, dot
        self.function = Function(kernel.operands)
        self.a, self.b, self.acc, self.packed, self.numbers = self.function.operands
        self.depth = kernel.a.shape[-1]

    def emit(self) -> Any:
        from tvm import tirx

        kernel, function = self.kernel, self.function
        m, n = kernel.acc.shape[-2:]
        with function.loop(function.begin, function.end) as task:
            a, b = (self._matrix(view, task) for view in (kernel.a, kernel.b))
            packed = function.let(task * (kernel.panels * kernel.words * kernel.lanes * WORD))
            numbers = function.let(task * (kernel.panels * kernel.lanes))
            with function.loop(0, kernel.panels) as panel:
                column = function.let(tirx.Min(panel * kernel.lanes, tirx.const(n - kernel.lanes, "int32")))
                self._pack(b + column, packed + panel * (kernel.words * kernel.lanes * WORD), numbers + panel * kernel.lanes)
            with function.loop(0, -(-m // kernel.rows)) as tile:
                row = function.let(tirx.Min(tile * kernel.rows, tirx.const(m - kernel.rows, "int32")))
                for first in range(0, kernel.panels, kernel.blocks):
                    blocks = range(first, min(first + kernel.blocks, kernel.panels))
                    self._tile(a + row * self.depth, packed, numbers, task * (m * n) + row * n, blocks)
        return function.finish()

    def _matrix(self, view: View, task: Any) -> Any:
        """Where the matrix of an operand begins that a task reads; axes of extent 1 are repeated."""
        from tvm import tirx

        batch, offset, rest = self.kernel.acc.shape[:-2], tirx.const(0, "int32"), task
        extents = (1,) * (len(batch) + 2 - len(view.shape)) + view.shape[:-2]
        step = view.shape[-2] * view.shape[-1]
        for extent, own in zip(reversed(batch), reversed(extents), strict=True):
            by = tirx.const(extent, "int32")
            if own > 1:
                offset, step = offset + tirx.Mod(rest, by) * step, step * own
            rest = self.function.let(tirx.Div(rest, by))
        return self.function.let(offset)

    def _pack(self, b: Any, packed: Any, numbers: Any) -> None:
        """A panel: for every four rows one vector of b - 128, and the columns' numbers."""
        kernel, function, lanes = self.kernel, self.function, self.kernel.lanes
        ones = broadcast(constant(0x01010101, "int32"), lanes)
        sums = function.register(constant(0, "int32", lanes))
        whole = self.depth // WORD
        with function.loop(0, whole) as word:
            self._pack_word(b + word * (WORD * kernel.acc.shape[-1]), packed + word * (lanes * WORD), WORD, ones, sums)
        if self.depth % WORD:
            self._pack_word(b + whole * (WORD * kernel.acc.shape[-1]), packed + whole * (lanes * WORD), self.depth % WORD, ones, sums)
        zero_a, zero_b = kernel.zero_points
        total = sums.get() + constant(self.depth * (MIDDLE - zero_b), "int32", lanes)
        self.numbers.store(numbers, total * constant(-zero_a, "int32", lanes))

    def _pack_word(self, b: Any, packed: Any, rows: int, ones: Any, sums: Register) -> None:
        """Rows that are not there count as 128, which is 0."""
        lanes, let = self.kernel.lanes, self.function.let
        none = constant(MIDDLE, "uint8", lanes)
        vectors = [let(self.b.load(b + row * self.kernel.acc.shape[-1], lanes)) if row < rows else none for row in range(WORD)]
        pairs = [let(shuffle(vectors[i : i + 2], [lane + side * lanes for lane in range(lanes) for side in (0, 1)])) for i in (0, 2)]
        order = [2 * lane + side + part * 2 * lanes for lane in range(lanes) for part in (0, 1) for side in (0, 1)]
        signed = let(reinterpret(shuffle(pairs, order) ^ constant(MIDDLE, "uint8", WORD * lanes), f"int8x{WORD * lanes}"))
        self.packed.store(packed, signed)
        sums.set(self.dot.emit(sums.get(), ones, signed))

    def _tile(self, a: Any, packed: Any, numbers: Any, acc: Any, blocks: Sequence[int]) -> None:
        from tvm import tirx

        kernel, function, lanes = self.kernel, self.function, self.kernel.lanes
        n, panel_bytes = kernel.acc.shape[-1], kernel.words * lanes * WORD
        a, packed, acc = function.let(a), function.let(packed), function.let(acc)
        starts = [function.register(self.numbers.load(numbers + block * lanes, lanes)) for block in blocks]
        totals = [[function.register(start.get()) for start in starts] for _ in range(kernel.rows)]
        corrected = kernel.zero_points[1] != MIDDLE
        sums = [function.register(constant(0, "int32", lanes)) for _ in range(kernel.rows)] if corrected else []

        def step(word: Any, valid: int) -> None:
            places = [packed + (block * panel_bytes + word * (lanes * WORD)) for block in blocks]
            weights = [function.let(self.packed.load(place, lanes * WORD)) for place in places]
            ones = reinterpret(broadcast(constant(int.from_bytes(bytes([1] * valid), "little"), "int32"), lanes), f"int8x{lanes * WORD}")
            for row in range(kernel.rows):
                value = function.let(broadcast(self._word(a + row * self.depth + word * WORD), lanes))
                for total, weight in zip(totals[row], weights, strict=True):
                    total.set(self.dot.emit(total.get(), value, weight))
                if corrected:
                    sums[row].set(self.dot.emit(sums[row].get(), value, ones))

        with function.loop(0, self.depth // WORD) as word:
            step(word, WORD)
        if self.depth % WORD:
            step(self.depth // WORD, self.depth % WORD)
        factor = constant(MIDDLE - kernel.zero_points[1], "int32", lanes)
        for row in range(kernel.rows):
            for position, block in enumerate(blocks):
                value = totals[row][position].get()
                value = value + sums[row].get() * factor if corrected else value
                column = tirx.const(min(block * lanes, n - lanes), "int32")
                self.acc.store(acc + row * n + column, value)

    def _word(self, offset: Any) -> Any:
        return reinterpret(self.a.load(offset, WORD), "int32")
