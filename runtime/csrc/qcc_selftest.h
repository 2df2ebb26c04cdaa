/* Runs a library's embedded golden input and compares what comes out with the embedded golden output. Include it behind an engine.
 *
 * Integer results, and float results that only the borders of the network produce, must be equal byte for byte; an output
 * that depends on float operators inside the network carries a bound for the absolute difference.
 */
#ifndef QCC_SELFTEST_H
#define QCC_SELFTEST_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qcc_model.h"

/* The sum of the 64-bit words, each times an odd number of its own: one changed word always changes it. */
static uint64_t qcc_engine_checksum(const void *data, size_t bytes) {
    uint64_t sum = 0, factor = 1;
    for (size_t at = 0; at < bytes; at += 8, factor += 2) {
        uint64_t word = 0;
        memcpy(&word, (const char *)data + at, bytes - at < 8 ? bytes - at : 8);
        sum += word * factor;
    }
    return sum;
}

/* Element i of a generated input is (low + hash(i) modulo span), for a float input times scale. */
static void qcc_engine_pattern(const struct qcc_engine_port *port, void *data) {
    const struct qcc_engine_golden *golden = &port->golden;
    for (int64_t i = 0; i < port->elements; ++i) {
        uint32_t hash = (uint32_t)i * 0x9e3779b9u + golden->seed;
        hash = (hash ^ hash >> 16) * 0x85ebca6bu;
        hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
        int64_t value = golden->low + (int64_t)((hash ^ hash >> 16) % golden->span);
        float real = golden->scale * (float)value;
        if (port->dtype[0] == 'f')
            memcpy((char *)data + i * (int64_t)sizeof real, &real, sizeof real);
        else /* little endian: the low bytes of the number are the element */
            memcpy((char *)data + i * (int64_t)(port->bytes / (size_t)port->elements), &value, port->bytes / (size_t)port->elements);
    }
}

static int qcc_engine_close_to(const struct qcc_engine_port *port, int64_t index, const void *found) {
    double expected, actual;
    if (strcmp(port->dtype, "f64") == 0) {
        memcpy(&expected, (const char *)port->golden.data + index * 8, 8);
        memcpy(&actual, (const char *)found + index * 8, 8);
    } else {
        float pair[2];
        memcpy(&pair[0], (const char *)port->golden.data + index * 4, 4);
        memcpy(&pair[1], (const char *)found + index * 4, 4);
        expected = pair[0];
        actual = pair[1];
    }
    return expected == actual || (isnan(expected) && isnan(actual)) || fabs(expected - actual) <= port->golden.bound;
}

static int qcc_engine_judge(struct qcc_engine *engine, const struct qcc_engine_port *port, const void *found) {
    const struct qcc_engine_golden *golden = &port->golden;
    const char *name = engine->model->name;
    if (golden->data == NULL) {
        if (qcc_engine_checksum(found, port->bytes) == golden->checksum) return QCC_ENGINE_OK;
        return qcc_engine_fail(engine->text, QCC_ENGINE_SELFTEST_FAILED, "%s: output %s differs from the golden output (checksum of its %zu bytes)",
                           name, port->name, port->bytes);
    }
    if (golden->bound == 0 && memcmp(found, golden->data, port->bytes) == 0) return QCC_ENGINE_OK;
    size_t width = port->bytes / (size_t)port->elements;
    for (int64_t i = 0; i < port->elements; ++i) {
        size_t at = (size_t)i * width;
        int equal = golden->bound == 0 ? memcmp((const char *)found + at, (const char *)golden->data + at, width) == 0
                                       : qcc_engine_close_to(port, i, found);
        if (!equal)
            return qcc_engine_fail(engine->text, QCC_ENGINE_SELFTEST_FAILED,
                               "%s: output %s differs from the golden output at element %lld (of %lld; bound %g)", name, port->name,
                               (long long)i, (long long)port->elements, golden->bound);
    }
    return QCC_ENGINE_OK;
}

static int qcc_engine_selftest_in(struct qcc_engine *engine, unsigned char *memory) {
    const struct qcc_engine_model *model = engine->model;
    const void **inputs = (const void **)memory;
    void **outputs = (void **)memory + model->input_count;
    unsigned char *next = memory + sizeof(void *) * (size_t)(model->input_count + model->output_count);
    for (int32_t i = 0; i < model->input_count; ++i) {
        const struct qcc_engine_port *port = &model->inputs[i];
        if (port->golden.data == NULL)
            qcc_engine_pattern(port, next);
        else
            memcpy(next, port->golden.data, port->bytes);
        inputs[i] = next;
        next += (port->bytes + QCC_ENGINE_ALIGNMENT) / QCC_ENGINE_ALIGNMENT * QCC_ENGINE_ALIGNMENT;
    }
    for (int32_t i = 0; i < model->output_count; ++i) {
        outputs[i] = next;
        next += (model->outputs[i].bytes + QCC_ENGINE_ALIGNMENT) / QCC_ENGINE_ALIGNMENT * QCC_ENGINE_ALIGNMENT;
    }
    int status = qcc_engine_run(engine, inputs, outputs, 0, model->step_count, NULL);
    for (int32_t i = 0; i < model->output_count && status == QCC_ENGINE_OK; ++i)
        status = qcc_engine_judge(engine, &model->outputs[i], outputs[i]);
    return status;
}

static int qcc_engine_selftest(struct qcc_engine *engine) {
    const struct qcc_engine_model *model = engine->model;
    if (qcc_engine_checksum(model->constants, model->constants_bytes) != model->constants_checksum)
        return qcc_engine_fail(engine->text, QCC_ENGINE_SELFTEST_FAILED, "%s: the weights in the library are damaged (wrong checksum)",
                           model->name);
    size_t bytes = sizeof(void *) * (size_t)(model->input_count + model->output_count);
    for (int32_t i = 0; i < model->input_count; ++i) bytes += model->inputs[i].bytes + QCC_ENGINE_ALIGNMENT;
    for (int32_t i = 0; i < model->output_count; ++i) bytes += model->outputs[i].bytes + QCC_ENGINE_ALIGNMENT;
    unsigned char *memory = calloc(1, bytes + QCC_ENGINE_ALIGNMENT);
    if (memory == NULL)
        return qcc_engine_fail(engine->text, QCC_ENGINE_OUT_OF_MEMORY, "%s: no memory for the self-test's %zu bytes", model->name, bytes);
    int status = qcc_engine_selftest_in(engine, memory);
    free(memory);
    return status;
}

#endif
