"""Mixed precision: goals are read or refused, losses are measured alone and kept, and predictions are corrected by what is measured."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.codegen.plan import plan
from qcc.codegen.profiling import distinct, estimated, load_profile, subject
from qcc.codegen.target import TARGETS
from qcc.errors import AccuracyError, BudgetError, UsageError
from qcc.ir import Array, Graph, GraphBuilder, TensorType
from qcc.ir.types import F32
from qcc.mixed.costs import Costs, Plans, narrowed
from qcc.mixed.goals import Goal
from qcc.mixed.losses import Loss, kind_for, log_probabilities, loss_between
from qcc.mixed.model import Model, Observation, chosen_values
from qcc.mixed.search import Bench, search
from qcc.mixed.sensitivity import State, Subject, sensitivities, state_key
from qcc.mixed.trials import run_trial
from qcc.onnx import prepare
from qcc.ops import Add, Clip, Convolution, MatMul, Reshape
from qcc.passes.calibrate import Range
from qcc.passes.integer import to_integer
from qcc.passes.mixed.sites import values_of, weights_of
from qcc.passes.quantize import Placement, Precision, encode, place

TARGET = TARGETS["x86-64-avx512vnni"]


def network() -> Graph:
    """Two convolutions with a residual around the second, and a classifier: f32[1, 4, 6, 6] -> f32[1, 5]."""
    rng = np.random.default_rng(3)
    builder = GraphBuilder("net")

    def constant(*shape: int) -> str:
        return builder.constant((rng.normal(size=shape) * 0.4).astype(np.float32), "w")

    builder.input("x", TensorType(F32, (1, 4, 6, 6)))
    builder.add(Convolution((1, 1), (1, 1, 1, 1), (1, 1), 1), ["x", constant(8, 4, 3, 3), constant(8)], ["first"])
    builder.add(Clip((0.0,), (math.inf,)), ["first"], ["a"])
    builder.add(Convolution((1, 1), (1, 1, 1, 1), (1, 1), 1), ["a", constant(8, 8, 3, 3), constant(8)], ["second"])
    builder.add(Add(), ["second", "a"], ["sum"])
    builder.add(Clip((0.0,), (math.inf,)), ["sum"], ["b"])
    builder.add(Reshape((1, 288)), ["b"], ["flat"])
    builder.add(MatMul(), ["flat", constant(288, 5)], ["logits"])
    builder.outputs["logits"] = "logits"
    return builder.build()


def data(count: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(4)
    return [{"x": rng.normal(size=(1, 4, 6, 6)).astype(np.float32)} for _ in range(count)]


def ranges(graph: Graph, placement: Placement) -> dict[str, Range]:
    run = prepare(graph, placement.encoded)
    found = [run(sample) for sample in data()]
    return {n: Range(min(float(f[n].min()) for f in found), max(float(f[n].max()) for f in found)) for n in placement.encoded}


def subjects(graph: Graph) -> list[Subject]:
    placement = place(graph)
    by_bits = {bits: encode(graph, placement, ranges(graph, placement), Precision(bits, bits)) for bits in (8, 4, 2)}
    found = [Subject(w.name, w.number, {str(b): q.types[q.nodes[w.number].inputs[1]].encoding for b, q in by_bits.items()}, True)
             for w in weights_of(graph, placement)]
    groups, _ = chosen_values(graph, values_of(graph, placement), placement)
    tried = [{str(b): {n: q.types[n].encoding for n in v.members} for b, q in by_bits.items()} for v in groups]
    return found + [Subject(v.name, v.number, encodings, False) for v, encodings in zip(groups, tried, strict=True)]


class Inline(Executor):
    """Runs what it is given at once, after a trip through pickle; stops after `most` trials."""

    def __init__(self, most: int = 1000) -> None:
        self.left, self.ran = most, 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        if self.ran == self.left:
            raise KeyboardInterrupt
        self.ran += 1
        future: Future[Any] = Future()
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))
        future.set_result(function(*arguments))
        return future


def test_losses_of_what_is_known() -> None:
    wanted, other = [{"y": np.array([[1.0, 2.0, 3.0]], np.float32)}], [{"y": np.array([[1.0, 2.0, 2.0]], np.float32)}]
    same = loss_between(wanted, wanted)
    assert (same.kl, same.mse) == (0.0, 0.0)
    found = loss_between(wanted, other)
    p, q = (np.exp(log_probabilities(side[0]["y"]))[0] for side in (wanted, other))
    assert found.kl == pytest.approx(float(np.sum(p * np.log(p / q))))
    assert found.mse == pytest.approx(1.0 / 14.0)
    assert np.allclose(np.exp(log_probabilities(np.array([[0.2, 0.8]]))), [[0.2, 0.8]])       # these are probabilities already


def test_a_classifier_is_told_from_an_autoencoder() -> None:
    graph = network()
    assert kind_for(graph, "auto") == "kl"
    assert kind_for(graph, "mse") == "mse"
    assert kind_for(replace(graph, outputs={"y": "flat"}), "auto") == "mse"


def test_each_site_is_measured_alone() -> None:
    """The loss of a site is that of the whole network with that site rounded and nothing else."""
    graph, samples = network(), data()
    tried = subjects(graph)
    found = sensitivities(graph, tried, samples, prepare, State(), Inline())
    assert set(found) == {subject.name for subject in tried}
    assert len(tried) == 3 + 2
    exact = [dict(prepare(graph, ["logits"])(sample)) for sample in samples]
    for one in tried:
        losses = found[one.name]
        assert losses["8"].mse < losses["4"].mse < losses["2"].mse
        if not one.is_layer:
            types = {n: replace(t, encoding=one.candidates["4"].get(n)) if n in one.candidates["4"] else t for n, t in graph.types.items()}
            run = prepare(replace(graph, types=types), ["logits"])
            whole = loss_between(exact, [run(sample) for sample in samples])
            assert losses["4"].mse == pytest.approx(whole.mse, rel=1e-3)


def test_threads_and_processes_measure_the_same() -> None:
    graph, samples = network(), data(3)
    tried = subjects(graph)
    here = sensitivities(graph, tried, samples, prepare, State())
    there = sensitivities(graph, tried, samples, prepare, State(), Inline())
    for site, losses in here.items():
        for label, loss in losses.items():
            assert loss.mse == pytest.approx(there[site][label].mse, rel=1e-5, abs=1e-12)


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    graph, samples = network(), data(3)
    tried = subjects(graph)
    key, path = state_key(graph, tried, samples), tmp_path / "losses.jsonl"
    with pytest.raises(KeyboardInterrupt):
        sensitivities(graph, tried, samples, prepare, State.open(path, key), Inline(2))
    path.write_text(path.read_text() + '{"site": "weights fi')      # it ended in the middle of a line
    kept = State.open(path, key)
    assert len(kept.known) == 2
    executor = Inline()
    seen: list[tuple[int, int]] = []
    found = sensitivities(graph, tried, samples, prepare, kept, executor, lambda done, total: seen.append((done, total)))
    assert executor.ran == len(tried) - 2
    assert seen[-1] == (len(tried), len(tried))
    assert State.open(path, key).known.keys() == found.keys()
    whole = sensitivities(graph, tried, samples, prepare, State(), Inline())
    assert {s: {k: round(v.mse, 9) for k, v in f.items()} for s, f in found.items()} == {
        s: {k: round(v.mse, 9) for k, v in f.items()} for s, f in whole.items()}


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    graph, tried = network(), subjects(network())
    path = tmp_path / "losses.jsonl"
    State.open(path, state_key(graph, tried, data(2)))
    with pytest.raises(UsageError, match="another network, other data or other candidates"):
        State.open(path, state_key(graph, tried, data(3)))
    path.write_text("nothing\n")
    with pytest.raises(UsageError, match="holds no measured losses"):
        State.open(path, "key")


def integer_network() -> Graph:
    graph = network()
    placement = place(graph)
    return to_integer(encode(graph, placement, ranges(graph, placement), Precision()), placement, False)


def test_costs_are_those_of_the_kernels_that_are_planned() -> None:
    graph = integer_network()
    plans = Plans.of(graph, TARGET, {})
    costs = plans.costs(estimated(plans.steps, TARGET))
    for bits, program in plans.programs.items():
        total = costs.fixed_size + sum(own[bits] for own in costs.size.values())
        assert total == pytest.approx(len(program.constants), abs=64 * len(program.steps))      # constants are aligned
        assert program == plan(narrowed(graph, bits), TARGET, "costs", {})
    for own in costs.size.values():
        assert own[8] > own[4] > own[2]
    assert all(value > 0.0 for own in costs.latency.values() for value in own.values())


def test_profiles_of_others_are_refused(tmp_path: Path) -> None:
    program = plan(integer_network(), TARGET, "net", {})
    profile = estimated(distinct(program.steps), TARGET)
    path = tmp_path / "profile.json"
    path.write_text(profile.dumps())
    assert load_profile(path, TARGET).seconds == pytest.approx(dict(profile.seconds))
    with pytest.raises(UsageError, match=r"measured for target x86-64-avx512vnni, but x86-64-avx2"):
        load_profile(path, TARGETS["x86-64-avx2"])
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "versions": "apache-tvm 0.1, sources 0"}))
    with pytest.raises(UsageError, match="another version of qcc or TVM"):
        load_profile(path, TARGET)
    path.write_text(json.dumps({**values, "seconds": {"a": -1.0}}))
    with pytest.raises(UsageError, match="not positive"):
        load_profile(path, TARGET)
    path.write_text("[]")
    with pytest.raises(UsageError, match="cannot be read"):
        load_profile(path, TARGET)
    with pytest.raises(UsageError, match="lacks the kernel"):
        replace(profile, seconds={"a": 1.0}).of(program.steps[0].kernel)
    assert subject(program.steps[0].kernel) in profile.seconds


def small_model(bits: tuple[int, ...] = (8, 4, 2)) -> Model:
    """The network with made-up losses: each bit less costs four times as much, the first layer most."""
    graph = network()
    placement = place(graph)
    weights = weights_of(graph, placement)
    losses = {w.name: {str(b): Loss(4.0 ** (2 - b) / (n + 1), 0.0) for b in bits} for n, w in enumerate(weights)}
    size = {w.layer: {b: float(w.count * b) for b in bits} for w in weights}
    latency = {w.layer: {b: 1e-6 * b for b in bits} for w in weights}
    profile = estimated({}, TARGET)
    labels = {"weights": tuple(map(str, bits)), "values": ("8",)}
    return Model(weights, (), (), losses, "kl", Costs(size, latency, 100.0, 1e-6, 10, profile), labels)


class Fake(Bench):
    """A bench on which losses follow a rule."""

    def __init__(self, rule: Callable[[Mapping[str, str], Model], float]) -> None:
        super().__init__(network(), lambda weights, values: network(), prepare, ())
        self.rule = rule

    def measure(self, model: Model, assignment: Mapping[str, str]) -> tuple[Graph, float]:
        return self.graph, self.rule(assignment, model)


def predicted(assignment: Mapping[str, str], model: Model) -> float:
    return sum(model.losses[name][label].kl for name, label in assignment.items())


def test_a_loss_that_adds_up_needs_one_solution() -> None:
    found = search(Goal.within("size=0.5x"), small_model(), Fake(predicted))
    assert len(found.turns) == 1
    assert found.turn.agrees
    assert found.solution.values["size"] <= 0.5 * small_model().problem().total(small_model().uniform(8), "size")


def test_corrections_bring_prediction_and_measurement_together() -> None:
    """Two bits lose ten times as much together as alone: the next solutions know, and the loss that is measured falls."""
    def rule(assignment: Mapping[str, str], model: Model) -> float:
        return sum(model.losses[name][label].kl * (10.0 if label == "2" else 1.0) for name, label in assignment.items())

    found = search(Goal.within("size=0.45x"), small_model(), Fake(rule))
    assert len(found.turns) > 1
    assert found.turn.agrees
    assert found.measured == min(turn.measured for turn in found.turns)


def test_an_earlier_solution_is_judged_by_the_last_program() -> None:
    """The first solution is the best that was measured; its prediction is that of the program that knows of it."""
    losses = iter([1.0, 0.5, 0.51, 0.51, 0.51])
    found = search(Goal.within("size=0.5x"), small_model(), Fake(lambda assignment, model: next(losses)))
    assert found.measured == 0.5
    assert found.solution.values["loss"] == pytest.approx(found.model.problem().total(found.solution.assignment, "loss"))
    assert found.turn.predicted == found.solution.values["loss"]


def test_a_prediction_that_stays_wrong_is_reported() -> None:
    turns = iter(range(1, 100))
    found = search(Goal.within("size=0.5x"), small_model(), Fake(lambda assignment, model: 100.0 ** next(turns)))
    assert not found.turn.agrees


def test_corrected_factors_explain_what_was_measured() -> None:
    model = small_model()
    parts = [model.parts(model.uniform(bits)) for bits in (4, 2)]
    factors = model.corrected([Observation(p, 3.0 * sum(p.values())) for p in parts])
    assert factors["weights", "4"] == pytest.approx(3.0, rel=0.01)
    assert factors["weights", "2"] == pytest.approx(3.0, rel=0.01)


def test_the_least_size_under_a_loss() -> None:
    model = small_model()
    most = predicted(model.uniform(4), model)
    found = search(Goal(max_loss=most * 1.01), model, Fake(predicted))
    assert found.measured <= most * 1.01
    assert found.solution.values["size"] <= model.problem().total(model.uniform(4), "size")


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_a_loss_that_cannot_be_kept_is_an_accuracy_goal_missed(scale: float) -> None:
    model = small_model()
    goal = Goal(max_loss=0.5 * predicted(model.uniform(8), model) * scale)
    with pytest.raises(AccuracyError) as caught:
        search(goal, model, Fake(lambda assignment, model: 1e9 * predicted(assignment, model)))
    assert caught.value.exit_code == 4


def test_budgets_out_of_reach_say_so() -> None:
    with pytest.raises(BudgetError, match="latency cannot be at most"):
        search(Goal.within("latency=0.01x"), small_model(), Fake(predicted))


def metric_goal(values: Callable[[int], float], drop: float) -> Goal:
    calls = iter(range(100))

    def evaluate(run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> float:
        assert set(run(data(1)[0])) == {"logits"}
        return values(next(calls))

    return Goal(max_drop=drop, evaluate=evaluate)


def test_the_least_size_that_keeps_the_users_measure() -> None:
    model = small_model()
    found = search(metric_goal(lambda number: 0.9, 0.01), model, Fake(predicted))      # nothing is ever lost
    assert found.solution.values["size"] == pytest.approx(model.problem().total(model.uniform(2), "size"))
    assert found.drop == 0.0


def test_a_measure_that_drops_too_much_is_an_accuracy_goal_missed() -> None:
    with pytest.raises(AccuracyError, match=r"drops by 0.4, from 0.9"):
        search(metric_goal(lambda number: 0.9 if number == 0 else 0.5, 0.01), small_model(), Fake(predicted))


def _raises(number: int) -> float:
    raise ValueError("no labels")


@pytest.mark.parametrize(("values", "message"), [(_raises, "raised ValueError: no labels"), (lambda number: math.nan, "returned nan")])
def test_an_evaluation_that_fails_is_named(values: Callable[[int], float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search(metric_goal(values, 0.1), small_model(), Fake(predicted))


def test_trials_hold_all_that_they_need() -> None:
    graph, samples = network(), data(2)
    (subject_, *_) = subjects(graph)
    trial = subject_.trial(graph, samples)
    copy = pickle.loads(pickle.dumps(trial))
    assert run_trial(copy)["4"].mse == pytest.approx(run_trial(trial)["4"].mse, rel=1e-6)
