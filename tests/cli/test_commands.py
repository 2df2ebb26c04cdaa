"""run, inspect, targets, bench, verify, compare and demo on a small artifact, and on damaged ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.codegen.target import FAT_TARGETS, GPU_TARGETS, TARGETS, find_target
from qcc.runtime import load

Run = Callable[..., Any]
Reseal = Callable[[Path], None]


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_run(qcc: Run, shared: Any, tmp_path: Path, image: Any) -> None:
    np.save(tmp_path / "x.npy", image)
    np.savez(tmp_path / "x.npz", image=image, unused=np.zeros(1))
    with load(shared.artifact) as module:
        expected = module.run(image)["logits"]
    for number, given in enumerate((tmp_path / "x.npy", f"image={tmp_path / 'x.npy'}", tmp_path / "x.npz")):
        output = tmp_path / f"y{number}.npz"
        result = qcc("run", shared.artifact, "--input", given, "-o", output)
        assert result.exit_code == 0, result.output
        assert re.search(r"^logits +float32\[1, 5\] ", result.stdout, re.MULTILINE)
        assert np.array_equal(np.load(output)["logits"], expected)
    report = json.loads(qcc("run", shared.artifact, "--input", tmp_path / "x.npy", "--json").stdout)
    assert report["outputs"][0]["shape"] == [1, 5]
    assert report["outputs"][0]["max"] == pytest.approx(expected.max())


def test_run_a_stack(qcc: Run, shared: Any, tmp_path: Path, image: Any) -> None:
    stack = np.concatenate([image, -image, 2 * image])
    np.save(tmp_path / "x.npy", stack)
    assert qcc("run", shared.artifact, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz", "-q").output == ""
    with load(shared.artifact) as module:
        expected = np.concatenate([module.run(one[None])["logits"] for one in stack])
    assert np.array_equal(np.load(tmp_path / "y.npz")["logits"], expected)


def test_run_refuses(qcc: Run, shared: Any, tmp_path: Path, image: Any) -> None:
    np.save(tmp_path / "x.npy", image)
    np.save(tmp_path / "double.npy", image.astype(np.float64))
    np.save(tmp_path / "small.npy", image[:, :, 1:])
    np.savez(tmp_path / "names.npz", picture=image, label=np.zeros(1))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    x = tmp_path / "x.npy"
    for arguments, message in (
        (["--input", tmp_path / "none.npy"], "none.npy"),
        (["--input", tmp_path / "double.npy"], "input 'image': expected float32[1, 3, 8, 8], got float64[1, 3, 8, 8]"),
        (["--input", tmp_path / "small.npy"], "input 'image': expected float32[1, 3, 8, 8], got float32[1, 3, 7, 8]"),
        (["--input", tmp_path / "names.npz"], "expected an array for each of the inputs ['image']"),
        (["--input", tmp_path / "broken.npz"], "broken.npz: not a .npz file, or only a part of one"),
        (["--input", f"picture={x}"], "the model has no input 'picture'; expected 'image'"),
        (["--input", x, "--input", f"image={x}"], "input 'image' is given twice"),
        (["--input", x, "-o", x], "exists; choose another name, or replace it with --force"),
        (["--input", x, "-o", tmp_path], "is a folder"),
        (["--input", x, "-o", "/dev/full"], "cannot write /dev/full: No space left on device"),
        (["--input", x, "-o", tmp_path / "no" / "y.npz"], "No such file or directory"),
        ([], "Missing option '--input'"),
    ):
        result = qcc("run", shared.artifact, *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert message in result.stderr
    assert qcc("run", shared.artifact, "--input", x, "-o", tmp_path / "small.npy", "--force", "-q").exit_code == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_inspect_a_model(qcc: Run, shared: Any) -> None:
    text = qcc("inspect", shared.model, "--layers").stdout
    for part in ("image f32[1, 3, 8, 8]", "logits f32[1, 5]", "operator", "convolution", "matmul"):
        assert part in text
    report = json.loads(qcc("inspect", shared.model, "--json").stdout)
    assert report["macs"] == 16 * 64 * 27 + 16 * 5
    assert report["parameters"] == 16 * 27 + 16 + 5 * 16 + 5
    assert sum(report["operators"].values()) == report["nodes"] == len(report["layers"])
    assert qcc("inspect", shared.data).exit_code == 3


def test_inspect_an_artifact(qcc: Run, shared: Any, tmp_path: Path) -> None:
    text = qcc("inspect", shared.artifact, "--layers").stdout
    for part in ("small for x86-64", "image f32[1, 3, 8, 8]", "lower bound", "libsmall.so", "quantize", "small_k0", "float"):
        assert part in text
    report = json.loads(qcc("inspect", shared.artifact, "--json").stdout)
    assert [step["float"] for step in report["steps"]].count(True) == 2
    assert report["arena_bytes"] >= report["arena_lower_bound"]
    no_artifact = qcc("inspect", tmp_path)
    assert no_artifact.exit_code == 6
    assert "is not a folder that 'qcc compile' wrote" in no_artifact.stderr


def test_targets(qcc: Run) -> None:
    text = qcc("targets").stdout
    assert all(name in text for name in TARGETS)
    report = json.loads(qcc("targets", "--json").stdout)
    assert [target["name"] for target in report["targets"]] == [*TARGETS, *FAT_TARGETS, *GPU_TARGETS]
    assert all(target["runs_here"] == (not target["missing"]) for target in report["targets"])
    assert report["host"] in TARGETS


def test_targets_on_another_machine(qcc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcc.codegen.target.host_features", lambda: frozenset({"sse2"}))
    text = qcc("targets").stdout
    assert "lacks avx2" in text
    assert "This machine can run none of them" in text


def test_bench(qcc: Run, shared: Any) -> None:
    text = qcc("bench", shared.artifact, "--rounds", "2", "--layers").stdout
    assert re.search(r"^qcc +[\d.]+ [mu]?s +[\d.]+ [mu]?s +1.00$", text, re.MULTILINE)
    assert "DenseKernel" in text
    assert "of peak" in text
    report = json.loads(qcc("bench", shared.artifact, "--rounds", "3", "--json", "--threads", "2").stdout)
    assert report["threads"] == 2
    assert 0 < report["contenders"][0]["best_s"] <= report["contenders"][0]["median_s"]


def test_bench_counts_the_seconds_of_one_thread(qcc: Run, shared: Any) -> None:
    report = json.loads(qcc("bench", shared.artifact, "--rounds", "2", "--cpu-time", "--json").stdout)
    assert report["contenders"][0]["best_s"] > 0
    refused = qcc("bench", shared.artifact, "--rounds", "2", "--cpu-time", "--threads", "2")
    assert refused.exit_code == 2
    assert "--cpu-time counts the seconds of one thread" in refused.output


def test_bench_against(qcc: Run, shared: Any) -> None:
    arguments = ("bench", shared.artifact, "--rounds", "2", "--against")
    result = qcc(*arguments, "onnxruntime", "--model", shared.model, "--calibration-data", shared.data, "--json")
    assert result.exit_code == 0, result.output
    assert [c["name"] for c in json.loads(result.stdout)["contenders"]] == ["qcc", "onnxruntime float32", "onnxruntime int8"]
    for options, message in (
        (["onnxruntime"], "--against needs --model"),
        (["onnxruntime", "--model", shared.model], "--against needs --calibration-data"),
        (["tensorflow", "--model", shared.model, "--calibration-data", shared.data], "cannot compare against 'tensorflow'"),
    ):
        refused = qcc(*arguments, *options)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_compare(qcc: Run, shared: Any) -> None:
    text = qcc("compare", shared.model, shared.artifact, "--data", shared.data).stdout
    assert "SQNR dB" in text
    assert "6 batches compared." in text
    report = json.loads(qcc("compare", shared.model, shared.artifact, "--data", shared.data, "--json").stdout)
    (logits,) = report["outputs"]
    assert logits["sqnr_db"] > 25
    assert 0.99 < logits["cosine"] <= 1
    assert logits["max_error"] > 0
    assert {"image", "relu", "mean"} & {layer["name"] for layer in report["layers"]} >= {"relu"}
    noises = [layer["sqnr_db"] for layer in report["layers"]]
    assert noises == sorted(noises)
    assert min(noises) > 20


def test_compare_says_where_the_error_comes_from(qcc: Run, shared: Any) -> None:
    options = ("compare", shared.model, shared.artifact, "--data", shared.data, "--attribute", "--attribute-samples", "3")
    text = qcc(*options).stdout
    assert "Where the error comes from (3 samples" in text
    assert "activation rounding" in text
    report = json.loads(qcc(*options, "--json").stdout)["attribution"]
    assert 0.9 < report["explained"] < 1.1
    assert abs(sum(report["causes"].values()) - 1) < 1e-6
    assert report["parts"]
    assert all(remedy["gain_db"] > 0 for remedy in report["remedies"])


def test_compare_refuses_another_model(qcc: Run, shared: Any, network: Any, tmp_path: Path) -> None:
    import onnx

    model = network()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "other"
    onnx.save(model, tmp_path / "other.onnx")
    result = qcc("compare", tmp_path / "other.onnx", shared.artifact, "--data", shared.data)
    assert result.exit_code == 2
    assert "was not compiled from" in result.stderr
    onnx.save(network(open_axes=True), tmp_path / "open.onnx")
    reshaped = qcc("compare", tmp_path / "open.onnx", shared.artifact, "--data", shared.data, "--input-shape", "image:1x3x9x9")
    assert reshaped.exit_code == 2
    assert "give --input-shape image:1x3x8x8" in reshaped.stderr


def test_verify(qcc: Run, shared: Any) -> None:
    result = qcc("verify", shared.artifact, "--layers")
    assert result.exit_code == 0, result.output
    for part in (
        "verified", "golden   reproduced", "float arithmetic in declared functions only: small_k0", "small_selftest",
        "compared bit for bit",
    ):
        assert part in result.stdout
    report = json.loads(qcc("verify", shared.artifact, "--json", "--inputs", "1").stdout)
    assert report["failures"] == []
    assert all(layer["error"] == 0 for layer in report["layers"])
    assert report["code"]["dot_uses"] > 0
    assert set(report["code"]["float_functions"]) >= {"small_k0", "small_selftest"}


def failed(qcc: Run, folder: Path) -> str:
    """The message of a verification that fails."""
    result = qcc("verify", folder)
    assert result.exit_code == 5, result.output
    assert "verification failed" in result.stderr or "cannot be read" in result.stderr or "is missing" in result.stderr
    error = json.loads(qcc("verify", folder, "--json").stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("VerificationError", 5)
    return str(result.stderr)


@pytest.mark.parametrize("name", ["libsmall.so", "small.h", "graph.qir", "recipe.toml"])
def test_changed_files_are_found(qcc: Run, artifact: Path, name: str) -> None:
    with (artifact / name).open("ab") as file:
        file.write(b"\n")
    assert f"{name}: was changed: expected SHA-256" in failed(qcc, artifact)


def test_missing_and_additional_files_are_found(qcc: Run, artifact: Path) -> None:
    (artifact / "small.pc").unlink()
    (artifact / "notes.txt").write_text("mine")
    message = failed(qcc, artifact)
    assert "small.pc: is missing" in message
    assert "notes.txt: is not in the manifest" in message


def test_another_graph_is_found(qcc: Run, artifact: Path, reseal: Reseal) -> None:
    """One shift in the graph is one less than in the code."""
    path = artifact / "graph.qir"
    text = path.read_text()
    shift = re.search(r"shift=(\d+)", text)
    assert shift is not None
    path.write_text(text.replace(shift[0], f"shift={int(shift[1]) - 1}", 1))
    reseal(artifact)
    assert re.search(r"differs from the interpreter by up to [\d.]+ \(allowed 0\)", failed(qcc, artifact))


def test_other_constants_are_found(qcc: Run, artifact: Path, shared: Any, reseal: Reseal) -> None:
    shutil.copyfile(shared.data, artifact / "constants.npz")
    reseal(artifact)
    assert "graph.qir: cannot be read" in failed(qcc, artifact)
    (artifact / "constants.npz").write_bytes(b"PK\x03\x04")
    reseal(artifact)
    assert "constants.npz: cannot be read" in failed(qcc, artifact)


def test_another_golden_pair_is_found(qcc: Run, artifact: Path, reseal: Reseal) -> None:
    with np.load(artifact / "golden.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["output.logits"] = arrays["output.logits"] + 1
    np.savez(artifact / "golden.npz", **arrays)
    reseal(artifact)
    assert "golden.npz: output 'logits' is not what the library computes" in failed(qcc, artifact)


def test_float_arithmetic_that_is_not_declared_is_found(qcc: Run, artifact: Path) -> None:
    """The manifest says that the first kernel has integer operands only."""
    path = artifact / "manifest.json"
    values = json.loads(path.read_text())
    for argument in values["steps"][0]["arguments"]:
        argument["dtype"] = "i32" if argument["dtype"] == "f32" else argument["dtype"]
    path.write_text(json.dumps(values))
    message = failed(qcc, artifact)
    assert "small_k0: floating-point arithmetic in integer code" in message
    assert "mul" in message


def test_changed_weights_are_found(qcc: Run, artifact: Path, reseal: Reseal) -> None:
    """A bit of the constants in the library, with a hash to match."""
    library = artifact / "libsmall.so"
    content = bytearray(library.read_bytes())
    with np.load(artifact / "constants.npz") as archive:
        places = [content.find(archive[name].tobytes()) for name in archive.files if archive[name].nbytes > 16]
    content[max(places)] ^= 0x40
    library.write_bytes(bytes(content))
    reseal(artifact)
    assert "the weights in the library are damaged" in failed(qcc, artifact)


def test_a_cpu_without_the_features(qcc: Run, shared: Any, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = find_target("host")
    monkeypatch.setitem(TARGETS, "x86-64-soon", replace(target, name="x86-64-soon", features=(*target.features, "telepathy")))
    out = tmp_path / "out"
    assert qcc("compile", shared.model, "-o", out, "--calibration-data", shared.data, "--target", "x86-64-soon", "-q").exit_code == 0
    np.save(tmp_path / "x.npy", image)
    for arguments in (["run", out, "--input", tmp_path / "x.npy"], ["verify", out], ["bench", out]):
        result = qcc(*arguments)
        assert result.exit_code == 6, result.output
        assert "telepathy" in result.stderr


def test_demo(qcc: Run, tmp_path: Path) -> None:
    result = qcc("demo", "--rounds", "2", "-o", tmp_path / "demo", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["correct_float"] == 18
    assert report["correct"] >= 17
    assert report["agreement"] >= 18
    assert report["library_bytes"] < report["model_bytes"]
    assert [c["name"] for c in report["contenders"]] == ["qcc", "onnxruntime float32", "onnxruntime int8"]
    assert qcc("verify", tmp_path / "demo", "-q", "--inputs", "1").exit_code == 0
    refused = qcc("demo", "-o", tmp_path / "demo")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
