"""Passes and pipelines: a pass is a pure function with a contract, and the pipeline checks the contract at every boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Concatenate, Generic, ParamSpec, TypeAlias

from qcc.errors import PassError, QccError
from qcc.ir.graph import Graph
from qcc.ir.op import Stage
from qcc.ir.verify import verify


class Numerics(IntEnum):
    """What a pass promises about the outputs; one shared test holds every registered pass to it."""

    EXACT = 0      # bit-identical
    CLOSE = 1      # equal in real arithmetic; float rounding may differ
    LOSSY = 2      # accuracy is measured, not asserted


Decided = ParamSpec("Decided")


@dataclass(frozen=True)
class Pass(Generic[Decided]):
    """A graph-to-graph function and its contract. A pass that changes nothing returns the very graph that it was given.

    What was measured or decided for one network (ranges, integers of weights) are further arguments of `run`; `given` fills them in.
    """

    name: str
    takes: Stage
    gives: Stage
    numerics: Numerics
    run: Callable[Concatenate[Graph, Decided], Graph]

    def given(self, *decided: Decided.args, **named: Decided.kwargs) -> Step:
        """The pass for one network, ready for a pipeline."""
        return Step(self.name, self.takes, self.gives, self.numerics, lambda graph: self.run(graph, *decided, **named))


Step: TypeAlias = Pass[[]]
Observer = Callable[[Step, Graph, Graph], None]


def unobserved(_step: Step, _before: Graph, _after: Graph) -> None:
    """An observer that does nothing."""


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. `observe` sees the graph before and after each (for dumps, timings, checks)."""

    passes: tuple[Step, ...]
    observe: Observer = unobserved

    def __call__(self, graph: Graph) -> Graph:
        """Run all passes, verifying after each.

        Raises:
            PassError: a pass was given a stage that it does not take.
            QccError: from a pass or from verification, with a note that names the pass.
        """
        for number, step in enumerate(self.passes):
            if graph.stage is not step.takes:
                raise PassError(f"pass {step.name!r} takes a {step.takes.name} graph, got {graph.stage.name}")
            try:
                result = step.run(graph)
                result = result if result.stage is step.gives else replace(result, stage=step.gives)
                if result is not graph:
                    verify(result)
            except QccError as error:
                error.add_note(f"in pass {step.name!r}, after {[p.name for p in self.passes[:number]]}")
                raise
            self.observe(step, graph, result)
            graph = result
        return graph


def until_stable(run: Callable[[Graph], Graph], limit: int = 1000) -> Callable[[Graph], Graph]:
    """Repeat a rewriting until it returns the graph that it was given.

    Raises:
        PassError: it is still changing the graph after `limit` rounds.
    """

    def repeated(graph: Graph) -> Graph:
        for _ in range(limit):
            result = run(graph)
            if result is graph:
                return graph
            graph = result
        raise PassError(f"graph {graph.name!r}: a rewriting did not come to rest in {limit} rounds")

    return repeated
