"""`qcc compile` as a user types it: options, recipes, summaries, and what is refused before any work is done."""

from __future__ import annotations

import contextlib
import json
import os
import pty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import qcc as python
from qcc.ir import dump
from qcc.onnx import import_model, prepare
from qcc.runtime import Manifest, load

Run = Callable[..., Any]
FILES = {"libsmall.so", "libsmall.a", "small.h", "small.pc", "small-config.cmake", "manifest.json", "graph.qir", "recipe.toml"}


def test_summary(shared: Any) -> None:
    text = shared.compiled.stdout
    for part in (
        f"{shared.artifact}: small for x86-64-", "w8a8", "  integer  ", "  float    0 nodes, 0 MACs; 2 border crossings of 788 B",
        "  size     model ", " -> library ", "  arena    ", " x the lower bound of ", f"  recipe   {shared.artifact}/recipe.toml",
    ):
        assert part in text
    assert shared.compiled.stderr == ""
    assert set(FILES) <= {path.name for path in shared.artifact.iterdir()}


def test_json(qcc: Run, shared: Any, tmp_path: Path) -> None:
    result = qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "--json", "--name", "other")
    report = json.loads(result.stdout)
    assert report["name"] == "other"
    assert report["bits"] == "w8a8"
    assert report["library_bytes"] == (tmp_path / "out" / "libother.so").stat().st_size
    assert report["summary"]["integer_macs"] == 16 * 64 * 27 + 16 * 5
    assert report["summary"]["float_nodes"] == []
    assert report["inputs"][0]["name"] == "image"


def test_quiet(qcc: Run, shared: Any, tmp_path: Path) -> None:
    result = qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_recipes_replay(qcc: Run, shared: Any, tmp_path: Path) -> None:
    arguments = ("compile", shared.model, "--calibration-data", shared.data, "-q", "-o")
    first, second, third = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert qcc(*arguments, first, "--observer", "percentile", "--percentile", "99", "--name", "net").exit_code == 0
    assert qcc(*arguments, second, "--recipe", first / "recipe.toml").exit_code == 0
    for name in "libnet.so", "graph.qir", "manifest.json", "recipe.toml":
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert qcc(*arguments, third, "--recipe", first / "recipe.toml", "--observer", "minmax").exit_code == 0
    assert 'observer = "minmax"' in (third / "recipe.toml").read_text()
    assert 'name = "net"' in (third / "recipe.toml").read_text()
    assert (third / "graph.qir").read_bytes() != (first / "graph.qir").read_bytes()


def test_without_data(qcc: Run, shared: Any, tmp_path: Path) -> None:
    refused = qcc("compile", shared.model, "-o", tmp_path / "out")
    assert refused.exit_code == 2
    assert "or --calibration-data none" in refused.stderr
    done = qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", "none", "--seed", "3")
    assert done.exit_code == 0, done.output
    assert "note     no data: ranges are those of standardized noise" in done.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["calibration"]["data"] == "noise"
    assert 'calibration = "none"\nseed = 3' in (tmp_path / "out" / "recipe.toml").read_text()
    assert qcc("compile", shared.model, "-o", tmp_path / "again", "--recipe", tmp_path / "out" / "recipe.toml", "-q").exit_code == 0
    assert (tmp_path / "again" / "graph.qir").read_bytes() == (tmp_path / "out" / "graph.qir").read_bytes()


def test_calibration_caches(qcc: Run, shared: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    arguments = ("compile", shared.model, "-q", "--force", "--calibration-cache", cache, "--calibration-data")
    assert qcc(*arguments, shared.data, "-o", tmp_path / "a").exit_code == 0
    before = cache.read_bytes()
    assert qcc(*arguments, shared.data, "-o", tmp_path / "b").exit_code == 0
    assert cache.read_bytes() == before
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    np.save(tmp_path / "x.npy", np.zeros((6, 3, 8, 8), np.float32))
    refused = qcc(*arguments, tmp_path / "x.npy", "-o", tmp_path / "c")
    assert refused.exit_code == 2
    assert "cache was made from other data" in refused.stderr


def test_poor_data_are_spoken_of(qcc: Run, shared: Any, tmp_path: Path) -> None:
    for array, note in ((np.zeros((9, 3, 8, 8)), "of 9 calibration batches only 1 differ"),
                        (np.ones((1, 3, 8, 8)), "come from 1 batch only"),
                        (np.full((2, 3, 8, 8), 0.5), "calibration data are constant ('image' is 0.5 everywhere)")):
        np.save(tmp_path / "x.npy", array.astype(np.float32))
        result = qcc("compile", shared.model, "-o", tmp_path / "out", "--force", "--calibration-data", tmp_path / "x.npy")
        assert result.exit_code == 0, result.output
        assert note in result.stdout
        assert note in (tmp_path / "out" / "manifest.json").read_text()


def test_the_node_that_makes_infinities_is_named(qcc: Run, network: Any, tmp_path: Path) -> None:
    model = network()
    model.graph.node.append(onnx.helper.make_node("Exp", ["logits"], ["huge"]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["huge", "huge"], ["y"]))
    model.graph.output[0].name = "y"
    onnx.save(model, tmp_path / "huge.onnx")
    np.save(tmp_path / "x.npy", 1e5 * np.random.default_rng(0).standard_normal((9, 3, 8, 8)).astype(np.float32))
    result = qcc("compile", tmp_path / "huge.onnx", "-o", tmp_path / "out", "--calibration-data", tmp_path / "x.npy", "--io", "integer")
    assert result.exit_code == 2
    assert "node %huge (function): expected finite numbers, got inf" in result.stderr


def test_the_node_that_makes_nan_is_named(qcc: Run, network: Any, tmp_path: Path) -> None:
    model = network()
    model.graph.node.append(onnx.helper.make_node("Sqrt", ["logits"], ["roots"]))
    model.graph.output[0].name = "roots"
    onnx.save(model, tmp_path / "roots.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((9, 3, 8, 8)).astype(np.float32))
    result = qcc("compile", tmp_path / "roots.onnx", "-o", tmp_path / "out", "--calibration-data", tmp_path / "x.npy", "--io", "integer")
    assert result.exit_code == 2
    assert "node %roots (function): expected finite numbers, got nan" in result.stderr


@pytest.mark.parametrize("bits", ["8", "w4a8"])
def test_channels_that_are_always_zero_change_nothing(qcc: Run, network: Any, tmp_path: Path, bits: str) -> None:
    """An input channel without light, and an output channel whose weights and bias are 0: the other channels are as exact as before."""
    model = network()
    weights, bias = (onnx.numpy_helper.to_array(model.graph.initializer[number]).copy() for number in (0, 1))
    weights[3], bias[3] = 0.0, 0.0
    for number, array in ((0, weights), (1, bias)):
        model.graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(array, model.graph.initializer[number].name))
    onnx.save(model, tmp_path / "dead.onnx")
    data = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
    data[:, 1] = 0.0
    np.save(tmp_path / "x.npy", data)
    result = qcc("compile", tmp_path / "dead.onnx", "-o", tmp_path / "out", "--calibration-data", tmp_path / "x.npy", "--bits", bits)
    assert result.exit_code == 0, result.output
    assert "note" not in result.stdout
    assert qcc("run", tmp_path / "out", "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz", "-q").exit_code == 0
    exact = np.concatenate([prepare(import_model(str(tmp_path / "dead.onnx")), ["logits"])({"image": one[None]})["logits"] for one in data])
    found = np.load(tmp_path / "y.npz")["logits"].reshape(exact.shape)
    assert np.square(found - exact).sum() < (0.001 if bits == "8" else 0.05) * np.square(exact).sum()


def test_labels_are_no_inputs(qcc: Run, shared: Any, tmp_path: Path) -> None:
    """Labels are left out where names tell them from inputs, and refused where nothing does."""
    images = np.random.default_rng(0).standard_normal((9, 3, 8, 8)).astype(np.float32)
    for labels in (np.zeros(9, np.int64), np.zeros((2, 7))):     # not needed, so of no concern
        np.savez(tmp_path / "x.npz", image=images, labels=labels)
        assert qcc("compile", shared.model, "-o", tmp_path / "out", "--force", "--calibration-data", tmp_path / "x.npz").exit_code == 0
    np.save(tmp_path / "labels.npy", np.zeros(9, np.int64))
    refused = qcc("compile", shared.model, "-o", tmp_path / "none", "--calibration-data", tmp_path / "labels.npy")
    assert refused.exit_code == 2
    assert "labels.npy: input 'image': expected the shape [1, 3, 8, 8]" in refused.stderr
    assert not (tmp_path / "none").exists()


def test_models_and_data_from_python(network: Any, tmp_path: Path) -> None:
    """A model as a file, bytes or ModelProto, and data of every kind that python has: one library."""
    data = [np.random.default_rng(number).standard_normal((1, 3, 8, 8)).astype(np.float32) for number in range(3)]
    model = network()
    onnx.save(model, tmp_path / "model.onnx")
    before = model.SerializeToString()

    class Reader:
        def __init__(self) -> None:
            self.rest = iter(data)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.rest, None)
            return None if batch is None else {"image": batch}

    graphs = {dump(python.compile(given, name="net", calibration_data=batches).graph).partition("\n")[2] for given, batches in (
        (tmp_path / "model.onnx", data), (before, Reader()), (model, lambda: ((batch,) for batch in data)))}
    assert len(graphs) == 1
    assert model.SerializeToString() == before


def test_nodes_that_stay_float_are_listed(qcc: Run, network: Any, tmp_path: Path) -> None:
    model = network()
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["shares"], axis=1))
    model.graph.output[0].name = "shares"
    onnx.save(model, tmp_path / "soft.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    result = qcc("compile", tmp_path / "soft.onnx", "-o", tmp_path / "out", "--calibration-data", tmp_path / "x.npy")
    assert result.exit_code == 0, result.output
    assert "  float    1 nodes, 0 MACs; 2 border crossings of 788 B: 1 x Softmax" in result.stdout
    assert "Nodes that stay float:" in result.stdout
    assert "shares  Softmax" in result.stdout


def test_integer_borders(qcc: Run, shared: Any, tmp_path: Path) -> None:
    assert qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "--io", "integer").exit_code == 0
    manifest = Manifest.read(tmp_path / "out")
    assert [port.dtype for port in (*manifest.inputs, *manifest.outputs)] == ["u8", "u8"]
    assert all(port.scale for port in (*manifest.inputs, *manifest.outputs))


def test_pictures_and_shapes(qcc: Run, network: Any, tmp_path: Path) -> None:
    onnx.save(network(open_axes=True), tmp_path / "open.onnx")
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    arguments = ("compile", tmp_path / "open.onnx", "-o", tmp_path / "out", "--calibration-data", tmp_path / "pictures")
    refused = qcc(*arguments, "--input-shape", "image:2x3x12x10")
    assert refused.exit_code == 2
    assert "--mean" in refused.stderr
    result = qcc(*arguments, "--input-shape", "image:1x3x12x10", "--mean", "120,110,100", "--std", "60", "--color", "BGR")
    assert result.exit_code == 0, result.output
    with load(tmp_path / "out") as module:
        assert module.inputs[0].shape == (1, 3, 12, 10)
    assert "image" in (tmp_path / "out" / "recipe.toml").read_text()


def test_output_is_not_replaced_unasked(qcc: Run, shared: Any, artifact: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    arguments = ("compile", shared.model, "--calibration-data", shared.data, "-q", "-o")
    refused = qcc(*arguments, artifact)
    assert refused.exit_code == 2
    assert f"qcc: output {artifact} exists; choose another folder, or replace it with --force" in refused.stderr
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert qcc(*arguments, artifact, "--force", "--name", "renamed").exit_code == 0
    assert (artifact / "librenamed.so").exists()
    assert not (artifact / "libsmall.so").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    kept = qcc(*arguments, precious, "--force")
    assert kept.exit_code == 2
    assert "is not an artifact" in kept.stderr
    assert (precious / "thesis.txt").exists()


def test_the_model_is_never_changed(qcc: Run, shared: Any, tmp_path: Path) -> None:
    before = shared.model.read_bytes(), shared.model.stat().st_mtime_ns
    assert qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "-q").exit_code == 0
    assert (shared.model.read_bytes(), shared.model.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "w1a8"], "bits 'w1a8': expected a width of 2 to 8 bits"),
        (["--bits", "eight"], "bits 'eight': expected a width of 2 to 8 bits"),
        (["--input-shape", "image"], "--input-shape 'image': expected NAME:1x3x224x224"),
        (["--input-shape", "image:1x-3"], "expected NAME:1x3x224x224"),
        (["--input-shape", "a:1", "--input-shape", "a:2"], "input 'a' is given twice"),
        (["--mean", "red"], "--mean 'red': expected a number, or one per channel"),
        (["--mean", "0.485", "--std", "0.229"], "multiply both by 255"),
        (["--name", "9 lives"], "name '9 lives': expected a C identifier"),
        (["--percentile", "5"], "percentile 5.0 is out of range"),
        (["--recipe", "nowhere.toml"], "recipe nowhere.toml cannot be read"),
        (["--target", "x86-64-avx512vni"], "did you mean 'x86-64-avx512vnni'?"),
        (["--target", "z80"], "target 'z80' is unknown: expected host, x86, arm, x86-64-avx512vnni"),
    ],
)
def test_options_that_are_refused(qcc: Run, shared: Any, tmp_path: Path, options: list[str], message: str) -> None:
    result = qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("bits = 8", "unknown keys bits"), ("observer = 3", "observer = 3 has the wrong kind"), ("= 3", "is not TOML"),
     ("activation_bits = 1", "activation_bits = 1 is out of range"), ("[weights]\nnowhere = 4", "[weights] names nowhere"),
     ("[activations]\nx = true", "activations.x = True is no width"),
     ('[input_shapes]\nimage = "big"', "the shape of input 'image'")],
)
def test_recipes_that_are_refused(qcc: Run, shared: Any, tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    result = qcc("compile", shared.model, "-o", tmp_path / "out", "--calibration-data", shared.data, "--recipe", recipe)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_progress_is_shown_on_a_terminal_only(qcc_process: Run, shared: Any, tmp_path: Path) -> None:
    arguments = ("compile", shared.model, "--calibration-data", shared.data, "-o")
    for options, shown in (((), True), (("--quiet",), False)):
        ours, theirs = pty.openpty()
        with qcc_process(*arguments, tmp_path / f"out{len(options)}", *options, stderr=theirs) as process:
            os.close(theirs)
            printed = _read_all(ours)
        assert process.returncode == 0
        assert ("calibration" in printed and "kernels" in printed) == shown, printed
    assert shared.compiled.stderr == ""


def _read_all(terminal: int) -> str:
    content = b""
    with contextlib.suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as file:      # a terminal ends with an error
        while part := file.read(4096):
            content += part
    return content.decode()
