/* Runs on a GPU: the whole graph, with the caller's arrays in main memory or on the GPU, or steps one by one. */
#ifndef QCC_CUDA_RUN_H
#define QCC_CUDA_RUN_H

#include "qcc_cuda.h"

static int qcc_cuda_check(struct qcc_engine *engine, const void *const *inputs, void *const *outputs, int32_t first, int32_t last) {
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

/* A copy between main memory and staging: which one failed, in words. */
static int qcc_cuda_fail_copy(struct qcc_engine *engine, CUresult result, const char *kind, const struct qcc_engine_port *port) {
    char what[200];
    snprintf(what, sizeof what, "%s %.100s cannot be copied (%zu bytes)", kind, port->name, port->bytes);
    return qcc_cuda_fail(engine->text, engine->model->name, result, what);
}

static int qcc_cuda_upload(struct qcc_engine *engine, const void *const *inputs) {
    for (int32_t i = 0; i < engine->model->input_count; ++i) {
        const struct qcc_engine_port *port = &engine->model->inputs[i];
        CUresult result = qcc_cuda.cuMemcpyHtoDAsync_v2(engine->staging[i], inputs[i], port->bytes, engine->stream);
        if (result != CUDA_SUCCESS) return qcc_cuda_fail_copy(engine, result, "input", port);
    }
    return QCC_ENGINE_OK;
}

static int qcc_cuda_download(struct qcc_engine *engine, void *const *outputs) {
    const struct qcc_engine_model *model = engine->model;
    for (int32_t i = 0; i < model->output_count; ++i) {
        const struct qcc_engine_port *port = &model->outputs[i];
        CUresult result = qcc_cuda.cuMemcpyDtoHAsync_v2(outputs[i], engine->staging[model->input_count + i], port->bytes, engine->stream);
        if (result != CUDA_SUCCESS) return qcc_cuda_fail_copy(engine, result, "output", port);
    }
    return QCC_ENGINE_OK;
}

static int qcc_cuda_await(struct qcc_engine *engine) {
    CUresult result = qcc_cuda.cuStreamSynchronize(engine->stream);
    if (result == CUDA_SUCCESS) return QCC_ENGINE_OK;
    return qcc_cuda_fail(engine->text, engine->model->name, result,
                         "a step failed on the GPU (with QCC_CUDA_STEPWISE=1 in the environment, a new process tells which)");
}

static CUresult qcc_cuda_launch(struct qcc_engine *engine, int32_t step) {
    struct qcc_cuda_node node = qcc_cuda_node(engine, step);
    return qcc_cuda.cuLaunchKernel(node.function, node.grid[0], node.grid[1], node.grid[2], node.block[0], node.block[1], node.block[2],
                                   node.shared_bytes, engine->stream, node.arguments, NULL);
}

/* One step after the other, each awaited, so that a failure is its own. */
static int qcc_cuda_run_steps(struct qcc_engine *engine, int32_t first, int32_t last) {
    for (int32_t i = first; i < last; ++i) {
        CUresult result = qcc_cuda_launch(engine, i);
        if (result != CUDA_SUCCESS) return qcc_cuda_fail_step(engine, i, result, "cannot be started");
        result = qcc_cuda.cuStreamSynchronize(engine->stream);
        if (result != CUDA_SUCCESS) return qcc_cuda_fail_step(engine, i, result, "failed on the GPU");
    }
    return QCC_ENGINE_OK;
}

/* Starts the graph behind whatever ran last, so that the arena has one user at a time. Stepwise, it does the work instead. */
static int qcc_cuda_start(struct qcc_engine *engine, CUstream stream) {
    CUresult result = engine->stepwise && stream != engine->stream ? qcc_cuda.cuStreamSynchronize(stream) : CUDA_SUCCESS;
    if (result == CUDA_SUCCESS && engine->stepwise) return qcc_cuda_run_steps(engine, 0, engine->model->step_count);
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuStreamWaitEvent(stream, engine->done, 0);
    if (result == CUDA_SUCCESS && engine->model->step_count != 0) result = qcc_cuda.cuGraphLaunch(engine->executable, stream);
    if (result != CUDA_SUCCESS) return qcc_cuda_fail(engine->text, engine->model->name, result, "the CUDA graph cannot be started");
    result = qcc_cuda.cuEventRecord(engine->done, stream);
    return result == CUDA_SUCCESS ? QCC_ENGINE_OK : qcc_cuda_fail(engine->text, engine->model->name, result, "the run's end cannot be marked");
}

/* All steps with an event between any two; `events` has one more than there are steps. */
static int qcc_cuda_time_steps(struct qcc_engine *engine, CUevent *events, uint64_t *nanoseconds) {
    const struct qcc_engine_model *model = engine->model;
    CUresult result = qcc_cuda.cuEventRecord(events[0], engine->stream);
    for (int32_t i = 0; i < model->step_count && result == CUDA_SUCCESS; ++i) {
        result = qcc_cuda_launch(engine, i);
        if (result != CUDA_SUCCESS) return qcc_cuda_fail_step(engine, i, result, "cannot be started");
        result = qcc_cuda.cuEventRecord(events[i + 1], engine->stream);
    }
    if (result == CUDA_SUCCESS && qcc_cuda_await(engine) != QCC_ENGINE_OK) return QCC_ENGINE_KERNEL_FAILED;
    for (int32_t i = 0; i < model->step_count && result == CUDA_SUCCESS; ++i) {
        float milliseconds = 0;
        result = qcc_cuda.cuEventElapsedTime(&milliseconds, events[i], events[i + 1]);
        nanoseconds[i] = (uint64_t)((double)milliseconds * 1e6);
    }
    return result == CUDA_SUCCESS ? QCC_ENGINE_OK : qcc_cuda_fail(engine->text, model->name, result, "the steps cannot be timed");
}

static int qcc_cuda_profile(struct qcc_engine *engine, uint64_t *nanoseconds) {
    int32_t count = engine->model->step_count + 1, made = 0;
    CUevent *events = qcc_cuda_table((size_t)count, sizeof *events);
    if (events == NULL) return qcc_engine_fail(engine->text, QCC_ENGINE_OUT_OF_MEMORY, "%s: no memory for %d events", engine->model->name, count);
    CUresult result = CUDA_SUCCESS;
    while (made < count && (result = qcc_cuda.cuEventCreate(&events[made], CU_EVENT_DEFAULT)) == CUDA_SUCCESS) ++made;
    int status = made == count ? qcc_cuda_time_steps(engine, events, nanoseconds)
                               : qcc_cuda_fail(engine->text, engine->model->name, result, "an event cannot be made");
    while (made > 0) qcc_cuda.cuEventDestroy_v2(events[--made]);
    free(events);
    return status;
}

/* What happens between the copies of a run with arrays in main memory. */
static int qcc_cuda_work(struct qcc_engine *engine, int32_t first, int32_t last, uint64_t *nanoseconds) {
    if (nanoseconds != NULL) return qcc_cuda_profile(engine, nanoseconds);
    if (first == 0 && last == engine->model->step_count) return qcc_cuda_start(engine, engine->stream);
    return qcc_cuda_run_steps(engine, first, last);
}

static int qcc_cuda_run_host(struct qcc_engine *engine, const void *const *inputs, void *const *outputs, int32_t first, int32_t last,
                             uint64_t *nanoseconds) {
    int status = qcc_cuda_bind(engine, engine->staging);
    CUresult result = qcc_cuda.cuStreamWaitEvent(engine->stream, engine->done, 0); /* a run on another stream may be under way */
    if (result != CUDA_SUCCESS) return qcc_cuda_fail(engine->text, engine->model->name, result, "the run before cannot be awaited");
    if (status == QCC_ENGINE_OK) status = qcc_cuda_upload(engine, inputs);
    if (status == QCC_ENGINE_OK) status = qcc_cuda_work(engine, first, last, nanoseconds);
    if (status == QCC_ENGINE_OK) status = qcc_cuda_download(engine, outputs);
    return status == QCC_ENGINE_OK ? qcc_cuda_await(engine) : status;
}

/* Marks the engine as in use and makes its GPU's context current; qcc_cuda_leave is due when this returns QCC_ENGINE_OK. */
static int qcc_cuda_enter(struct qcc_engine *engine) {
    /* The text belongs to the call that is under way, so it is left alone here. */
    if (atomic_exchange(&engine->busy, 1)) return QCC_ENGINE_BUSY;
    engine->text[0] = '\0';
    CUresult result = qcc_cuda.cuCtxPushCurrent_v2(engine->loaded->context);
    if (result == CUDA_SUCCESS) return QCC_ENGINE_OK;
    int status = qcc_cuda_fail(engine->text, engine->model->name, result, "the GPU cannot be used");
    atomic_store(&engine->busy, 0);
    return status;
}

static int qcc_cuda_leave(struct qcc_engine *engine, int status) {
    CUcontext none;
    qcc_cuda.cuCtxPopCurrent_v2(&none);
    atomic_store(&engine->busy, 0);
    return status;
}

static int qcc_engine_run(struct qcc_engine *engine, const void *const *inputs, void *const *outputs, int32_t first, int32_t last,
                          uint64_t *nanoseconds) {
    int status = qcc_cuda_enter(engine);
    if (status != QCC_ENGINE_OK) return status;
    status = qcc_cuda_check(engine, inputs, outputs, first, last);
    if (status == QCC_ENGINE_OK) status = qcc_cuda_run_host(engine, inputs, outputs, first, last, nanoseconds);
    return qcc_cuda_leave(engine, status);
}

/* Starts a run with arrays on the GPU, and returns. `addresses` is room for them; the arrays are looked at only when they are others. */
static int qcc_cuda_run_device(struct qcc_engine *engine, const void *const *inputs, void *const *outputs, CUdeviceptr *addresses,
                               CUstream stream) {
    const struct qcc_engine_model *model = engine->model;
    int status = qcc_cuda_enter(engine);
    if (status != QCC_ENGINE_OK) return status;
    status = qcc_cuda_check(engine, inputs, outputs, 0, model->step_count);
    for (int32_t i = 0; i < model->input_count + model->output_count && status == QCC_ENGINE_OK; ++i) {
        int32_t output = i - model->input_count;
        const void *pointer = output < 0 ? inputs[i] : outputs[output];
        const struct qcc_engine_port *port = output < 0 ? &model->inputs[i] : &model->outputs[output];
        addresses[i] = (CUdeviceptr)(uintptr_t)pointer;
        if (addresses[i] != engine->bound[i])
            status = qcc_cuda_check_pointer(engine, pointer, output < 0 ? "input" : "output", port->name, QCC_CUDA_PORT_ALIGNMENT);
    }
    if (status == QCC_ENGINE_OK) status = qcc_cuda_bind(engine, addresses);
    if (status == QCC_ENGINE_OK) status = qcc_cuda_start(engine, stream);
    return qcc_cuda_leave(engine, status);
}

/* Copies bytes of the arena to main memory, behind the last run. */
static int qcc_cuda_read_arena(struct qcc_engine *engine, void *bytes, size_t offset, size_t count) {
    int status = qcc_cuda_enter(engine);
    if (status != QCC_ENGINE_OK) return status;
    if (bytes == NULL || offset > engine->model->arena_bytes || count > engine->model->arena_bytes - offset) {
        status = qcc_engine_fail(engine->text, QCC_ENGINE_BAD_ARGUMENT, "%s: bytes %zu to %zu of an arena of %zu", engine->model->name, offset,
                             offset + count, engine->model->arena_bytes);
        return qcc_cuda_leave(engine, status);
    }
    CUresult result = qcc_cuda.cuEventSynchronize(engine->done);
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuMemcpyDtoH_v2(bytes, (CUdeviceptr)(uintptr_t)engine->arena + offset, count);
    if (result != CUDA_SUCCESS) status = qcc_cuda_fail(engine->text, engine->model->name, result, "the arena cannot be read");
    return qcc_cuda_leave(engine, status);
}

#endif
