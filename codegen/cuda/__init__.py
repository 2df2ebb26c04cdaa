"""NVIDIA GPUs: kernels as TIR, CUDA C from them, and the library that carries the machine code.

What kernels and the rest agree on: a kernel is a `launch.CudaKernel`; its `emit` gives a TIR function that binds blockIdx and threadIdx
with just the extents of its `launch` and has one pointer per operand, in the order of `operands` (sources, constants, destinations,
scratch memory); `source.kernel_source` makes CUDA C of it (once per generation of GPUs, where they differ), `extern "C" __global__ void
SYMBOL(T0* p0, ..., Tn* pn)`. Instructions of the device are calls of functions that runtime/csrc/qcc_device.cuh declares; each has its
meaning for tests in tests/cuda/host/device_functions.h (`tests.cuda.harness.compile_kernels` runs kernels on any machine). Memory that
lies in arena and constants is aligned to 64 bytes and may be read up to `kernel.READ_SLACK` bytes beyond the end of an operand; inputs
and outputs of the network are aligned to 16 bytes. Dynamic shared memory is one buffer of bytes, named alike in every kernel (in CUDA C
all `extern __shared__` arrays are the same memory, and must have one type). Products of floats are not fused with sums (`-fmad=false`).
"""
