"""Models, data and places that cannot be compiled: each with its message and exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

Run = Callable[..., Any]
Change = Callable[[onnx.ModelProto], None]


def compiled(qcc: Run, model: Path | onnx.ModelProto | bytes, folder: Path, data: object, *options: str) -> Any:
    """The result of compiling a model; checks that the error is one paragraph, and that nothing stays behind."""
    path = model if isinstance(model, Path) else folder / "model.onnx"
    if not isinstance(model, Path):
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    before = set(folder.iterdir())
    given = [] if data is None else ["--calibration-data", data]
    result = qcc("compile", path, "-o", folder / "out", *given, *options)
    if result.exit_code:
        assert result.stderr.startswith("qcc: ")
        assert "\n\n" not in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        assert set(folder.iterdir()) == before
    return result


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Rleu"


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "relu"


def missing_value(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "nothing"


def defined_twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "conv"


def missing_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Concat"


def wrong_shapes(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.zeros((5, 17), np.float32), "m"))


def nan_weights(model: onnx.ModelProto) -> None:
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[1, 1, 1, 1] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))


def infinite_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.full(5, -np.inf, np.float32), "c"))


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 6


def short_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def text_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_operator, "Rleu"), (unknown_domain, "com.example"), (cycle, "relu"), (missing_value, "nothing"), (defined_twice, "conv"),
        (missing_attribute, "axis"), (wrong_shapes, "Gemm"), (nan_weights, "tensor 'w': 1 of its 432 numbers are NaN"),
        (infinite_weights, "tensor 'c': 5 of its 5 numbers are infinite"), (old_opset, "opset 6"), (short_data, "w"),
        (text_input, "COMPLEX64"),
    ],
)
def test_models_that_are_not_supported(
    qcc: Run, shared: Any, network: Callable[[], onnx.ModelProto], tmp_path: Path, change: Change, message: str
) -> None:
    model = network()
    change(model)
    result = compiled(qcc, model, tmp_path, shared.data)
    assert result.exit_code == 3, result.output
    assert message in result.stderr


def test_all_unsupported_nodes_are_listed_at_once(qcc: Run, shared: Any, network: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = network()
    unknown_domain(model)
    model.graph.node[1].name = "strange"
    model.graph.node[3].domain, model.graph.node[3].op_type = "com.example", "Flat"
    result = compiled(qcc, model, tmp_path, shared.data)
    assert result.exit_code == 3
    for part in ("2 nodes cannot be compiled", "strange", "Relu", "Flat", "com.example", "opset"):
        assert part in result.stderr


@pytest.mark.parametrize("content", [b"", b"hello, this is no model", b"\x80\x02", b"\x08\x08"])
def test_files_that_are_no_models(qcc: Run, shared: Any, tmp_path: Path, content: bytes) -> None:
    result = compiled(qcc, content, tmp_path, shared.data)
    assert result.exit_code == 3
    assert "expected an ONNX model" in result.stderr


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(qcc: Run, shared: Any, tmp_path: Path, share: float) -> None:
    content = shared.model.read_bytes()
    result = compiled(qcc, content[:int(len(content) * share)], tmp_path, shared.data)
    assert result.exit_code == 3, result.output


def test_missing_file(qcc: Run, shared: Any, tmp_path: Path) -> None:
    result = compiled(qcc, tmp_path / "none.onnx", tmp_path, shared.data)
    assert result.exit_code == 2
    assert "none.onnx" in result.stderr
    assert "does not exist" in result.stderr
    folder = compiled(qcc, tmp_path, tmp_path, shared.data)
    assert folder.exit_code == 2


def test_dynamic_shapes(qcc: Run, shared: Any, network: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    model = network(open_axes=True)
    result = compiled(qcc, model, tmp_path, shared.data)
    assert result.exit_code == 2
    for part in ("image", "H", "W", "--input-shape"):
        assert part in result.stderr
    for shape, message in (("picture:1x3x8x8", "picture"), ("image:3x8x8", "image"), ("image:1x4x8x8", "image")):
        refused = compiled(qcc, model, tmp_path, shared.data, "--input-shape", shape)
        assert refused.exit_code == 2, refused.output
        assert message in refused.stderr


def with_external(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    external_data_helper.set_external_data(model.graph.initializer[0], location, 0, 16 * 27 * 4)
    model.graph.initializer[0].ClearField("raw_data")
    return model


def test_external_data(qcc: Run, shared: Any, network: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "weights.bin"
    inside.mkdir()
    weights = numpy_helper.to_array(network().graph.initializer[0]).tobytes()
    outside.write_bytes(weights)
    missing = compiled(qcc, with_external(network(), "weights.bin"), inside, shared.data)
    assert missing.exit_code == 3
    assert "weights.bin" in missing.stderr
    for location in ("../weights.bin", str(outside)):
        refused = compiled(qcc, with_external(network(), location), inside, shared.data)
        assert refused.exit_code == 3
        assert "outside" in refused.stderr
    (inside / "link.bin").symlink_to(outside)
    assert compiled(qcc, with_external(network(), "link.bin"), inside, shared.data).exit_code == 3
    (inside / "weights.bin").write_bytes(weights[:-1])
    short = compiled(qcc, with_external(network(), "weights.bin"), inside, shared.data)
    assert short.exit_code == 3
    assert "weights.bin" in short.stderr
    (inside / "weights.bin").write_bytes(weights)
    assert compiled(qcc, with_external(network(), "weights.bin"), inside, shared.data).exit_code == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image": np.full((1, 3, 8, 8), np.nan, np.float32)}, "expected finite numbers, got nan"),
        ({"image": np.full((1, 3, 8, 8), np.inf, np.float32)}, "expected finite numbers, got inf"),
        ({"image": np.zeros((0, 3, 8, 8), np.float32)}, "empty"),
        ({"image": np.zeros((2, 3, 9, 8), np.float32)}, "input 'image': expected the shape [1, 3, 8, 8]"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "expected an array for each of the inputs ['image'], got arrays ['a', 'b']"),
        ({"image": np.zeros((2, 3, 8, 8), np.int16)}, "expected f32, got int16"),
    ],
)
def test_calibration_data(qcc: Run, shared: Any, tmp_path: Path, data: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **data)
    result = compiled(qcc, shared.model, tmp_path, tmp_path / "bad.npz")
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.mark.parametrize(("name", "message"), [("bad.npz", "not a .npz file"), ("bad.npy", "not a .npy file")])
def test_calibration_data_that_are_no_arrays(qcc: Run, shared: Any, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("these are words")
    result = compiled(qcc, shared.model, tmp_path, tmp_path / name)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_no_calibration_data(qcc: Run, shared: Any, tmp_path: Path) -> None:
    assert "--calibration-data" in compiled(qcc, shared.model, tmp_path, None).stderr
    missing = compiled(qcc, shared.model, tmp_path, tmp_path / "none.npz")
    assert missing.exit_code == 2
    assert "none.npz: no such file or folder" in missing.stderr


def test_no_cross_compiler(qcc: Run, shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before any work is done, with the packages that would help."""
    other = "aarch64-neon" if platform.machine() == "x86_64" else "x86-64-avx2"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = compiled(qcc, shared.model, tmp_path, shared.data, "--target", other)
    assert result.exit_code == 7
    assert f"target {other}: building the library needs a C compiler" in result.stderr
    assert "apt install gcc-" in result.stderr
    assert "pip install ziglang" in result.stderr


def test_ranges_without_extent_compile(qcc: Run, shared: Any, network: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """All-zero data, and weights that are all zero: nothing to scale by, but nothing wrong either."""
    model = network()
    for index, name, shape in ((0, "w", (16, 3, 3, 3)), (1, "b", (16,))):
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    np.save(tmp_path / "zeros.npy", np.zeros((2, 3, 8, 8), np.float32))
    assert compiled(qcc, model, tmp_path, tmp_path / "zeros.npy").exit_code == 0
    result = qcc("run", tmp_path / "out", "--input", tmp_path / "zeros.npy", "-o", tmp_path / "y.npz", "-q")
    assert result.exit_code == 0, result.output
    assert np.isfinite(np.load(tmp_path / "y.npz")["logits"]).all()
    assert qcc("verify", tmp_path / "out").exit_code == 0


def test_outputs_that_cannot_be_written(qcc: Run, shared: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "out", Path("/proc/no/out"), tmp_path / "file"):
        result = qcc("compile", shared.model, "-o", place, "--calibration-data", shared.data)
        assert result.exit_code == 2, result.output
        assert str(place) in result.stderr
    error = json.loads(qcc("compile", shared.model, "-o", "/proc/no/out", "--calibration-data", shared.data, "--json").stdout)["error"]
    assert error["kind"] == "OutputError"
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 32 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(qcc: Run, shared: Any, tiny_disk: Path) -> None:
    result = qcc("compile", shared.model, "-o", tiny_disk / "out", "--calibration-data", shared.data)
    assert result.exit_code == 2, result.output
    assert "No space left on device" in result.stderr
    assert list(tiny_disk.iterdir()) == []
