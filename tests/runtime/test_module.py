"""The loader: right results from NumPy arrays, and one clear error for everything else."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import BASELINE, Array, Network, build, network

from qcc.errors import RuntimeFailure, UsageError, VerificationError
from qcc.runtime import Manifest, Module, load
from qcc.runtime.manifest import numpy_dtype

WIDTH, HEIGHT = 512, 1024


@pytest.fixture(scope="module")
def net() -> Network:
    return network("toy", WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def folder(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runtime")
    build(net, base / "toy", base / "work")
    return base / "toy"


@pytest.fixture
def module(folder: Path) -> Module:
    return load(folder)


def sample(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 30, WIDTH).astype(np.float32)


def assert_equal(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_results_are_exact_with_any_number_of_threads(net: Network, folder: Path, threads: int) -> None:
    with load(folder, threads) as module:
        for seed in range(20):
            assert_equal(module.run({"x": sample(seed)}), net.evaluate(sample(seed)))
        module.selftest()


def test_special_values_are_passed_on(net: Network, module: Module) -> None:
    x = sample()
    x[:5] = [np.nan, np.inf, -np.inf, -0.0, 1e30]
    assert_equal(module.run(x), net.evaluate(x))


def test_inputs_may_be_strided_readonly_or_dlpack(net: Network, module: Module) -> None:
    class Foreign:
        def __init__(self, array: Array) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    x = sample()
    expected = net.evaluate(x)
    readonly = x.copy()
    readonly.flags.writeable = False
    for value in (np.repeat(x, 3)[::3], x[::-1].copy()[::-1], readonly, Foreign(x), x.view(np.recarray)):
        assert_equal(module.run({"x": value}), expected)
    misaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32)
    assert_equal(module.run(misaligned), expected)
    assert all(type(array) is np.ndarray for array in module.run(Foreign(x)).values())


def test_results_can_be_written_to_given_arrays(net: Network, module: Module) -> None:
    out = {"codes": np.zeros(HEIGHT, np.uint8)}
    results = module.run(sample(), out=out)
    assert results["codes"] is out["codes"]
    assert_equal(results, net.evaluate(sample()))
    for wrong in (np.zeros(HEIGHT, np.int8), np.zeros(3, np.uint8), np.zeros(2 * HEIGHT, np.uint8)[::2], [0] * HEIGHT):
        with pytest.raises(UsageError, match=r"out\['codes'\]: expected a contiguous"):
            module.run(sample(), out={"codes": wrong})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="outputs: expected the names"):
        module.run(sample(), out={"y": out["codes"]})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"inputs: expected the names \['x'\], got \[\]"),
        ({"y": sample()}, r"expected the names \['x'\], got \['y'\]"),
        ({"x": sample(), "y": sample()}, "got"),
        ({"x": sample().astype(np.float64)}, r"expected float32\[512\], got float64\[512\]; convert it with \.astype\(np\.float32\)"),
        ({"x": sample()[:-1]}, r"expected float32\[512\], got float32\[511\]"),
        ({"x": sample().astype(">f4")}, "got >f4"),
        ({"x": [1.0, 2.0]}, "expected a NumPy array or an object with __dlpack__, got list"),
        (None, "got NoneType"),
    ],
)
def test_wrong_inputs_are_refused(module: Module, inputs: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        module.run(inputs)
    module.selftest()


def test_profile_and_trace_follow_the_steps(net: Network, module: Module) -> None:
    x = sample()
    assert [node for node, _ in module.profile(x)] == ["q", "y", "real", "codes"]
    assert all(0 <= time < 10**9 for _, time in module.profile(x))
    expected = net.evaluate(x)
    arrays = {step.node: read() for step, read in module.trace({"x": x})}
    np.testing.assert_array_equal(arrays["y"] * np.float32(0.25), expected["real"])
    np.testing.assert_array_equal(arrays["real"], expected["real"])
    np.testing.assert_array_equal(arrays["codes"], expected["codes"])
    assert module.layers[0]["bits"] == "w8a8"
    for step, read in module.trace(x):
        if step.node == "y":
            np.testing.assert_array_equal(read(0), arrays["q"])
            with pytest.raises(UsageError, match="lies in constant memory"):
                read(1)


def test_one_module_serves_several_threads(net: Network, folder: Path) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        expected = net.evaluate(sample(seed))
        for _ in range(40):
            found = module.run(sample(seed))
            if any(not np.array_equal(found[name], expected[name]) for name in expected):
                failures.append(f"seed {seed}")

    with load(folder, threads=2) as module:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert failures == []


def run_in_child(module: Module, x: Array, queue: Any) -> None:
    queue.put(module.run(x)["codes"])
    module.close()


def test_a_forked_child_can_run(net: Network, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    with load(folder, threads=3) as module:
        module.run(sample())
        queue = context.SimpleQueue()
        child = context.Process(target=run_in_child, args=(module, sample(5), queue))
        child.start()
        np.testing.assert_array_equal(queue.get(), net.evaluate(sample(5))["codes"])
        child.join(20)
        assert child.exitcode == 0
        assert_equal(module.run(sample()), net.evaluate(sample()))


def test_closed_module_refuses(folder: Path) -> None:
    module = load(folder)
    module.close()
    module.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        module.run(sample())


def test_rebuilt_library_can_be_loaded_beside_the_old_one(tmp_path: Path) -> None:
    first, second = network(seed=1), network(seed=2)
    x = np.linspace(-40, 40, 24, dtype=np.float32)
    build(first, tmp_path / "toy", tmp_path / "work")
    module = load(tmp_path / "toy")
    assert_equal(module.run(x), first.evaluate(x))
    build(second, tmp_path / "toy", tmp_path / "work", force=True)
    with load(tmp_path / "toy") as again:
        assert_equal(again.run(x), second.evaluate(x))
        assert_equal(module.run(x), first.evaluate(x))
    module.close()
    with load(tmp_path / "toy") as again:
        assert_equal(again.run(x), second.evaluate(x))


def test_damaged_weights_are_found(folder: Path, net: Network, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "toy")
    library = tmp_path / "toy" / "libtoy.so"
    data = bytearray(library.read_bytes())
    at = data.index(net.program.constants[:64]) + 100
    data[at] ^= 1
    library.write_bytes(data)
    with pytest.raises(RuntimeFailure, match="changed after it was built"):
        load(tmp_path / "toy", check=True)
    with load(tmp_path / "toy") as module, pytest.raises(VerificationError, match="weights in the library are damaged"):
        module.selftest()


@pytest.mark.parametrize(("name", "bound"), [("codes", 0.0), ("real", 0.0), ("real", 0.1)])
def test_wrong_results_fail_the_selftest(tmp_path: Path, name: str, bound: float) -> None:
    net = network()
    x = np.linspace(-40, 40, 24, dtype=np.float32)
    golden = net.evaluate(x)
    golden[name][17] += 1
    changes = {"golden_inputs": {"x": x}, "golden_patterns": {}, "golden_outputs": golden, "output_bounds": {name: bound} if bound else {}}
    build(net, tmp_path / "toy", tmp_path / "work", **changes)
    with load(tmp_path / "toy") as module, pytest.raises(VerificationError, match=f"output {name} differs .* at element 17"):
        module.selftest()


def test_float_outputs_may_differ_within_their_bound(tmp_path: Path) -> None:
    net = network()
    x = np.linspace(-40, 40, 24, dtype=np.float32)
    golden = net.evaluate(x)
    golden["real"] += np.float32(0.25)
    changes = {"golden_inputs": {"x": x}, "golden_patterns": {}, "golden_outputs": golden, "output_bounds": {"real": 0.3}}
    build(net, tmp_path / "toy", tmp_path / "work", **changes)
    with load(tmp_path / "toy") as module:
        module.selftest()
        assert module.manifest.output_bounds == {"real": 0.3}


def test_large_outputs_are_compared_by_checksum(tmp_path: Path) -> None:
    net = network(height=3000)
    x = np.linspace(-40, 40, 24, dtype=np.float32)
    golden = net.evaluate(x)
    golden["real"][2999] += 1
    build(net, tmp_path / "toy", tmp_path / "work", golden_inputs={"x": x}, golden_patterns={}, golden_outputs=golden)
    with load(tmp_path / "toy") as module, pytest.raises(VerificationError, match=r"output real differs .*checksum"):
        module.selftest()


def test_missing_cpu_features_are_named(tmp_path: Path) -> None:
    # No CPU has both: 3dnow left before the tile registers came.
    target = replace(BASELINE, features=("pni", "3dnow", "amx_tile", "no_such_feature"))
    build(network(), tmp_path / "toy", tmp_path / "work", target)
    with pytest.raises(RuntimeFailure, match=r"this CPU lacks what the library was compiled for: .*no_such_feature; compile"):
        load(tmp_path / "toy")


def test_detected_features_are_those_of_the_kernel(tmp_path: Path) -> None:
    from qcc.codegen.target import host_features

    source = (Path(__file__).resolve().parents[2] / "runtime" / "csrc" / "qcc_cpu.h").read_text()
    names = [part.split('"')[0] for part in source.split('{"')[1:]]
    program = tmp_path / "ask.c"
    program.write_text('#include "qcc_cpu.h"\nint main(int n, char **a) { for (int i = 1; i < n; ++i) printf("%d", qcc_cpu_has(a[i])); }\n')
    include = Path(__file__).resolve().parents[2] / "runtime" / "csrc"
    subprocess.run(["cc", "-Wno-unused-function", f"-I{include}", str(program), "-o", str(tmp_path / "ask")], check=True)
    answers = subprocess.run([tmp_path / "ask", *names], capture_output=True, text=True, check=True).stdout
    features = host_features()
    assert {name: answer == "1" for name, answer in zip(names, answers, strict=True)} == {name: name in features for name in names}


def test_failing_kernel_is_named(tmp_path: Path) -> None:
    net = network(last="fail")
    build(net, tmp_path / "toy", tmp_path / "work")
    with load(tmp_path / "toy") as module, pytest.raises(RuntimeFailure, match="step 3, codes, returned status 7"):
        module.run(np.zeros(24, np.float32))


def test_wrong_folders_are_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="not a folder that 'qcc compile' wrote"):
        load(tmp_path)
    with pytest.raises(UsageError, match="threads=0"):
        load(folder, threads=0)
    shutil.copytree(folder, tmp_path / "toy")
    text = (tmp_path / "toy" / "manifest.json").read_text()
    for key, value, message in (
        ("abi_version", 99, "has ABI version 99"),
        ("machine", "aarch64", "was compiled for aarch64"),
        ("format", 77, "the manifest has format 77"),
        ("inputs", 3, "not a manifest"),
        ("digest", "00", "not the library that the manifest describes"),
        ("name", "other", "cannot be loaded"),
    ):
        (tmp_path / "toy" / "manifest.json").write_text(json.dumps({**json.loads(text), key: value}))
        with pytest.raises(RuntimeFailure, match=message):
            load(tmp_path / "toy")
    (tmp_path / "toy" / "manifest.json").write_text("{")
    with pytest.raises(RuntimeFailure, match="not a manifest"):
        load(tmp_path / "toy")
    (tmp_path / "toy" / "manifest.json").write_text(text)
    (tmp_path / "toy" / "libtoy.so").unlink()
    with pytest.raises(RuntimeFailure, match="incomplete"):
        load(tmp_path / "toy")


def test_loading_needs_only_numpy(folder: Path) -> None:
    code = (
        "import sys, numpy; before = set(sys.modules)\n"
        f"import qcc.runtime; m = qcc.runtime.load({str(folder)!r}); m.selftest()\n"
        "new = {name for name in set(sys.modules) - before}\n"
        "print(sorted(n for n in new if n.split('.')[0] == 'qcc'))\n"
        "print([n for n in ('tvm', 'onnx', 'scipy', 'ml_dtypes', 'networkx', 'rich') if n in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found, foreign = done.stdout.splitlines()
    assert found == str(["qcc", "qcc.errors", "qcc.runtime", "qcc.runtime.library", "qcc.runtime.manifest", "qcc.runtime.module"])
    assert foreign == "[]"


def test_manifest_holds_what_users_ask_for(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.features == ("pni",)
    assert manifest.proofs[0]["high"] == 1000
    assert (manifest.target, manifest.machine, manifest.library) == ("baseline", "x86_64", "libtoy.so")
    assert '"shape": [ 512 ]' in manifest.dump()


@pytest.mark.parametrize(("text", "name"), [("u4", "uint8"), ("i8", "int8"), ("f32", "float32"), ("bool", "bool"), ("i64", "int64")])
def test_element_types(text: str, name: str) -> None:
    assert numpy_dtype(text) == np.dtype(name)
