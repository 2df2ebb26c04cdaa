"""What a block of a dense kernel does: the pipeline of copies, the products, and the way of the results to memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.emit import Array, GpuFunction, at, constant, divide, modulo
from qcc.codegen.cuda.epilogue import Requantizer
from qcc.codegen.cuda.loader import Loader, pixel
from qcc.codegen.cuda.tiles import STEP_BYTES
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View

if TYPE_CHECKING:
    from qcc.codegen.cuda.dense import DenseKernel
    from qcc.codegen.target import Target

_GAP = 16       # bytes between rows of results in shared memory, so that rows lie in different banks
_UPPER = 0xF0F0F0F0


class DenseCode:
    """Emits one DenseKernel for one compute capability."""

    def __init__(self, kernel: DenseKernel, target: Target) -> None:
        self.kernel, self.tile = kernel, kernel.tile
        self.function = function = GpuFunction(kernel.operands, kernel.launch)
        rest = list(function.operands)
        self.source, self.output = rest.pop(0), rest.pop()
        self.residual = rest.pop(0) if kernel.residual is not None else None
        self.parameters = rest.pop() if kernel.epilogue is not None else None
        self.numbers, self.weights = rest.pop(), rest.pop()
        self.offsets = rest.pop() if rest else None
        self.asynchronous = min(target.sms) >= 80 and kernel.piece > 1
        self.first_row = function.let(function.blocks[0] * self.tile.rows, "first_row")
        self.first_column = function.let(function.blocks[1] * self.tile.columns, "first_column")
        self.group = function.blocks[2]

    def emit(self) -> Any:
        function, tile = self.function, self.tile
        self.shared = function.shared(self.kernel.launch.shared_bytes)
        self.lane = function.let(modulo(function.thread, 32), "lane")
        self.warp_row = function.let(divide(divide(function.thread, 32), tile.warps[1]) * tile.warp_rows, "warp_row")
        self.warp_column = function.let(modulo(divide(function.thread, 32), tile.warps[1]) * tile.warp_columns, "warp_column")
        self.totals = function.array(tile.warp_rows * tile.warp_columns // 32, "int32", "totals", 0)
        self.loader = Loader(self)
        self.products = Products(self)
        if self.asynchronous:
            self._pipeline()
        else:
            self._double_buffer()
        if self.kernel.epilogue is None:
            self._store_sums()
        else:
            self._store_results()
        return function.finish()

    def _pipeline(self) -> None:
        """Copies run `stages - 1` steps ahead of the products."""
        function, stages, steps = self.function, self.tile.stages, self.kernel.steps
        ahead = stages - 1
        for step in range(ahead):
            if step < steps:
                self.loader.copy(step, step)
            function.call("qcc_cp_async_commit")
        with function.loop(0, steps) as step:
            function.call(f"qcc_cp_async_wait<{ahead - 1}>")
            function.barrier()
            if steps > ahead:
                with function.when(step + ahead < steps):
                    self.loader.copy(step + ahead, modulo(step + ahead, stages))
            function.call("qcc_cp_async_commit")
            self.products.emit(modulo(step, stages))
        function.call("qcc_cp_async_wait<0>")
        function.barrier()

    def _double_buffer(self) -> None:
        """The next step's operands wait in registers while this step's are multiplied."""
        function, steps = self.function, self.kernel.steps
        self.loader.fetch(0)
        self.loader.place(0)
        function.barrier()
        with function.loop(0, steps) as step:
            if steps > 1:
                with function.when(step + 1 < steps):
                    self.loader.fetch(step + 1)
            self.products.emit(modulo(step, 2))
            if steps > 1:
                with function.when(step + 1 < steps):
                    self.loader.place(modulo(step + 1, 2))
            function.barrier()

    def _total(self, value: Any) -> Any:
        """A complete sum: those of nibbles are 16 times as large before."""
        return value >> constant(4) if self.kernel.weight_bits == 4 else value

    def _store_sums(self) -> None:
        """Accumulators with their bias, straight from registers."""
        function, kernel, tile = self.function, self.kernel, self.tile
        outputs, pairs = kernel.output.shape[3] // kernel.groups, tile.warp_columns // 8
        with function.unrolled(tile.warp_rows // 16) as i, function.unrolled(2) as half:
            row = function.let(self.first_row + self.warp_row + i * 16 + half * 8 + divide(self.lane, 4), "row")
            with function.when(row < kernel.work.rows):
                base = function.let(pixel(function, kernel.output, row) + self.group * outputs, "base")
                with function.unrolled(pairs) as j, function.unrolled(2) as side:
                    column = function.let(self.first_column + self.warp_column + j * 8 + modulo(self.lane, 4) * 2 + side, "column")
                    with function.when(column < outputs):
                        bias = self.numbers.load(self.group * (kernel.column_tiles * tile.columns) + column)
                        total = self._total(self.totals.get((i * pairs + j) * 4 + half * 2 + side))
                        self.output.store(base + column, total + bias)

    def _store_results(self) -> None:
        """Through shared memory, so that rows of bytes are read and written in large pieces."""
        function = self.function
        if self.residual is not None:
            assert self.kernel.residual is not None
            self._exchange(self.residual, self.kernel.residual, True)
            function.barrier()
        self._requantize()
        function.barrier()
        self._exchange(self.output, self.kernel.output, False)

    def _requantize(self) -> None:
        function, tile, kernel = self.function, self.tile, self.kernel
        assert kernel.epilogue is not None
        assert self.parameters is not None
        requantizer = Requantizer(function, kernel.epilogue, self.parameters)
        words = function.array(4, "uint32", "constants")
        pairs, width = tile.warp_columns // 8, tile.columns + _GAP
        pair = Memory(function, function.alias(self.shared, "uint16"), "uint16")
        column = function.let(self.warp_column + modulo(self.lane, 4) * 2, "column")
        place = function.let((self.warp_row + divide(self.lane, 4)) * width + column, "place")
        first = function.let((self.group * kernel.column_tiles * tile.columns + self.first_column + column) * 2, "first")
        with function.unrolled(pairs) as j:
            function.call("qcc_load_16", at(words, 0), at(self.numbers, first + j * 16))
            with function.unrolled(tile.warp_rows // 16) as i, function.unrolled(2) as half:
                where = function.let(divide(place, 2) + (i * 16 + half * 8) * (width // 2) + j * 4, "where")
                added = function.let(cast(pair.load(where), "int32"), "added") if self.residual is not None else None
                bytes = []
                for side in range(2):
                    total = self._total(self.totals.get((i * pairs + j) * 4 + half * 2 + side))
                    bias, multiplier = (cast(words.get(2 * side + k), "int32") for k in range(2))
                    term = None if added is None else (added & 255 if side == 0 else added >> 8)
                    bytes.append(function.let(requantizer.finish(total + bias, multiplier, term), "result"))
                pair.store(where, cast(bytes[0] | bytes[1] << 8, "uint16"))

    def _exchange(self, memory: Memory, view: View, load: bool) -> None:
        """Copy the tile from memory to shared memory, or back, a piece of a row at a time."""
        function, kernel, tile, size = self.function, self.kernel, self.tile, self.kernel.results
        outputs, per_row = view.shape[3] // kernel.groups, tile.columns // size
        count = -(-tile.rows * per_row // tile.threads)
        with function.loop(0, count) as number:
            index = function.let(number * tile.threads + function.thread, "index")
            line = function.let(divide(index, per_row), "line")
            column = function.let(modulo(index, per_row) * size, "column")
            row = function.let(self.first_row + line, "row")
            inside = (row < kernel.work.rows) & (self.first_column + column < outputs)
            if tile.rows * per_row % tile.threads:
                inside = inside & (line < tile.rows)
            with function.when(inside):
                place = line * (tile.columns + _GAP) + column
                where = pixel(function, view, row) + self.group * outputs + self.first_column + column
                if size == 1:
                    source, sink = (memory, self.shared) if load else (self.shared, memory)
                    sink.store(place if load else where, source.load(where if load else place))
                else:
                    words = function.array(size // 4, "uint32", "piece")
                    ends = (at(memory, where), at(self.shared, place))
                    function.call(f"qcc_load_{size}", at(words, 0), ends[0 if load else 1])
                    function.call(f"qcc_store_{size}", ends[1 if load else 0], at(words, 0))


class Products:
    """The products of one step: two times 32 values of K, from shared memory."""

    def __init__(self, code: DenseCode) -> None:
        function, tile = code.function, code.tile
        self.code, self.function = code, function
        lane = code.lane
        self.row = function.let((code.warp_row + modulo(lane, 16)) * STEP_BYTES, "fragment_row")
        self.swizzle = function.let(modulo(divide(lane, 2), 4), "swizzle")
        self.half = function.let(divide(lane, 16), "half")
        self.rows, self.pairs = tile.warp_rows // 16, tile.warp_columns // 16
        self.a = function.array(self.rows * 4, "uint32", "a")
        self.b = function.array(self.pairs * 4 * (2 if code.kernel.weight_bits == 4 else 1), "uint32", "b")
        self.packed = function.array(4, "uint32", "packed") if code.kernel.weight_bits == 4 else None

    def emit(self, stage: Any) -> None:
        function, code = self.function, self.code
        base = function.let(stage * code.loader.stage_bytes, "stage")
        if self.packed is not None:
            self._unpack(base, self.packed)
        with function.unrolled(2) as part:
            chunk = function.let((part * 2 + self.half) ^ self.swizzle, "chunk")
            with function.unrolled(self.rows) as i:
                function.call("qcc_ldmatrix_x4", at(self.a, i * 4), at(code.shared, base + self.row + i * (16 * STEP_BYTES) + chunk * 16))
            if self.packed is None:
                first = code.warp_column * 32 + part * (code.tile.columns * 32) + code.lane * 16
                with function.unrolled(self.pairs) as j:
                    where = base + code.loader.source_bytes + first + j * 512
                    function.call("qcc_load_16", at(self.b, j * 4), at(code.shared, where))
            skipped = part * (self.pairs * 4) if self.packed is not None else 0
            with function.unrolled(self.rows) as i, function.unrolled(self.pairs * 2) as j:
                total = at(code.totals, (i * self.pairs * 2 + j) * 4)
                function.call("qcc_mma_m16n8k32_u8s8", total, at(self.a, i * 4), at(self.b, skipped + j * 2))

    def _unpack(self, base: Any, packed: Array) -> None:
        """Weights of both halves of the step, as bytes that are 16 times as large."""
        function, code = self.function, self.code
        first = code.warp_column * 32 + code.lane * 16
        mask, by4 = constant(_UPPER, "uint32"), constant(4, "uint32")
        with function.unrolled(self.pairs) as j:
            function.call("qcc_load_16", at(packed, 0), at(code.shared, base + code.loader.source_bytes + first + j * 512))
            for part in range(2):
                for side in range(2):
                    word, place = packed.get(part * 2 + side), part * (self.pairs * 4) + j * 4 + side * 2
                    self.b.set(place, (word << by4) & mask)
                    self.b.set(place + 1, word & mask)
