"""What a block of a dense kernel does: the pipeline of copies, the products, and the way of the results to memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.emit import GpuFunction, at, constant, divide, modulo
from qcc.codegen.cuda.epilogue import Requantizer
from qcc.codegen.cuda.loader import Loader, pixel
from qcc.codegen.cuda.products import Products
from qcc.codegen.cuda.tiles import GAP
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View

if TYPE_CHECKING:
    from qcc.codegen.cuda.dense import DenseKernel
    from qcc.codegen.target import Target


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
        self.asynchronous = min(target.sms) >= 80 and kernel.pieces.source > 1
        self.splits = kernel.bits.source == 4 and min(target.sms) >= 90      # products of 4-bit operands as products of bytes
        self.enlarged = self.splits or kernel.bits[:2] == (8, 4)             # sums are 16 times as large until they are complete
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
        with function.rolled(steps) as step:
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
        with function.rolled(steps) as step:
            if steps > 1:
                with function.when(step + 1 < steps):
                    self.loader.fetch(step + 1)
            self.products.emit(modulo(step, 2))
            if steps > 1:
                with function.when(step + 1 < steps):
                    self.loader.place(modulo(step + 1, 2))
            function.barrier()

    def _total(self, value: Any) -> Any:
        """A complete sum."""
        return value >> constant(4) if self.enlarged else value

    def _store_sums(self) -> None:
        """Accumulators with their bias, straight from registers."""
        function, kernel, tile = self.function, self.kernel, self.tile
        outputs, pairs = kernel.channels // kernel.groups, tile.warp_columns // 8
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
            self._exchange(self.residual, self.kernel.residual, self.kernel.bits.residual, True)
            function.barrier()
        self._requantize()
        function.barrier()
        self._exchange(self.output, self.kernel.output, self.kernel.bits.output, False)

    def _requantize(self) -> None:
        function, tile, kernel = self.function, self.tile, self.kernel
        assert kernel.epilogue is not None
        assert self.parameters is not None
        requantizer = Requantizer(function, kernel.epilogue, self.parameters)
        words = function.array(4, "uint32", "constants")
        pairs, width = tile.warp_columns // 8, tile.columns + GAP
        halves = Memory(function, function.alias(self.shared, "uint16"), "uint16")
        column = function.let(self.warp_column + modulo(self.lane, 4) * 2, "column")
        row = function.let((self.warp_row + divide(self.lane, 4)) * width, "row")
        first = function.let((self.group * kernel.column_tiles * tile.columns + self.first_column + column) * 2, "first")
        with function.unrolled(pairs) as j:
            function.call("qcc_load_16", at(words, 0), at(self.numbers, first + j * 16))
            with function.unrolled(tile.warp_rows // 16) as i, function.unrolled(2) as half:
                line = function.let(row + (i * 16 + half * 8) * width, "line")
                added = self._added(halves, line, column + j * 8)
                results = []
                for side in range(2):
                    total = self._total(self.totals.get((i * pairs + j) * 4 + half * 2 + side))
                    bias, multiplier = (cast(words.get(2 * side + k), "int32") for k in range(2))
                    results.append(function.let(requantizer.finish(total + bias, multiplier, added[side]), "result"))
                where = divide(column + j * 8, 2)
                if kernel.bits.output == 4:
                    self.shared.store(line + where, cast(results[0] | results[1] << 4, "uint8"))
                else:
                    halves.store(divide(line, 2) + where, cast(results[0] | results[1] << 8, "uint16"))

    def _added(self, halves: Memory, line: Any, column: Any) -> tuple[Any | None, Any | None]:
        """The residual's values at two columns of a row of the tile."""
        function, kernel = self.function, self.kernel
        if self.residual is None:
            return None, None
        if kernel.bits.residual == 4:
            both = function.let(cast(self.shared.load(line + kernel.residual_place + divide(column, 2)), "int32"), "added")
            return both & 15, both >> 4
        both = function.let(cast(halves.load(divide(line + kernel.residual_place, 2) + divide(column, 2)), "int32"), "added")
        return both & 255, both >> 8

    def _exchange(self, memory: Memory, view: View, bits: int, load: bool) -> None:
        """Copy the tile from memory to shared memory, or back, a piece of a row at a time."""
        function, kernel, tile = self.function, self.kernel, self.tile
        size, begin = (kernel.pieces.residual, kernel.residual_place) if load else (kernel.pieces.output, 0)
        size = min(size, tile.columns * bits // 8)
        outputs, per_row = view.shape[3] // kernel.groups, tile.columns * bits // 8 // size
        first = divide(self.first_column * bits, 8)
        count = -(-tile.rows * per_row // tile.threads)
        with function.loop(0, count) as number:
            index = function.let(number * tile.threads + function.thread, "index")
            line = function.let(divide(index, per_row), "line")
            column = function.let(modulo(index, per_row) * size, "column")
            row = function.let(self.first_row + line, "row")
            inside = (row < kernel.work.rows) & (first + column < outputs)
            if tile.rows * per_row % tile.threads:
                inside = inside & (line < tile.rows)
            with function.when(inside):
                place = line * (tile.columns + GAP) + column + begin
                where = pixel(function, view, row) + self.group * outputs + first + column
                if size == 1:
                    source, sink = (memory, self.shared) if load else (self.shared, memory)
                    sink.store(place if load else where, source.load(where if load else place))
                else:
                    words = function.array(size // 4, "uint32", "piece")
                    ends = (at(memory, where), at(self.shared, place))
                    function.call(f"qcc_load_{size}", at(words, 0), ends[0 if load else 1])
                    function.call(f"qcc_store_{size}", ends[1 if load else 0], at(words, 0))
