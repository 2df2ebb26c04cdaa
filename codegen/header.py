"""The C header of a library: the sizes as macros, the types, and every function with its documentation.

It is valid C99 and C++11. All names begin with the network's name, so that headers of two networks go into one file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qcc.codegen.cuda import header as cuda_header
from qcc.codegen.program import Port, Program
from qcc.errors import UsageError
from qcc.runtime.manifest import ABI_VERSION

# Room for 63 workers' cache lines and the rest; fixed, so that a program compiled against one build runs with the next.
CONTEXT_BYTES = 6144

_KEYWORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return
    short signed sizeof static struct switch typedef union unsigned void volatile while class new delete this template namespace
    bool true false try catch throw public private protected virtual using operator friend explicit export mutable typename
""".split()  # noqa: SIM905 (sixty strings in quotes are harder to read)


def is_keyword(name: str) -> bool:
    """Whether the name is reserved in C or C++."""
    return name in _KEYWORDS


def check_name(name: str) -> str:
    """The name, if it can prefix C symbols.

    Raises:
        UsageError: it is not an identifier, or is reserved.
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not is_keyword(name):
        return name
    raise UsageError(f"name {name!r}: expected a C identifier that begins with a letter, to prefix the library's symbols; use --name")


def quoted(text: str) -> str:
    """A C string literal of the UTF-8 bytes."""
    plain = set(b" !#$%&'()*+,-./:;<=>@[]^_`{|}~") | set(b"0123456789") | set(range(65, 91)) | set(range(97, 123))
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def exported_names(name: str, is_gpu: bool = False, fat: bool = False) -> tuple[str, ...]:
    """The symbols that a library exports, for GPUs or with the kernels of several targets; everything else is local to it."""
    functions = (
        "abi_version arena arena_bytes close context_bytes digest error init input inputs output outputs run run_profiled run_steps "
        "selftest step_name steps"
    )
    more = (*(cuda_header.NAMES if is_gpu else ()), *(("select", "variant") if fat else ()))
    return tuple(f"{name}_{function}" for function in (*functions.split(), *more))


def _port_macros(name: str, kind: str, number: int, port: Port) -> list[str]:
    prefix = f"{name}_{kind}_{number}"
    kind_of = f"{port.type.dtype}[{','.join(map(str, port.type.shape))}]"
    comment = re.sub(r"[^ -~]|\*/|/\*|\\", "?", port.name)
    lines = [f"/* {kind.lower()} {number}: {comment}, {kind_of} */", f"#define {prefix}_BYTES {port.type.bytes}"]
    lines.append(f"#define {prefix}_ELEMENTS {port.type.size}")
    if port.type.encoding is not None and port.type.dtype.is_integer:
        lines.append(f"#define {prefix}_SCALE {port.type.encoding.scale[0]!r}")
        lines.append(f"#define {prefix}_ZERO_POINT {port.type.encoding.zero_point[0]}")
    return lines


def _macros(program: Program, arena: int) -> str:
    name = program.name
    sizes = {"ABI_VERSION": ABI_VERSION, "CONTEXT_BYTES": CONTEXT_BYTES, "ARENA_BYTES": arena, "ALIGNMENT": 64}
    counts = {"INPUTS": len(program.inputs), "OUTPUTS": len(program.outputs), "STEPS": len(program.steps)}
    lines = [f"#define {name}_{key} {value}" for key, value in (sizes | counts).items()]
    groups: list[tuple[str, Sequence[Port]]] = [("INPUT", program.inputs), ("OUTPUT", program.outputs)]
    for kind, ports in groups:
        for number, port in enumerate(ports):
            lines += _port_macros(name, kind, number, port)
    return "\n".join(lines)


_TEXT = """/* NAME: a neural network as a library, made by qcc.
 *
 * One context serves one run at a time; contexts are independent, so several threads may run with one context each.
 * NAME_run allocates no memory. A context may be made from the caller's own memory. Functions that return int return
 * NAME_OK or another NAME_status; NAME_error then tells in words what was wrong.
 *
 *     NAME_context *context;
 *     if (NAME_init(&context, NULL, NULL, 1) != NAME_OK) { puts(NAME_error(NULL)); return 1; }
 *     if (NAME_run(context, inputs, outputs) != NAME_OK) puts(NAME_error(context));
 *     NAME_close(context);
 */
#ifndef NAME_QCC_H
#define NAME_QCC_H

#include <stddef.h>
#include <stdint.h>

@MACROS@

#if defined(__GNUC__)
#define NAME_API __attribute__((visibility("default")))
#else
#define NAME_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum NAME_status {
    NAME_OK = 0,
    NAME_BAD_ARGUMENT = 1,     /* a NULL array, misaligned memory, a number of threads or steps out of range */
    NAME_MISSING_FEATURES = 2, /* the CPU lacks instructions that the library needs; no GPU, driver or code for the GPU */
    NAME_OUT_OF_MEMORY = 3,
    NAME_NO_THREADS = 4,       /* the system refused to start the threads */
    NAME_BUSY = 5,             /* the context is in use by another thread; NAME_error is not changed */
    NAME_KERNEL_FAILED = 6,
    NAME_SELFTEST_FAILED = 7
} NAME_status;

typedef struct NAME_context NAME_context;

/* An input or output. Arrays are dense, in row-major order; alignment does not matter. real = scale * (q - zero_point). */
typedef struct NAME_tensor {
    const char *name;
    const char *dtype;    /* kind and bits: "f32", "u8", "i64", ...; "bool" */
    int32_t rank;
    const int64_t *shape; /* rank extents */
    size_t bytes;
    double scale;         /* 0 where the values are not quantized */
    int32_t zero_point;
} NAME_tensor;

/* The version of this interface that the library was built with: compare with NAME_ABI_VERSION. */
NAME_API int32_t NAME_abi_version(void);

/* Identifies the weights and the code of this build (hexadecimal SHA-256). */
NAME_API const char *NAME_digest(void);

/* Bytes of an arena and of a context's storage, for callers who bring their own memory. */
NAME_API size_t NAME_arena_bytes(void);
NAME_API size_t NAME_context_bytes(void);

/* Number of inputs and outputs, and their descriptions; NULL when there is no such one. */
NAME_API int32_t NAME_inputs(void);
NAME_API int32_t NAME_outputs(void);
NAME_API const NAME_tensor *NAME_input(int32_t number);
NAME_API const NAME_tensor *NAME_output(int32_t number);

/* Makes a context: checks the CPU and starts threads - 1 workers (threads is 1 to 64). `storage` (NAME_CONTEXT_BYTES) and
 * `arena` (NAME_ARENA_BYTES) are memory of the caller, aligned to NAME_ALIGNMENT, or NULL: then they are allocated here.
 * On failure *context is NULL and NAME_error(NULL) tells why (to the same thread). */
NAME_API int NAME_init(NAME_context **context, void *storage, void *arena, int32_t threads);

/* Runs the network: inputs[i] and outputs[i] point to NAME_INPUTS and NAME_OUTPUTS arrays, which must not overlap.
 * In a process made by fork() the context keeps working, on the calling thread only; do not fork during a run. */
NAME_API int NAME_run(NAME_context *context, const void *const *inputs, void *const *outputs);

/* The same, and writes how long each of the NAME_STEPS steps took. */
NAME_API int NAME_run_profiled(NAME_context *context, const void *const *inputs, void *const *outputs, uint64_t *nanoseconds);

/* Runs steps first to last - 1 only. Called in order, with the same arrays, it does what NAME_run does; in between, the
 * arena holds the intermediate results (the manifest tells where). */
NAME_API int NAME_run_steps(NAME_context *context, const void *const *inputs, void *const *outputs, int32_t first, int32_t last);
NAME_API void *NAME_arena(NAME_context *context);

/* Number of steps, and what a step computes; NULL when there is no such step. */
NAME_API int32_t NAME_steps(void);
NAME_API const char *NAME_step_name(int32_t step);

/* Runs the built-in golden input and compares the result with the golden output; also checks the weights. Allocates. */
NAME_API int NAME_selftest(NAME_context *context);

/* What was wrong with the last call on this context; with NULL, with this thread's last NAME_init. */
NAME_API const char *NAME_error(const NAME_context *context);

/* Stops the workers and frees what NAME_init allocated; NULL is allowed. */
NAME_API void NAME_close(NAME_context *context);
@MORE@
#ifdef __cplusplus
}
#endif

#endif
"""


_VARIANTS = """
/* The library has kernels for several kinds of CPU and NAME_init takes the best ones that this CPU runs. NAME_variant names those of a
 * context; NAME_select makes later calls of NAME_init take others (NULL: the best again), NAME_BAD_ARGUMENT if there are none. */
NAME_API const char *NAME_variant(const NAME_context *context);
NAME_API int NAME_select(const char *target);
"""


def header(program: Program, arena: int, is_gpu: bool = False) -> str:
    """The text of NAME.h for an arena of `arena` bytes."""
    name = check_name(program.name)
    text = _TEXT.replace("@MORE@", cuda_header.DECLARATIONS if is_gpu else _VARIANTS if program.variants else "")
    return text.replace("NAME", name).replace("@MACROS@", _macros(program, arena))
