"""Any operator that has no kernel family of its own: its tensor expression under one generic schedule.

The rule: inline what is elementwise, give each task some rows of the output, compute a reduction right where its row is needed.
Vectors are left to LLVM, whose loop vectoriser handles every remainder; nothing is allocated but a row on the stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from qcc.codegen.kernel import View
from qcc.codegen.raw import MARK, Call, Place, flatten, raw_function
from qcc.errors import CodegenError
from qcc.ir import Op, TensorType

if TYPE_CHECKING:
    from qcc.codegen.target import Target

TASKS = 64                  # pieces that an output is cut into, at most
_FLOATS = 8                 # of one vector
ROW = 1024                  # elements of the last axis that one inner loop covers, at most


@dataclass(frozen=True)
class TeKernel:
    """One operator through `Op.lower`.

    Attributes:
        op: integer operators equal `op.evaluate` bit for bit.
        inputs: contiguous views, in the operator's order.
        constants: positions of inputs that are constants; their operands stand behind the other inputs.
        outputs: contiguous views.
    """

    op: Op
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    constants: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        strided = [view for view in (*self.inputs, *self.outputs) if not view.is_contiguous]
        if strided:
            found = f"strides {strided[0].strides} for shape {strided[0].shape}"
            raise CodegenError(f"{self.op.name}: the generic kernel takes contiguous tensors, got {found}: copy first")

    @property
    def order(self) -> tuple[int, ...]:
        """Positions of the operator's inputs as the operands have them: sources, then constants."""
        return tuple(sorted(range(len(self.inputs)), key=lambda position: (position in self.constants, position)))

    @property
    def operands(self) -> tuple[View, ...]:
        return (*(self.inputs[position] for position in self.order), *self.outputs)

    @property
    def tasks(self) -> int:
        """One output is cut into rows; several are made by one task."""
        return _cut(self.outputs[0].shape).tasks if len(self.outputs) == 1 else 1

    @property
    def macs(self) -> int:
        return self.op.macs(_types(self.inputs), _types(self.outputs))

    def expression(self) -> Any:
        """The operator as a PrimFunc that is not scheduled; its parameters stand in the order of the operands."""
        from tvm import te

        placeholders = [te.placeholder(view.shape, element_name(view), f"x{number}") for number, view in enumerate(self.inputs)]
        results = self.op.lower(placeholders, _types(self.outputs))
        return te.create_prim_func([*(placeholders[position] for position in self.order), *results])

    def emit(self, target: Target) -> Any:
        flat = flatten(schedule(self.expression()))
        return raw_function(self.operands, [Call(flat, tuple(Place(number) for number in range(len(self.operands))))])


def _types(views: Sequence[View]) -> tuple[TensorType, ...]:
    return tuple(TensorType(view.dtype, view.shape) for view in views)


def element_name(view: View) -> str:
    """TVM's name of a view's element type."""
    return "bool" if view.dtype.kind == "b" else str(view.dtype.numpy)


def _divisor(extent: int, most: int) -> int:
    """The largest divisor of `extent` that is not above `most`."""
    return next(n for n in range(min(extent, most), 0, -1) if extent % n == 0)


@dataclass(frozen=True, slots=True)
class Cut:
    """How an output is divided: the last axis into columns x steps x elements; all others are rows."""

    rows: int
    columns: int
    steps: int
    elements: int

    @property
    def tasks(self) -> int:
        """A task is some iterations of the loop over rows and columns."""
        return min(TASKS, self.rows * self.columns)


def _cut(shape: tuple[int, ...], whole_rows: bool = False) -> Cut:
    rows, last = prod(shape[:-1]), shape[-1] if shape else 1
    if whole_rows:
        return Cut(rows, 1, 1, last)
    columns = _divisor(last // 16, TASKS) if rows == 1 and last % 16 == 0 and last else 1
    elements = _divisor(last // columns, ROW)
    return Cut(rows, columns, last // columns // elements, elements)


def schedule(function: Any) -> Any:
    """Apply the generic rule to a PrimFunc made from tensor expressions; marks the loop over tasks where there is one output."""
    import tvm
    from tvm import s_tir

    work = s_tir.Schedule(tvm.IRModule({"main": function}))
    root = work.get_sblock("root")
    outputs = [work.get(block).name_hint for block in work.get_output_blocks(root)]
    reductions = []
    for block in work.get_child_blocks(root):
        if work.get(block).name_hint in outputs:
            continue
        if any(loop_kinds(work, block)):
            reductions.append(block)
        else:
            work.compute_inline(block)
    for name in outputs:
        place = schedule_output(work, work.get_sblock(name), mark=len(outputs) == 1)
        for reduction in reductions:
            work.compute_at(reduction, place)
            work.decompose_reduction(reduction, work.get_loops(reduction)[-sum(loop_kinds(work, reduction))])
    return work.mod["main"]


def loop_kinds(work: Any, block: Any) -> list[bool]:
    """Per loop variable of a block, whether it runs over a reduced axis."""
    return [int(variable.iter_type) == 2 for variable in work.get(block).iter_vars]     # 2 is IterVar.CommReduce


def schedule_output(work: Any, output: Any, mark: bool, whole_rows: bool = False, vectorize: bool = False) -> Any:
    """Cut the loops of an output; returns the loop inside which everything that an inner row needs is computed.

    Args:
        mark: the outermost loop is the one over tasks.
        whole_rows: do not cut the last axis.
        vectorize: make vectors of what is summed, if it is.
    """
    kinds, loops = loop_kinds(work, output), work.get_loops(output)
    spatial = [loop for loop, reduced in zip(loops, kinds, strict=True) if not reduced]
    reduced = [loop for loop, reduced in zip(loops, kinds, strict=True) if reduced]
    cut = _cut(tuple(int(work.get(loop).extent) for loop in spatial), whole_rows)
    while len(spatial) < 2:
        spatial.insert(0, work.add_unit_loop(spatial[0] if spatial else loops[0] if loops else output))
    row = work.fuse(*spatial[:-1])
    column, step, element = work.split(spatial[-1], [cut.columns, cut.steps, cut.elements])
    work.reorder(row, column, step, *reduced, element)
    if reduced and vectorize and cut.elements % _FLOATS == 0:
        # LLVM's vectoriser stops at the fence between a float product and its sum.
        work.vectorize(work.split(element, [cut.elements // _FLOATS, _FLOATS])[1])
    task = work.fuse(row, column)
    if mark:
        work.annotate(task, MARK, cut.tasks)
    if reduced:
        work.decompose_reduction(output, reduced[0])
    return step
