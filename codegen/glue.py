"""The C source that turns kernels into a library: one function per step, tables, and the exported functions.

It decides how the parts lie in the file and how many threads a step deserves. What is the same for every network is not
generated: it is C, in runtime/csrc, and is included. The header is made in codegen/header.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcc.codegen.golden import Golden, checksum
from qcc.codegen.header import quoted
from qcc.codegen.kernel import READ_SLACK, Kernel
from qcc.codegen.program import ALIGNMENT, Address, Port, Program, Space, Step
from qcc.codegen.target import Target
from qcc.errors import CodegenError

CONSTANTS_FILE, GOLDEN_FILE = "constants.bin", "golden.bin"

# A thread is worth waking for about two microseconds of work, guessed from what a core does in a cycle when all goes well.
_MACS_PER_CYCLE, _BYTES_PER_CYCLE, _CYCLES_PER_THREAD, _MOST_THREADS = 64, 8, 4000, 64


@dataclass(frozen=True)
class Source:
    """A library's C source and, by name, the files that it includes as data."""

    text: str
    files: Mapping[str, bytes]


def arena_bytes(program: Program) -> int:
    """What a context must have: the plan's bytes and what a kernel may read beyond the last one, in whole cache lines."""
    return -(-(program.arena_bytes + READ_SLACK) // ALIGNMENT) * ALIGNMENT


def useful_threads(kernel: Kernel) -> int:
    """More threads than this are not worth waking for one call of the kernel."""
    traffic = sum(view.span * view.dtype.bytes for view in kernel.operands)
    cycles = kernel.macs // _MACS_PER_CYCLE + traffic // _BYTES_PER_CYCLE
    return max(1, min(kernel.tasks, cycles // _CYCLES_PER_THREAD, _MOST_THREADS))


def check(program: Program) -> None:
    """Raise CodegenError for a step whose operands do not lie within what they point to."""
    sizes = {Space.ARENA: [program.arena_bytes], Space.CONSTANT: [len(program.constants)]}
    ports = {Space.INPUT: program.inputs, Space.OUTPUT: program.outputs}
    sizes |= {space: [port.type.bytes for port in group] for space, group in ports.items()}
    for port in (*program.inputs, *program.outputs):
        if port.type.size == 0 or (port.type.encoding is not None and port.type.encoding.axis is not None):
            raise CodegenError(f"{program.name}: input or output {port.name!r} is empty or has an encoding per channel: {port.type}")
    for number, step in enumerate(program.steps):
        where = f"{program.name}: step {number}, {step.node!r}"
        if len(step.arguments) != len(step.kernel.operands):
            raise CodegenError(f"{where}: the kernel takes {len(step.kernel.operands)} operands, got {len(step.arguments)}")
        for view, address in zip(step.kernel.operands, step.arguments, strict=True):
            is_port = address.space in ports
            begin, index = (address.offset, address.position) if is_port else (address.position, 0)
            if not 0 <= index < len(sizes[address.space]) or not 0 <= begin <= sizes[address.space][index] - view.span * view.dtype.bytes:
                raise CodegenError(f"{where}: {view} at {address} leaves its space of {sizes[address.space]} bytes")


def _pointer(program: Program, address: Address) -> str:
    if address.space is Space.ARENA:
        return f"engine->arena + {address.position}"
    if address.space is Space.CONSTANT:
        return f"(unsigned char *){program.name}_constants + {address.position}"
    return f"(unsigned char *)engine->{address.space}s[{address.position}] + {address.offset}"


def _kernels(program: Program) -> str:
    lines = []
    for kernel, symbol in program.kernels.items():
        pointers = "void *, " * len(kernel.operands)
        lines.append(f'__attribute__((visibility("hidden"))) int32_t {symbol}({pointers}int32_t, int32_t);')
    return "\n".join(lines)


def blob(symbol: str, file: str) -> str:
    """Data that the assembler reads from a file: arrays in C would take minutes to compile."""
    return f"""extern const unsigned char {symbol}[] __attribute__((visibility("hidden")));
__asm__(".pushsection .rodata.{symbol}, \\"a\\"\\n"
        ".balign {ALIGNMENT}\\n"
        "{symbol}:\\n"
        ".incbin \\"{file}\\"\\n"
        ".zero {READ_SLACK}\\n"
        ".popsection\\n");"""


def _step(program: Program, number: int, step: Step, symbol: str) -> str:
    arguments = "".join(f"{_pointer(program, address)}, " for address in step.arguments)
    return f"""static int32_t step_{program.variant}{number}(const void *data, int32_t begin, int32_t end) {{
    const struct qcc_engine *engine = data;
    (void)engine;
    return {symbol}({arguments}begin, end);
}}"""


def _steps(program: Program) -> str:
    kernels = program.kernels
    functions = [_step(program, number, step, kernels[step.kernel]) for number, step in enumerate(program.steps)]
    rows = [
        f"    {{step_{program.variant}{number}, {quoted(step.node)}, {step.kernel.tasks}, {useful_threads(step.kernel)}}},"
        for number, step in enumerate(program.steps)
    ]
    table = "\n".join([f"static const struct qcc_engine_step {program.variant}steps[] = {{", *rows, "    {NULL, NULL, 0, 0},", "};"])
    return "\n\n".join([*functions, table])


def _port_row(program: Program, port: Port, golden: Golden, offset: int) -> str:
    pattern = golden.pattern
    data = "NULL" if golden.data is None else f"{program.name}_golden + {offset}"
    formula = "0, 0, 1, 0.0f" if pattern is None else f"{pattern.seed}u, {pattern.low}, {pattern.span}u, {float(pattern.scale).hex()}f"
    kept = f"{{{data}, {golden.checksum}u, {float(golden.bound).hex()}, {formula}}}"
    return f"    {{{quoted(port.name)}, {quoted(str(port.type.dtype))}, {port.type.size}, {port.type.bytes}, {kept}}},"


def _descriptor_rows(kind: str, ports: Sequence[Port]) -> list[str]:
    lines = []
    for number, port in enumerate(ports):
        extents = ", ".join(map(str, port.type.shape)) or "1"
        lines.append(f"static const int64_t {kind}_{number}_shape[] = {{{extents}}};")
    return lines


def descriptors(program: Program, kind: str, ports: Sequence[Port]) -> str:
    rows = []
    for number, port in enumerate(ports):
        encoding = port.type.encoding if port.type.dtype.is_integer else None
        scale, zero = (encoding.scale[0], encoding.zero_point[0]) if encoding else (0.0, 0)
        rows.append(
            f"    {{{quoted(port.name)}, {quoted(str(port.type.dtype))}, {port.type.rank}, {kind}_{number}_shape, "
            f"{port.type.bytes}, {scale!r}, {zero}}},"
        )
    rows = rows or ["    {NULL, NULL, 0, NULL, 0, 0, 0},"]
    lines = [*_descriptor_rows(kind, ports), f"static const {program.name}_tensor {kind}_tensors[] = {{", *rows, "};"]
    return "\n".join(lines)


def port_tables(program: Program, golden: Mapping[str, tuple[Golden, int]], kind: str, ports: Sequence[Port]) -> str:
    rows = [_port_row(program, port, *golden[f"{kind}.{port.name}"]) for port in ports]
    rows = rows or ["    {NULL, NULL, 0, 0, {NULL, 0, 0, 0, 0, 1, 0}},"]
    return "\n".join([f"static const struct qcc_engine_port {kind}_ports[] = {{", *rows, "};"])


def _model(program: Program, target: Target) -> str:
    features, variant = ", ".join(quoted(feature) for feature in (*target.features, "")), program.variant
    return f"""static const char *const {variant}features[] = {{{features}}};
static const struct qcc_engine_model {variant}model = {{
    .name = {quoted(program.name)},
    .target = {quoted(target.name)},
    .features = {variant}features,
    .steps = {variant}steps,
    .inputs = input_ports,
    .outputs = output_ports,
    .constants = {program.name}_constants,
    .constants_bytes = {len(program.constants)},
    .constants_checksum = {checksum(program.constants)}u,
    .arena_bytes = {arena_bytes(program)},
    .feature_count = {len(target.features)},
    .step_count = {len(program.steps)},
    .input_count = {len(program.inputs)},
    .output_count = {len(program.outputs)},
}};"""


_FUNCTIONS = """struct NAME_context {
    struct qcc_engine engine;
};
_Static_assert(sizeof(struct NAME_context) <= NAME_CONTEXT_BYTES, "the header promises a context of this size");
_Static_assert(NAME_SELFTEST_FAILED == (int)QCC_ENGINE_SELFTEST_FAILED && NAME_BUSY == (int)QCC_ENGINE_BUSY, "one list of statuses");

/* Why the last NAME_init of this thread failed: there is no context that could keep it. */
static _Thread_local char init_text[QCC_ENGINE_TEXT];
@CHOICE@
int32_t NAME_abi_version(void) { return NAME_ABI_VERSION; }
const char *NAME_digest(void) { return "@DIGEST@"; }
size_t NAME_arena_bytes(void) { return FIRST.arena_bytes; }
size_t NAME_context_bytes(void) { return NAME_CONTEXT_BYTES; }
int32_t NAME_inputs(void) { return FIRST.input_count; }
int32_t NAME_outputs(void) { return FIRST.output_count; }
const NAME_tensor *NAME_input(int32_t i) { return i >= 0 && i < FIRST.input_count ? &input_tensors[i] : NULL; }
const NAME_tensor *NAME_output(int32_t i) { return i >= 0 && i < FIRST.output_count ? &output_tensors[i] : NULL; }
int32_t NAME_steps(void) { return FIRST.step_count; }
const char *NAME_step_name(int32_t i) { return i >= 0 && i < FIRST.step_count ? FIRST.steps[i].node : NULL; }

int NAME_init(NAME_context **context, void *storage, void *arena, int32_t threads) {
    struct qcc_engine *engine;
    int status = qcc_engine_init(&engine, CHOSEN, storage, arena, threads, init_text);
    *context = (NAME_context *)engine;
    return status;
}

int NAME_run(NAME_context *context, const void *const *inputs, void *const *outputs) {
    return qcc_engine_run(&context->engine, inputs, outputs, 0, FIRST.step_count, NULL);
}

int NAME_run_profiled(NAME_context *context, const void *const *inputs, void *const *outputs, uint64_t *nanoseconds) {
    return qcc_engine_run(&context->engine, inputs, outputs, 0, FIRST.step_count, nanoseconds);
}

int NAME_run_steps(NAME_context *context, const void *const *inputs, void *const *outputs, int32_t first, int32_t last) {
    return qcc_engine_run(&context->engine, inputs, outputs, first, last, NULL);
}

void *NAME_arena(NAME_context *context) { return context->engine.arena; }
const char *NAME_error(const NAME_context *context) { return context != NULL ? context->engine.text : init_text; }
int NAME_selftest(NAME_context *context) { return qcc_engine_selftest(&context->engine); }
void NAME_close(NAME_context *context) { qcc_engine_close((struct qcc_engine *)context); }
"""

_CHOICE = """
/* Best first. */
static const struct qcc_engine_model *const models[] = {MODELS_LIST};
enum { MODELS = sizeof models / sizeof *models };

/* One more than the number of the model that NAME_select asked for; 0: the best one for this CPU. */
static _Atomic int32_t selected;

const char *NAME_variant(const NAME_context *context) { return context->engine.model->target; }

int NAME_select(const char *target) {
    int32_t number = 0;
    while (target != NULL && number < MODELS && strcmp(target, models[number]->target) != 0) ++number;
    if (number == MODELS)
        return qcc_engine_fail(init_text, QCC_ENGINE_BAD_ARGUMENT, "%s: has no kernels for %s", FIRST.name, target);
    atomic_store(&selected, target == NULL ? 0 : number + 1);
    return QCC_ENGINE_OK;
}

static const struct qcc_engine_model *chosen(void) {
    int32_t number = atomic_load(&selected);
    return number != 0 ? models[number - 1] : qcc_engine_choose(models, MODELS);
}
"""


def functions(program: Program, digest: str) -> str:
    """The exported functions; a library with several targets' kernels has two more."""
    fat = bool(program.variants)
    text = _FUNCTIONS.replace("@CHOICE@", _CHOICE if fat else "").replace("CHOSEN", "chosen()" if fat else "&FIRST")
    text = text.replace("MODELS_LIST", ", ".join(f"&{part.variant}model" for part in program.parts))
    return text.replace("FIRST", f"{program.variant}model").replace("NAME", program.name).replace("@DIGEST@", digest)


def place_golden(golden: Mapping[str, Golden]) -> tuple[bytes, dict[str, tuple[Golden, int]]]:
    """The embedded golden arrays in one block, and for each of them where it begins."""
    data, placed = bytearray(), {}
    for name, kept in golden.items():
        placed[name] = (kept, len(data))
        data += kept.data or b""
        data += bytes(-len(data) % ALIGNMENT)
    return bytes(data), placed


def library_source(program: Program, target: Target, golden: Mapping[str, Golden], digest: str) -> Source:
    """The source of the library.

    Args:
        golden: by "input.NAME" and "output.NAME", for every port.
        digest: text that the library returns from NAME_digest().
    """
    for part in program.parts:
        check(part)
    name, (arrays, placed) = program.name, place_golden(golden)
    parts = [
        f'#include "{name}.h"\n\n#include "qcc_engine.h"\n#include "qcc_selftest.h"',
        *map(_kernels, program.parts),
        blob(f"{name}_constants", CONSTANTS_FILE),
        blob(f"{name}_golden", GOLDEN_FILE),
        *map(_steps, program.parts),
        port_tables(program, placed, "input", program.inputs),
        port_tables(program, placed, "output", program.outputs),
        descriptors(program, "input", program.inputs),
        descriptors(program, "output", program.outputs),
        *(_model(part, part_target) for part, part_target in zip(program.parts, target.parts, strict=True)),
        functions(program, digest),
    ]
    return Source("\n\n".join(parts), {CONSTANTS_FILE: program.constants, GOLDEN_FILE: arrays})
