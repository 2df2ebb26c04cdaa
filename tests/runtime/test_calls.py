"""What a call from Python rests on: contexts that are taken and given without a lock, and addresses that are read from arrays."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from handmade import build, network

from qcc.errors import RuntimeFailure
from qcc.runtime import Module, load
from qcc.runtime.module import address_of

WIDTH, HEIGHT = 512, 1024


def test_closing_lets_calls_finish_and_refuses_later_ones(tmp_path: Path) -> None:
    net, outcomes = network("toy", WIDTH, HEIGHT), []
    build(net, tmp_path / "toy", tmp_path / "work")
    x = np.random.default_rng(0).normal(0, 30, WIDTH).astype(np.float32)
    expected = net.evaluate(x)["codes"]
    started = threading.Barrier(5)

    def work(module: Module) -> None:
        started.wait()
        try:
            for _ in range(2000):
                if not np.array_equal(module.run(x)["codes"], expected):
                    outcomes.append("wrong")
                    return
        except RuntimeFailure as error:
            outcomes.append(str(error).rpartition(" ")[2])

    for _ in range(5):
        module = load(tmp_path / "toy")
        workers = [threading.Thread(target=work, args=(module,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        started.wait()
        module.run(x)
        module.close()
        with pytest.raises(RuntimeFailure, match="closed"):
            module.run(x)
        for worker in workers:
            worker.join()
    assert outcomes == ["closed"] * 20


def test_addresses_are_what_numpy_says() -> None:
    whole = np.arange(24, dtype=np.uint16).reshape(4, 6)
    for array in (whole, whole[1:, 2:], whole[::-1], whole.T, np.empty((3, 0)), np.array(7.0)):
        assert address_of(array) == array.__array_interface__["data"][0]
