"""Products of two activations on x86: the packed kernel equals the operator's meaning bit for bit, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcc.codegen.kernel import View
from qcc.codegen.target import TARGETS, Target
from qcc.codegen.worker import KernelCompiler
from qcc.codegen.x86.batch import plan_batch
from qcc.ir import TensorType
from qcc.ops import IntegerBatchMatMul
from tests.exact.runner import RUNNABLE, library, target_id

SHAPES = (      # of both operands
    ((2, 3, 5, 33), (2, 3, 33, 17)),
    ((1, 7), (4, 7, 16)),
    ((3, 1, 2, 64), (64, 70)),
    ((2, 1, 9, 3), (1, 4, 3, 16)),
    ((13, 1), (1, 129)),
    ((12, 64, 32), (12, 32, 64)),
    ((12, 31, 64), (12, 64, 32)),
)
ZERO_POINTS = ((0, 0), (255, 255), (3, 200), (128, 128))
X86 = [target for target in RUNNABLE if target.architecture == "x86_64"]


@pytest.mark.parametrize("target", X86, ids=target_id)
def test_equal_to_evaluate(target: Target, tmp_path: Path, rng: np.random.Generator) -> None:
    cases = []
    for number, shapes in enumerate(SHAPES):
        a, b = (rng.integers(0, 256, shape, np.uint8) for shape in shapes)
        if number % 2:
            a, b = np.full_like(a, 255), np.where(rng.random(b.shape) < 0.5, 0, 255).astype(np.uint8)
        for zeros in ZERO_POINTS:
            op = IntegerBatchMatMul(zeros)
            types = [TensorType.of(x) for x in (a, b)]
            views = [View.contiguous(t.dtype, t.shape) for t in (*types, *op.infer(*types))]
            cases.append((plan_batch(views[0], views[1], views[2], zeros, target), a, b, op.evaluate(a, b)[0]))
    with KernelCompiler(target, 2) as compiler:
        built = library([kernel for kernel, *_ in cases], compiler, tmp_path)
        for kernel, a, b, expected in cases:
            np.testing.assert_array_equal(built.run(kernel, [a, b])[0], expected, err_msg=str(kernel))


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.architecture == "x86_64"])
def test_accumulators_fit_the_registers(name: str) -> None:
    target = TARGETS[name]
    views = [View.contiguous(TensorType.of(np.zeros(1, dtype)).dtype, (12, 64, 64)) for dtype in (np.uint8, np.uint8, np.int32)]
    kernel = plan_batch(views[0], views[1], views[2], (3, 4), target)
    assert kernel.rows * (kernel.blocks + 1) + kernel.blocks + 2 <= target.registers
    assert kernel.rows * kernel.blocks >= 6
