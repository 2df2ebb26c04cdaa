"""Tuning without kernels: races on a clock that lies, records and caches, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.codegen import tune
from qcc.codegen.cpu.move import CopyKernel
from qcc.codegen.cpu.tile import Tile
from qcc.codegen.cuda.dense import plan_dense
from qcc.codegen.cuda.depthwise import plan_depthwise
from qcc.codegen.cuda.gemv import plan_gemv
from qcc.codegen.kernel import View
from qcc.codegen.profiling import subject
from qcc.codegen.target import GPU_TARGETS, TARGETS
from qcc.codegen.tune import EFFORTS, Tuner, shortlist
from qcc.codegen.tuning import Tuning, alternatives, choice_of, load_tuning, workload
from qcc.codegen.tuning_cache import Cache
from qcc.codegen.tuning_race import Rules, race
from qcc.codegen.x86.dense import DenseKernel
from qcc.codegen.x86.depthwise import DepthwiseKernel
from qcc.codegen.x86.pairs import PairsKernel
from qcc.codegen.x86.winograd import WinogradKernel
from qcc.errors import UsageError
from qcc.ir.types import I32, U8, Array

TARGET = TARGETS["x86-64-avx512vnni"]
CHOICE = ((1, 2, 3),)


def dense(width: int = 9, tile: Tile = Tile(1, 9, 2)) -> DenseKernel:  # noqa: B008  (frozen)
    source, output = View.contiguous(U8, (1, 9, width, 64)), View.contiguous(I32, (1, 9, width, 96))
    return DenseKernel(source, output, None, (1, 1), (1, 1), (1, 1), 1, None, 16, tile)


def depthwise(stride: int = 1) -> DepthwiseKernel:
    source, output = View.contiguous(U8, (1, 12, 12, 24)), View.contiguous(I32, (1, 10, 10, 24))
    return DepthwiseKernel(source, output, None, (3, 3), (stride, stride), (1, 1), None, 16, 2, 1)


GPU = GPU_TARGETS["cuda:sm_80"]


def gpu_kernels() -> list[Any]:
    """A dense layer, a depthwise one, and a product of one row."""
    rng = np.random.default_rng(1)

    def weights(*shape: int) -> Array:
        return rng.integers(-127, 128, shape).astype(np.int8)

    source, output = View.contiguous(U8, (1, 9, 9, 64)), View.contiguous(I32, (1, 7, 7, 96))
    bias = np.zeros(96, np.int32)
    deep = plan_dense(source, weights(96, 3, 3, 64), bias, (1, 1), (1, 1), 1, output, None, None, GPU)
    wide = replace(source, shape=(1, 9, 9, 32), strides=(81 * 32, 9 * 32, 32, 1))
    flat = plan_depthwise(wide, weights(32, 3, 3, 1), bias[:32], (1, 1), (1, 1), View.contiguous(I32, (1, 7, 7, 32)), None, None, GPU)
    row, column = View.contiguous(U8, (1, 1, 1, 64)), View.contiguous(I32, (1, 1, 1, 96))
    return [deep[0], flat[0], plan_gemv(row, weights(96, 1, 1, 64), bias, column, None, None, GPU)[0]]


class Clock:
    """Turns with given seconds: a few per cent of noise, and now and then a turn several times too long."""

    def __init__(self, seconds: list[float], seed: int, noise: float = 0.03, wild: float = 0.1) -> None:
        self.seconds, self.noise, self.wild = seconds, noise, wild
        self.rng = np.random.default_rng(seed)
        self.turns = [0] * len(seconds)

    def __call__(self, contender: int) -> float:
        self.turns[contender] += 1
        slow = 1 + self.rng.exponential(3.0) if self.rng.random() < self.wild else 1.0
        return float(self.seconds[contender] * (1 + abs(self.rng.normal()) * self.noise) * slow)


def winners(seconds: list[float], races: int = 200) -> list[int]:
    return [race(len(seconds), Clock(seconds, seed)).winner for seed in range(races)]


def test_equal_contenders_change_nothing() -> None:
    assert winners([1.0] * 6).count(0) >= 190


def test_a_real_gain_is_found_in_noise() -> None:
    assert winners([1.0, 1.02, 0.9, 1.1, 0.99]).count(2) >= 195


def test_no_contender_wins_that_is_really_slower() -> None:
    assert set(winners([1.0, 1.04, 1.06, 1.08])) == {0}


def test_a_gain_below_the_least_is_left() -> None:
    clock = Clock([1.0, 0.995], 0, noise=0.0, wild=0.0)
    assert race(2, clock).winner == 0
    assert race(2, Clock([1.0, 0.98], 0, noise=0.0, wild=0.0)).winner == 1


def test_the_hopeless_stop_early_and_the_defender_never() -> None:
    clock = Clock([2.0, 1.0, 3.0], 1)
    rules = Rules()
    result = race(3, clock, rules)
    assert result.winner == 1
    assert result.gain == pytest.approx(2.0, rel=0.05)
    assert clock.turns[2] == rules.heats
    assert clock.turns[0] == clock.turns[1] == rules.turns + rules.duel


def test_one_contender_needs_no_duel() -> None:
    assert race(1, Clock([1.0], 0)).winner == 0


def test_workloads_leave_out_choices_and_nothing_else() -> None:
    kernel = dense()
    assert workload(kernel) == workload(replace(kernel, tile=Tile(1, 1, 1)))
    assert len({workload(kernel), workload(dense(10)), workload(replace(kernel, strides=(2, 2)))}) == 3
    assert workload(depthwise()) == workload(replace(depthwise(), rows=1, fold=4))
    assert "\n" not in workload(kernel)


def of_pairs(kind: type[PairsKernel] | type[WinogradKernel]) -> PairsKernel | WinogradKernel:
    source, output = View.contiguous(U8, (1, 11, 11, 64)), View.contiguous(I32, (1, 9, 9, 96))
    return kind(source, output, None, (3, 3), (1, 1), (1, 1), 1, None, 8, Tile(1, 5, 2))


@pytest.mark.parametrize("kernel", [dense(), depthwise(), depthwise(2), of_pairs(PairsKernel), of_pairs(WinogradKernel)])
def test_alternatives_are_distinct_kernels_of_one_workload(kernel: DenseKernel | DepthwiseKernel | PairsKernel | WinogradKernel) -> None:
    found = alternatives(kernel, TARGETS["x86-64-avx2"] if kernel.lanes == 8 else TARGET)
    assert kernel in found
    assert len(set(found)) == len(found) > 1
    assert {workload(other) for other in found} == {workload(kernel)}


@pytest.mark.parametrize("kernel", gpu_kernels(), ids=lambda kernel: type(kernel).__name__)
def test_choices_on_gpus(kernel: Any) -> None:
    """The planned kernel is one of the alternatives, which are one workload; records and lists of candidates know their choices."""
    found = alternatives(kernel, GPU)
    assert kernel in found
    assert len(set(found)) == len({choice_of(other) for other in found}) == len(found) > 2
    assert {workload(other) for other in found} == {workload(kernel)}
    assert all(Tuning(GPU, "full", {workload(kernel): choice_of(other)}).apply(kernel) == other for other in found)
    quick, full = (shortlist(kernel, GPU, EFFORTS[level]) for level in ("quick", "full"))
    assert quick[0] == full[0] == kernel
    assert len(set(quick)) == len(quick) == min(6, len(found))
    assert len(set(full)) == len(full) >= len(quick)
    assert subject(kernel) == subject(found[-1])


def test_folds_need_pixels_side_by_side() -> None:
    assert {kernel.fold for kernel in alternatives(depthwise(), TARGET)} > {1}
    assert {kernel.fold for kernel in alternatives(depthwise(2), TARGET)} == {1}


def test_other_kernels_have_no_choice() -> None:
    view = View.contiguous(U8, (1, 4, 4, 8))
    kernel = CopyKernel(view, view)
    assert alternatives(kernel, TARGET) == []
    assert Tuning(TARGET, "quick", {}).apply(kernel) is kernel


@pytest.mark.parametrize("level", EFFORTS)
def test_shortlists_begin_with_the_planned_kernel(level: str) -> None:
    planned = dense()
    listed = shortlist(planned, TARGET, EFFORTS[level])
    assert listed[0] == planned
    assert len(set(listed)) == len(listed) <= EFFORTS[level].most
    assert len({kernel.tile.blocks for kernel in listed}) >= 3


@pytest.fixture
def tuning() -> Tuning:
    return Tuning(TARGET, "quick", {workload(dense()): CHOICE, workload(depthwise()): ((4,), (8,))})


def test_a_tuning_exchanges_choices(tuning: Tuning) -> None:
    assert tuning.apply(dense()) == dense(tile=Tile(1, 2, 3))
    assert tuning.apply(depthwise()) == replace(depthwise(), rows=4, fold=8)
    assert choice_of(tuning.apply(dense())) == CHOICE
    tuning.check_used([dense(), depthwise()])


def test_records_are_read_as_they_were_written(tuning: Tuning, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(tuning.dumps())
    found = load_tuning(file, TARGET)
    assert (found.level, found.choices, found.target) == (tuning.level, tuning.choices, tuning.target)
    assert found.dumps() == tuning.dumps()


def test_a_record_must_fit_the_network(tuning: Tuning) -> None:
    with pytest.raises(UsageError, match="lacks the layer DenseKernel"):
        tuning.apply(dense(10))
    with pytest.raises(UsageError, match="1 of its 2 layers do not occur, for example DepthwiseKernel"):
        tuning.check_used([dense()])


@pytest.mark.parametrize("choice", [((9, 9, 9),), ((1, 99, 1),), ((1, 2),), (), ((1,), (2,))])
def test_a_choice_that_is_none_is_refused(choice: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(UsageError, match="has no choice"):
        Tuning(TARGET, "quick", {workload(dense()): choice}).apply(dense())


def spoil(**changes: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text[:40], "cannot be read"),
    (lambda text: "[]", "malformed"),
    (lambda text: "{}", "malformed"),
    (spoil(layers=[{"workload": "x"}]), "malformed"),
    (spoil(layers=[{"workload": "x", "choice": [[1.5]]}]), "malformed"),
    (spoil(layers=[{"workload": "x", "choice": "abc"}]), "malformed"),
    (spoil(layers=[{"workload": 3, "choice": [[1]]}]), "format 1"),
    (spoil(format=2), "format 2"),
    (spoil(level="none"), "level 'none'"),
    (spoil(target="x86-64-avx2"), "for target x86-64-avx2, but this compile is for x86-64-avx512vnni"),
])
def test_bad_records_are_usage_errors(change: Callable[[str], str], message: str, tuning: Tuning, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(change(tuning.dumps()))
    with pytest.raises(UsageError, match=message) as caught:
        Tuner.of("none", TARGET, file)
    assert str(file) in str(caught.value)


def test_a_missing_record_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Tuner.of("none", TARGET, tmp_path / "absent.json")


def test_a_record_sets_the_level(tuning: Tuning, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(tuning.dumps())
    assert Tuner.of("none", TARGET, file).level == "quick"


def test_only_measuring_needs_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "host_features", lambda: frozenset({"sse2"}))
    with pytest.raises(UsageError, match=r"--tune full .* cannot run target x86-64-avx512vnni: .*avx512_vnni.*--tuning-record"):
        Tuner.of("full", TARGET, None)
    assert Tuner.of("none", TARGET, None).level == "none"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "deep" / "folder", TARGET, "a CPU", "versions")


def test_what_was_stored_is_found(cache: Cache) -> None:
    assert cache.find("layer", "quick") is None
    cache.store("layer", "quick", CHOICE, {"x": 1.0})
    assert cache.find("layer", "quick") == CHOICE
    assert cache.find("another", "quick") is None
    assert [path.suffix for path in cache.folder.iterdir()] == [".json"]


def test_everything_in_the_key_matters(cache: Cache) -> None:
    cache.store("layer", "full", CHOICE, {})
    for other in (replace(cache, target=TARGETS["x86-64-avx2"]), replace(cache, machine="b"), replace(cache, versions="c")):
        assert other.find("layer", "full") is None


def test_a_thorough_search_serves_a_quick_one_but_not_the_other_way_round(cache: Cache) -> None:
    cache.store("layer", "quick", CHOICE, {})
    assert cache.find("layer", "full") is None
    cache.store("layer", "full", CHOICE, {})
    assert cache.find("layer", "quick") == CHOICE


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"key": {}}', "\x00"])
def test_a_damaged_file_is_measured_again(content: str, cache: Cache) -> None:
    cache.store("layer", "quick", CHOICE, {})
    file, = cache.folder.iterdir()
    file.write_text(content)
    assert cache.find("layer", "quick") is None
    cache.store("layer", "quick", CHOICE, {})
    assert cache.find("layer", "quick") == CHOICE


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = Cache(tmp_path / "file" / "folder", TARGET, "a CPU", "versions")
    blocked.store("layer", "quick", CHOICE, {})
    assert blocked.find("layer", "quick") is None


def test_several_writers_leave_whole_files(cache: Cache) -> None:
    times = {f"choice {number}": float(number) for number in range(2000)}

    def work(number: int) -> bool:
        cache.store("layer", "quick", ((number,),), times)
        return cache.find("layer", "quick") is not None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))
    assert len(list(cache.folder.iterdir())) == 1


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = Cache.here(TARGET)
    assert here.folder == tmp_path / "qcc" / "tuning"
    assert here.machine
    assert "apache-tvm" in here.versions
