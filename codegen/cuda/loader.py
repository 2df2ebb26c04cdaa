"""How operands of a dense kernel come to shared memory.

Rows of the source have 64 bytes there; their four chunks of 16 are permuted (chunk ^ (row / 2) % 4) so that the eight rows that
`ldmatrix` reads at once lie in different banks. Weights were packed in the order of their fragments and are copied as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.emit import GpuFunction, at, constant, divide, modulo
from qcc.codegen.cuda.tiles import STEP_BYTES
from qcc.codegen.emit import cast
from qcc.codegen.kernel import View

if TYPE_CHECKING:
    from qcc.codegen.cuda.dense_code import DenseCode

_CHUNK = 16


def pixel(function: GpuFunction, view: View, index: Any, steps: tuple[int, int] = (1, 1), shape: View | None = None) -> Any:
    """Offset of the pixel with this number (of the images, rows and columns of `shape`, or of the view), `steps` apart."""
    (_, height, width, _), strides = (shape or view).shape, view.strides
    row, step = strides[1] * steps[0], strides[2] * steps[1]
    if shape is None and strides[1] == width * strides[2] and strides[0] == height * strides[1]:
        return index * step
    line = divide(index, width)
    return divide(line, height) * strides[0] + modulo(line, height) * row + modulo(index, width) * step


class Loader:
    """The copies of one step, by all threads of the block. Threads share out pieces (or words, of single bytes) of the rows."""

    def __init__(self, code: DenseCode) -> None:
        function, tile, kernel = code.function, code.tile, code.kernel
        self.code, self.function = code, function
        self.piece, self.width = kernel.pieces.source, max(kernel.pieces.source, 4)
        self.source_bytes = tile.rows * STEP_BYTES
        self.weight_bytes = tile.columns * STEP_BYTES * kernel.work.weight_bits // 8
        self.stage_bytes = self.source_bytes + self.weight_bytes
        per_row = STEP_BYTES // self.width
        self.rows = max(1, tile.threads // per_row)             # that all threads copy together
        self.passes = -(-tile.rows // self.rows)
        self.chunks = -(-self.weight_bytes // _CHUNK // tile.threads)
        self.column = function.let(modulo(function.thread, per_row), "piece_column")
        self.row = function.let(divide(function.thread, per_row), "piece_row")
        first = function.let((code.group * kernel.column_tiles + function.blocks[1]) * (kernel.steps * self.weight_bytes), "first_weight")
        self.first_weight = first
        self.bases = function.array(self.passes, "int32", "bases")
        with function.unrolled(self.passes) as number:
            self._base(number)
        self.ahead = function.register(self._offset(0)) if code.offsets is not None and self.piece > 1 else None
        self.fetched = None if code.asynchronous else (
            function.array(self.passes * self.width // 4, "uint32", "fetched_source"),
            function.array(self.chunks * 4, "uint32", "fetched_weights"))

    def _base(self, number: Any) -> None:
        """Where the window of a row begins; rows beyond the last repeat it."""
        from tvm import tirx

        function, kernel = self.function, self.code.kernel
        row = function.let(tirx.Min(self.code.first_row + number * self.rows + self.row, constant(kernel.work.rows - 1)), "row")
        channels = kernel.source.shape[3] // kernel.groups
        whole = kernel.strides == (1, 1) and kernel.source.shape[:3] == kernel.output.shape[:3]
        place = pixel(function, kernel.source, row, kernel.strides, None if whole else kernel.output)
        linear = 0 if kernel.gathers else self.column * self.piece
        self.bases.set(number, place + self.code.group * channels + linear)

    def _offset(self, step: Any, byte: int = 0) -> Any:
        """From a window's begin to the piece of this thread (or one byte of its word)."""
        offsets = self.code.offsets
        if offsets is None:
            return step * STEP_BYTES
        if self.piece == 1:
            return offsets.load(step * STEP_BYTES + self.column * 4 + byte)
        return offsets.load(step * (STEP_BYTES // self.piece) + self.column)

    def _next_offset(self, step: Any) -> Any:
        """The same for steps in order: an entry of the table is loaded a step before it is used."""
        if self.ahead is None:
            return self._offset(step)
        offset = self.function.let(self.ahead.get(), "offset")
        self.ahead.set(self._offset(step + 1))
        return offset

    def _place(self, number: Any) -> Any:
        """Where in the stage a piece of this thread's row lies."""
        row = self.row + number * self.rows
        byte = self.column * self.width
        chunk = divide(byte, _CHUNK) ^ modulo(divide(row, 2), 4)
        return row * STEP_BYTES + chunk * _CHUNK + modulo(byte, _CHUNK)

    def _within(self, number: Any) -> Any | None:
        """Whether the row of this pass is one of the tile; None if it always is."""
        rows = self.code.tile.rows
        return None if rows % self.rows == 0 else self.row + number * self.rows < rows

    def _chunk(self, number: Any) -> tuple[Any, Any | None]:
        """Offset of a chunk of the weights, and whether there is one."""
        offset = (self.function.thread + number * self.code.tile.threads) * _CHUNK
        return offset, None if self.weight_bytes // _CHUNK % self.code.tile.threads == 0 else offset < self.weight_bytes

    def copy(self, step: Any, stage: Any) -> None:
        """Begin to copy the operands of a step to a stage."""
        function, code = self.function, self.code
        base = function.let(stage * self.stage_bytes if not isinstance(stage, int) else constant(stage * self.stage_bytes), "into")
        offset = self._next_offset(step)
        with function.unrolled(self.passes) as number, function.guarded(self._within(number)):
            address = at(code.source, self.bases.get(number) + offset)
            function.call(f"qcc_cp_async_{self.piece}", at(code.shared, base + self._place(number)), address)
        with function.unrolled(self.chunks) as number:
            chunk, inside = self._chunk(number)
            with function.guarded(inside):
                address = at(code.weights, self.first_weight + step * self.weight_bytes + chunk)
                function.call("qcc_cp_async_16", at(code.shared, base + self.source_bytes + chunk), address)

    def fetch(self, step: Any) -> None:
        """Operands of a step to registers."""
        function, code = self.function, self.code
        assert self.fetched is not None
        source, weights = self.fetched
        offsets = [function.let(self._offset(step, byte), "offset") for byte in range(4)] if self.piece == 1 else [self._next_offset(step)]
        with function.unrolled(self.passes) as number, function.guarded(self._within(number)):
            if self.piece == 1:
                values = [cast(code.source.load(self.bases.get(number) + offset), "uint32") for offset in offsets]
                shifted = [value << constant(8 * byte, "uint32") if byte else value for byte, value in enumerate(values)]
                source.set(number, shifted[0] | shifted[1] | shifted[2] | shifted[3])
            else:
                words = self.piece // 4
                function.call(f"qcc_load_{self.piece}", at(source, number * words), at(code.source, self.bases.get(number) + offsets[0]))
        with function.unrolled(self.chunks) as number:
            chunk, inside = self._chunk(number)
            with function.guarded(inside):
                address = at(code.weights, self.first_weight + step * self.weight_bytes + chunk)
                function.call("qcc_load_16", at(weights, number * 4), address)

    def place(self, stage: Any) -> None:
        """What was fetched to a stage."""
        function, code = self.function, self.code
        assert self.fetched is not None
        source, weights = self.fetched
        base = stage * self.stage_bytes
        words = self.width // 4
        with function.unrolled(self.passes) as number, function.guarded(self._within(number)):
            function.call(f"qcc_store_{self.width}", at(code.shared, base + self._place(number)), at(source, number * words))
        with function.unrolled(self.chunks) as number:
            chunk, inside = self._chunk(number)
            with function.guarded(inside):
                function.call("qcc_store_16", at(code.shared, base + self.source_bytes + chunk), at(weights, number * 4))
