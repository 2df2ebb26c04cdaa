/* Instructions of NVIDIA GPUs that qcc's kernels call by name. The kernels are CUDA C; compiled for a device these functions are inline
 * PTX, compiled for a host (to test kernels without a GPU) they are declarations whose meaning the test harness defines.
 *
 * QCC_SM is the compute capability (times ten) that is compiled for; a host chooses it with -DQCC_SM=NN.
 *
 * Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k32" and "mma.m16n8k64"): lane L of the warp, with g = L / 4 and t = L % 4, holds
 *   a[0], a[1]: bytes 4t..4t+3 of rows g and g + 8 of A; a[2], a[3]: bytes 16+4t..16+4t+3 of the same rows;
 *   b[0], b[1]: bytes 4t..4t+3 and 16+4t..16+4t+3 of column g of B;
 *   d[0], d[1]: columns 2t and 2t+1 of row g of D; d[2], d[3]: the same columns of row g + 8.
 * A row of A, and a column of B, has 32 bytes: 32 values of 8 bits, or 64 of 4 bits, the lower half of a byte first. */
#ifndef QCC_DEVICE_CUH
#define QCC_DEVICE_CUH

#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

#if defined(__CUDA_ARCH__)
#define QCC_SM (__CUDA_ARCH__ / 10)
#elif !defined(QCC_SM)
#define QCC_SM 80
#endif

#if defined(__CUDACC__)
#define QCC_DEVICE static __device__ __forceinline__

/* The address of shared memory as instructions take it. */
QCC_DEVICE uint32_t qcc_shared_address(const void *pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* d += A B: 16 x 32 unsigned bytes by 32 x 8 signed bytes. Collective: all lanes of the warp. */
QCC_DEVICE void qcc_mma_m16n8k32_u8s8(int32_t *d, const uint32_t *a, const uint32_t *b) {
#if QCC_SM >= 80
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int i = 0; i < 4; ++i)
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+r"(d[2 * (i & 1)]), "+r"(d[2 * (i & 1) + 1]) : "r"(a[i]), "r"(b[i / 2]));
#endif
}

/* d += A B: 16 x 64 unsigned by 64 x 8 signed values of 4 bits. Collective. Later devices than sm_89 have no such instruction. */
QCC_DEVICE void qcc_mma_m16n8k64_u4s4(int32_t *d, const uint32_t *a, const uint32_t *b) {
#if QCC_SM >= 80
    asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int i = 0; i < 4; ++i)
        asm volatile("mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+r"(d[2 * (i & 1)]), "+r"(d[2 * (i & 1) + 1]) : "r"(a[i]), "r"(b[i / 2]));
#endif
}

/* Four 8 x 16-byte matrices: lane L gives the shared address (a multiple of 16) of row L % 8 of matrix L / 8, and gets in r[i] bytes
 * 4 (L % 4) .. + 3 of row L / 4 of matrix i. Collective. */
QCC_DEVICE void qcc_ldmatrix_x4(uint32_t *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(qcc_shared_address(row)) : "memory");
}

#if QCC_SM >= 80
/* Begin to copy 16, 8 or 4 bytes (addresses are multiples of that) from global to shared memory. */
QCC_DEVICE void qcc_cp_async_16(void *shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(qcc_shared_address(shared)), "l"(global) : "memory");
}
QCC_DEVICE void qcc_cp_async_8(void *shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" : : "r"(qcc_shared_address(shared)), "l"(global) : "memory");
}
QCC_DEVICE void qcc_cp_async_4(void *shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" : : "r"(qcc_shared_address(shared)), "l"(global) : "memory");
}
/* Close the group of copies that this thread began; wait until all but its last N groups have arrived (no barrier among threads). */
QCC_DEVICE void qcc_cp_async_commit() {
    asm volatile("cp.async.commit_group;" : : : "memory");
}
template <int N> QCC_DEVICE void qcc_cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}
#endif

/* Copies of words between registers and shared or global memory, in one access; addresses are multiples of the size. */
QCC_DEVICE void qcc_load_16(uint32_t *r, const void *address) {
    const uint4 value = *(const uint4 *)address;
    r[0] = value.x, r[1] = value.y, r[2] = value.z, r[3] = value.w;
}
QCC_DEVICE void qcc_load_8(uint32_t *r, const void *address) {
    const uint2 value = *(const uint2 *)address;
    r[0] = value.x, r[1] = value.y;
}
QCC_DEVICE void qcc_load_4(uint32_t *r, const void *address) {
    r[0] = *(const uint32_t *)address;
}
QCC_DEVICE void qcc_store_16(void *address, const uint32_t *r) {
    *(uint4 *)address = make_uint4(r[0], r[1], r[2], r[3]);
}
QCC_DEVICE void qcc_store_8(void *address, const uint32_t *r) {
    *(uint2 *)address = make_uint2(r[0], r[1]);
}
QCC_DEVICE void qcc_store_4(void *address, const uint32_t *r) {
    *(uint32_t *)address = r[0];
}

/* c + the sum of four products of unsigned bytes of a and signed bytes of b. */
QCC_DEVICE int32_t qcc_dp4a_u8s8(uint32_t a, uint32_t b, int32_t c) {
    int32_t d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* Four bytes out of eight: digit i (4 bits) of the selector is the number of byte i, 0..3 in a, 4..7 in b. */
QCC_DEVICE uint32_t qcc_prmt(uint32_t a, uint32_t b, uint32_t selector) {
    return __byte_perm(a, b, selector);
}

/* The value of the lane whose number differs in the bits of `mask`. Collective. */
QCC_DEVICE int32_t qcc_shfl_xor(int32_t value, int32_t mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

#else

void qcc_mma_m16n8k32_u8s8(int32_t *d, const uint32_t *a, const uint32_t *b);
void qcc_mma_m16n8k64_u4s4(int32_t *d, const uint32_t *a, const uint32_t *b);
void qcc_ldmatrix_x4(uint32_t *r, const void *row);
void qcc_cp_async_16(void *shared, const void *global);
void qcc_cp_async_8(void *shared, const void *global);
void qcc_cp_async_4(void *shared, const void *global);
void qcc_cp_async_commit();
template <int N> void qcc_cp_async_wait();
void qcc_load_16(uint32_t *r, const void *address);
void qcc_load_8(uint32_t *r, const void *address);
void qcc_load_4(uint32_t *r, const void *address);
void qcc_store_16(void *address, const uint32_t *r);
void qcc_store_8(void *address, const uint32_t *r);
void qcc_store_4(void *address, const uint32_t *r);
int32_t qcc_dp4a_u8s8(uint32_t a, uint32_t b, int32_t c);
uint32_t qcc_prmt(uint32_t a, uint32_t b, uint32_t selector);
int32_t qcc_shfl_xor(int32_t value, int32_t mask);

#endif
#endif
