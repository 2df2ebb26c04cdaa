"""Migration is CLOSE: outputs of real networks change by less than 1e-5 of their largest number, before anything is rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.ir import Array, Graph, Numerics, Pipeline, verify
from qcc.models import zoo as model_zoo
from qcc.onnx import FloatRunner, import_model
from qcc.passes.migrate import MIGRATE, Bits, Judge
from qcc.passes.simplify import SIMPLIFY

MODELS = (*model_zoo.BUNDLED, *model_zoo.PUBLISHED, "light_shufflenet", "light_densenet121")
CLOSE = 1e-5


def outputs(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    return FloatRunner(graph, list(graph.outputs.values())).run_ports(feeds)


@pytest.mark.parametrize("name", MODELS)
def test_real_networks_keep_their_outputs(
    name: str, zoo: Callable[[str], Path], samples: Callable[..., list[dict[str, Any]]]
) -> None:
    graph = Pipeline(SIMPLIFY)(import_model(zoo(name)))
    data = samples(name, 3)
    judge = Judge(lambda g, values: FloatRunner(g, values).run, Bits())
    wanted = outputs(graph, data[-1])
    assert MIGRATE.numerics is Numerics.CLOSE
    for method in ("equalize", "smooth", "shift"):
        result = MIGRATE.run(graph, judge.find(graph, method, data[:2]))
        verify(result)
        found = outputs(result, data[-1])
        for port, array in wanted.items():
            error = float(np.abs(found[port] - array).max() / np.abs(array).max())
            assert error < CLOSE, f"{method}, output {port}: {error}"
