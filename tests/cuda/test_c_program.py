"""Libraries for GPUs from C: linked statically, with the memory of the caller; and the generated code under strict warnings."""

from __future__ import annotations

import subprocess
from pathlib import Path

import qcc
from qcc.codegen.cuda.glue import library_source
from qcc.codegen.cuda.source import library_text
from qcc.codegen.glue import arena_bytes
from qcc.codegen.golden import golden_input, golden_output
from qcc.codegen.header import header
from qcc.codegen.target import find_target
from tests.cuda.fake import FakeDriver
from tests.cuda.harness import DEVICE_HEADERS

PROGRAM = Path(__file__).parent / "programs" / "stream.c"
STRICT = ("-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-unused-function", "-Werror")


def execute(*command: object, folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_source(compiled: qcc.Artifact, folder: Path) -> None:
    """The generated C, its header and its data, as the compiler sees them."""
    program, texts = compiled.program, compiled.texts
    golden = {f"input.{port.name}": golden_input(port, texts.golden_inputs[port.name], None) for port in program.inputs}
    golden |= {f"output.{port.name}": golden_output(port, texts.golden_outputs[port.name], 0.0) for port in program.outputs}
    images = [folder / f"image{number}" for number in range(len(compiled.objects) - 1)]
    for path, content in zip(images, compiled.objects[1:], strict=True):
        path.write_bytes(content)
    source = library_source(program, compiled.target, golden, "00", images)
    (folder / "small.c").write_text(source.text)
    (folder / "small.h").write_text(header(program, arena_bytes(program), True))
    for file, content in source.files.items():
        (folder / file).write_bytes(content)


def test_a_stream_from_c(driver: FakeDriver, artifact: Path, tmp_path: Path) -> None:
    libraries = (artifact / "libsmall.a", "-lm", "-lpthread", "-ldl")
    execute("cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{artifact}", PROGRAM, *libraries, "-o", "program", folder=tmp_path)
    environment = driver.environment(kernels=":".join(map(str, driver.kernels)))
    assert execute(tmp_path / "program", folder=tmp_path, environment=environment) == "ok\n"


def test_the_same_under_sanitizers(driver: FakeDriver, compiled: qcc.Artifact, tmp_path: Path) -> None:
    """Memory errors, undefined behaviour and leaks in the host code; the header is C++, too."""
    write_source(compiled, tmp_path)
    execute("cc", *STRICT, "-O2", f"-I{DEVICE_HEADERS}", "-c", "small.c", folder=tmp_path)
    execute("c++", "-std=c++11", "-fsyntax-only", "-x", "c++", "small.h", folder=tmp_path)
    options = ("-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{DEVICE_HEADERS}", "-I.")
    execute("cc", *options, "small.c", PROGRAM, "-lm", "-lpthread", "-ldl", "-o", "program", folder=tmp_path)
    environment = driver.environment(kernels=":".join(map(str, driver.kernels)))
    environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"      # kernels run on stacks of their own
    assert execute(tmp_path / "program", folder=tmp_path, environment=environment) == "ok\n"


def test_sources_make_one_text() -> None:
    """Kernels' texts follow the device functions; nothing is included."""
    text = library_text(["/* one */\n", "/* two */\n"])
    assert text.index("qcc_mma_m16n8k32_u8s8") < text.index("/* one */") < text.index("/* two */")
    assert "#include \"" not in text
    assert find_target("cuda").is_gpu
