/* What a library says of its network and how it reports failures, whatever engine runs it: qcc_engine.h on CPUs, qcc_cuda.h on GPUs.
 *
 * Both define `struct qcc_engine` (with `model` and `text`), `struct qcc_engine_model` and qcc_engine_init, _run, _close; the generated
 * functions and qcc_selftest.h work with either.
 */
#ifndef QCC_MODEL_H
#define QCC_MODEL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { QCC_ENGINE_ALIGNMENT = 64, QCC_ENGINE_TEXT = 512 };

enum qcc_engine_status {
    QCC_ENGINE_OK,
    QCC_ENGINE_BAD_ARGUMENT,
    QCC_ENGINE_MISSING_FEATURES,
    QCC_ENGINE_OUT_OF_MEMORY,
    QCC_ENGINE_NO_THREADS,
    QCC_ENGINE_BUSY,
    QCC_ENGINE_KERNEL_FAILED,
    QCC_ENGINE_SELFTEST_FAILED,
};

/* One array of the golden pair, and how an output is compared with it. */
struct qcc_engine_golden {
    const void *data; /* NULL: an input that qcc_engine_pattern writes, or an output of which only the checksum is kept */
    uint64_t checksum;
    double bound; /* of the absolute difference of a float output; 0 asks for equal bytes */
    uint32_t seed;
    int64_t low;
    uint32_t span;
    float scale;
};

struct qcc_engine_port {
    const char *name;
    const char *dtype;
    int64_t elements;
    size_t bytes;
    struct qcc_engine_golden golden;
};

static int qcc_engine_fail(char *text, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int qcc_engine_fail(char *text, int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, QCC_ENGINE_TEXT, format, arguments);
    va_end(arguments);
    return status;
}

#endif
