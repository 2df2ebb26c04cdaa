"""What the C header of a library for GPUs has beyond that of a CPU's, and the functions behind it."""

from __future__ import annotations

NAMES = ("init_device", "read_arena", "run_device")

DECLARATIONS = """
/* This library runs on an NVIDIA GPU. It needs no CUDA toolkit: the driver (libcuda.so.1) is loaded by the first NAME_init, which says so
 * when there is none, or no GPU, or one that the library holds no code for (NAME_MISSING_FEATURES). What differs from a CPU's library:
 *
 * - NAME_init takes GPU 0, in its primary context (the one that CUDA's runtime and PyTorch use). `threads` is 1 to 64 and does nothing.
 *   `arena` is device memory, or NULL; `storage` is main memory. Contexts of one GPU share its machine code and its constants.
 * - NAME_run, NAME_run_profiled and NAME_run_steps take arrays in main memory, copy them, and return when the results are there.
 * - NAME_run_device takes arrays on the GPU and returns before the run has ended.
 * - NAME_arena is an address on the GPU; NAME_read_arena copies from it.
 * - A process made by fork() cannot use its parent's contexts.
 *
 * The driver's own errors come as NAME_OUT_OF_MEMORY or NAME_KERNEL_FAILED; NAME_error names the step and its kernel where they are known:
 * always for NAME_run_steps, while a run of all steps only shows that one of them failed. With QCC_CUDA_STEPWISE in the environment of
 * NAME_init, every run waits for each of its steps, and names the one that fails. */

/* NAME_init on another GPU than the first, counted from 0. */
NAME_API int NAME_init_device(NAME_context **context, void *storage, void *arena, int32_t device);

/* Starts a run on a stream (a CUstream or cudaStream_t; NULL is the default stream) and returns. Arrays are device memory of the context's
 * GPU, at multiples of 16; they must stay until the run has ended. Runs of one context never overlap, whatever their streams are. */
NAME_API int NAME_run_device(NAME_context *context, const void *const *inputs, void *const *outputs, void *stream);

/* Waits for the last run and copies bytes of the arena into main memory. */
NAME_API int NAME_read_arena(NAME_context *context, void *bytes, size_t offset, size_t count);
"""

FUNCTIONS = """int NAME_init_device(NAME_context **context, void *storage, void *arena, int32_t device) {
    struct qcc_engine *engine;
    int status = qcc_cuda_init(&engine, &model, storage, arena, device, init_text);
    *context = (NAME_context *)engine;
    return status;
}

int NAME_run_device(NAME_context *context, const void *const *inputs, void *const *outputs, void *stream) {
    CUdeviceptr addresses[NAME_INPUTS + NAME_OUTPUTS + 1];
    return qcc_cuda_run_device(&context->engine, inputs, outputs, addresses, stream);
}

int NAME_read_arena(NAME_context *context, void *bytes, size_t offset, size_t count) {
    return qcc_cuda_read_arena(&context->engine, bytes, offset, count);
}
"""
