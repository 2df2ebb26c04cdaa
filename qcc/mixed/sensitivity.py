"""What each site loses at each precision, with the rest of the network in float32: measured without labels, once, and kept.

The values before a site are computed once for all of its candidates, and only what follows it is computed for each. Sites are
jobs for an executor; results go to a state file as they come, so that an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from qcc.errors import UsageError
from qcc.ir import Array, Encoding, Graph, dump
from qcc.mixed.losses import Loss
from qcc.mixed.trials import Feeds, Trial, layer_trial, run_trial, value_trial
from qcc.passes.rounding.tandem import Prepare, Walker

FORMAT = 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """A site to try.

    Attributes:
        name: of the site.
        number: of the first node that it concerns.
        candidates: encodings of a layer's weights by label, or of values by label and name.
        is_layer: which of both.
        tied: all outputs of the layer have one weight scale.
    """

    name: str
    number: int
    candidates: Mapping[str, Any]
    is_layer: bool
    tied: bool = False

    def trial(self, graph: Graph, samples: Sequence[Feeds]) -> Trial:
        if self.is_layer:
            return layer_trial(graph, self.number, self.name, samples, self.candidates, self.tied)
        return value_trial(graph, self.number, self.name, samples, self.candidates)


@dataclass
class State:
    """Losses by site and label, in a file to which results are appended, or only in memory (`path` None)."""

    path: Path | None = None
    known: dict[str, dict[str, Loss]] = field(default_factory=dict)

    @staticmethod
    def open(path: Path | None, key: str) -> State:
        """Read what an earlier measurement left.

        Raises:
            UsageError: the file is no such state, or was measured for another network, data or choice of candidates.
        """
        if path is None or not path.exists():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"format": FORMAT, "key": key}) + "\n", "utf-8")
            return State(path)
        lines = path.read_text("utf-8").splitlines()
        try:
            head = json.loads(lines[0])
            found = (head["format"], head["key"])
        except (IndexError, ValueError, KeyError, TypeError) as error:
            text = f"state file {path} holds no measured losses: expected what an earlier run wrote; name another file"
            raise UsageError(text) from error
        if found != (FORMAT, key):
            raise UsageError(f"state file {path} was measured for another network, other data or other candidates; name another file")
        known = {}
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                known[entry["site"]] = {label: Loss(*numbers) for label, numbers in entry["losses"].items()}
            except (ValueError, KeyError, TypeError):
                continue      # the line on which an interrupted run ended
        if not path.read_text("utf-8").endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")
        return State(path, known)

    def add(self, site: str, losses: Mapping[str, Loss]) -> None:
        self.known[site] = dict(losses)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"site": site, "losses": {label: (loss.kl, loss.mse) for label, loss in losses.items()}}) + "\n")


def state_key(graph: Graph, subjects: Sequence[Subject], samples: Sequence[Feeds], learn: int = 0) -> str:
    """Digest of everything that measured losses depend on."""
    total = hashlib.sha256(f"{learn} {dump(graph)}".encode())
    for subject in subjects:
        total.update(repr((subject.name, subject.number, _plain(subject.candidates))).encode())
    for sample in samples:
        for name in sorted(sample):
            total.update(name.encode() + sample[name].tobytes())
    return total.hexdigest()


def _plain(candidates: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(label, value if isinstance(value, Encoding) else sorted(value.items())) for label, value in candidates.items()]


def sensitivities(
    graph: Graph, subjects: Sequence[Subject], samples: Sequence[Mapping[str, Array]], prepare: Prepare, state: State,
    executor: Executor | None = None, progress: Progress = lambda _done, _total: None, at_once: int | None = None,
    learn: int = 0,
) -> dict[str, dict[str, Loss]]:
    """The losses of every subject's candidates, by site and label.

    Args:
        graph: in float32.
        samples: inputs of the network.
        prepare: makes a function that computes values of a graph.
        state: what is known is not measured again, and what is measured is added.
        executor: runs the trials, which can be pickled; by default as many threads as there are cores.
        progress: told (sites done, sites in all).
        learn: so many of the first samples are for rounding only, and losses are those of the others; 0: all are for both.
        at_once: trials that are handed to the executor before one of them ends; by default one more than there are cores.
    """
    waiting = sorted((s for s in subjects if s.name not in state.known), key=lambda subject: subject.number)
    done = len(subjects) - len(waiting)
    progress(done, len(subjects))
    own = ThreadPoolExecutor(os.cpu_count() or 1) if executor is None else None
    pool = executor if own is None else own
    assert pool is not None
    try:
        with threadpool_limits(1, "blas"):
            for site, losses in _run(_trials(graph, waiting, samples, prepare, learn), pool, at_once or (os.cpu_count() or 1) + 1):
                state.add(site, losses)
                done += 1
                progress(done, len(subjects))
    finally:
        if own is not None:
            own.shutdown(cancel_futures=True)
    return {subject.name: state.known[subject.name] for subject in subjects}


def _trials(graph: Graph, subjects: Sequence[Subject], samples: Sequence[Feeds], prepare: Prepare, learn: int) -> Iterator[Trial]:
    """In the order of the network: each node before a site is computed once."""
    walker = Walker.start(graph, prepare, samples)
    for subject in subjects:
        walker.advance(subject.number)
        yield replace(subject.trial(graph, walker.values), learn=learn)


def _run(trials: Iterator[Trial], pool: Executor, most: int) -> Iterator[tuple[str, dict[str, Loss]]]:
    """Results as they come; few trials wait at a time, because each holds the values of all samples."""
    running: dict[Future[dict[str, Loss]], str] = {}
    try:
        for trial in trials:
            running[pool.submit(run_trial, trial)] = trial.site
            yield from _finished(running, 0.0)
            while len(running) >= most:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    finally:
        for future in running:
            future.cancel()


def _finished(running: dict[Future[dict[str, Loss]], str], seconds: float | None = None) -> Iterator[tuple[str, dict[str, Loss]]]:
    for future in wait(running, seconds, FIRST_COMPLETED).done:
        yield running.pop(future), future.result()
