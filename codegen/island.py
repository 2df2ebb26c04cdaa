"""Float operators: one ONNX node, through TVM's own front end, becomes one kernel without TVM's runtime.

It decides where the node's constants and intermediate results lie: constants in one block of bytes, intermediate results in a
workspace, both operands of the kernel. Both are only known once TVM has lowered the node, so that happens first, in a child
process: `lower_islands` turns requests into kernels, or lists every node that TVM cannot lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.codegen.kernel import View
from qcc.codegen.raw import Call, Place, aligned, bytes_of, flatten, large_buffers, marked_tasks, raw_function
from qcc.codegen.te import element_name, loop_kinds, schedule_output
from qcc.codegen.worker import Failure, KernelCompiler
from qcc.errors import CodegenError, UnsupportedOperator
from qcc.ir.types import U8, Array

if TYPE_CHECKING:
    from qcc.codegen.target import Target

_NOWHERE = Place(-1, -1)


@dataclass(frozen=True)
class IslandRequest:
    """A node to lower.

    Attributes:
        label: how messages call it, for example "Softmax (node 'probabilities')".
        model: a serialized ONNX model whose inputs and outputs are the node's, in order.
        inputs, outputs: contiguous views of the model's inputs, without initializers and those in `constants`, and outputs.
        constants: position and content (C order, little-endian) of model inputs that are constants. Many operators cannot be
            lowered unless they know their shapes, axes and amounts.
    """

    label: str
    model: bytes
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    constants: tuple[tuple[int, bytes], ...] = ()

    def probe(self, target: Target) -> Island:
        """Lower the node (in a child process)."""
        return _lower(self, target.is_gpu)


@dataclass(frozen=True)
class Island:
    """A kernel and the content of its constant operand, if it has one."""

    kernel: IslandKernel
    constants: tuple[Array, ...]


@dataclass(frozen=True)
class IslandKernel:
    """A lowered node. Operands: inputs, constants (bytes, if any), outputs, workspace (bytes, if any).

    Attributes:
        code: the function as TVM serializes it.
        workspace_bytes: size of the last operand, 0 if there is none; its content means nothing between calls.
        tasks: more than one for elementwise operators only.
    """

    label: str = field(compare=False)
    operands: tuple[View, ...]
    tasks: int
    workspace_bytes: int
    code: str = field(repr=False)

    @property
    def macs(self) -> int:
        return 0

    def emit(self, target: Target) -> Any:
        import tvm

        return tvm.ir.load_json(self.code)


def lower_islands(compiler: KernelCompiler, requests: Sequence[IslandRequest]) -> list[Island]:
    """A kernel for each request.

    Raises:
        UnsupportedOperator: it names every node that cannot be lowered, and why.
    """
    answers = compiler.probe(requests)
    reasons = _reasons(requests, answers)
    if reasons:
        listed = "; ".join(f"{label}: {reason}" for label, reason in reasons.items())
        raise UnsupportedOperator(f"these nodes cannot be compiled, neither to integers nor by TVM: {listed}")
    return answers


def _reasons(requests: Sequence[IslandRequest], answers: Sequence[Any]) -> dict[str, str]:
    return {request.label: answer.message for request, answer in zip(requests, answers, strict=True) if isinstance(answer, Failure)}


def _lower(request: IslandRequest, gpu: bool) -> Island:
    import tvm
    from tvm import s_tir

    program = _Program(_legalized(request), request)
    # A function that is called twice needs variables of its own each time.
    flat = [(flatten(_scheduled(s_tir.renew_defs(function), gpu), not gpu), slots) for function, slots in program.calls]
    internal = program.place_results()
    sizes = [aligned(bytes_of(buffer)) for function, _ in flat for buffer in large_buffers(function)]
    workspace = internal + sum(sizes)
    operands = (*request.inputs, *(View.contiguous(U8, data.shape) for data in program.constants), *request.outputs)
    if workspace:
        operands = (*operands, View.contiguous(U8, (workspace,)))
    calls = [Call(function, tuple(slot.place for slot in slots)) for function, slots in flat]
    tasks = marked_tasks(calls[0].function.body) if len(calls) == 1 else 0
    code = tvm.ir.save_json(raw_function(operands, calls, internal))
    return Island(IslandKernel(request.label, operands, max(1, tasks), workspace, code), program.constants)


def _legalized(request: IslandRequest) -> Any:
    """A Relax module whose main function only calls PrimFuncs."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx, onnx_frontend

    model = onnx_frontend.onnx.onnx_ml_pb2.ModelProto.FromString(request.model)     # the class that the front end reads
    for position, content in sorted(request.constants, reverse=True):
        declared = model.graph.input[position]
        kind = declared.type.tensor_type
        dims = [dimension.dim_value for dimension in kind.shape.dim]
        model.graph.initializer.add(name=declared.name, data_type=kind.elem_type, dims=dims, raw_data=content)
        del model.graph.input[position]
    module = from_onnx(model, keep_params_in_input=False)
    passes = relax.transform
    return tvm.ir.transform.Sequential([
        passes.DecomposeOpsForInference(), passes.CanonicalizeBindings(), passes.FoldConstant(), passes.LegalizeOps(),
        passes.FoldConstant(), passes.AnnotateTIROpPattern(), passes.FuseOps(), passes.FuseTIR(), passes.DeadCodeElimination(),
    ])(module)


@dataclass(eq=False)
class _Slot:
    """A tensor on its way: element type and shape, and the place that it is given in the end."""

    dtype: str
    shape: tuple[int, ...]
    place: Place = _NOWHERE

    @property
    def bytes(self) -> int:
        import tvm

        return prod(self.shape) * ((int(tvm.DataType(self.dtype).bits) + 7) // 8)


class _Program:
    """The main function of a legalized module as calls of functions on slots.

    Attributes:
        calls: functions in order, and the slots of their parameters.
        constants: one array of bytes per constant.
    """

    def __init__(self, module: Any, request: IslandRequest) -> None:
        self._module, self._request = module, request
        self._slots: dict[Any, list[_Slot]] = {}
        self.calls: list[tuple[Any, list[_Slot]]] = []
        main = module["main"]
        if len(main.params) != len(request.inputs):
            raise CodegenError(f"TVM sees {len(main.params)} inputs, the node has {len(request.inputs)}")
        for number, (parameter, view) in enumerate(zip(main.params, request.inputs, strict=True)):
            self._slots[parameter] = [_Slot(element_name(view), view.shape, Place(number))]
        self.constants: tuple[Array, ...] = ()
        for block in main.body.blocks:
            for binding in block.bindings:
                self._slots[binding.var] = self._evaluate(binding.value)
        self._results = self._evaluate(main.body.body)
        self._check_results()
        for number, slot in enumerate(self._results):
            if slot.place is not _NOWHERE or slot in self._results[:number]:
                self._results[number] = self._copy(slot)

    def _copy(self, slot: _Slot) -> _Slot:
        from tvm import te

        x = te.placeholder(slot.shape, slot.dtype, "x")
        return self._call(te.create_prim_func([x, te.compute(slot.shape, lambda *index: x(*index), name="copy")]), [slot])[0]

    def _check_results(self) -> None:
        found = [(slot.dtype, slot.shape) for slot in self._results]
        expected = [(element_name(view), view.shape) for view in self._request.outputs]
        if found != expected:
            raise CodegenError(f"TVM computes outputs {found}, the node has {expected}")

    def _evaluate(self, value: Any) -> list[_Slot]:
        from tvm import ir, relax

        if value in self._slots:
            return self._slots[value]
        if isinstance(value, ir.GenericConst):
            return [self._constant(value.value.numpy())]
        if isinstance(value, relax.Tuple):
            return [slot for item in value.fields for slot in self._evaluate(item)]
        if isinstance(value, relax.TupleGetItem):
            return [self._evaluate(value.tuple_value)[value.index]]
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
            return self._call(self._module[value.args[0]], self._evaluate(value.args[1]))
        what = value.op if isinstance(value, relax.Call) else type(value).__name__
        raise CodegenError(f"TVM leaves {what} to its runtime, which a library does not have")

    def _constant(self, array: Array) -> _Slot:
        slot = _Slot(str(array.dtype), array.shape, Place(len(self._request.inputs) + len(self.constants)))
        data = np.frombuffer(array.tobytes(), np.uint8)
        self.constants = (*self.constants, data)
        return slot

    def _call(self, function: Any, arguments: list[_Slot]) -> list[_Slot]:
        results = []
        for parameter in function.params[len(arguments):]:
            extents = tuple(int(extent) for extent in parameter.shape)
            results.append(_Slot(str(parameter.dtype), extents))
        self.calls.append((function, [*arguments, *results]))
        return results

    def place_results(self) -> int:
        """Let results lie in the outputs, all others in the workspace; returns the bytes that those take."""
        first = len(self._request.inputs) + len(self.constants)
        for number, slot in enumerate(self._results):
            slot.place = Place(first + number)
        size = 0
        for _, slots in self.calls:
            for slot in slots:
                if slot.place is _NOWHERE:
                    slot.place = Place(-1, size)
                    size += aligned(slot.bytes)
        return size


def _scheduled(function: Any, gpu: bool) -> Any:
    """Inline what one other block reads; then let each row of a single output be computed whole, where that repeats no work. On a GPU,
    what is between blocks belongs to a thread."""
    import tvm
    from tvm import s_tir

    work = s_tir.Schedule(tvm.IRModule({"main": function}))
    root = work.get_sblock("root")
    outputs = [work.get(block).name_hint for block in work.get_output_blocks(root)]
    for block in work.get_child_blocks(root):
        if work.get(block).name_hint not in outputs and not any(loop_kinds(work, block)) and len(work.get_consumers(block)) == 1:
            with suppress(s_tir.schedule.ScheduleError):     # it is not elementwise after all: it stays
                work.compute_inline(block)
    if gpu:
        for block in work.get_child_blocks(root):
            if work.get(block).name_hint not in outputs:
                work.set_scope(block, 0, "local")
    if len(outputs) == 1 and work.get_loops(work.get_sblock(outputs[0])):
        attempt = work.copy()
        with suppress(s_tir.schedule.ScheduleError):         # it does not go by rows
            if _by_rows(attempt, outputs[0]):
                return attempt.mod["main"]
    return work.mod["main"]


def _by_rows(work: Any, output: str) -> bool:
    """Move everything into the loop over an output's rows; False if some of it would then be computed more than once."""
    others = [work.get(block).name_hint for block in work.get_child_blocks(work.get_sblock("root"))]
    others.remove(output)
    before = {name: _iterations(work, name) for name in others}
    row = schedule_output(work, work.get_sblock(output), mark=True, whole_rows=bool(others), vectorize=True)
    for name in reversed(others):
        work.compute_at(work.get_sblock(name), row)
    return all(_iterations(work, name) <= before[name] for name in others)


def _iterations(work: Any, name: str) -> int:
    return prod(int(work.get(loop).extent) for loop in work.get_loops(work.get_sblock(name)))
