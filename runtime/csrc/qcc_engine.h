/* Runs the steps of one network: what every generated library does, whatever the network is.
 *
 * The generated file includes this one, gives a `struct qcc_engine_model` that describes the network, one function per step,
 * and the exported functions of the header; nothing here is exported. After qcc_engine_init nothing allocates memory, but for
 * qcc_engine_selftest, which needs room for one set of inputs and outputs.
 */
#ifndef QCC_ENGINE_H
#define QCC_ENGINE_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qcc_cpu.h"
#include "qcc_model.h"
#include "qcc_pool.h"

struct qcc_engine_step {
    qcc_pool_function call; /* with the engine as data */
    const char *node;
    int32_t tasks;
    int32_t chunks; /* more threads than this are not worth waking */
};

struct qcc_engine_model {
    const char *name;
    const char *target;
    const char *const *features;
    const struct qcc_engine_step *steps;
    const struct qcc_engine_port *inputs, *outputs;
    const unsigned char *constants;
    size_t constants_bytes, arena_bytes;
    uint64_t constants_checksum;
    int32_t feature_count, step_count, input_count, output_count;
};

struct qcc_engine {
    const struct qcc_engine_model *model;
    unsigned char *arena;
    const void *const *inputs;
    void *const *outputs;
    void *owned_arena, *owned_storage; /* what qcc_engine_close must free */
    _Atomic int32_t busy;
    char text[QCC_ENGINE_TEXT];
    struct qcc_pool pool;
};

static int qcc_engine_refuse(const struct qcc_engine_model *model, const void *storage, const void *arena, int32_t threads, char *text) {
    char missing[QCC_ENGINE_TEXT / 2];
    if (qcc_cpu_missing(model->features, model->feature_count, missing, sizeof missing) != 0)
        return qcc_engine_fail(text, QCC_ENGINE_MISSING_FEATURES,
                           "%s: this CPU lacks what the library was compiled for: %s; compile the model for a target that this "
                           "machine supports", model->name, missing);
    if (threads < 1 || threads > QCC_POOL_THREADS)
        return qcc_engine_fail(text, QCC_ENGINE_BAD_ARGUMENT, "%s: %d threads: expected 1 to %d", model->name, threads, QCC_POOL_THREADS);
    if ((uintptr_t)storage % QCC_ENGINE_ALIGNMENT != 0 || (uintptr_t)arena % QCC_ENGINE_ALIGNMENT != 0)
        return qcc_engine_fail(text, QCC_ENGINE_BAD_ARGUMENT, "%s: the %s must be aligned to %d bytes", model->name,
                           (uintptr_t)storage % QCC_ENGINE_ALIGNMENT != 0 ? "context's storage" : "arena", QCC_ENGINE_ALIGNMENT);
    return QCC_ENGINE_OK;
}

/* The first model that this CPU can run; the last, the least demanding, if there is none: it says what is missing. */
static inline const struct qcc_engine_model *qcc_engine_choose(const struct qcc_engine_model *const *models, int32_t count) {
    char missing[QCC_ENGINE_TEXT / 2];
    int32_t number = 0;
    while (number < count - 1 &&
           qcc_cpu_missing(models[number]->features, models[number]->feature_count, missing, sizeof missing) != 0)
        ++number;
    return models[number];
}

static void qcc_engine_free(struct qcc_engine *engine) {
    free(engine->owned_arena);
    free(engine->owned_storage);
}

static int qcc_engine_init(struct qcc_engine **result, const struct qcc_engine_model *model, void *storage, void *arena, int32_t threads,
                       char *text) {
    *result = NULL;
    int status = qcc_engine_refuse(model, storage, arena, threads, text);
    if (status != QCC_ENGINE_OK) return status;
    void *owned_storage = NULL, *owned_arena = NULL;
    if (storage == NULL && posix_memalign(&owned_storage, QCC_ENGINE_ALIGNMENT, sizeof(struct qcc_engine)) != 0) owned_storage = NULL;
    if (arena == NULL && posix_memalign(&owned_arena, QCC_ENGINE_ALIGNMENT, model->arena_bytes) != 0) owned_arena = NULL;
    struct qcc_engine *engine = storage != NULL ? storage : owned_storage;
    unsigned char *memory = arena != NULL ? arena : owned_arena;
    if (engine == NULL || memory == NULL) {
        free(owned_storage);
        free(owned_arena);
        return qcc_engine_fail(text, QCC_ENGINE_OUT_OF_MEMORY, "%s: no memory for an arena of %zu bytes", model->name, model->arena_bytes);
    }
    memset(engine, 0, sizeof *engine);
    /* Touching every page here keeps page faults out of the first run. */
    memset(memory, 0, model->arena_bytes);
    engine->model = model;
    engine->arena = memory;
    engine->owned_storage = owned_storage;
    engine->owned_arena = owned_arena;
    int error = qcc_pool_open(&engine->pool, threads);
    if (error != 0) {
        qcc_engine_free(engine);
        return qcc_engine_fail(text, QCC_ENGINE_NO_THREADS, "%s: cannot start %d threads (error %d)", model->name, threads, error);
    }
    *result = engine;
    return QCC_ENGINE_OK;
}

static void qcc_engine_close(struct qcc_engine *engine) {
    if (engine == NULL) return;
    qcc_pool_close(&engine->pool);
    qcc_engine_free(engine);
}

static uint64_t qcc_engine_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int qcc_engine_run_steps(struct qcc_engine *engine, int32_t first, int32_t last, uint64_t *nanoseconds) {
    const struct qcc_engine_model *model = engine->model;
    uint64_t before = nanoseconds != NULL ? qcc_engine_clock() : 0;
    for (int32_t i = first; i < last; ++i) {
        const struct qcc_engine_step *step = &model->steps[i];
        int32_t status = qcc_pool_run(&engine->pool, step->call, engine, step->tasks, step->chunks);
        if (status != 0)
            return qcc_engine_fail(engine->text, QCC_ENGINE_KERNEL_FAILED, "%s: step %d, %s, returned status %d", model->name, i,
                               step->node, status);
        if (nanoseconds != NULL) {
            uint64_t now = qcc_engine_clock();
            nanoseconds[i] = now - before;
            before = now;
        }
    }
    return QCC_ENGINE_OK;
}

static int qcc_engine_check(struct qcc_engine *engine, const void *const *inputs, void *const *outputs, int32_t first, int32_t last) {
    const struct qcc_engine_model *model = engine->model;
    if (first < 0 || first > last || last > model->step_count)
        return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: steps %d to %d: expected a range within 0 to %d", model->name,
                           first, last, model->step_count);
    for (int32_t i = 0; i < model->input_count; ++i)
        if (inputs == NULL || inputs[i] == NULL)
            return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: input %d, %s, is NULL: expected %zu bytes", model->name, i,
                               model->inputs[i].name, model->inputs[i].bytes);
    for (int32_t i = 0; i < model->output_count; ++i)
        if (outputs == NULL || outputs[i] == NULL)
            return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: output %d, %s, is NULL: expected room for %zu bytes",
                               model->name, i, model->outputs[i].name, model->outputs[i].bytes);
    return QCC_ENGINE_OK;
}

static int qcc_engine_run(struct qcc_engine *engine, const void *const *inputs, void *const *outputs, int32_t first, int32_t last,
                      uint64_t *nanoseconds) {
    /* The text belongs to the call that is under way, so it is left alone here. */
    if (atomic_exchange(&engine->busy, 1)) return QCC_ENGINE_BUSY;
    int status = qcc_engine_check(engine, inputs, outputs, first, last);
    if (status == QCC_ENGINE_OK) {
        engine->text[0] = '\0';
        engine->inputs = inputs;
        engine->outputs = outputs;
        qcc_pool_enter(&engine->pool);
        status = qcc_engine_run_steps(engine, first, last, nanoseconds);
    }
    atomic_store(&engine->busy, 0);
    return status;
}

#endif
