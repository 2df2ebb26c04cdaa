"""Tiles and profiles that are measured on a GPU, on the fake driver with times that are made up; and where nothing can be measured.

Everything but the times is real: candidates are compiled, loaded, and run as graphs between events by the process that measures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

import qcc
from qcc import verification
from qcc.cli import main
from qcc.codegen import tune as tuning_module
from qcc.codegen.cuda import candidates
from qcc.codegen.target import find_target
from qcc.codegen.tune import EFFORTS, Tuner, shortlist, tune
from qcc.codegen.tuning import FILE_NAME, alternatives, choice_of, load_tuning, workload
from qcc.codegen.tuning_cache import Cache
from qcc.codegen.tuning_clock import Contender
from qcc.codegen.tuning_race import Result as RaceResult
from qcc.codegen.tuning_race import Rules
from qcc.codegen.worker import KernelCompiler
from qcc.errors import UsageError
from qcc.recipe import Recipe
from tests.cuda.fake import VARIABLES, FakeDriver
from tests.cuda.harness import build_host

SHAPE = (1, 16, 6, 6)


def layers_network() -> onnx.ModelProto:
    """image f32[1, 16, 6, 6] -> convolution of 32 channels, depthwise convolution, global average, gemm -> logits f32[1, 20]."""
    random = np.random.default_rng(3)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * 0.3).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w"], ["dense"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["dense", "d"], ["depthwise"], pads=[1, 1, 1, 1], group=32),
        helper.make_node("GlobalAveragePool", ["depthwise"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "m"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "layers", [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 20])],
        [tensor("w", 32, 16, 3, 3), tensor("d", 32, 1, 3, 3), tensor("m", 20, 32)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)


class Bench:
    """The process that measures, with the fake driver, candidates compiled for this machine, and made-up times."""

    def __init__(self, driver: FakeDriver, patch: pytest.MonkeyPatch) -> None:
        self.driver, self.calls, self.symbols = driver, 0, [list[str]()]
        self.times, self.crash = "any=3000", False
        patch.setattr(tuning_module.gpu, "run_races", self.races)

    def races(self, library: str, races: Sequence[Sequence[Contender]], rules: Rules, rotated: int | None = None) -> list[RaceResult]:
        self.calls += 1
        texts = sorted(Path(library).glob("candidates*.cu"))
        built = [build_host(text.read_text(), text.with_suffix(".so")) for text in texts]
        self.symbols = [[contender.symbol for contender in contenders] for contenders in races]
        settings: dict[str, object] = {"kernels": ":".join(map(str, built)), "times": self.times}
        if self.crash:
            settings["fail"] = "cuGraphLaunch=700"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.driver.environment(**settings).items():
                patch.setenv(name, value)
            return MEASURED(library, races, rules, rotated)


MEASURED = candidates.run_races


@pytest.fixture
def bench(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda_compiler: str) -> Bench:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return Bench(driver, monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(layers_network(), tmp_path / "layers.onnx")
    np.savez(tmp_path / "data.npz", image=images())
    return tmp_path / "layers.onnx"


@pytest.fixture(scope="module")
def plain(cuda_compiler: str) -> qcc.Artifact:
    """The network with the tiles of the cost model."""
    recipe = Recipe("cuda:sm_80", name="layers", rounding="nearest", correction="none")
    return qcc.compile(layers_network(), calibration_data=[{"image": images()}], recipe=recipe)


def tunable(artifact: qcc.Artifact) -> dict[str, Any]:
    """Kernels that have choices, by workload, in the network's order."""
    return {workload(kernel): kernel for kernel in artifact.program.kernels if alternatives(kernel, artifact.target)}


def command(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def compiling(model: Path, out: str, *options: object) -> Result:
    data = ("--calibration-data", model.with_name("data.npz"), "--rounding", "nearest", "--correction", "none", "-q")
    return command("compile", model, "--target", "cuda:sm_80", *data, "-o", model.with_name(out), *options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_winners_are_taken_remembered_and_replayed(bench: Bench, model: Path, plain: qcc.Artifact) -> None:
    """One search; then the cache, and the record, give the same bytes without a measurement."""
    bench.times = "candidate2=1500,any=3000"      # one of the first layer's candidates takes half of the others' time
    result = compiling(model, "tuned", "--tune", "quick")
    assert result.exit_code == 0, result.output
    assert bench.calls == 1
    folder, kernels = model.with_name("tuned"), tunable(plain)
    record = load_tuning(folder / FILE_NAME, plain.target)
    planned = {name: choice_of(kernel) for name, kernel in kernels.items()}
    first = next(iter(kernels))
    best = choice_of(shortlist(kernels[first], plain.target, EFFORTS["quick"])[2])
    assert best != planned[first]
    assert record.choices == planned | {first: best}
    assert len(planned) == 3
    for out, options in (("cached", ("--tune", "quick")), ("replayed", ("--tuning-record", folder / FILE_NAME))):
        assert compiling(model, out, *options).exit_code == 0
        assert files(model.with_name(out)) == files(folder)
    assert bench.calls == 1
    assert_exact(bench.driver, folder, model)


def assert_exact(driver: FakeDriver, folder: Path, model: Path) -> None:
    """Every layer of a saved artifact equals the interpreter."""
    driver.prepare(folder)
    graph = verification.load_graph(folder)
    with qcc.load(folder) as module:
        module.selftest()
        assert all(layer.good for layer in verification.check_layers(module, graph, {"image": images()}))


def test_equal_times_change_nothing(bench: Bench, plain: qcc.Artifact, tmp_path: Path) -> None:
    with KernelCompiler(plain.target, 2) as compiler:
        cache = Cache(tmp_path / "own", plain.target, "a GPU", "versions")
        tuning = tune(plain.program, compiler, "quick", cache, lambda *_: None)
    assert tuning.choices == {name: choice_of(kernel) for name, kernel in tunable(plain).items()}
    assert max(map(len, bench.symbols)) == EFFORTS["quick"].most


def test_a_gpu_that_fails_is_an_error_message(bench: Bench, model: Path) -> None:
    bench.crash = True
    result = compiling(model, "tuned", "--tune", "quick")
    assert result.exit_code == 7
    assert "timing kernels failed" in result.output
    assert "cuGraphLaunch failed: CUDA_ERROR_ILLEGAL_ADDRESS" in result.output
    assert not model.with_name("tuned").exists()


def test_profiles_are_measured_and_used(bench: Bench, model: Path) -> None:
    bench.times = "candidate0=3000,any=7"
    profile = model.with_name("profile.json")
    result = command("profile", model, "--target", "cuda:sm_80", "-o", profile, "-q")
    assert result.exit_code == 0, result.output
    seconds = json.loads(profile.read_text())["seconds"]
    assert sorted(set(np.round(list(seconds.values()), 9))) == [7e-6, 3e-3]
    options = ("--bits", "mixed", "--budget", "latency=1x", "--profile", profile)
    mixed = compiling(model, "mixed", *options)
    assert mixed.exit_code == 0, mixed.output


def test_a_search_is_for_one_gpu_and_driver(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Cache.here(find_target("cuda:sm_80"))
    assert here.machine == "emulated GPU (no hardware), driver for CUDA 13000"
    assert "nvrtc" in here.versions


REFUSED = [
    ("cuda", {}, "its tiles are for all of sm_75, sm_80, sm_86, sm_89, sm_90: name one of them, as cuda:sm_90"),
    ("cuda:sm_80", {"SM": 75}, "its machine code does not run on sm_75"),
    ("cuda:sm_90", {"SM": 120}, "its machine code does not run on sm_120"),
    ("cuda:sm_80", {"COUNT": 0}, "any GPU of this machine: there is none"),
]


@pytest.mark.parametrize(("target", "settings", "message"), REFUSED)
def test_what_cannot_be_measured_is_refused(
    target: str, settings: dict[str, int], message: str, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"{VARIABLES}{name}", str(value))
    with pytest.raises(UsageError, match=r"--tune quick measures kernels, but .*--tuning-record FILE, or take --tune none") as caught:
        Tuner.of("quick", find_target(target), None)
    assert message in str(caught.value)
