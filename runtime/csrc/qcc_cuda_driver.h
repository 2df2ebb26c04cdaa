/* The CUDA driver, found when a library is used first: the library links and loads where there is none, and says so then.
 *
 * The declarations are those of cuda.h (the driver's binary interface, which does not change); nothing of the toolkit is needed.
 */
#ifndef QCC_CUDA_DRIVER_H
#define QCC_CUDA_DRIVER_H

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "qcc_model.h"

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_STREAM_NON_BLOCKING = 1,
    CU_EVENT_DEFAULT = 0,
};

/* CUDA_KERNEL_NODE_PARAMS_v1 */
struct qcc_cuda_node {
    CUfunction function;
    unsigned int grid[3], block[3], shared_bytes;
    void **arguments;
    void **extra;
};

/* name in the driver's library, result, parameters; each becomes a member of struct qcc_cuda_driver. */
#define QCC_CUDA_FUNCTIONS(F)                                                                                                     \
    F(cuInit, (unsigned int))                                                                                                     \
    F(cuDriverGetVersion, (int *))                                                                                                \
    F(cuGetErrorName, (CUresult, const char **))                                                                                  \
    F(cuGetErrorString, (CUresult, const char **))                                                                                \
    F(cuDeviceGetCount, (int *))                                                                                                  \
    F(cuDeviceGet, (CUdevice *, int))                                                                                             \
    F(cuDeviceGetName, (char *, int, CUdevice))                                                                                   \
    F(cuDeviceGetAttribute, (int *, int, CUdevice))                                                                               \
    F(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                                                          \
    F(cuDevicePrimaryCtxRelease_v2, (CUdevice))                                                                                   \
    F(cuCtxPushCurrent_v2, (CUcontext))                                                                                           \
    F(cuCtxPopCurrent_v2, (CUcontext *))                                                                                          \
    F(cuModuleLoadData, (CUmodule *, const void *))                                                                               \
    F(cuModuleUnload, (CUmodule))                                                                                                 \
    F(cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                                                                \
    F(cuFuncSetAttribute, (CUfunction, int, int))                                                                                 \
    F(cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                                                     \
    F(cuMemFree_v2, (CUdeviceptr))                                                                                                \
    F(cuMemsetD8_v2, (CUdeviceptr, unsigned char, size_t))                                                                        \
    F(cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                                                       \
    F(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                                                             \
    F(cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream))                                                        \
    F(cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream))                                                              \
    F(cuPointerGetAttribute, (void *, int, CUdeviceptr))                                                                          \
    F(cuStreamCreate, (CUstream *, unsigned int))                                                                                 \
    F(cuStreamDestroy_v2, (CUstream))                                                                                             \
    F(cuStreamSynchronize, (CUstream))                                                                                            \
    F(cuStreamWaitEvent, (CUstream, CUevent, unsigned int))                                                                       \
    F(cuEventCreate, (CUevent *, unsigned int))                                                                                   \
    F(cuEventDestroy_v2, (CUevent))                                                                                               \
    F(cuEventSynchronize, (CUevent))                                                                                              \
    F(cuEventRecord, (CUevent, CUstream))                                                                                         \
    F(cuEventElapsedTime, (float *, CUevent, CUevent))                                                                            \
    F(cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **)) \
    F(cuGraphCreate, (CUgraph *, unsigned int))                                                                                   \
    F(cuGraphDestroy, (CUgraph))                                                                                                  \
    F(cuGraphAddKernelNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const struct qcc_cuda_node *))                   \
    F(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))                                                  \
    F(cuGraphExecKernelNodeSetParams, (CUgraphExec, CUgraphNode, const struct qcc_cuda_node *))                                    \
    F(cuGraphExecDestroy, (CUgraphExec))                                                                                          \
    F(cuGraphLaunch, (CUgraphExec, CUstream))

struct qcc_cuda_driver {
#define QCC_CUDA_MEMBER(name, parameters) CUresult(*name) parameters;
    QCC_CUDA_FUNCTIONS(QCC_CUDA_MEMBER)
#undef QCC_CUDA_MEMBER
    int ready;
    char missing[200]; /* why the driver cannot be used */
};

static struct qcc_cuda_driver qcc_cuda;
static pthread_mutex_t qcc_cuda_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *qcc_cuda_error_name(CUresult result) {
    const char *name = NULL;
    if (qcc_cuda.cuGetErrorName == NULL || qcc_cuda.cuGetErrorName(result, &name) != CUDA_SUCCESS || name == NULL) return "unknown error";
    return name;
}

static const char *qcc_cuda_error_text(CUresult result) {
    const char *text = NULL;
    if (qcc_cuda.cuGetErrorString == NULL || qcc_cuda.cuGetErrorString(result, &text) != CUDA_SUCCESS || text == NULL) return "no description";
    return text;
}

static void qcc_cuda_find(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(qcc_cuda.missing, sizeof qcc_cuda.missing, "there is no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded)");
        return;
    }
    const char *absent = NULL;
    /* POSIX lets dlsym's result be used as a function; ISO C has no conversion for it. */
#define QCC_CUDA_LOAD(name, parameters) \
    *(void **)&qcc_cuda.name = dlsym(library, #name); \
    if (qcc_cuda.name == NULL && absent == NULL) absent = #name;
    QCC_CUDA_FUNCTIONS(QCC_CUDA_LOAD)
#undef QCC_CUDA_LOAD
    CUresult result = CUDA_SUCCESS;
    int count = 0;
    if (absent != NULL) {
        snprintf(qcc_cuda.missing, sizeof qcc_cuda.missing, "the NVIDIA driver is too old: it has no %s (CUDA 11.4 or later is needed)", absent);
    } else if ((result = qcc_cuda.cuInit(0)) != CUDA_SUCCESS && result != CUDA_ERROR_NO_DEVICE) {
        snprintf(qcc_cuda.missing, sizeof qcc_cuda.missing, "the NVIDIA driver cannot start: %s (%s)", qcc_cuda_error_name(result),
                 qcc_cuda_error_text(result));
    } else if (result == CUDA_ERROR_NO_DEVICE || qcc_cuda.cuDeviceGetCount(&count) != CUDA_SUCCESS || count == 0) {
        snprintf(qcc_cuda.missing, sizeof qcc_cuda.missing, "the NVIDIA driver finds no GPU on this machine");
    } else {
        qcc_cuda.ready = 1;
    }
    if (!qcc_cuda.ready) dlclose(library);
}

/* Loads the driver once; QCC_ENGINE_MISSING_FEATURES and the reason in `text` where there is none, or no GPU. Call it with the lock held. */
static int qcc_cuda_open(const char *name, char *text) {
    if (!qcc_cuda.ready) qcc_cuda_find();
    if (qcc_cuda.ready) return QCC_ENGINE_OK;
    return qcc_engine_fail(text, QCC_ENGINE_MISSING_FEATURES, "%s: %s; the library needs an NVIDIA GPU", name, qcc_cuda.missing);
}

#endif
