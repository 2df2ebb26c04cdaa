"""The artifact folder: complete, the same bytes every time, and never half written."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import BASELINE, HandKernel, build, network, objects, texts

from qcc.codegen import link
from qcc.codegen.artifact import build_artifact
from qcc.codegen.glue import check, useful_threads
from qcc.codegen.golden import Pattern, checksum, golden_input, golden_output, golden_pattern
from qcc.codegen.header import check_name, exported_names, quoted
from qcc.codegen.kernel import View
from qcc.codegen.program import Address, Port, Space
from qcc.codegen.target import TARGETS
from qcc.errors import CodegenError, OutputError, UsageError
from qcc.ir.types import F32, I8, I64, U8, TensorType
from qcc.runtime import Manifest

FILES = {
    *("constants.npz", "golden.npz", "graph.qir", "libtoy.a", "libtoy.so", "manifest.json", "recipe.toml"),
    *("toy-config.cmake", "toy.h", "toy.pc"),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    build(network(), folder / "toy", folder / "work")
    return folder / "toy"


def test_folder_is_complete_and_readable(toy: Path) -> None:
    assert {path.name for path in toy.iterdir()} == FILES
    manifest = Manifest.read(toy)
    assert set(manifest.files) == FILES - {"manifest.json"}
    assert Manifest.parse(manifest.dump()) == manifest
    assert [port.name for port in manifest.outputs] == ["real", "codes"]
    assert (manifest.outputs[1].scale, manifest.outputs[1].zero_point) == (16.0, 100)
    assert manifest.steps[1].arguments[2].strides == (2,)
    assert manifest.arena_bytes % 64 == 0
    assert manifest.arena_bytes >= manifest.arena_lower_bound + 64
    golden = np.load(toy / "golden.npz")
    assert set(golden.files) == {"input.x", "output.real", "output.codes"}


def test_constants_are_kept_under_any_name(tmp_path: Path) -> None:
    constants = {"file": np.arange(6, dtype=np.int8).reshape(2, 3), "a/b c": np.float32(2.5), "empty": np.zeros((0, 2), np.int32)}
    build(network(), tmp_path / "toy", tmp_path / "work", constants=constants)
    found = np.load(tmp_path / "toy" / "constants.npz")
    assert set(found.files) == set(constants)
    for name, array in constants.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_only_the_interface_is_visible(toy: Path) -> None:
    def names(*command: str) -> set[str]:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return {line.split()[-1] for line in lines if line.strip() and not line.endswith(":")}

    assert names("nm", "-D", "--defined-only", str(toy / "libtoy.so")) == set(exported_names("toy"))
    assert names("nm", "-g", "--defined-only", str(toy / "libtoy.a")) == set(exported_names("toy"))
    needed = subprocess.run(["readelf", "-d", str(toy / "libtoy.so")], capture_output=True, text=True, check=True).stdout
    libraries = {line.split("[")[1].rstrip("]") for line in needed.splitlines() if "NEEDED" in line}
    assert libraries <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}


def test_same_program_gives_same_bytes(toy: Path, tmp_path: Path) -> None:
    build(network(), tmp_path / "other place" / "toy", tmp_path / "work")
    for name in sorted(FILES):
        assert (toy / name).read_bytes() == (tmp_path / "other place" / "toy" / name).read_bytes(), name
    for name in ("libtoy.so", "libtoy.a"):
        assert str(tmp_path).encode() not in (toy / name).read_bytes()
        assert b"/runtime/csrc" not in (toy / name).read_bytes()


def test_library_is_little_larger_than_the_weights(tmp_path: Path) -> None:
    net = network(width=2048, height=1024)
    build(net, tmp_path / "toy", tmp_path / "work")
    assert (tmp_path / "toy" / "libtoy.so").stat().st_size <= net.weights.nbytes + 40_000


def test_existing_folder_is_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    build(network(), tmp_path / "empty", tmp_path / "work")
    with pytest.raises(OutputError, match="--force"):
        build(network(), tmp_path / "empty", tmp_path / "work")
    before = Manifest.read(tmp_path / "empty").digest
    assert build(network(seed=4), tmp_path / "empty", tmp_path / "work", force=True).digest != before
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not an artifact"):
        build(network(), tmp_path / "precious", tmp_path / "work", force=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "precious", "work"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    build(network(), tmp_path / "link", tmp_path / "work")
    build(network(seed=4), tmp_path / "link", tmp_path / "work", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "libtoy.so").is_file()


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    net, out = network(), tmp_path / "out"
    out.mkdir()
    build(net, out / "old", tmp_path / "work")
    digest = Manifest.read(out / "old").digest
    broken = tmp_path / "broken.c"
    broken.write_text("extern int TVMFFIFunctionCall(void); int use(void) { return TVMFFIFunctionCall(); }")
    subprocess.run(["cc", "-fPIC", "-c", str(broken), "-o", str(tmp_path / "broken.o")], check=True)
    parts = [*objects(net.program, tmp_path / "work"), tmp_path / "broken.o"]
    for folder, force in ((out / "old", True), (out / "new", False)):
        with pytest.raises(CodegenError, match="TVMFFIFunctionCall"):
            build_artifact(net.program, parts, BASELINE, texts(net), folder, force)
    with pytest.raises(CodegenError, match="toy_k"):
        build_artifact(net.program, [], BASELINE, texts(net), out / "new")
    with pytest.raises(CodegenError, match=r"objects are missing: .*nowhere\.o"):
        build_artifact(net.program, [tmp_path / "nowhere.o"], BASELINE, texts(net), out / "new")
    assert [path.name for path in out.iterdir()] == ["old"]
    assert Manifest.read(out / "old").digest == digest


def test_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is not a folder; choose another folder"):
        build(network(), tmp_path / "file" / "toy", tmp_path / "work")


def test_disk_errors_become_output_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OutputError, match="No space left"):
        build(network(), tmp_path / "out" / "toy", tmp_path / "work")
    assert list((tmp_path / "out").iterdir()) == []


def test_failed_move_restores_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "toy"
    digest = build(network(), out, tmp_path / "work").digest
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "artifact":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        build(network(seed=9), out, tmp_path / "work", force=True)
    assert Manifest.read(out).digest == digest


def test_missing_compiler_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.shutil, "which", lambda _: None)
    with pytest.raises(CodegenError, match="apt install gcc binutils"):
        link.find_toolchain(BASELINE)
    with pytest.raises(CodegenError, match="apt install gcc-riscv64-linux-gnu"):
        link.find_toolchain(replace(BASELINE, triple="riscv64-unknown-linux-gnu"))


def test_search_paths_of_the_environment_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "stdint.h").write_text("#error wrong header")
    (tmp_path / "unit.c").write_text("#include <stdint.h>\nint32_t one(void) { return 1; }\n")
    monkeypatch.setenv("CPATH", str(tmp_path / "include"))
    link.compile_source(link.find_toolchain(BASELINE), tmp_path, "unit.c", "unit.o")
    assert (tmp_path / "unit.o").exists()


@pytest.mark.parametrize("name", ["", "3d", "a-b", "class", "int", "_x", "ü"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="C identifier"):
        check_name(name)


def test_strings_in_the_source_are_escaped() -> None:
    assert quoted('a"b\\c?/é\n') == '"a\\042b\\134c\\077/\\303\\251\\012"'


def test_operands_outside_their_space_are_refused() -> None:
    program = network().program
    step = program.steps[0]
    for address in (Address(Space.ARENA, program.arena_bytes - 3), Address(Space.OUTPUT, 2), Address(Space.ARENA, -64)):
        wrong = replace(program, steps=(replace(step, arguments=(step.arguments[0], address)), *program.steps[1:]))
        with pytest.raises(CodegenError, match="leaves its space"):
            check(wrong)
    with pytest.raises(CodegenError, match="takes 2 operands, got 1"):
        check(replace(program, steps=(replace(step, arguments=step.arguments[:1]),)))


def test_small_steps_stay_on_the_callers_thread() -> None:
    small, wide = View.contiguous(U8, (64,)), View.contiguous(I8, (4096, 1024))
    assert useful_threads(HandKernel("dense", (small, small), 64, 4096)) == 1
    assert useful_threads(HandKernel("dense", (wide, small), 4096, 4096 * 1024)) > 8
    assert useful_threads(HandKernel("dense", (wide, small), 3, 4096 * 1024)) == 3


def test_golden_arrays_must_fit(tmp_path: Path) -> None:
    net = network()
    good = texts(net)
    with pytest.raises(CodegenError, match="not what its pattern makes"):
        build(net, tmp_path / "toy", tmp_path / "work", golden_inputs={"x": good.golden_inputs["x"] + 1})
    with pytest.raises(CodegenError, match="golden inputs"):
        build(net, tmp_path / "toy", tmp_path / "work", golden_inputs={})
    with pytest.raises(CodegenError, match=r"expected f32\[40\]"):
        build(net, tmp_path / "toy", tmp_path / "work", golden_outputs={**good.golden_outputs, "real": np.zeros(3, np.float32)})
    with pytest.raises(CodegenError, match="only float32 and float64"):
        build(net, tmp_path / "toy", tmp_path / "work", output_bounds={"codes": 1.0})


def test_patterns_cover_their_range() -> None:
    real = Port("x", TensorType(F32, (64, 64)))
    values = golden_pattern(real, -2.0, 6.0).array(real.type)
    assert values.dtype == np.float32
    assert -2.04 <= values.min() < -1.9
    assert 5.9 < values.max() <= 6.04
    tokens = Port("t", TensorType(I64, (1000,)))
    assert set(golden_pattern(tokens, 5, 9).array(tokens.type).tolist()) == {5, 6, 7, 8, 9}
    with pytest.raises(CodegenError, match="give the array itself"):
        Pattern(1, 0, 2).array(TensorType(F32.parse("f64"), (3,)))


def test_checksum_sees_every_word() -> None:
    data = bytes(range(100))
    assert checksum(data) != checksum(data[:8] + b"\x01" + data[9:])
    assert checksum(data[8:16] + data[:8]) != checksum(data[:16])
    assert checksum(b"") == 0
    large = Port("y", TensorType(U8, (5000,)))
    assert golden_output(large, np.zeros(5000, np.uint8), 0.0).data is None
    assert golden_input(large, np.zeros(5000, np.uint8), None).data == bytes(5000)


def test_every_feature_of_a_target_can_be_asked_for() -> None:
    source = (Path(link.__file__).resolve().parent.parent / "runtime" / "csrc" / "qcc_cpu.h").read_text()
    for target in TARGETS.values():
        assert [name for name in target.features if f'"{name}"' not in source] == [], target.name
