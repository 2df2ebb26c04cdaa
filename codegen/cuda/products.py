"""The products of one step of a dense kernel: fragments from shared memory, `mma` on them.

Three forms: bytes by bytes; bytes by weights of 4 bits, which become bytes 16 times as large in registers (two masks and a shift for two
registers, and no sign to extend); and 4 bits by 4 bits, with an instruction of its own or, on GPUs that have none, as two
products of bytes: those of the lower and of the upper halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.emit import Array, at, constant, divide, modulo
from qcc.codegen.cuda.tiles import STEP_BYTES

if TYPE_CHECKING:
    from qcc.codegen.cuda.dense_code import DenseCode

_UPPER, _LOWER = 0xF0F0F0F0, 0x0F0F0F0F
_FRAGMENTS = 512        # bytes of the fragments of 16 channels, as all lanes load them


class Products:
    """Emits the products; what a lane needs to find its fragments is computed where it is made."""

    def __init__(self, code: DenseCode) -> None:
        function, tile, bits = code.function, code.tile, code.kernel.bits
        self.code, self.function = code, function
        self.row = function.let((code.warp_row + modulo(code.lane, 16)) * STEP_BYTES, "fragment_row")
        self.swizzle = function.let(modulo(divide(code.lane, 2), 4), "swizzle")
        self.half = function.let(divide(code.lane, 16), "half")
        self.rows, self.pairs = tile.warp_rows // 16, tile.warp_columns // 16
        self.unpacks = (bits.source, bits.weights) == (8, 4)
        sets = 2 if self.unpacks or code.splits else 1
        self.a = function.array(self.rows * 4 * (2 if code.splits else 1), "uint32", "a")
        self.b = function.array(self.pairs * 4 * sets, "uint32", "b")
        self.packed = function.array(4, "uint32", "packed") if sets == 2 else None
        self.name = "qcc_mma_m16n8k64_u4s4" if bits.source == 4 and not code.splits else "qcc_mma_m16n8k32_u8s8"

    def emit(self, stage: Any) -> None:
        """Both halves of a step: 32 bytes of each row of the source."""
        function, code = self.function, self.code
        base = function.let(stage * code.loader.stage_bytes, "stage")
        if self.unpacks:
            self._load_unpacked(base)
        with function.unrolled(2) as part:
            self._load_rows(base, part)
            if not self.unpacks:
                self._load_columns(base, part)
            if code.splits:
                for upper in range(2):
                    self._multiply(upper * self.rows * 4, upper * self.pairs * 4)
            else:
                self._multiply(0, part * (self.pairs * 4) if self.unpacks else 0)

    def _multiply(self, a: Any, b: Any) -> None:
        """All products of the fragments that begin there."""
        with self.function.unrolled(self.rows) as i, self.function.unrolled(self.pairs * 2) as j:
            total = at(self.code.totals, (i * self.pairs * 2 + j) * 4)
            self.function.call(self.name, total, at(self.a, a + i * 4), at(self.b, b + j * 2))

    def _load_rows(self, base: Any, part: Any) -> None:
        function, code = self.function, self.code
        chunk = function.let((part * 2 + self.half) ^ self.swizzle, "chunk")
        with function.unrolled(self.rows) as i:
            where = base + self.row + i * (16 * STEP_BYTES) + chunk * 16
            function.call("qcc_ldmatrix_x4", at(self.a, i * 4), at(code.shared, where))
            if code.splits:
                with function.unrolled(4) as register:
                    self._split(self.a, self.a.get(i * 4 + register), (i * 4 + register, (self.rows + i) * 4 + register), _LOWER, True)

    def _load_columns(self, base: Any, part: Any) -> None:
        function, code = self.function, self.code
        first = code.loader.source_bytes + code.warp_column * 32 + part * (code.tile.columns * 32) + code.lane * 16
        with function.unrolled(self.pairs) as j:
            address = at(code.shared, base + first + j * _FRAGMENTS)
            function.call("qcc_load_16", at(self.b, j * 4) if self.packed is None else at(self.packed, 0), address)
            if self.packed is not None:
                with function.unrolled(4) as register:
                    places = (j * 4 + register, (self.pairs + j) * 4 + register)
                    self._split(self.b, self.packed.get(register), places, _UPPER, False)

    def _split(self, array: Array, word: Any, places: tuple[Any, Any], mask: int, down: bool) -> None:
        """The lower halves of a word's bytes, and the upper halves: moved down to bytes, or the lower ones up to the upper halves."""
        word = self.function.let(word, "word")
        by4, masked = constant(4, "uint32"), constant(mask, "uint32")
        lower, upper = (word, word >> by4) if down else (word << by4, word)
        array.set(places[0], lower & masked)
        array.set(places[1], upper & masked)

    def _load_unpacked(self, base: Any) -> None:
        """Weights of both halves of the step: a word has the two registers of a channel."""
        function, code, packed = self.function, self.code, self.packed
        assert packed is not None
        first = code.loader.source_bytes + code.warp_column * 32 + code.lane * 16
        with function.unrolled(self.pairs) as j:
            function.call("qcc_load_16", at(packed, 0), at(code.shared, base + first + j * _FRAGMENTS))
            for part in range(2):
                for side in range(2):
                    place = part * (self.pairs * 4) + j * 4 + side * 2
                    self._split(self.b, packed.get(part * 2 + side), (place, place + 1), _UPPER, False)
