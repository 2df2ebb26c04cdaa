"""Random networks, compiled, equal their interpretation bit for bit (float operators: within their bound)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.golden import output_bounds
from qcc.ir import interpret
from qcc.onnx.exporter import export_model
from tests.unit.graphs import random_feeds, random_graph


@pytest.mark.parametrize(("seed", "bits"), [*((seed, 8) for seed in range(8)), (11, 4), (39, 4)])
def test_random_network(seed: int, bits: int, tmp_path: Path) -> None:
    network = random_graph(seed)
    border = "integer" if seed % 3 == 0 else "float"
    data = list(random_feeds(network, seed, 2))
    artifact = qcc.compile(export_model(network), bits=bits, calibration_data=data, name="random", io=border)
    artifact.save(tmp_path / "artifact")
    module = qcc.load(tmp_path / "artifact")
    feeds = {}
    for name, array in next(random_feeds(network, seed + 1, 1)).items():
        encoding = artifact.graph.types[name].encoding
        feeds[name] = array if encoding is None else encoding.quantize(array)
    wanted, got = interpret(artifact.graph, feeds), module.run(feeds)
    bounds = output_bounds(artifact.graph, wanted)
    assert set(got) == set(wanted)
    for port, array in wanted.items():
        assert (got[port].dtype, got[port].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(got[port], array, rtol=0, atol=bounds.get(port, 0.0))
