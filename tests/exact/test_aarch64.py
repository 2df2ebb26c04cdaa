"""Libraries for 64-bit ARM, run under an emulator: the same bits as the interpreter computes, and as the library of this machine."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import qcc
from qcc import verification
from qcc.cli import main
from qcc.codegen.arm.dense import NeonDenseKernel, plan_dense
from qcc.codegen.arm.depthwise_dot import plan_depthwise
from qcc.codegen.arm.tiles import CORES as FIGURES
from qcc.codegen.cpu.elementwise import RequantizeKernel
from qcc.codegen.cpu.lookup import plan_lookup
from qcc.codegen.cpu.scale import Sum
from qcc.codegen.families import choose
from qcc.codegen.kernel import READ_SLACK, Kernel, View
from qcc.codegen.link import find_toolchain
from qcc.codegen.tables import families_for
from qcc.codegen.target import CORES, TARGETS, Target, find_target
from qcc.codegen.te import TeKernel
from qcc.codegen.worker import compile_kernels
from qcc.errors import CodegenError, RuntimeFailure, UnknownTarget
from qcc.ir.types import I32, U8, TensorType
from qcc.models import zoo as model_zoo
from qcc.ops import IntegerBatchMatMul, IntegerConvolution
from qcc.runtime.manifest import Manifest
from tests.exact import test_dense, test_depthwise, test_kernels
from tests.exact.emulated import CPUS, Operand, Trace, build_runner, call_kernels, emulate, needed, run_emulated
from tests.exact.harness import Placed as Spaced
from tests.exact.runner import Placed

Array = npt.NDArray[Any]


# Every network on the target that most cores are; the others differ in one kernel, whose shapes are tested below.
NETWORKS = [*((name, "aarch64-dotprod") for name in model_zoo.BUNDLED), ("resnet8_cifar10", "aarch64-neon"), ("kws_dscnn", "aarch64-i8mm")]


@needed
@pytest.mark.parametrize(("name", "target"), NETWORKS)
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
    traces = run_emulated(artifact, tmp_path / "arm", feeds, CPUS[target])
    for feed, trace in zip(feeds, traces, strict=True):
        layers = [layer for layer in verification.check_layers(trace, artifact.graph, feed) if layer.error is not None]  # type: ignore[arg-type]
        assert len(layers) >= len(artifact.program.steps) // 2, "too few layers were compared"
        assert [layer for layer in layers if not layer.good] == []
    if target == "aarch64-neon":
        assert_like_this_machine(zoo(name), data, feeds, traces, tmp_path / "host")


def assert_like_this_machine(
    model: Path, data: list[dict[str, Array]], feeds: list[dict[str, Array]], traces: list[Trace], folder: Path
) -> None:
    """Outputs are those of the library for this machine's CPU: equal bits, or for float operators within the self-test's bound."""
    artifact = qcc.compile(model, calibration_data=data)
    artifact.save(folder)
    with qcc.load(folder) as module:
        for feed, trace in zip(feeds, traces, strict=True):
            for port, array in module.run(feed).items():
                bound = artifact.texts.output_bounds.get(port, 0.0)
                np.testing.assert_allclose(trace.outputs[port], array, rtol=0, atol=bound, err_msg=port)


def padded(array: Array) -> Operand:
    """A constant, with what a kernel may read behind it."""
    return Operand(np.ascontiguousarray(array).tobytes() + b"\xa5" * READ_SLACK, 0)


Layer = test_dense.Layer | test_depthwise.Layer


def planned(layer: Layer, target: Target) -> tuple[Kernel, tuple[Array, ...]]:
    case, (source, output) = layer.case, layer.views
    residual = replace(output, dtype=U8) if case.residual else None
    shape, after = (source, layer.weights, layer.bias, case.strides, case.dilations), (layer.requantization, residual, target)
    if isinstance(case, test_dense.Case):
        return plan_dense(*shape, case.groups, output, *after, case.tile)
    return plan_depthwise(*shape, output, *after)


def of_few_bits(layer: Layer, bits: int) -> Layer:
    """The layer with weights that share bytes, and results as large as before."""
    after, fewer = layer.requantization, 8 - bits
    weights = np.maximum(layer.weights >> fewer, 1 - (1 << bits >> 1))
    return replace(layer, weights=weights, requantization=after and replace(after, shift=max(1, after.shift - fewer)))


@needed
@pytest.mark.parametrize("bits", [8, 4], ids=["8", "4, 3, 2"])
@pytest.mark.parametrize("target", CPUS)
def test_layers_of_awkward_shapes(target: str, bits: int, tmp_path: Path) -> None:
    plain = [(seed, case) for seed, case in enumerate(test_dense.CASES) if case.pool == (1, 1)]    # maxima are fused on x86 only
    layers: list[Layer] = [test_dense.layer(case, seed) for seed, case in plain]
    layers += [test_depthwise.layer(case, seed) for seed, case in enumerate(test_depthwise.CASES)]
    widths = [8 if bits == 8 else (4, 3, 2)[seed % 3] for seed in range(len(layers))]
    layers = [of_few_bits(layer, width) for layer, width in zip(layers, widths, strict=True)]
    calls, outputs, stored = [], [], list[int]()
    for number, layer in enumerate(layers):
        (source, output), rng = layer.views, np.random.default_rng(number)
        kernel, constants = planned(layer, TARGETS[target])
        stored.append(cast(Any, kernel).weight_bits)
        placed = [Spaced.of(source, rng, layer.source), *([] if layer.residual is None else [Spaced.of(output, rng, layer.residual)])]
        outputs.append(Spaced.of(output, rng))
        memory = [Operand(place.storage.tobytes(), place.start) for place in (*placed, outputs[-1])]
        calls.append((kernel, [*memory[:-1], *map(padded, constants), memory[-1]]))
    assert sum(found == width for found, width in zip(stored, widths, strict=True)) >= 0.9 * len(layers), "more take bytes than must"
    for layer, place, found in zip(layers, outputs, call_kernels(calls, TARGETS[target], tmp_path, CPUS[target]), strict=True):
        before = place.surroundings()
        place.storage[...] = np.frombuffer(found, np.uint8)
        np.testing.assert_array_equal(place.surroundings(), before, err_msg=f"{layer.case}: bytes outside of the output were written")
        np.testing.assert_array_equal(place.array, layer.evaluate(), err_msg=str(layer.case))


@needed
def test_products_of_activations_take_the_generic_kernel(rng: np.random.Generator, tmp_path: Path) -> None:
    calls, wanted = [], []
    for a_shape, b_shape in (((2, 3, 5, 33), (2, 3, 33, 17)), ((1, 7), (4, 7, 1)), ((3, 1, 2, 64), (64, 9))):
        a, b = (rng.integers(0, 256, shape, np.uint8) for shape in (a_shape, b_shape))
        op = IntegerBatchMatMul((128, 3))
        (wide,) = op.infer(*(TensorType.of(array) for array in (a, b)))
        kernel = TeKernel(op, (View.contiguous(U8, a_shape), View.contiguous(U8, b_shape)), (View.contiguous(I32, wide.shape),))
        result = Placed.of(kernel.operands[-1], None)
        memory = [Placed.of(view, array) for view, array in zip(kernel.operands, (a, b), strict=False)]
        calls.append((kernel, [Operand(place.data.tobytes(), place.start) for place in (*memory, result)]))
        wanted.append((result, op.evaluate(a, b)[0]))
    found = call_kernels(calls, TARGETS["aarch64-neon"], tmp_path, CPUS["aarch64-neon"])
    for data, (place, expected) in zip(found, wanted, strict=True):
        place.data[...] = np.frombuffer(data, np.uint8)
        np.testing.assert_array_equal(place.elements(), expected)


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


@needed
@pytest.mark.parametrize(("target", "promised", "lacking"), [
    ("aarch64-dotprod", "sdot", {"cortex-a72": "asimddp", "cortex-a53": "asimddp"}),
    ("aarch64-i8mm", "usmmla, usdot, sudot", {"neoverse-n1": "i8mm", "cortex-a72": "asimddp i8mm"})])
def test_a_core_that_lacks_instructions_is_told_so(
    target: str, promised: str, lacking: dict[str, str], tmp_path: Path, zoo: Callable[[str], Path],
    samples: Callable[..., list[dict[str, Array]]],
) -> None:
    artifact = qcc.compile(zoo("ad_autoencoder"), target=target, calibration_data=samples("ad_autoencoder", 1))
    artifact.save(tmp_path)
    program = build_runner(artifact, tmp_path)
    for cpu, names in lacking.items():
        done = emulate(program, cpu, tmp_path / "recipe.toml", tmp_path / "outputs")
        assert done.returncode == 1, cpu
        assert f"this CPU lacks what the library was compiled for: {names};" in done.stderr
    code = verification.check_code(tmp_path, Manifest.read(tmp_path))
    assert code.findings == ()
    assert code.promised == promised
    assert code.promised_kernels > 0
    needs = printed("aarch64-linux-gnu-readelf", "-d", tmp_path / "libad_autoencoder.so")
    assert set(re.findall(r"Shared library: \[(.*?)\]", needs)) <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}


@needed
def test_a_library_for_another_machine_is_not_loaded(
    tmp_path: Path, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Array]]]
) -> None:
    """By Python, and by each command that would run it: one line that names both machines."""
    if platform.machine() == "aarch64":
        pytest.skip("this machine is of that kind")
    data, out = samples("ad_autoencoder", 1), tmp_path / "out"
    np.savez(tmp_path / "data.npz", **data[0])
    qcc.compile(zoo("ad_autoencoder"), target="arm", calibration_data=data).save(out)
    message = r"was compiled for aarch64 \(target aarch64-dotprod\) and this machine is"
    with pytest.raises(RuntimeFailure, match=message):
        qcc.load(out)
    given = ["--data", str(tmp_path / "data.npz")]
    for command in (["run", out, "--input", tmp_path / "data.npz", "-o", tmp_path / "y.npz"], ["bench", out], ["verify", out],
                    ["compare", zoo("ad_autoencoder"), out, *given]):
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == RuntimeFailure.exit_code, command
        assert re.search(message, result.stderr)
        assert result.stderr.count("\n") == 1


def test_no_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = r"target aarch64-neon: .* apt install gcc-aarch64-linux-gnu, or anywhere with: pip install ziglang"
    with pytest.raises(CodegenError, match=wanted):
        find_toolchain(TARGETS["aarch64-neon"])


# How often per pixel and vector of channels in a round of four words, and what it looks like.
INSTRUCTIONS = {
    "aarch64-dotprod": (4, r"sdot\tv\d+\.4s, v\d+\.16b, v\d+\.4b\[\d\]"),
    "aarch64-i8mm": (2, r"usmmla\tv\d+\.4s, v\d+\.16b, v\d+\.16b"),
    "aarch64-neon": (4, r"sadalp\tv\d+\.4s, v\d+\.8h"),
}


def printed(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needed
@pytest.mark.parametrize("target", INSTRUCTIONS)
def test_dot_products_are_the_promised_instructions(target: str, tmp_path: Path) -> None:
    """Dot products take a word of the activations by its number; the loop leaves all accumulators in registers."""
    layer = test_dense.layer(test_dense.Case((1, 14, 14, 64), 64, (3, 3)), 1)
    kernel, _ = planned(layer, TARGETS[target])
    assert isinstance(kernel, NeonDenseKernel)
    (path,) = compile_kernels({kernel: "k"}, TARGETS[target], tmp_path)
    code = printed("aarch64-linux-gnu-objdump", "-d", path).splitlines()
    times, pattern = INSTRUCTIONS[target]
    products = [number for number, line in enumerate(code) if re.search(pattern, line)]
    assert len(products) == times * kernel.tile.pixels * kernel.tile.blocks
    assert not any("[sp" in line for line in code[products[0] : products[-1]])


@needed
def test_tables_are_looked_up_in_registers(tmp_path: Path) -> None:
    """A vector of sixteen in four instructions, with the table in registers: nothing is loaded in between but what is looked up."""
    view = View.contiguous(U8, (1, 8, 8, 64))
    kernel, _ = plan_lookup(view, np.arange(256, dtype=np.uint8), view)
    (path,) = compile_kernels({kernel: "k"}, TARGETS["aarch64-neon"], tmp_path)
    code = printed("aarch64-linux-gnu-objdump", "-d", path).splitlines()
    places = [number for number, line in enumerate(code) if re.search(r"\ttb[lx]\t", line)]
    assert [code[number].split("\t")[2] for number in places[:4]] == ["tbl", "tbx", "tbx", "tbx"]
    assert not any("[sp" in line for line in code[places[0] : places[3]])


def test_a_target_may_name_a_core() -> None:
    """It chooses tiles, and nothing else; every core has figures."""
    case = test_dense.layer(test_dense.Case((1, 30, 30, 128), 128, (3, 3)), 1)
    tiles = {}
    for core in CORES:
        target = find_target(f"arm:{core}")
        assert target == replace(TARGETS["aarch64-dotprod"], name=f"aarch64-dotprod:{core}", core=core)
        tiles[core] = cast(NeonDenseKernel, planned(case, target)[0]).tile
    assert tiles["cortex-a55"] != tiles["cortex-a76"], "an in-order core wants fewer loads"
    assert set(CORES) == set(FIGURES)
    with pytest.raises(UnknownTarget, match="the core 'cortex-a1' is unknown; expected one of cortex-a55"):
        find_target("aarch64-neon:cortex-a1")


@needed
@pytest.mark.parametrize(("core", "pairs"), [("cortex-a76", False), ("neoverse-n1", True)])
def test_cores_that_load_two_vectors_no_faster_at_once_load_them_apart(core: str, pairs: bool, tmp_path: Path) -> None:
    case = test_dense.layer(test_dense.Case((1, 16, 16, 64), 64, (1, 1)), 1)
    target = find_target(f"aarch64-dotprod:{core}")
    (path,) = compile_kernels({planned(case, target)[0]: "k"}, target, tmp_path)
    code = printed("aarch64-linux-gnu-objdump", "-d", path)
    assert len(re.findall(r"\tsdot\t", code)) >= 32
    assert bool(re.search(r"\tldp\tq", code)) == pairs


def test_weights_that_16_bits_have_no_room_for_are_left_to_the_generic_kernel() -> None:
    node = SimpleNamespace(op=IntegerConvolution(), inputs=("x", "w", "b"))
    for least, name in ((-127, "linear"), (-128, "generic")):
        graph = SimpleNamespace(constants={"w": np.full((4, 3, 3, 8), least, np.int8)}, types={"x": TensorType(U8, (1, 8, 8, 8))})
        entry = SimpleNamespace(node=node, requantize=None)
        assert choose(families_for(TARGETS["aarch64-neon"]), graph, entry).name == name  # type: ignore[arg-type]
