/* The machine code of one library on one GPU, and its constants there: loaded when the first context on that GPU is made, shared by all
 * later ones, given back with the last.
 */
#ifndef QCC_CUDA_MODULE_H
#define QCC_CUDA_MODULE_H

#include <stdlib.h>

#include "qcc_cuda_driver.h"

enum { QCC_CUDA_DEVICES = 32, QCC_CUDA_SLACK = 64, QCC_CUDA_FREE_SHARED = 48 * 1024 };

/* Machine code for a compute capability (times ten), or PTX that the driver compiles for any GPU from that one on. */
struct qcc_cuda_image {
    int32_t sm, is_ptx;
    const void *data;
};

struct qcc_cuda_kernel {
    const char *symbol;
    uint32_t grid[3], block[3], shared_bytes;
};

enum qcc_cuda_space { QCC_CUDA_ARENA, QCC_CUDA_CONSTANT, QCC_CUDA_INPUT, QCC_CUDA_OUTPUT };

/* `position` is a byte offset (arena, constants) or the number of the input or output, to whose address `offset` is added. */
struct qcc_cuda_argument {
    int32_t space;
    uint64_t position, offset;
};

struct qcc_engine_step {
    const char *node;
    int32_t kernel, first_argument, argument_count;
};

struct qcc_engine_model {
    const char *name;
    const struct qcc_cuda_image *images;
    const struct qcc_cuda_kernel *kernels;
    const struct qcc_cuda_argument *arguments;
    const struct qcc_engine_step *steps;
    const struct qcc_engine_port *inputs, *outputs;
    const unsigned char *constants;
    size_t constants_bytes, arena_bytes;
    uint64_t constants_checksum;
    int32_t image_count, kernel_count, argument_count, step_count, input_count, output_count;
};

struct qcc_cuda_loaded {
    int32_t users;
    CUcontext context;
    CUmodule module;
    CUdeviceptr constants;
    CUfunction *functions; /* one for each of the model's kernels */
};

/* Of this library, by the number of the GPU; guarded by qcc_cuda_lock. */
static struct qcc_cuda_loaded qcc_cuda_loads[QCC_CUDA_DEVICES];

/* A failure of the driver: what was tried, in words, and the driver's own name and text for what went wrong. */
static int qcc_cuda_fail(char *text, const char *name, CUresult result, const char *what) {
    return qcc_engine_fail(text, result == CUDA_ERROR_OUT_OF_MEMORY ? QCC_ENGINE_OUT_OF_MEMORY : QCC_ENGINE_KERNEL_FAILED, "%s: %s: %s (%s)",
                           name, what, qcc_cuda_error_name(result), qcc_cuda_error_text(result));
}

/* Machine code for the same generation (the first digit) and no later step of it, the closest; else the PTX, if the GPU is not older. */
static const struct qcc_cuda_image *qcc_cuda_choose(const struct qcc_engine_model *model, int sm) {
    const struct qcc_cuda_image *best = NULL;
    for (int32_t i = 0; i < model->image_count; ++i) {
        const struct qcc_cuda_image *image = &model->images[i];
        int fits = image->sm <= sm && (image->is_ptx || image->sm / 10 == sm / 10);
        if (fits && (best == NULL || best->is_ptx || (!image->is_ptx && image->sm > best->sm))) best = image;
    }
    return best;
}

static int qcc_cuda_refuse_device(const struct qcc_engine_model *model, CUdevice device, int sm, char *text) {
    char name[80] = "unknown", list[160] = "";
    size_t used = 0;
    qcc_cuda.cuDeviceGetName(name, sizeof name, device);
    for (int32_t i = 0; i < model->image_count && used < sizeof list; ++i)
        used += (size_t)snprintf(list + used, sizeof list - used, model->images[i].is_ptx ? " and PTX for sm_%d or later" : " sm_%d",
                                 model->images[i].sm);
    return qcc_engine_fail(text, QCC_ENGINE_MISSING_FEATURES,
                           "%s: the GPU (%s) has compute capability %d.%d, and the library holds code for%s; compile the model with "
                           "--target cuda:sm_%d, or run it on another GPU", model->name, name, sm / 10, sm % 10, list, sm);
}

/* The functions of all kernels, and room for those that want more shared memory than every kernel may have. */
static int qcc_cuda_functions(const struct qcc_engine_model *model, struct qcc_cuda_loaded *loaded, char *text) {
    for (int32_t i = 0; i < model->kernel_count; ++i) {
        const struct qcc_cuda_kernel *kernel = &model->kernels[i];
        char what[160];
        CUresult result = qcc_cuda.cuModuleGetFunction(&loaded->functions[i], loaded->module, kernel->symbol);
        snprintf(what, sizeof what, "kernel %s is not in the library's machine code", kernel->symbol);
        if (result == CUDA_SUCCESS && kernel->shared_bytes > QCC_CUDA_FREE_SHARED) {
            snprintf(what, sizeof what, "kernel %s cannot have its %u bytes of shared memory on this GPU", kernel->symbol, kernel->shared_bytes);
            result = qcc_cuda.cuFuncSetAttribute(loaded->functions[i], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)kernel->shared_bytes);
        }
        if (result != CUDA_SUCCESS) return qcc_cuda_fail(text, model->name, result, what);
    }
    return QCC_ENGINE_OK;
}

/* With the GPU's context current. */
static int qcc_cuda_fill(const struct qcc_engine_model *model, struct qcc_cuda_loaded *loaded, const struct qcc_cuda_image *image, char *text) {
    loaded->functions = calloc((size_t)model->kernel_count + 1, sizeof *loaded->functions);
    if (loaded->functions == NULL) return qcc_engine_fail(text, QCC_ENGINE_OUT_OF_MEMORY, "%s: no memory for its tables", model->name);
    CUresult result = qcc_cuda.cuModuleLoadData(&loaded->module, image->data);
    if (result != CUDA_SUCCESS)
        return qcc_cuda_fail(text, model->name, result, image->is_ptx ? "the driver cannot compile the library's PTX (is it older than the GPU's?)"
                                                                      : "the driver cannot load the library's machine code");
    result = qcc_cuda.cuMemAlloc_v2(&loaded->constants, model->constants_bytes + QCC_CUDA_SLACK);
    char what[160];
    snprintf(what, sizeof what, "no device memory for %zu bytes of constants", model->constants_bytes);
    if (result != CUDA_SUCCESS) return qcc_cuda_fail(text, model->name, result, what);
    result = qcc_cuda.cuMemsetD8_v2(loaded->constants + model->constants_bytes, 0, QCC_CUDA_SLACK);
    if (result == CUDA_SUCCESS && model->constants_bytes != 0)
        result = qcc_cuda.cuMemcpyHtoD_v2(loaded->constants, model->constants, model->constants_bytes);
    if (result == CUDA_SUCCESS) result = qcc_cuda.cuStreamSynchronize(NULL); /* a copy may end after its call does */
    if (result != CUDA_SUCCESS) return qcc_cuda_fail(text, model->name, result, "the constants cannot be copied to the GPU");
    return qcc_cuda_functions(model, loaded, text);
}

/* With the lock held: forget what was loaded. Errors do not matter any more. */
static void qcc_cuda_unload(int device) {
    struct qcc_cuda_loaded *loaded = &qcc_cuda_loads[device];
    CUcontext none;
    if (loaded->context != NULL && qcc_cuda.cuCtxPushCurrent_v2(loaded->context) == CUDA_SUCCESS) {
        if (loaded->module != NULL) qcc_cuda.cuModuleUnload(loaded->module);
        if (loaded->constants != 0) qcc_cuda.cuMemFree_v2(loaded->constants);
        qcc_cuda.cuCtxPopCurrent_v2(&none);
    }
    free(loaded->functions);
    if (loaded->context != NULL) qcc_cuda.cuDevicePrimaryCtxRelease_v2(device);
    *loaded = (struct qcc_cuda_loaded){0};
}

/* With the lock held: what is loaded on a GPU, one user more; NULL and the reason in `text` on failure, which has status `*status`. */
static struct qcc_cuda_loaded *qcc_cuda_acquire(const struct qcc_engine_model *model, int device, int *status, char *text) {
    int count = 0, major = 0, minor = 0;
    CUcontext none;
    if ((*status = qcc_cuda_open(model->name, text)) != QCC_ENGINE_OK) return NULL;
    qcc_cuda.cuDeviceGetCount(&count);
    if (device < 0 || device >= count || device >= QCC_CUDA_DEVICES) {
        *status = qcc_engine_fail(text, QCC_ENGINE_BAD_ARGUMENT, "%s: there is no GPU %d: this machine has %d", model->name, device, count);
        return NULL;
    }
    struct qcc_cuda_loaded *loaded = &qcc_cuda_loads[device];
    if (loaded->users++ > 0) return loaded;
    qcc_cuda.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    qcc_cuda.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    const struct qcc_cuda_image *image = qcc_cuda_choose(model, 10 * major + minor);
    CUresult result = image == NULL ? CUDA_SUCCESS : qcc_cuda.cuDevicePrimaryCtxRetain(&loaded->context, device);
    if (image == NULL) {
        *status = qcc_cuda_refuse_device(model, device, 10 * major + minor, text);
    } else if (result != CUDA_SUCCESS || (result = qcc_cuda.cuCtxPushCurrent_v2(loaded->context)) != CUDA_SUCCESS) {
        *status = qcc_cuda_fail(text, model->name, result, "the GPU cannot be used");
    } else {
        *status = qcc_cuda_fill(model, loaded, image, text);
        qcc_cuda.cuCtxPopCurrent_v2(&none);
    }
    if (*status == QCC_ENGINE_OK) return loaded;
    qcc_cuda_unload(device);
    return NULL;
}

#endif
