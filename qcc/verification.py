"""Checks that an artifact folder is what was promised: files, machine code, golden pair, and every layer against the interpreter.

Each check returns what it found; nothing here decides how it is shown. Integers must be equal, tolerance 0. The results of float
operators are taken from the library, so that the integers behind them are still compared exactly, and must lie within
`FLOAT_BOUND` of the interpreter's, relative to the largest magnitude of the value: compilers may reorder float sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

import qcc.onnx  # noqa: F401  (gives operators that only ONNX defines their meaning)
from qcc.codegen.artifact import MIXED_FILE
from qcc.disassembly import Function, functions
from qcc.errors import QccError, VerificationError
from qcc.ir import Array, Graph, Node, interpret, parse
from qcc.ops import Dequantize, Quantize
from qcc.runtime.manifest import FILE_NAME, Manifest, StepRecord, file_hash
from qcc.runtime.module import Module
from qcc.sass import disassemble, find_disassembler, images

GRAPH_FILE, CONSTANTS_FILE, GOLDEN_FILE = "graph.qir", "constants.npz", "golden.npz"
FLOAT_BOUND = 1e-3
# A kernel of a dense layer has one of these in its innermost loops; others may do without.
_DOT_INSTRUCTIONS = {"vnni512": ("vpdpbusd",), "vnni256": ("vpdpbusd",), "madd256": ("vpmaddwd",),
                     "smmla": ("usmmla", "usdot", "sudot"), "sdot": ("sdot",), "neon": ("smull", "smlal")}
_DENSE = ("DenseKernel", "NeonDenseKernel", "PairsKernel", "WinogradKernel")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as promised: where, and what."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Code:
    """What the machine code holds.

    Attributes:
        functions: how many there are.
        instructions: how many in all of them.
        float_functions: name and number of float instructions of the functions that may have them and do.
        promised: the dot-product instruction of the target; uses and how many integer kernels use it.
        findings: float arithmetic where none may be.
    """

    functions: int
    instructions: int
    float_functions: Mapping[str, int]
    promised: str
    promised_uses: int
    promised_kernels: int
    integer_kernels: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One value against the interpreter: `error` is the largest difference, allowed up to `bound`; None where nothing could be compared."""

    node: str
    elements: int
    error: float | None
    bound: float

    @property
    def good(self) -> bool:
        return self.error is None or self.error <= self.bound


def check_files(folder: Path, manifest: Manifest) -> tuple[Finding, ...]:
    """Files that are missing, changed, or not in the manifest."""
    found = []
    for name, digest in sorted(manifest.files.items()):
        path = folder / name
        if not path.is_file():
            found.append(Finding(name, "is missing; compile the model again"))
        elif file_hash(path) != digest:
            found.append(Finding(name, f"was changed: expected SHA-256 {digest[:12]}, got {file_hash(path)[:12]}; compile the model again"))
    known = {*manifest.files, FILE_NAME, MIXED_FILE}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in known)
    return (*found, *(Finding(name, "is not in the manifest; remove it") for name in extra))


def check_code(folder: Path, manifest: Manifest) -> Code:
    """Disassemble the library and look for float arithmetic outside the kernels that handle floats and the self-test.

    A kernel is declared float when one of its operands in the manifest is: the borders, and the operators that stay float.

    Raises:
        VerificationError: the library cannot be disassembled.
    """
    if manifest.sms:
        return check_gpu_code(folder, manifest)
    from qcc.codegen.target import find_target

    found = functions(folder / manifest.library)
    variants = {variant.target: variant.steps for variant in manifest.variants} or {manifest.target: manifest.steps}
    steps = [step for own in variants.values() for step in own]
    kernels = {step.kernel: any(argument.dtype[0] == "f" for argument in step.arguments) for step in steps}
    allowed = {name for name, is_float in kernels.items() if is_float} | {f"{manifest.name}_selftest"}
    findings = [_float_finding(function) for function in found if function.floats and not _covered(function.name, allowed)]
    missing = [name for name in kernels if name not in {function.name for function in found}]
    findings += [Finding(name, "a kernel of the manifest that is not in the library; compile the model again") for name in missing]
    by_name = {function.name: function for function in found}
    dense = {layer.get("node") for layer in manifest.layers if layer.get("kernel") in _DENSE}
    promised: dict[str, None] = {}
    uses: dict[str, int] = {}
    for target, own in variants.items():
        words = _DOT_INSTRUCTIONS.get(find_target(target).dot, ())
        promised |= dict.fromkeys(words)
        for step in own:
            if step.kernel in by_name:
                code = by_name[step.kernel]
                uses[step.kernel] = sum(n for text, n in code.instructions.items() if text.split()[0] in words)
                if words and step.node in dense and not any(code.looped.get(word) for word in words):
                    findings.append(Finding(step.kernel, f"no {' or '.join(words)} in its innermost loops, as {target} promises"))
    products = {step.kernel for step in steps if step.macs and not kernels[step.kernel]}
    return Code(
        sum(bool(function.name) for function in found), sum(sum(function.instructions.values()) for function in found),
        {function.name: len(function.floats) for function in found if function.floats and _covered(function.name, allowed)},
        ", ".join(promised), sum(uses.values()), sum(bool(uses.get(name)) for name in products), len(products), tuple(findings),
    )


def check_gpu_code(folder: Path, manifest: Manifest) -> Code:
    """The same of every image in a library for GPUs; `functions` is 0 where there is no nvdisasm to look at them with."""
    program = find_disassembler()
    if program is None:
        return Code(0, 0, {}, "", 0, 0, 0, ())
    floats = {step.kernel: any(argument.dtype[0] == "f" for argument in step.arguments) for step in manifest.steps}
    products = {step.kernel for step in manifest.steps if step.macs and not floats[step.kernel]}
    found = {image.sm: disassemble(image, program) for image in images(folder / manifest.library)}
    findings = [Finding(f"sm_{sm}", "no machine code in the library; compile the model again") for sm in manifest.sms if sm not in found]
    for sm, kernels in found.items():
        for name, is_float in floats.items():
            if name not in kernels:
                findings.append(Finding(f"{name} for sm_{sm}", "a kernel of the manifest that the library lacks; compile the model again"))
            elif kernels[name].floats and not is_float:
                listed = ", ".join(f"{count} x {word}" for word, count in kernels[name].floats.items())
                findings.append(Finding(f"{name} for sm_{sm}", f"floating-point arithmetic in integer code: {listed}"))
    every = [(name, code) for kernels in found.values() for name, code in kernels.items()]
    uses = [(name, code.count("IMMA")) for name, code in every if name in products]
    return Code(
        len(every), sum(sum(code.instructions.values()) for _, code in every),
        {name: sum(code.floats.values()) for name, code in every if code.floats and floats.get(name)},
        "IMMA", sum(number for _, number in uses), sum(number > 0 for _, number in uses), len(uses), tuple(findings),
    )


def _covered(name: str, allowed: set[str]) -> bool:
    """Compilers split parts off functions: `f.cold`, `f.part.0`."""
    return name in allowed or name.partition(".")[0] in allowed


def _float_finding(function: Function) -> Finding:
    words = Counter(instruction.mnemonic for instruction in function.floats)
    listed = ", ".join(f"{count} x {word}" for word, count in words.most_common(4))
    where = function.name or f"code at {function.address:#x}"
    return Finding(where, f"floating-point arithmetic in integer code: {listed}, first {function.floats[0]}")


def check_golden(module: Module, golden: Mapping[str, Array]) -> tuple[Finding, ...]:
    """Run the golden pair that is built into the library, and the one in the folder (by "input.NAME" and "output.NAME")."""
    found = []
    try:
        module.selftest()
    except VerificationError as error:
        found.append(Finding("golden pair", str(error)))
    results = module.run(golden_inputs(module.manifest, golden))
    for name, array in results.items():
        expected, bound = golden.get(f"output.{name}"), module.manifest.output_bounds.get(name, 0.0)
        if expected is None or expected.shape != array.shape or _difference(array, expected) > bound:
            found.append(Finding(GOLDEN_FILE, f"output {name!r} is not what the library computes; compile the model again"))
    return tuple(found)


def golden_inputs(manifest: Manifest, golden: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the golden pair; VerificationError when one is missing."""
    names = [port.name for port in manifest.inputs]
    if missing := [name for name in names if f"input.{name}" not in golden]:
        raise VerificationError(f"{GOLDEN_FILE}: holds no array for the inputs {missing}; compile the model again")
    return {name: golden[f"input.{name}"] for name in names}


def load_arrays(path: Path) -> dict[str, Array]:
    """The arrays of one of the folder's files; VerificationError when it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise VerificationError(f"{path}: is missing; compile the model again") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise VerificationError(f"{path}: cannot be read: {error}; compile the model again") from error


def load_graph(folder: Path) -> Graph:
    """The integer graph of an artifact folder, with its constants.

    Raises:
        VerificationError: a file is missing or damaged, or the constants are not those of the graph.
    """
    constants = {name.removeprefix("constant."): array for name, array in load_arrays(folder / CONSTANTS_FILE).items()}
    try:
        return parse((folder / GRAPH_FILE).read_text("utf-8"), constants)
    except (OSError, ValueError, QccError) as error:
        raise VerificationError(f"{folder / GRAPH_FILE}: cannot be read: {error}; compile the model again") from error


def check_layers(module: Module, graph: Graph, feeds: Mapping[str, Array]) -> Iterator[Layer]:
    """Every value that a step of the library writes against the interpreter, for one input, in order."""
    written: dict[str, Array] = {}
    for step, read in module.trace(feeds):
        names = _written(graph, step)
        written |= {name: _declared(graph, name, read(number - len(names))) for number, name in enumerate(names)}

    def from_library(node: Node) -> dict[str, Array] | None:
        """What a float operator computed in the library; None for integer operators, borders, and what reached no memory."""
        types = [graph.types[name] for name in node.outputs]
        if isinstance(node.op, Dequantize) or not all(t.dtype.is_float and n in written for t, n in zip(types, node.outputs, strict=True)):
            return None
        return {name: written[name].reshape(type.shape) for name, type in zip(node.outputs, types, strict=True)}

    values = interpret(graph, feeds, None, from_library)
    for name, array in written.items():
        yield _layer(graph, name, array, values)


def _written(graph: Graph, step: StepRecord) -> tuple[str, ...]:
    """The values that a step writes, in the order of its last arguments."""
    node = graph.producers.get(step.node)
    return node.outputs if node is not None else (step.node,) if step.arguments else ()


def _declared(graph: Graph, name: str, array: Array) -> Array:
    """The elements under the type that the graph gives them: a copy moves floats as integers of the same width, and two of 4 bits may
    share a byte."""
    if name in graph.types and graph.types[name].dtype.bits <= 4 and 2 * array.size == graph.types[name].size:
        array = np.stack([array & 15, array >> 4], axis=-1)
    dtype = graph.types[name].dtype.numpy if name in graph.types else array.dtype
    return array.view(dtype) if dtype != array.dtype and dtype.itemsize == array.dtype.itemsize else array


def _layer(graph: Graph, name: str, array: Array, values: Mapping[str, Array]) -> Layer:
    """`values` holds the interpreter's values and outputs, float operators' as the library computed them."""
    node = graph.producers.get(name)
    if name not in values or values[name].size != array.size:
        return Layer(name, array.size, None, 0.0)
    if node is None or isinstance(node.op, Dequantize) or not graph.types[name].dtype.is_float:
        return Layer(name, array.size, _difference(array, values[name]), 0.0)
    own = node.op.evaluate(*(values[n] for n in node.inputs if n))[node.outputs.index(name)]
    magnitude = float(np.max(np.abs(own[np.isfinite(own)]), initial=0.0))
    return Layer(name, array.size, _difference(array, own), FLOAT_BOUND * magnitude)


def _difference(found: Array, expected: Array) -> float:
    """The largest absolute difference; infinite where one is NaN or infinite and the other is not equal to it."""
    found, expected = found.reshape(-1), expected.reshape(-1)
    if np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"):
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected)) if found.dtype.kind == "f" else found == expected
    return float(np.max(np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference)), initial=0.0))


def random_feeds(manifest: Manifest, seed: int, ranges: Mapping[str, tuple[float, float]] | None = None) -> dict[str, Array]:
    """Inputs for a checks: floats evenly over a range (by default -4 to 4), integers over their whole type."""
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for port in manifest.inputs:
        dtype = port.numpy
        if dtype.kind == "f":
            low, high = (ranges or {}).get(port.name, (-4.0, 4.0))
            feeds[port.name] = generator.uniform(low, high, port.shape).astype(dtype)
        elif dtype.kind == "b":
            feeds[port.name] = generator.integers(0, 2, port.shape).astype(np.bool_)
        else:
            bits = int(port.dtype[1:])
            lowest = 0 if dtype.kind == "u" else -(1 << (bits - 1))
            feeds[port.name] = generator.integers(lowest, lowest + (1 << bits) - 1, port.shape, dtype, endpoint=True)
    return feeds


def input_ranges(graph: Graph) -> dict[str, tuple[float, float]]:
    """The range of float inputs that their quantization represents, and a little beyond: where clamping is at work, too."""
    found = {}
    for node in graph.nodes:
        if isinstance(node.op, Quantize) and node.inputs[0] in graph.inputs:
            low, high = node.op.bounds
            found[node.inputs[0]] = (1.1 * low / node.op.inverse_scale, 1.1 * high / node.op.inverse_scale)
    return found


def failures(layers: Sequence[Layer]) -> tuple[Finding, ...]:
    return tuple(
        Finding(layer.node, f"differs from the interpreter by up to {layer.error:g} (allowed {layer.bound:g})")
        for layer in layers
        if not layer.good
    )
