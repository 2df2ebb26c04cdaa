"""Libraries for 64-bit ARM, run under an emulator: the same bits as the interpreter computes, and as the library of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import qcc
from qcc.codegen.arm.dense import plan_dense
from qcc.codegen.kernel import READ_SLACK
from qcc.codegen.target import TARGETS
from qcc.codegen.x86.elementwise import RequantizeKernel
from qcc.codegen.x86.scale import Sum
from qcc.ir import interpret
from qcc.ir.types import U8
from qcc.models import zoo as model_zoo
from tests.exact import test_dense, test_kernels
from tests.exact.emulated import CPUS, Operand, call_kernels, needed, run_emulated
from tests.exact.harness import Placed as Spaced
from tests.exact.runner import Placed

Array = npt.NDArray[Any]


@needed
@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize("name", model_zoo.BUNDLED)
def test_bundled_networks(
    name: str,
    target: str,
    tmp_path: Path,
    rng: np.random.Generator,
    zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    data = samples(name, 2)
    feeds = [*data, {key: (rng.normal(size=x.shape) * 2 * np.abs(x).max()).astype(x.dtype) for key, x in data[0].items()}]
    artifact = qcc.compile(zoo(name), target=target, calibration_data=data)
    artifact.save(tmp_path / "arm")
    found = run_emulated(artifact, tmp_path / "arm", feeds, CPUS[target])
    for feed, outputs in zip(feeds, found, strict=True):
        expected = interpret(artifact.graph, feed)
        for port, array in outputs.items():
            np.testing.assert_array_equal(array, expected[port], err_msg=f"{port} differs from the interpreter's")


def padded(array: Array) -> Operand:
    """A constant, with what a kernel may read behind it."""
    return Operand(np.ascontiguousarray(array).tobytes() + b"\xa5" * READ_SLACK, 0)


@needed
@pytest.mark.parametrize("target", CPUS)
def test_dense_layers_of_awkward_shapes(target: str, tmp_path: Path) -> None:
    calls, outputs, layers = [], [], [test_dense.layer(case, seed) for seed, case in enumerate(test_dense.CASES)]
    for number, layer in enumerate(layers):
        case, (source, output), rng = layer.case, layer.views, np.random.default_rng(number)
        residual = replace(output, dtype=U8) if case.residual else None
        kernel, constants = plan_dense(source, layer.weights, layer.bias, case.strides, case.dilations, case.groups, output,
                                       layer.requantization, residual, TARGETS[target], case.tile)
        placed = [Spaced.of(source, rng, layer.source), *([Spaced.of(output, rng, layer.residual)] if case.residual else [])]
        outputs.append(Spaced.of(output, rng))
        memory = [Operand(place.storage.tobytes(), place.start) for place in (*placed, outputs[-1])]
        calls.append((kernel, [*memory[:-1], *map(padded, constants), memory[-1]]))
    for layer, place, found in zip(layers, outputs, call_kernels(calls, TARGETS[target], tmp_path, CPUS[target]), strict=True):
        before = place.surroundings()
        place.storage[...] = np.frombuffer(found, np.uint8)
        np.testing.assert_array_equal(place.surroundings(), before, err_msg=f"{layer.case}: bytes outside of the output were written")
        np.testing.assert_array_equal(place.array, layer.evaluate(), err_msg=str(layer.case))


@needed
def test_shared_kernels(rng: np.random.Generator, tmp_path: Path) -> None:
    """What x86 and ARM have in common; pairs of 16-bit products are x86's alone."""
    cases = [case for family in test_kernels.FAMILIES.values() for case in family(rng)]
    cases = [case for case in cases if not (isinstance(case.kernel, RequantizeKernel) and case.kernel.method is Sum.NARROW)]
    calls, outputs = [], []
    for case in cases:
        views = case.kernel.operands
        placed = [Placed.of(view, array) for view, array in zip(views, case.sources, strict=False)]
        outputs.append(Placed.of(views[-1], None))
        assert len(placed) + 1 == len(views)
        calls.append((case.kernel, [Operand(place.data.tobytes(), place.start) for place in (*placed, outputs[-1])]))
    results = call_kernels(calls, TARGETS["aarch64-neon"], tmp_path, CPUS["aarch64-neon"])
    for case, place, found in zip(cases, outputs, results, strict=True):
        before = place.data.copy()
        place.data[...] = np.frombuffer(found, np.uint8)
        place.assert_only_elements_changed(before)
        np.testing.assert_array_equal(place.elements(), case.expected, err_msg=str(case.kernel))
