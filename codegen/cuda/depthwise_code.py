"""What a thread of a depthwise kernel does: transpose pixels, add dot products, requantize four channels at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qcc.codegen.cuda.elements import THREADS
from qcc.codegen.cuda.emit import GpuFunction, at, constant, device, divide, modulo
from qcc.codegen.cuda.epilogue import Requantizer
from qcc.codegen.emit import Memory, cast
from qcc.codegen.kernel import View

if TYPE_CHECKING:
    from qcc.codegen.cuda.depthwise import DepthwiseKernel

_WORD = 4
_PAIRS, _REST, _LOW, _HIGH = 0x5140, 0x7362, 0x5410, 0x7632      # bytes of two words: 0s and 1s, 2s and 3s; halves: lower, upper


class DepthwiseCode:
    """Emits one DepthwiseKernel."""

    def __init__(self, kernel: DepthwiseKernel) -> None:
        self.kernel = kernel
        self.function = GpuFunction(kernel.operands, kernel.launch)
        rest = list(self.function.operands)
        self.source, self.output = rest.pop(0), rest.pop()
        self.residual = rest.pop(0) if kernel.residual is not None else None
        self.parameters = rest.pop() if kernel.epilogue is not None else None
        self.weights, self.numbers = rest

    def emit(self) -> Any:
        from tvm import tirx

        function, kernel = self.function, self.kernel
        images, rows, columns, words = kernel.extents
        number = function.let(function.block * THREADS + function.thread, "number")
        with function.when(number < images * rows * columns * words):
            self.channel = function.let(modulo(number, words) * _WORD, "channel")
            place = divide(number, words)
            last_row, last_column = (kernel.output.shape[1] - kernel.rows, kernel.output.shape[2] - kernel.columns)
            self.x = function.let(tirx.Min(modulo(place, columns) * kernel.columns, constant(last_column)), "x")
            place = divide(place, columns)
            self.y = function.let(tirx.Min(modulo(place, rows) * kernel.rows, constant(last_row)), "y")
            self.image = function.let(divide(place, rows), "image")
            self.totals = function.array(kernel.rows * kernel.columns * _WORD, "int32", "totals", 0)
            self._accumulate()
            self._finish()
        return function.finish()

    def _offset(self, view: View, y: Any, x: Any) -> Any:
        """Of the first of the thread's channels at a pixel."""
        return self.image * view.strides[0] + y * view.strides[1] + x * view.strides[2] + self.channel

    def _accumulate(self) -> None:
        function, kernel = self.function, self.kernel
        taps = function.array(len(kernel.taps) * _WORD, "uint32", "taps")
        pixels = function.array(-(-kernel.pixels // _WORD) * _WORD, "uint32", "pixels")
        row_bytes = kernel.words * _WORD * _WORD
        first = function.let(self._offset(kernel.source, self.y * kernel.strides[0], self.x * kernel.strides[1]), "first")
        with function.loop(0, kernel.window[0]) as down:
            with function.unrolled(len(kernel.taps)) as index:
                offset = (down * len(kernel.taps) + index) * row_bytes + self.channel * _WORD
                function.call("qcc_load_16", at(taps, index * _WORD), at(self.weights, offset))
            with function.unrolled(kernel.rows) as row:
                line = (row * kernel.strides[0] + down * kernel.dilations[0]) * kernel.source.strides[1]
                for pixel in range(kernel.pixels):
                    offset = first + line + pixel * (kernel.dilations[1] * kernel.source.strides[2])
                    pixels.set(pixel, self._word(self.source, offset))
                for group in range(0, kernel.pixels, _WORD):
                    self._products(row, group, self._transposed([pixels.get(group + i) for i in range(_WORD)], kernel.pixels - group), taps)

    def _word(self, memory: Memory, offset: Any) -> Any:
        """Four channels, as one word."""
        from tvm import tirx

        if self.kernel.aligned:
            words = self.function.array(1, "uint32", "word")
            self.function.call("qcc_load_4", at(words, 0), at(memory, offset))
            return words.get(0)
        offset = self.function.let(offset, "offset")
        last = constant(self.kernel.output.shape[3] - 1)
        places = [offset + (tirx.Min(self.channel + i, last) - self.channel) for i in range(_WORD)]
        bytes = [cast(memory.load(place), "uint32") << constant(8 * i, "uint32") for i, place in enumerate(places)]
        return bytes[0] | bytes[1] | bytes[2] | bytes[3]

    def _transposed(self, words: Sequence[Any], count: int) -> list[Any]:
        """Pixels of four channels -> channels of four pixels; pixels beyond `count` are zeros."""
        words = [word if i < count else constant(0, "uint32") for i, word in enumerate(words)]

        def permute(a: Any, b: Any, selector: int) -> Any:
            return self.function.let(device("uint32", "qcc_prmt", a, b, constant(selector, "uint32")), "bytes")

        halves = [[permute(words[i], words[i + 1], selector) for i in (0, 2)] for selector in (_PAIRS, _REST)]
        return [permute(half[0], half[1], selector) for half in halves for selector in (_LOW, _HIGH)]

    def _products(self, row: Any, group: int, channels: Sequence[Any], taps: Any) -> None:
        kernel = self.kernel
        for quad in kernel.quads:
            if quad.first != group:
                continue
            place = kernel.taps.index(quad.tap) * _WORD
            for i, pixels in enumerate(channels):
                total = (row * kernel.columns + quad.output) * _WORD + i
                self.totals.set(total, device("int32", "qcc_dp4a_u8s8", pixels, taps.get(place + i), self.totals.get(total)))

    def _finish(self) -> None:
        function, kernel = self.function, self.kernel
        count = kernel.numbers * _WORD
        numbers = function.array(count, "uint32", "constants")
        for i in range(0, count, _WORD):
            function.call("qcc_load_16", at(numbers, i), at(self.numbers, self.channel * kernel.numbers + i))
        if kernel.epilogue is None:
            self._each(lambda place, totals: self._store(place, [total + cast(numbers.get(i), "int32") for i, total in enumerate(totals)]))
            return
        assert self.parameters is not None
        requantizer = Requantizer(function, kernel.epilogue, self.parameters)

        def store(place: tuple[Any, Any], totals: Sequence[Any]) -> None:
            terms: list[Any] = [None] * _WORD
            if self.residual is not None:
                assert kernel.residual is not None
                added = function.let(self._word(self.residual, self._offset(kernel.residual, *place)), "added")
                terms = [cast(added >> constant(8 * i, "uint32") & constant(255, "uint32"), "int32") for i in range(_WORD)]
            bias, factors = ([cast(numbers.get(2 * i + k), "int32") for i in range(_WORD)] for k in range(2))
            results = [requantizer.finish(total + b, m, term) for total, b, m, term in zip(totals, bias, factors, terms, strict=True)]
            self._store(place, [function.let(result, "result") for result in results])

        self._each(store)

    def _each(self, body: Any) -> None:
        """`body((y, x), totals of the channels)` for the outputs of the thread."""
        kernel = self.kernel
        with self.function.unrolled(kernel.rows) as row, self.function.unrolled(kernel.columns) as column:
            first = (row * kernel.columns + column) * _WORD
            body((self.y + row, self.x + column), [self.totals.get(first + i) for i in range(_WORD)])

    def _store(self, place: tuple[Any, Any], values: Sequence[Any]) -> None:
        function, kernel = self.function, self.kernel
        where = function.let(self._offset(kernel.output, *place), "where")
        if kernel.aligned and kernel.epilogue is not None:
            word = function.array(1, "uint32", "bytes")
            packed = [cast(value, "uint32") << constant(8 * i, "uint32") for i, value in enumerate(values)]
            word.set(0, packed[0] | packed[1] | packed[2] | packed[3])
            function.call("qcc_store_4", at(self.output, where), at(word, 0))
            return
        for i, value in enumerate(values):
            with function.when(self.channel + i < kernel.output.shape[3]):
                self.output.store(where + i, cast(value, self.output.dtype))
