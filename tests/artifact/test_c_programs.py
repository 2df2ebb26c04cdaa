"""Libraries used from C and C++: no allocation, two networks in one program, the thread pool under ThreadSanitizer, the examples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from handmade import BASELINE, Network, build, network, objects, texts

from qcc.codegen.glue import arena_bytes, library_source
from qcc.codegen.golden import golden_input, golden_output
from qcc.codegen.header import header

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAMS = HERE / "programs"
CSRC = ROOT / "runtime" / "csrc"
STRICT = ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def execute(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy (large enough to use threads) and engine (a name that the C sources use too)."""
    folder = tmp_path_factory.mktemp("networks")
    build(network("toy", 512, 1024), folder / "toy", folder / "work")
    build(network("engine", 300, 700, 8), folder / "engine", folder / "work")
    return folder


@pytest.mark.parametrize("threads", [1, 4])
def test_runs_allocate_nothing(folders: Path, tmp_path: Path, threads: int) -> None:
    toy = folders / "toy"
    execute("cc", "-O2", f"-I{toy}", PROGRAMS / "no_allocation.c", toy / "libtoy.a", "-lm", "-lpthread", "-o", tmp_path / "program")
    in_init, in_runs = map(int, execute(tmp_path / "program", str(threads)).split())
    assert in_init >= 2, "the counter does not see the library's own allocations"
    assert in_runs == 0


def test_two_networks_in_one_program(folders: Path, tmp_path: Path) -> None:
    include = [f"-I{folders / 'toy'}", f"-I{folders / 'engine'}"]
    libraries = [folders / "toy" / "libtoy.a", folders / "engine" / "libengine.a", "-lm", "-lpthread"]
    execute("cc", "-std=c99", *STRICT, *include, PROGRAMS / "two_networks.c", *libraries, "-o", tmp_path / "program")
    execute(tmp_path / "program")


def test_header_is_cplusplus_and_c99(folders: Path, tmp_path: Path) -> None:
    for language, standard in (("c", "c99"), ("c++", "c++11")):
        execute("cc", "-x", language, f"-std={standard}", *STRICT, "-fsyntax-only", f"-include{folders / 'toy' / 'toy.h'}", "/dev/null")


def write_source(net: Network, folder: Path) -> None:
    """The generated C, its header and its data, as the compiler sees them."""
    good, program = texts(net), net.program
    golden = {"input.x": golden_input(program.inputs[0], good.golden_inputs["x"], good.golden_patterns["x"])}
    golden |= {f"output.{port.name}": golden_output(port, good.golden_outputs[port.name], 0.0) for port in program.outputs}
    source = library_source(program, BASELINE, golden, "00")
    (folder / "toy.c").write_text(source.text)
    (folder / "toy.h").write_text(header(program, arena_bytes(program)))
    for file, content in source.files.items():
        (folder / file).write_bytes(content)


def test_glue_compiles_without_warnings(tmp_path: Path) -> None:
    write_source(network(), tmp_path)
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-unused-function", "-Werror", f"-I{CSRC}"]
    execute("cc", *options, "-c", "toy.c", folder=tmp_path)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_contexts_under_sanitizers(tmp_path: Path, sanitizer: str) -> None:
    if not sanitizer_works(tmp_path, sanitizer):
        pytest.skip(f"this compiler or kernel has no {sanitizer} sanitizer: contexts are NOT checked with it")
    net = network("toy", 512, 1024)
    write_source(net, tmp_path)
    options = ["-std=gnu11", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    kernels = objects(net.program, tmp_path / "work", ("-g", f"-fsanitize={sanitizer}"))
    sources = ["toy.c", PROGRAMS / "contexts.c", *kernels, "-lm", "-lpthread"]
    execute("cc", *options, f"-I{CSRC}", "-I.", *sources, "-o", "program", folder=tmp_path)
    execute(tmp_path / "program")


def sanitizer_works(folder: Path, sanitizer: str) -> bool:
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    commands = (["cc", f"-fsanitize={sanitizer}", str(folder / "probe.c"), "-o", str(folder / "probe")], [str(folder / "probe")])
    return all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)


@pytest.mark.parametrize("sanitizer", [[], ["-fsanitize=thread", "-g", "-DNO_FORK"], ["-fsanitize=undefined", "-fno-sanitize-recover"]])
def test_pool_does_every_task_once(tmp_path: Path, sanitizer: list[str]) -> None:
    if "-fsanitize=thread" in sanitizer and not sanitizer_works(tmp_path, "thread"):
        pytest.skip("this compiler or kernel has no ThreadSanitizer: the pool's races are NOT checked")
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", *sanitizer]
    execute("cc", *options, PROGRAMS / "pool.c", "-lpthread", "-o", tmp_path / "program")
    execute(tmp_path / "program")


@pytest.fixture(scope="module")
def example_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    build(network("network"), folder / "network", folder / "work")
    return folder / "network"


def test_c_example(example_network: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None or shutil.which("pkg-config") is None:
        pytest.skip("make and pkg-config are needed for the C example, which is NOT checked")
    for name in ("main.c", "Makefile"):
        shutil.copy(ROOT / "examples" / "c" / name, tmp_path)
    execute("make", "-C", tmp_path, f"NETWORK={example_network}")
    assert execute(tmp_path / "classify").startswith("real: f32, 160 bytes\n0\n")
    assert subprocess.run([tmp_path / "classify", "/nowhere"], capture_output=True, check=False).returncode == 2


def test_cpp_example(example_network: Path, tmp_path: Path) -> None:
    source, library = ROOT / "examples" / "cpp" / "main.cpp", example_network / "libnetwork.a"
    execute("c++", "-std=c++17", *STRICT, f"-I{example_network}", source, library, "-lm", "-lpthread", "-o", tmp_path / "classify")
    assert execute(tmp_path / "classify") == "real: f32, 160 bytes\ncodes: u8, 40 bytes\n"


def test_cmake_finds_the_network(example_network: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed: the CMake configuration is NOT checked")
    execute("cmake", "-S", ROOT / "examples" / "cpp", "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={example_network}")
    execute("cmake", "--build", tmp_path / "build")
    assert "codes: u8" in execute(tmp_path / "build" / "classify")
