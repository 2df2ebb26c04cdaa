/* Runs the steps of one network on an NVIDIA GPU: the engine that libraries for GPUs include in place of qcc_engine.h.
 *
 * A context has an arena, memory for one set of inputs and outputs of a caller who has them in main memory, and a CUDA graph of all steps
 * that is made once. Between runs the addresses in the graph change when those of inputs and outputs do. After qcc_engine_init nothing
 * is allocated, but for qcc_engine_selftest and profiled runs.
 */
#ifndef QCC_CUDA_H
#define QCC_CUDA_H

#include <stdatomic.h>
#include <string.h>

#include "qcc_cuda_module.h"

enum { QCC_CUDA_PORT_ALIGNMENT = 16, QCC_CUDA_STAGING_ALIGNMENT = 256, QCC_CUDA_MOST_THREADS = 64 };

struct qcc_engine {
    const struct qcc_engine_model *model;
    unsigned char *arena; /* on the GPU, like all addresses below but those of tables */
    struct qcc_cuda_loaded *loaded;
    int device;
    CUdeviceptr owned_memory;     /* staging, and the arena unless it is the caller's */
    CUdeviceptr *staging, *bound; /* addresses of inputs, then outputs: our own, and those in the tables and the graph */
    uint64_t *values;             /* of all arguments of all steps */
    void **pointers;              /* to them, as the driver takes them */
    CUgraph graph;
    CUgraphExec executable;
    CUgraphNode *nodes;
    CUstream stream; /* of runs with arrays in main memory */
    CUevent done;    /* recorded behind the last run, on whatever stream */
    void *owned_storage;
    int stepwise; /* every step is awaited, so that a failure has a name: QCC_CUDA_STEPWISE was in the environment */
    _Atomic int32_t busy;
    char text[QCC_ENGINE_TEXT];
};

/* A step and its kernel in front of what went wrong. */
static int qcc_cuda_fail_step(struct qcc_engine *engine, int32_t step, CUresult result, const char *what) {
    const struct qcc_engine_model *model = engine->model;
    char place[320];
    snprintf(place, sizeof place, "step %d, %.120s (kernel %s) %s", step, model->steps[step].node,
             model->kernels[model->steps[step].kernel].symbol, what);
    return qcc_cuda_fail(engine->text, model->name, result, place);
}

static struct qcc_cuda_node qcc_cuda_node(const struct qcc_engine *engine, int32_t number) {
    const struct qcc_engine_step *step = &engine->model->steps[number];
    const struct qcc_cuda_kernel *kernel = &engine->model->kernels[step->kernel];
    struct qcc_cuda_node node = {.function = engine->loaded->functions[step->kernel],
                                 .shared_bytes = kernel->shared_bytes,
                                 .arguments = engine->pointers + step->first_argument};
    memcpy(node.grid, kernel->grid, sizeof node.grid);
    memcpy(node.block, kernel->block, sizeof node.block);
    return node;
}

static int32_t qcc_cuda_port(const struct qcc_engine_model *model, const struct qcc_cuda_argument *argument) {
    return (int32_t)argument->position + (argument->space == QCC_CUDA_OUTPUT ? model->input_count : 0);
}

static void qcc_cuda_set_values(struct qcc_engine *engine) {
    for (int32_t i = 0; i < engine->model->argument_count; ++i) {
        const struct qcc_cuda_argument *argument = &engine->model->arguments[i];
        uint64_t base = argument->space == QCC_CUDA_ARENA      ? (uint64_t)(uintptr_t)engine->arena + argument->position
                        : argument->space == QCC_CUDA_CONSTANT ? engine->loaded->constants + argument->position
                                                               : engine->bound[qcc_cuda_port(engine->model, argument)];
        engine->values[i] = base + argument->offset;
        engine->pointers[i] = &engine->values[i];
    }
}

/* Puts addresses of inputs, then outputs, in the tables and in those nodes of the graph that have them. */
static int qcc_cuda_bind(struct qcc_engine *engine, const CUdeviceptr *addresses) {
    const struct qcc_engine_model *model = engine->model;
    size_t bytes = sizeof *addresses * (size_t)(model->input_count + model->output_count);
    if (memcmp(engine->bound, addresses, bytes) == 0) return QCC_ENGINE_OK;
    memcpy(engine->bound, addresses, bytes);
    qcc_cuda_set_values(engine);
    for (int32_t i = 0; i < model->step_count; ++i) {
        const struct qcc_engine_step *step = &model->steps[i];
        int32_t of_caller = 0;
        for (int32_t k = 0; k < step->argument_count; ++k) of_caller |= model->arguments[step->first_argument + k].space >= QCC_CUDA_INPUT;
        if (!of_caller) continue;
        struct qcc_cuda_node node = qcc_cuda_node(engine, i);
        CUresult result = qcc_cuda.cuGraphExecKernelNodeSetParams(engine->executable, engine->nodes[i], &node);
        if (result != CUDA_SUCCESS) {
            memset(engine->bound, 0, bytes);
            return qcc_cuda_fail_step(engine, i, result, "cannot get other addresses");
        }
    }
    return QCC_ENGINE_OK;
}

static int qcc_cuda_make_graph(struct qcc_engine *engine) {
    CUresult result = qcc_cuda.cuGraphCreate(&engine->graph, 0);
    for (int32_t i = 0; i < engine->model->step_count && result == CUDA_SUCCESS; ++i) {
        struct qcc_cuda_node node = qcc_cuda_node(engine, i);
        result = qcc_cuda.cuGraphAddKernelNode(&engine->nodes[i], engine->graph, i ? &engine->nodes[i - 1] : NULL, i ? 1 : 0, &node);
        if (result != CUDA_SUCCESS) return qcc_cuda_fail_step(engine, i, result, "cannot be put into the graph");
    }
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuGraphInstantiateWithFlags(&engine->executable, engine->graph, 0);
    return result == CUDA_SUCCESS ? QCC_ENGINE_OK : qcc_cuda_fail(engine->text, engine->model->name, result, "the CUDA graph cannot be made");
}

static size_t qcc_cuda_room(const struct qcc_engine_port *port) {
    return (port->bytes + QCC_CUDA_SLACK + QCC_CUDA_STAGING_ALIGNMENT - 1) / QCC_CUDA_STAGING_ALIGNMENT * QCC_CUDA_STAGING_ALIGNMENT;
}

/* Arena and staging, in one block of device memory. */
static int qcc_cuda_make_memory(struct qcc_engine *engine, void *arena) {
    const struct qcc_engine_model *model = engine->model;
    size_t own_arena = (model->arena_bytes + QCC_CUDA_STAGING_ALIGNMENT - 1) / QCC_CUDA_STAGING_ALIGNMENT * QCC_CUDA_STAGING_ALIGNMENT;
    size_t bytes = arena == NULL ? own_arena : 0;
    for (int32_t i = 0; i < model->input_count; ++i) bytes += qcc_cuda_room(&model->inputs[i]);
    for (int32_t i = 0; i < model->output_count; ++i) bytes += qcc_cuda_room(&model->outputs[i]);
    CUresult result = qcc_cuda.cuMemAlloc_v2(&engine->owned_memory, bytes + 1);
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuMemsetD8_v2(engine->owned_memory, 0, bytes + 1);
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuStreamSynchronize(NULL); /* runs are on streams that do not wait for this one */
    char what[120];
    snprintf(what, sizeof what, "no device memory for %zu bytes of arena, inputs and outputs", bytes);
    if (result != CUDA_SUCCESS) return qcc_cuda_fail(engine->text, model->name, result, what);
    CUdeviceptr next = engine->owned_memory + (arena == NULL ? own_arena : 0);
    engine->arena = arena != NULL ? arena : (unsigned char *)(uintptr_t)engine->owned_memory;
    for (int32_t i = 0; i < model->input_count + model->output_count; ++i) {
        engine->staging[i] = next;
        next += qcc_cuda_room(i < model->input_count ? &model->inputs[i] : &model->outputs[i - model->input_count]);
    }
    return QCC_ENGINE_OK;
}

/* Whether an address is memory of the engine's GPU, at a multiple of `alignment`; `kind` and `name` say what it is in the message. */
static int qcc_cuda_check_pointer(struct qcc_engine *engine, const void *pointer, const char *kind, const char *name, int alignment) {
    unsigned int type = 0;
    int device = -1;
    const char *model = engine->model->name;
    if (pointer == NULL) return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: %s %s is NULL", model, kind, name);
    CUdeviceptr address = (CUdeviceptr)(uintptr_t)pointer;
    CUresult result = qcc_cuda.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address);
    if (result != CUDA_SUCCESS || type != CU_MEMORYTYPE_DEVICE)
        return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT,
                               "%s: %s %s is at %p, which is not memory of a GPU: expected a device pointer; arrays in main memory go to %s_run",
                               model, kind, name, pointer, model);
    if (qcc_cuda.cuPointerGetAttribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address) == CUDA_SUCCESS && device != engine->device)
        return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: %s %s is memory of GPU %d, and the context is on GPU %d", model, kind,
                               name, device, engine->device);
    if (address % (unsigned)alignment != 0)
        return qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: %s %s is at %p: expected a multiple of %d", model, kind, name,
                               pointer, alignment);
    return QCC_ENGINE_OK;
}

static void *qcc_cuda_table(size_t count, size_t size) { return calloc(count + 1, size); }

/* With the context current and `loaded` set: everything else. */
static int qcc_cuda_build(struct qcc_engine *engine, void *arena) {
    const struct qcc_engine_model *model = engine->model;
    size_t ports = (size_t)(model->input_count + model->output_count), arguments = (size_t)model->argument_count;
    engine->staging = qcc_cuda_table(ports, sizeof *engine->staging);
    engine->bound = qcc_cuda_table(ports, sizeof *engine->bound);
    engine->values = qcc_cuda_table(arguments, sizeof *engine->values);
    engine->pointers = qcc_cuda_table(arguments, sizeof *engine->pointers);
    engine->nodes = qcc_cuda_table((size_t)model->step_count, sizeof *engine->nodes);
    if (!engine->staging || !engine->bound || !engine->values || !engine->pointers || !engine->nodes)
        return qcc_engine_fail(engine->text, QCC_ENGINE_OUT_OF_MEMORY, "%s: no memory for its tables", model->name);
    int status = arena == NULL ? QCC_ENGINE_OK : qcc_cuda_check_pointer(engine, arena, "the", "arena", QCC_ENGINE_ALIGNMENT);
    if (status != QCC_ENGINE_OK || (status = qcc_cuda_make_memory(engine, arena)) != QCC_ENGINE_OK) return status;
    memcpy(engine->bound, engine->staging, ports * sizeof *engine->bound);
    qcc_cuda_set_values(engine);
    CUresult result = qcc_cuda.cuStreamCreate(&engine->stream, CU_STREAM_NON_BLOCKING);
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuEventCreate(&engine->done, CU_EVENT_DEFAULT);
    if (result != CUDA_SUCCESS) return qcc_cuda_fail(engine->text, model->name, result, "no stream can be made");
    return qcc_cuda_make_graph(engine);
}

static void qcc_engine_close(struct qcc_engine *engine) {
    if (engine == NULL) return;
    CUcontext none;
    if (engine->loaded != NULL && qcc_cuda.cuCtxPushCurrent_v2(engine->loaded->context) == CUDA_SUCCESS) {
        if (engine->done != NULL) qcc_cuda.cuEventSynchronize(engine->done);
        if (engine->executable != NULL) qcc_cuda.cuGraphExecDestroy(engine->executable);
        if (engine->graph != NULL) qcc_cuda.cuGraphDestroy(engine->graph);
        if (engine->done != NULL) qcc_cuda.cuEventDestroy_v2(engine->done);
        if (engine->stream != NULL) qcc_cuda.cuStreamDestroy_v2(engine->stream);
        if (engine->owned_memory != 0) qcc_cuda.cuMemFree_v2(engine->owned_memory);
        qcc_cuda.cuCtxPopCurrent_v2(&none);
    }
    if (engine->loaded != NULL) {
        pthread_mutex_lock(&qcc_cuda_lock);
        if (--engine->loaded->users == 0) qcc_cuda_unload(engine->device);
        pthread_mutex_unlock(&qcc_cuda_lock);
    }
    void *tables[] = {engine->staging, engine->bound, engine->values, engine->pointers, engine->nodes, engine->owned_storage};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; ++i) free(tables[i]);
}

static int qcc_cuda_init(struct qcc_engine **result, const struct qcc_engine_model *model, void *storage, void *arena, int device, char *text) {
    *result = NULL;
    if ((uintptr_t)storage % QCC_ENGINE_ALIGNMENT != 0)
        return qcc_engine_fail(text, QCC_ENGINE_BAD_ARGUMENT, "%s: the context's storage must be aligned to %d bytes", model->name,
                               QCC_ENGINE_ALIGNMENT);
    void *owned = NULL;
    if (storage == NULL && posix_memalign(&owned, QCC_ENGINE_ALIGNMENT, sizeof(struct qcc_engine)) != 0)
        return qcc_engine_fail(text, QCC_ENGINE_OUT_OF_MEMORY, "%s: no memory for a context", model->name);
    struct qcc_engine *engine = storage != NULL ? storage : owned;
    memset(engine, 0, sizeof *engine);
    engine->model = model;
    engine->owned_storage = owned;
    engine->device = device;
    engine->stepwise = getenv("QCC_CUDA_STEPWISE") != NULL;
    int status;
    pthread_mutex_lock(&qcc_cuda_lock);
    engine->loaded = qcc_cuda_acquire(model, device, &status, text);
    pthread_mutex_unlock(&qcc_cuda_lock);
    CUcontext none;
    if (engine->loaded != NULL) {
        CUresult pushed = qcc_cuda.cuCtxPushCurrent_v2(engine->loaded->context);
        status = pushed != CUDA_SUCCESS ? qcc_cuda_fail(engine->text, model->name, pushed, "the GPU cannot be used") : qcc_cuda_build(engine, arena);
        if (pushed == CUDA_SUCCESS) qcc_cuda.cuCtxPopCurrent_v2(&none);
        if (status != QCC_ENGINE_OK) memcpy(text, engine->text, QCC_ENGINE_TEXT);
    }
    if (status == QCC_ENGINE_OK)
        *result = engine;
    else
        qcc_engine_close(engine);
    return status;
}

static int qcc_engine_init(struct qcc_engine **result, const struct qcc_engine_model *model, void *storage, void *arena, int32_t threads,
                           char *text) {
    *result = NULL;
    if (threads < 1 || threads > QCC_CUDA_MOST_THREADS)
        return qcc_engine_fail(text, QCC_ENGINE_BAD_ARGUMENT, "%s: %d threads: expected 1 to %d", model->name, threads, QCC_CUDA_MOST_THREADS);
    return qcc_cuda_init(result, model, storage, arena, 0, text);
}

#endif
