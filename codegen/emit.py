"""A small assembler for TIR: functions over raw pointers, loops, vector loads and stores, register accumulators; and objects from them.

It decides the calling convention (plain C, no TVM runtime), that memory operands need no alignment, and that a floating-point
product is rounded before it is added to anything. It knows nothing of what the functions compute.

    function = Function(kernel.operands)
    source, destination = function.operands
    with function.loop(function.begin, function.end) as task:
        total = function.register(constant(0, "int32", 16))
        with function.loop(0, 8) as step:
            total.set(total.get() + cast(source.load(task * 128 + step * 16, 16), "int32"))
        destination.store(task * 16, total.get())
    prim_func = function.finish()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcc.codegen.kernel import View
from qcc.codegen.target import Target
from qcc.errors import CodegenError
from qcc.ir.types import DType

_KINDS = {"i": "int", "u": "uint", "f": "float", "b": "uint"}


def dtype_name(dtype: DType, lanes: int = 1) -> str:
    """TVM's name of `lanes` elements as they are stored ("uint8x16"); a boolean or sub-byte integer is stored in a byte."""
    return f"{_KINDS[dtype.kind]}{dtype.bytes * 8}" + (f"x{lanes}" if lanes > 1 else "")


def _span(offset: Any, lanes: int, stride: int = 1) -> Any:
    from tvm import tirx

    return offset if lanes == 1 else tirx.Ramp(offset, stride, lanes)


@dataclass(frozen=True)
class Memory:
    """One pointer operand: elements of one type, at any alignment. Offsets and strides are in elements."""

    function: Function
    buffer: Any
    dtype: str

    def load(self, offset: Any, lanes: int = 1, stride: int = 1) -> Any:
        """`lanes` elements from `offset` on; more than one make a vector."""
        from tvm import tirx

        return tirx.BufferLoad(self.buffer, [_span(offset, lanes, stride)])

    def prefetch(self, offset: Any) -> None:
        """Bring the cache line of an element nearer; the address may lie outside of the operand."""
        from tvm import tirx

        address = tirx.address_of(tirx.BufferLoad(self.buffer, [offset]))
        arguments = [tirx.const(number, "int32") for number in (0, 3, 1)]    # to read, into all caches, data
        self.function.append(tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, *arguments)))

    def store(self, offset: Any, value: Any) -> None:
        """Write a scalar or a vector (its element type must be the operand's)."""
        from tvm import tirx

        lanes = lanes_of(value)
        self.function.append(tirx.BufferStore(self.buffer, value, [_span(offset, lanes)]))


@dataclass(frozen=True)
class Register:
    """A mutable scalar or vector that lives in a machine register (LLVM promotes it, since it is only used whole)."""

    function: Function
    buffer: Any
    lanes: int

    def get(self) -> Any:
        from tvm import tirx

        return tirx.BufferLoad(self.buffer, [_span(0, self.lanes)])

    def set(self, value: Any) -> None:
        from tvm import tirx

        self.function.append(tirx.BufferStore(self.buffer, value, [_span(0, self.lanes)]))


class Function:
    """A function under construction: `int32 f(void* operand..., int32 begin, int32 end)`, returning 0.

    Attributes:
        operands: one Memory per view, in order.
        begin, end: the range of tasks to do.
    """

    def __init__(self, views: Sequence[View]) -> None:
        from tvm import ir, tirx

        self._scopes: list[list[Any]] = [[]]
        self._parameters = []
        operands = []
        for number, view in enumerate(views):
            dtype = dtype_name(view.dtype)
            pointer = tirx.Var(f"p{number}", ir.PointerType(ir.PrimType(dtype)))
            buffer = tirx.decl_buffer((max(1, view.span),), dtype, f"m{number}", data=pointer)
            self._parameters.append(pointer)
            self.append(tirx.DeclBuffer(buffer, data=pointer))
            operands.append(Memory(self, buffer, dtype))
        self.operands = tuple(operands)
        self.begin, self.end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")

    def append(self, statement: Any) -> None:
        """Add a TIR statement at the current place."""
        self._scopes[-1].append(statement)

    def _close(self) -> Any:
        from tvm import tirx

        statements = self._scopes.pop()
        return tirx.Evaluate(0) if not statements else statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    @contextmanager
    def loop(self, begin: Any, end: Any, step: int = 1) -> Iterator[Any]:
        """A loop over [begin, end) in steps; yields the index (int32). Step must divide a constant extent."""
        from tvm import tirx

        if step != 1:
            if not (isinstance(begin, int) and isinstance(end, int) and (end - begin) % step == 0):
                raise CodegenError(f"a loop from {begin} to {end} cannot go in steps of {step}: peel its tail first")
            with self.loop(0, (end - begin) // step) as index:
                yield index * step + begin
            return
        index = tirx.Var(f"i{len(self._scopes)}", "int32")
        self._scopes.append([])
        yield index
        body = self._close()
        extent = tirx.const(end - begin, "int32") if isinstance(begin, int) and isinstance(end, int) else end - begin
        self.append(tirx.For(index, tirx.convert(begin), extent, tirx.ForKind.SERIAL, body))

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """Statements that run only where `condition` (a boolean scalar) holds."""
        from tvm import tirx

        self._scopes.append([])
        yield
        self.append(tirx.IfThenElse(condition, self._close(), None))

    def let(self, value: Any, name: str = "v") -> Any:
        """Name a value, so that using it twice does not compute it twice; returns the variable."""
        from tvm import tirx

        if isinstance(value, int):
            return value
        variable = tirx.Var(name, _type_text(value))
        self.append(tirx.Bind(variable, value))
        return variable

    def register(self, value: Any) -> Register:
        """A mutable register, set to `value`."""
        from tvm import tirx

        lanes = lanes_of(value)
        buffer = tirx.decl_buffer((lanes,), element_of(value), "r", scope="local")
        self.append(tirx.AllocBuffer(buffer))
        register = Register(self, buffer, lanes)
        register.set(value)
        return register

    def scratch(self, dtype: str, size: int) -> Memory:
        """An array of the function's own, on the stack, from here to the end of the scope."""
        from tvm import tirx

        buffer = tirx.decl_buffer((size,), dtype, "s", scope="local")
        self.append(tirx.AllocBuffer(buffer))
        return Memory(self, buffer, dtype)

    def finish(self) -> Any:
        """The TIR function."""
        from tvm import ir, tirx

        self.append(tirx.Return(tirx.const(0, "int32")))
        parameters = [*self._parameters, self.begin, self.end]
        return tirx.PrimFunc(parameters, self._close(), ret_type=ir.PrimType("int32")).with_attr("tirx.noalias", True)


def _type_text(value: Any) -> str:
    return str(value.dtype if hasattr(value, "dtype") else value.ty.dtype)


def lanes_of(value: Any) -> int:
    """Elements of a TIR value."""
    return int(_type_text(value).partition("x")[2] or 1)


def element_of(value: Any) -> str:
    """Element type of a TIR value, such as "int32"."""
    return _type_text(value).partition("x")[0]


def constant(value: float, dtype: str, lanes: int = 1) -> Any:
    """A scalar constant, or a vector that repeats it."""
    from tvm import tirx

    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def broadcast(scalar: Any, lanes: int) -> Any:
    from tvm import tirx

    return tirx.Broadcast(scalar, lanes)


def cast(value: Any, dtype: str) -> Any:
    """Convert every element to `dtype` (an element type): integers are extended or cut, as in C."""
    from tvm import tirx

    lanes = lanes_of(value)
    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def reinterpret(value: Any, dtype: str) -> Any:
    """The same bits as another type of the same size ("int64x8" of an int32x16)."""
    from tvm import tirx

    return tirx.reinterpret(dtype, value)


def llvm(name: str, dtype: str, *arguments: Any) -> Any:
    """Call an LLVM intrinsic that has no side effects."""
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, name, *arguments)


def shuffle(vectors: Sequence[Any], indices: Sequence[int]) -> Any:
    """Elements of the concatenated vectors, chosen by constant indices."""
    from tvm import tirx

    return tirx.Shuffle(list(vectors), [tirx.const(index, "int32") for index in indices])


def store_first(memory: Memory, offset: Any, value: Any, width: int, start: int = 0) -> None:
    """Store `width` elements of a vector from lane `start` on, in pieces whose sizes are powers of two: not one element more is written."""
    while width:
        piece = 1 << (width.bit_length() - 1)
        part = value if piece == lanes_of(value) else extract(value, start) if piece == 1 else shuffle([value], range(start, start + piece))
        memory.store(offset, part)
        start, width, offset = start + piece, width - piece, offset + piece


def extract(vector: Any, lane: int) -> Any:
    """One element of a vector."""
    return shuffle([vector], [lane])


def fence_products(function: Any) -> Any:
    """Keep a float product from being fused with a sum, by TVM or by LLVM: `a*b + c` -> `fence(a*b) + c` (two roundings, as in NumPy)."""
    import tvm_ffi
    from tvm import tirx

    def fence(product: Any) -> Any:
        dtype = _type_text(product)
        return llvm("llvm.arithmetic.fence", dtype, product) if dtype.startswith("float") else product

    return tvm_ffi.structural_map(function, (tirx.Mul, fence))


def build_object(functions: Mapping[str, Any], target: Target, path: Path) -> None:
    """Compile TIR functions (raw pointers and int32 parameters) into one relocatable, position-independent object file.

    Args:
        functions: symbol -> PrimFunc, as `Function.finish` returns it.
        target: what to compile for.
        path: the object file to write. The same functions and target give the same bytes.

    Raises:
        CodegenError: TVM refused a function. LLVM itself may abort the process, so call this in a child process.
    """
    import tvm
    from tvm import tirx

    machine = tvm.target.Target({"kind": "llvm", "mtriple": target.triple, "mattr": list(target.flags), "num-cores": 1})
    try:
        module = tvm.IRModule({name: fence_products(f).with_attr("global_symbol", name) for name, f in functions.items()})
        module = tirx.transform.BindTarget(machine.with_host(machine))(module)
        library = tvm.get_global_func("target.build.llvm")(tirx.transform.LowerIntrin()(module), machine)
        library.write_to_file(str(path), "o")
    except (RuntimeError, TypeError, ValueError) as error:
        raise CodegenError(f"object {path.name} with {', '.join(functions)} for {target.name}: {error}") from error
