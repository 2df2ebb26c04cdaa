"""Tuned networks: what is measured, replayed and cached, and that no choice changes a result bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

import qcc
from qcc import verification
from qcc.artifact import Artifact
from qcc.cli import main
from qcc.codegen import tuning_clock
from qcc.codegen.tune import tune
from qcc.codegen.tuning import FILE_NAME, Tuning, alternatives, choice_of, load_tuning, workload
from qcc.codegen.tuning_cache import Cache
from qcc.codegen.tuning_clock import Contender, run_races
from qcc.codegen.tuning_race import Result as RaceResult
from qcc.codegen.tuning_race import Rules
from qcc.codegen.worker import KernelCompiler
from qcc.errors import CodegenError, UsageError

Array = npt.NDArray[Any]
Feeds = list[dict[str, Array]]
NETWORK = "kws_dscnn"


class Compiled:
    """The network, compiled without tuning, and what it was compiled from."""

    def __init__(self, model: Path, feeds: Feeds) -> None:
        self.model, self.feeds = model, feeds
        self.artifact = qcc.compile(model, calibration_data=feeds)

    @property
    def layers(self) -> dict[str, Any]:
        """A kernel of each distinct layer that has choices, by workload."""
        kernels = self.artifact.program.kernels
        return {workload(kernel): kernel for kernel in kernels if alternatives(kernel, self.artifact.target)}

    def again(self, folder: Path, **options: Any) -> Artifact:
        artifact = qcc.compile(self.model, calibration_data=self.feeds, **options)
        artifact.save(folder)
        return artifact


@pytest.fixture(scope="module")
def network(zoo: Callable[[str], Path], samples: Callable[..., Feeds]) -> Compiled:
    return Compiled(zoo(NETWORK), samples(NETWORK, 2))


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees what another one, or the user, measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "qcc" / "tuning"


def last_wins(library: str, races: Sequence[Sequence[Contender]], _rules: Rules) -> list[RaceResult]:
    """Races that the last candidate wins, without running anything."""
    assert Path(library).is_file()
    return [RaceResult(len(contenders) - 1, 2.0, tuple(2.0 - i for i in range(len(contenders)))) for contenders in races]


def never(*_arguments: object) -> list[RaceResult]:
    raise AssertionError("nothing is left to measure")


def test_winners_are_taken_and_remembered(network: Compiled, tmp_path: Path) -> None:
    target, seen = network.artifact.target, []
    cache = Cache(tmp_path / "own", target, "a CPU", "versions")
    with KernelCompiler(target) as compiler:
        tuning = tune(network.artifact.program, compiler, "quick", cache, lambda *event: seen.append(event), last_wins)
        assert tune(network.artifact.program, compiler, "quick", cache, lambda *_: None, never) == tuning
    assert set(tuning.choices) == set(network.layers)
    assert all(tuning.choices[name] != choice_of(kernel) for name, kernel in network.layers.items())
    count = len(network.layers)
    assert seen[0] == ("tuning", 0, count)
    assert seen[-1] == ("tuning", count, count)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_measured_library_is_exact_replayed_and_cached(network: Compiled, tmp_path: Path, caches: Path) -> None:
    first = network.again(tmp_path / "first", tune="quick")
    assert len(list(caches.iterdir())) == len(network.layers)
    record = load_tuning(tmp_path / "first" / FILE_NAME, first.target)
    assert set(record.choices) == set(network.layers)
    assert_exact(first, tmp_path / "first", network.feeds)
    for file in caches.iterdir():
        file.unlink()
    network.again(tmp_path / "second", tuning_record=tmp_path / "first" / FILE_NAME)
    assert_same_files(tmp_path / "first", tmp_path / "second")
    assert not list(caches.iterdir()), "a replay measures nothing"


@pytest.mark.parametrize("seed", range(2))
def test_no_choice_changes_a_bit(seed: int, network: Compiled, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    target = network.artifact.target
    drawn = {name: alternatives(kernel, target) for name, kernel in network.layers.items()}
    choices = {name: choice_of(kernels[rng.integers(len(kernels))]) for name, kernels in drawn.items()}
    record = tmp_path / "record.json"
    record.write_text(Tuning(target, "full", choices).dumps())
    artifact = network.again(tmp_path / "out", tuning_record=record)
    taken = {workload(kernel): choice_of(kernel) for kernel in artifact.program.kernels if alternatives(kernel, target)}
    assert taken == choices
    assert_exact(artifact, tmp_path / "out", network.feeds)
    with qcc.load(tmp_path / "out") as module:
        network.artifact.save(tmp_path / "plain")
        with qcc.load(tmp_path / "plain") as plain:
            for feeds in network.feeds:
                for name, array in plain.run(feeds).items():
                    np.testing.assert_array_equal(module.run(feeds)[name], array)


def assert_exact(artifact: Artifact, folder: Path, inputs: Feeds) -> None:
    with qcc.load(folder, threads=2) as module:
        for feeds in inputs:
            layers = list(verification.check_layers(module, artifact.graph, feeds))
            assert all(layer.good for layer in layers)
        module.selftest()


def assert_same_files(first: Path, second: Path) -> None:
    names = sorted(path.name for path in first.iterdir())
    assert FILE_NAME in names
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_records_of_other_networks_are_refused(
    network: Compiled, tmp_path: Path, zoo: Callable[[str], Path], samples: Callable[..., Feeds]
) -> None:
    choices = {name: choice_of(kernel) for name, kernel in network.layers.items()}
    record = tmp_path / "record.json"
    record.write_text(Tuning(network.artifact.target, "quick", choices).dumps())
    with pytest.raises(UsageError, match=r"record\.json does not fit this network: \d+ of its \d+ layers do not occur"):
        qcc.compile(zoo("ad_autoencoder"), calibration_data=samples("ad_autoencoder", 1), tuning_record=record)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_command_line(network: Compiled, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    name, = network.feeds[0]
    np.savez(data, **{name: np.concatenate([feeds[name] for feeds in network.feeds])})
    common = ("compile", network.model, "--calibration-data", data, "-q")
    assert command(*common, "-o", tmp_path / "a", "--tune", "quick").exit_code == 0
    assert command(*common, "-o", tmp_path / "b", "--recipe", tmp_path / "a" / "recipe.toml").exit_code == 0
    assert_same_files(tmp_path / "a", tmp_path / "b")
    refused = command(*common, "-o", tmp_path / "d", "--tuning-record", tmp_path / "a" / "recipe.toml")
    assert (refused.exit_code, (tmp_path / "d").exists()) == (2, False)
    assert "cannot be read" in refused.output
    both = command(*common, "-o", tmp_path / "d", "--tune", "full", "--tuning-record", tmp_path / "a" / FILE_NAME)
    assert both.exit_code == 2
    assert "exclude each other" in both.output
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["files"][FILE_NAME]


def test_an_interrupted_search_keeps_what_it_found(network: Compiled, tmp_path: Path, caches: Path) -> None:
    data, output, scratch = tmp_path / "data.npz", tmp_path / "out", tmp_path / "scratch"
    np.savez(data, **network.feeds[0])
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(scratch)}
    arguments = ("compile", network.model, "--calibration-data", data, "-o", output, "--tune", "full")
    with subprocess.Popen([sys.executable, "-m", "qcc", *map(str, arguments)], env=environment, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and not any(caches.glob("[!.]*.json")):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)     # as a terminal does: the children get it, too
        printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed.strip()) == (130, "qcc: interrupted; nothing was written")
    assert not output.exists()
    assert not list(scratch.glob("qcc-*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert all(json.loads(file.read_text())["level"] == "full" for file in caches.glob("*.json"))


def contender(symbol: str) -> Contender:
    return Contender(symbol, 3, ((100, False), (5000, True), (64, True), (200, False)))


def build(folder: Path, body: str) -> str:
    """A library of stand-ins for kernels."""
    source = folder / "stand_ins.c"
    source.write_text(body)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", folder / "stand_ins.so", source], check=True)
    return str(folder / "stand_ins.so")


LOOPS = """
#include <stdlib.h>
static int spin(int turns, int begin, int end) {
    if (begin != 0 || end != 3) abort();
    for (volatile int i = 0; i < turns; i++) {}
    return 0;
}
int slow(char *a, char *b, char *c, char *d, int begin, int end) { d[0] = a[0] + b[4999] + c[63]; return spin(40000, begin, end); }
int fast(char *a, char *b, char *c, char *d, int begin, int end) { d[199] = a[99] + b[0] + c[0]; return spin(10000, begin, end); }
int failing(char *a, char *b, char *c, char *d, int begin, int end) { return 1; }
int crashing(char *a, char *b, char *c, char *d, int begin, int end) { abort(); }
"""


def test_the_clock_tells_fast_from_slow(tmp_path: Path) -> None:
    library = build(tmp_path, LOOPS)
    races = [[contender("slow"), contender("fast")], [contender("fast"), contender("slow")]]
    first, second = run_races(library, races, Rules())
    assert (first.winner, second.winner) == (1, 0)
    assert 2.5 < first.gain < 6
    assert first.seconds[0] > first.seconds[1] > 0


@pytest.mark.parametrize(("symbol", "message"), [("crashing", "SIGABRT"), ("failing", "a kernel reports a failure"), ("absent", "absent")])
def test_kernels_that_break_are_named(symbol: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match=message):
        run_races(build(tmp_path, LOOPS), [[contender("slow"), contender(symbol)]], Rules())


def test_constants_rotate_and_nothing_overlaps() -> None:
    memory = tuning_clock.Memory.for_contenders([contender("x")])
    calls = [[value.value for value in call[:4]] for call in memory.calls(contender("x"))]
    assert len(calls) == tuning_clock.MOST_COPIES
    assert len({call[1] for call in calls}) == len(calls)
    assert {(call[0], call[3]) for call in calls} == {(calls[0][0], calls[0][3])}
    spans = sorted((place, place + size) for call in calls for place, size in zip(call[1:3], (5000, 64), strict=True))
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(place % 64 == 0 for call in calls for place in call)
