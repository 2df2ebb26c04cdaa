"""The artifact folder: libraries, header, manifest, texts and the golden pair, written completely or not at all.

Everything is made in a temporary folder beside the target and moved into place at the end. Two builds of one program are equal,
byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qcc.codegen import link
from qcc.codegen.cuda import glue as cuda_glue
from qcc.codegen.glue import Source, arena_bytes, library_source
from qcc.codegen.golden import Golden, Pattern, golden_input, golden_output
from qcc.codegen.header import CONTEXT_BYTES, exported_names, header
from qcc.codegen.program import Address, Port, Program, Step
from qcc.codegen.target import Target
from qcc.codegen.tuning import FILE_NAME as TUNING_FILE
from qcc.errors import CodegenError, OutputError
from qcc.ir.types import Array
from qcc.runtime.manifest import FILE_NAME, ArgumentRecord, Manifest, PortRecord, StepRecord, VariantRecord, file_hash

MIXED_FILE = "mixed.json"
MIGRATION_FILE = "migration.json"
_SOURCES = Path(__file__).resolve().parent.parent / "runtime" / "csrc"


@dataclass(frozen=True)
class ArtifactTexts:
    """What the artifact holds beside the program.

    Attributes:
        graph: the integer graph as text.
        constants: the arrays that the text names by digest; with them the interpreter can run the graph again.
        recipe: the complete recipe as TOML.
        golden_inputs, golden_outputs: what the interpreter was given and computed, by port name.
        golden_patterns: the formulas of those inputs that were made by one (golden.golden_pattern); they need no room in the library.
        output_bounds: for float outputs that depend on float operators, the largest absolute difference to the golden output.
        tuning: the tuning record; empty where nothing was tuned.
        mixed: how widths were chosen layer by layer, as JSON; empty where they were given. It is a report and no part of the manifest:
            the recipe holds the widths, and replaying it gives the same files but this one.
        migration: the scales that were moved between layers; empty where none were.
        layers, proofs, model, calibration, rounding, versions: copied to the manifest.
    """

    graph: str
    recipe: str
    golden_inputs: Mapping[str, Array]
    golden_outputs: Mapping[str, Array]
    constants: Mapping[str, Array] = field(default_factory=dict)
    golden_patterns: Mapping[str, Pattern] = field(default_factory=dict)
    output_bounds: Mapping[str, float] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    proofs: Sequence[Mapping[str, Any]] = ()
    model: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    tuning: str = ""
    mixed: str = ""
    migration: str = ""


def build_artifact(
    program: Program, objects: Sequence[Path], target: Target, texts: ArtifactTexts, directory: Path, force: bool = False
) -> Manifest:
    """Write the artifact folder and return its manifest.

    Args:
        objects: position-independent objects that define every symbol of `program.kernels`, and need nothing but libc and libm; for a
            GPU, the kernels' CUDA C and then the images of `cuda.toolchain.compile_images`.
        directory: a folder that does not exist yet, or is empty; with `force` also an older artifact, which is replaced.

    Raises:
        OutputError: the folder exists or cannot be written.
        CodegenError: the C compiler or the linker failed, or the golden arrays do not fit the program.
    """
    directory = directory.resolve()
    refuse_existing(directory, force)
    absent = [str(path) for path in objects if not path.is_file()]
    if absent:
        raise CodegenError(f"{program.name}: the kernels' objects are missing: {', '.join(absent)}")
    tools = link.find_toolchain(target)
    parent = directory.parent
    work: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=parent))
        result = work / "artifact"
        result.mkdir()
        manifest = _fill(program, objects, target, texts, tools, work)
        _move(result, directory, work / "replaced")
        return manifest
    except OSError as error:
        raise OutputError(f"cannot write the artifact to {directory}: {error.strerror or error} ({error.filename or parent})") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def refuse_existing(directory: Path, force: bool) -> None:
    """Raise OutputError if the folder may not be written: callers ask before they spend time on compiling."""
    try:
        parent = next(folder for folder in directory.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            reason = "may not be written to" if parent.is_dir() else "is not a folder"
            raise OutputError(f"output {directory}: {parent} {reason}; choose another folder")
        if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
            return
    except OSError as error:
        raise OutputError(f"output {directory}: {error.strerror or error}") from error
    if not (directory / FILE_NAME).is_file():
        raise OutputError(f"output {directory} exists and is not an artifact (no {FILE_NAME} in it), which --force would replace; "
                          "choose another folder")
    if not force:
        raise OutputError(f"output {directory} exists; choose another folder, or replace it with --force")


def _move(result: Path, directory: Path, replaced: Path) -> None:
    """Put the finished folder in place; when that fails, what was there before comes back."""
    if directory.exists():
        directory.rename(replaced)
    try:
        result.rename(directory)
    except OSError:
        if replaced.exists():
            replaced.rename(directory)
        raise


def _fill(program: Program, objects: Sequence[Path], target: Target, texts: ArtifactTexts, tools: link.Toolchain, work: Path) -> Manifest:
    folder = work / "artifact"
    golden = _golden(program, texts)
    digest = _digest(_source(program, target, golden, "", objects).text, program, objects)
    _build_libraries(program, target, _source(program, target, golden, digest, objects), objects, tools, work)
    if target.is_gpu:
        shutil.copyfile(objects[0], folder / f"{program.name}.cu")
    written = {f"{program.name}.h": header(program, arena_bytes(program), target.is_gpu), **_packaging(program.name, texts)}
    for file, text in written.items():
        (folder / file).write_text(text, encoding="utf-8")
    arrays = {f"input.{name}": array for name, array in texts.golden_inputs.items()}
    arrays |= {f"output.{name}": array for name, array in texts.golden_outputs.items()}
    save_arrays(folder / "golden.npz", arrays)
    save_arrays(folder / "constants.npz", texts.constants)
    manifest = replace(_manifest(program, target, texts, digest), files={p.name: file_hash(p) for p in sorted(folder.iterdir())})
    manifest.write(folder)
    if texts.mixed:
        (folder / MIXED_FILE).write_text(texts.mixed, encoding="utf-8")
    return manifest


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An .npz file; unlike np.savez, whatever the arrays' names are. Members that are opened by name get no time but 1980."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def _source(program: Program, target: Target, golden: Mapping[str, Golden], digest: str, objects: Sequence[Path]) -> Source:
    """The generated C. Objects for a GPU are the kernels' CUDA C, and then images, which the library holds as data."""
    if target.is_gpu:
        return cuda_glue.library_source(program, target, golden, digest, objects[1:])
    return library_source(program, target, golden, digest)


def _build_libraries(program: Program, target: Target, source: Source, objects: Sequence[Path], tools: link.Toolchain, work: Path) -> None:
    name = program.name
    for path in sorted(_SOURCES.glob("*.h")):
        shutil.copyfile(path, work / path.name)
    (work / f"{name}.h").write_text(header(program, arena_bytes(program), target.is_gpu), encoding="utf-8")
    (work / f"{name}.c").write_text(source.text, encoding="utf-8")
    for file, content in source.files.items():
        (work / file).write_bytes(content)
    members = ["glue.o"]
    link.compile_source(tools, work, f"{name}.c", "glue.o")
    for number, path in enumerate(() if target.is_gpu else objects):
        members.append(f"kernels{number}.o")
        shutil.copyfile(path, work / members[-1])
    exported = exported_names(name, target.is_gpu, bool(program.variants))
    link.merge_objects(tools, work, members, exported, f"{name}.o")
    link.make_static(tools, work, f"{name}.o", f"artifact/lib{name}.a")
    link.make_shared(tools, work, f"{name}.o", exported, f"lib{name}.so")
    (work / f"lib{name}.so").rename(work / "artifact" / f"lib{name}.so")


def _golden(program: Program, texts: ArtifactTexts) -> dict[str, Golden]:
    for kind, ports, arrays in (("input", program.inputs, texts.golden_inputs), ("output", program.outputs, texts.golden_outputs)):
        if sorted(arrays) != sorted(port.name for port in ports):
            raise CodegenError(f"{program.name}: golden {kind}s {sorted(arrays)} do not fit the {kind}s {[port.name for port in ports]}")
    inputs = {f"input.{p.name}": golden_input(p, texts.golden_inputs[p.name], texts.golden_patterns.get(p.name)) for p in program.inputs}
    bounds = texts.output_bounds
    outputs = {f"output.{p.name}": golden_output(p, texts.golden_outputs[p.name], bounds.get(p.name, 0.0)) for p in program.outputs}
    return inputs | outputs


def _digest(source: str, program: Program, objects: Sequence[Path]) -> str:
    total = hashlib.sha256(source.encode())
    for part in (program.constants, *(path.read_bytes() for path in (*objects, *sorted(_SOURCES.glob("*.h"))))):
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def _packaging(name: str, texts: ArtifactTexts) -> dict[str, str]:
    pkg_config = f"""prefix=${{pcfiledir}}

Name: {name}
Description: neural network {name}, compiled by qcc
Version: 1
Cflags: -I${{prefix}}
Libs: -L${{prefix}} -l{name}
Libs.private: -lm -lpthread -ldl
"""
    cmake = f"""# find_package({name}) gives the targets {name}::{name} (static) and {name}::shared.
if(NOT TARGET {name}::{name})
  add_library({name}::{name} STATIC IMPORTED)
  set_target_properties({name}::{name} PROPERTIES
    IMPORTED_LOCATION "${{CMAKE_CURRENT_LIST_DIR}}/lib{name}.a"
    INTERFACE_INCLUDE_DIRECTORIES "${{CMAKE_CURRENT_LIST_DIR}}"
    INTERFACE_LINK_LIBRARIES "m;pthread;dl")
  add_library({name}::shared SHARED IMPORTED)
  set_target_properties({name}::shared PROPERTIES
    IMPORTED_LOCATION "${{CMAKE_CURRENT_LIST_DIR}}/lib{name}.so"
    IMPORTED_SONAME "lib{name}.so"
    INTERFACE_INCLUDE_DIRECTORIES "${{CMAKE_CURRENT_LIST_DIR}}")
endif()
"""
    files = {f"{name}.pc": pkg_config, f"{name}-config.cmake": cmake, "graph.qir": texts.graph, "recipe.toml": texts.recipe}
    optional = {TUNING_FILE: texts.tuning, MIGRATION_FILE: texts.migration}
    return files | {name: text for name, text in optional.items() if text}


def _port_record(port: Port) -> PortRecord:
    encoding = port.type.encoding if port.type.dtype.is_integer else None
    scale, zero = (encoding.scale[0], encoding.zero_point[0]) if encoding else (None, None)
    return PortRecord(port.name, str(port.type.dtype), port.type.shape, port.type.bytes, scale, zero)


def _step_record(step: Step, symbol: str) -> StepRecord:
    def argument(address: Address, number: int) -> ArgumentRecord:
        view = step.kernel.operands[number]
        return ArgumentRecord(str(address.space), address.position, address.offset, str(view.dtype), view.shape, view.strides)

    arguments = tuple(argument(address, number) for number, address in enumerate(step.arguments))
    return StepRecord(step.node, symbol, step.kernel.tasks, step.kernel.macs, arguments, step.scratch)


def _step_records(program: Program) -> tuple[StepRecord, ...]:
    kernels = program.kernels
    return tuple(_step_record(step, kernels[step.kernel]) for step in program.steps)


def _manifest(program: Program, target: Target, texts: ArtifactTexts, digest: str) -> Manifest:
    variants = [VariantRecord(part_target.name, part_target.features, _step_records(part))
                for part, part_target in zip(program.variants, target.parts, strict=False)]
    return Manifest(
        name=program.name,
        target=target.name,
        triple=target.triple,
        machine=link.architecture(target),
        features=target.features,
        sms=target.sms,
        digest=digest,
        arena_bytes=arena_bytes(program),
        arena_lower_bound=program.arena_lower_bound,
        context_bytes=CONTEXT_BYTES,
        constants_bytes=len(program.constants),
        inputs=tuple(map(_port_record, program.inputs)),
        outputs=tuple(map(_port_record, program.outputs)),
        steps=_step_records(program),
        layers=tuple(texts.layers),
        proofs=tuple(texts.proofs),
        output_bounds=dict(texts.output_bounds),
        model=texts.model,
        calibration=texts.calibration,
        rounding={name: dict(how) for name, how in texts.rounding.items()},
        variants=tuple(variants),
        versions=dict(texts.versions),
    )
