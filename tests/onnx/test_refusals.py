"""Models that cannot be imported: the type of the error and what it tells the user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcc.errors import ModelError, UnsupportedOperator, UsageError
from qcc.onnx import import_model


def model_of(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        list(nodes), "bad", [helper.make_tensor_value_info("x", element, (1, 4))], [output],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(folder: Path, location: str) -> Path:
    """A model whose weights should be in another file."""
    model = model_of(helper.make_node("MatMul", ["x", "w"], ["y"]))
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=(4, 2), data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="32")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        import_model(tmp_path / "none.onnx")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(64)])
def test_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="expected an ONNX model") as caught:
        import_model(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


def test_truncated_file(tmp_path: Path) -> None:
    content = model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": np.ones((4, 2), np.float32)}).SerializeToString()
    for length in range(0, len(content), 7):
        with pytest.raises(ModelError):
            import_model(content[:length])


def test_external_data(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'w' keeps its data in 'weights.bin', which does not exist"):
        import_model(external(tmp_path, "weights.bin"))
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match=r"ends at byte 32 of 'weights.bin', which has 16"):
        import_model(external(tmp_path, "weights.bin"))
    (tmp_path / "weights.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    path = external(tmp_path, "weights.bin")
    before = path.read_bytes()
    assert import_model(path).constants["w"].tolist() == np.arange(8.0).reshape(4, 2).tolist()
    assert path.read_bytes() == before
    with pytest.raises(ModelError, match="whose folder is not known"):
        import_model(before)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "inner/../../weights.bin"])
def test_external_data_outside(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(32))
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(external(folder, location))


def test_external_data_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(external(folder, "weights.bin"))


@pytest.mark.parametrize(("nodes", "words"), [
    ([("Relu", ["b"], ["a"]), ("Relu", ["a"], ["b"]), ("Add", ["x", "b"], ["y"])], "not a valid ONNX model"),
    ([("Relu", ["nothing"], ["y"])], "not a valid ONNX model"),
    ([("Relu", ["x"], ["y"]), ("Neg", ["x"], ["y"])], "not a valid ONNX model"),
])
def test_invalid_graphs(nodes: list[tuple[str, list[str], list[str]]], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        import_model(model_of(*(helper.make_node(*node) for node in nodes)))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_numbers_that_are_not_finite(value: float, word: str) -> None:
    weights = np.ones((4, 2), np.float32)
    weights[1, 1] = value
    with pytest.raises(ModelError, match=f"'w': 1 of its 8 numbers are {word}"):
        import_model(model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weights}))


def test_all_unknown_operators_are_listed() -> None:
    model = model_of(helper.make_node("Frobnicate", ["x"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"]),
                     helper.make_node("Wibble", ["b"], ["c"], domain="com.example"),
                     helper.make_node("Mishmash", ["c"], ["y"], name="last"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperator, match="3 nodes cannot be compiled") as caught:
        import_model(model)
    assert str(caught.value).splitlines()[1:] == [
        "  node 'first': Frobnicate (domain 'ai.onnx', opset 17): opset 17 of ONNX has no such operator",
        "  node (without a name, makes 'c'): Wibble (domain 'com.example', opset 17): operators of domain 'com.example' are not known",
        "  node 'last': Mishmash (domain 'ai.onnx', opset 17): opset 17 of ONNX has no such operator"]


@pytest.mark.parametrize("opset", [2**40, -(2**40), 0])
def test_opsets_that_are_no_versions(opset: int) -> None:
    model = model_of(helper.make_node("Frobnicate", ["x"], ["y"]))
    model.opset_import[0].version = opset
    with pytest.raises(ModelError):
        import_model(model)


def test_all_unsupported_nodes_are_listed() -> None:
    counters = (("i", TensorProto.INT64), ("c", TensorProto.BOOL))
    body = helper.make_graph([helper.make_node("Identity", ["c"], [name]) for name in ("d", "e")], "body",
                             [helper.make_tensor_value_info(name, kind, ()) for name, kind in counters],
                             [helper.make_tensor_value_info(name, TensorProto.BOOL, ()) for name in ("d", "e")])
    model = model_of(
        helper.make_node("NonZero", ["x"], ["a"], name="where"),
        helper.make_node("Cast", ["a"], ["a_float"], name="after", to=TensorProto.FLOAT),
        helper.make_node("RandomNormalLike", ["x"], ["b"], name="noise"),
        helper.make_node("Loop", ["trips", "go"], ["l"], name="again", body=body),
        helper.make_node("Special", ["x"], ["c"], name="own", domain="com.example"),
        helper.make_node("Relu", ["x"], ["y"]), constants={"trips": np.array(3), "go": np.array(True)})
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperator) as caught:
        import_model(model)
    text = str(caught.value)
    assert "4 nodes cannot be compiled" in text
    for words in ("'where': NonZero (domain 'ai.onnx', opset 17): the shape of its result depends on the data", "'noise': RandomNormalLike",
                  "'again': Loop", "'own': Special (domain 'com.example'"):
        assert words in text
    assert "'after'" not in text
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("element", ["STRING", "COMPLEX64", "BFLOAT16"])
def test_element_types(element: str) -> None:
    nodes = helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Cast", ["s"], ["y"], to=1)
    model = model_of(*nodes, element=getattr(TensorProto, element))
    with pytest.raises(ModelError, match=f"input 'x' holds elements of type {element}"):
        import_model(model)


def test_importing_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(helper.make_node("Relu", ["x"], ["y"])).SerializeToString())
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        code = f"from qcc.onnx import import_model; import_model({str(path)!r})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    finally:
        tmp_path.chmod(0o755)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
