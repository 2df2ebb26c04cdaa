"""Tables of 256 entries: any function of one u8 tensor, one table for all or one per index of the last axis.

With AVX-512 a table of bytes lies in four registers as 128 words, and one permutation fetches 32 of them; 64-bit ARM has it in sixteen
registers, of which an instruction looks 16 elements up in four. Otherwise elements are looked up one by one, which a core does at about one
per cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qcc.codegen.emit import Function, Memory, cast, constant, extract, llvm, reinterpret
from qcc.codegen.kernel import View
from qcc.codegen.nest import Nest, load, store, walk
from qcc.errors import CodegenError
from qcc.ir import Array

if TYPE_CHECKING:
    from qcc.codegen.target import Target

_WORDS = 32     # 16-bit words of a 512-bit register
_ROW = 16       # bytes of a register of ARM
_STEP = 8       # elements that are looked up one by one and stored together


@dataclass(frozen=True)
class LookupKernel:
    """table[x]. Operands: source u8, table, destination of the table's type.

    Attributes:
        per_channel: the table is C x 256, for the C indices of the last axis.
    """

    source: View
    destination: View
    per_channel: bool = False

    @property
    def table(self) -> View:
        shape = (self.source.shape[-1], 256) if self.per_channel else (256,)
        return View.contiguous(self.destination.dtype, shape)

    @property
    def operands(self) -> tuple[View, ...]:
        return self.source, self.table, self.destination

    @property
    def nest(self) -> Nest:
        """Loops over source, the row of the table, and destination."""
        channels = self.source.shape[-1]
        row = View(self.table.dtype, (channels,), (256,)) if self.per_channel else View(self.table.dtype, (1,), (0,))
        return Nest.of((self.source, row, self.destination))

    @property
    def tasks(self) -> int:
        return self.nest.tasks

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        function, nest = Function(self.operands), self.nest
        source, table, destination = function.operands
        whole = self.destination.dtype.bytes == 1 and not self.per_channel
        step, fetch = _in_registers(function, table, target) if whole else (_STEP, None)

        def body(places: Sequence[Any], lanes: int) -> None:
            x = load(source, places[0], lanes, nest.inner(0))
            if fetch is not None and lanes == step:
                store(destination, places[2], fetch(x, destination.dtype), nest.inner(2))
            else:
                _one_by_one(function, table, nest, (x, destination), places, lanes)

        walk(function, nest, step, body)
        return function.finish()


def _in_registers(function: Function, table: Memory, target: Target) -> tuple[int, Callable[[Any, str], Any] | None]:
    """How many bytes are looked up at once, and the code for that: (uint8 vector, type of the result) -> vector; None: one by one."""
    if target.lanes == 16:
        words = [function.let(reinterpret(table.load(i * 64, 64), f"int16x{_WORDS}")) for i in range(4)]
        return _WORDS, partial(_permuted, function, words)
    if target.architecture == "aarch64":
        rows = [function.let(reinterpret(table.load(i * _ROW, _ROW), f"int8x{_ROW}")) for i in range(256 // _ROW)]
        return _ROW, partial(_looked_up, rows)
    return _STEP, None


def _looked_up(rows: Sequence[Any], x: Any, dtype: str) -> Any:
    """Four registers at a time; an index beyond them leaves what the others found."""
    found = None
    for start in range(0, len(rows), 4):
        index = reinterpret(x - constant(start * _ROW, "uint8", _ROW) if start else x, f"int8x{_ROW}")
        four = rows[start : start + 4]
        if found is None:
            found = llvm("llvm.aarch64.neon.tbl4", f"int8x{_ROW}", *four, index)
        else:
            found = llvm("llvm.aarch64.neon.tbx4", f"int8x{_ROW}", found, *four, index)
    return reinterpret(found, f"{dtype}x{_ROW}")


def _one_by_one(function: Function, table: Memory, nest: Nest, ends: tuple[Any, Memory], places: Sequence[Any], lanes: int) -> None:
    x, destination = function.let(ends[0]), ends[1]
    for lane in range(lanes):
        index = cast(extract(x, lane) if lanes > 1 else x, "int32")
        entry = table.load(places[1] + lane * nest.inner(1) + index)
        destination.store(places[2] + lane * nest.inner(2), entry)


def _permuted(function: Function, words: Sequence[Any], x: Any, dtype: str) -> Any:
    """32 entries of a table in four registers: bits 1 to 6 choose a word of each half, bit 7 the half, bit 0 the byte."""
    from tvm import tirx

    vector = f"int16x{_WORDS}"
    wide = function.let(cast(x, "int16"))
    index = function.let(wide >> constant(1, "int16", _WORDS))
    halves = [llvm("llvm.x86.avx512.vpermi2var.hi.512", vector, words[i], index, words[i + 1]) for i in (0, 2)]
    chosen = tirx.Select(wide < constant(128, "int16", _WORDS), *halves)
    by = (wide & constant(1, "int16", _WORDS)) << constant(3, "int16", _WORDS)
    return cast(cast(chosen, "uint16") >> cast(by, "uint16"), dtype)


def plan_lookup(source: View, table: Array, destination: View) -> tuple[LookupKernel, tuple[Array]]:
    """The kernel of a Lookup node, and its table ([256], or [C, 256] per index of the last axis)."""
    if not source.dtype.is_byte or table.dtype != destination.dtype.numpy:
        raise CodegenError(f"lookup of {source.dtype} in a table of {table.dtype} into {destination.dtype}")
    return LookupKernel(source, destination, table.ndim == 2), (table,)
