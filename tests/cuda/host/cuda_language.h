/* What CUDA C has beyond C++: qualifiers, vector types, indices and the functions that need no other thread. */
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "memory.h"

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const

#define threadIdx (qcc_host::here->index)
#define blockIdx (qcc_host::block->index)
#define blockDim (qcc_host::block->extent)
#define gridDim (qcc_host::block->grid)
#define __syncthreads() qcc_host::barrier(__LINE__)

#define QCC_HOST_VECTORS(type, name, size)                                                                      \
    struct alignas(sizeof(type)) name##1 { type x; };                                                           \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                    \
    struct name##3 { type x, y, z; };                                                                           \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; };                 \
    inline name##1 make_##name##1(type x) { return {x}; }                                                       \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                            \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                 \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

QCC_HOST_VECTORS(signed char, char, 1)
QCC_HOST_VECTORS(unsigned char, uchar, 1)
QCC_HOST_VECTORS(short, short, 2)
QCC_HOST_VECTORS(unsigned short, ushort, 2)
QCC_HOST_VECTORS(int, int, 4)
QCC_HOST_VECTORS(unsigned, uint, 4)
QCC_HOST_VECTORS(float, float, 4)
QCC_HOST_VECTORS(long long, longlong, 8)
QCC_HOST_VECTORS(unsigned long long, ulonglong, 8)
QCC_HOST_VECTORS(double, double, 8)

using std::max;
using std::min;

template <class T> inline T __ldg(const T *pointer) { return *pointer; }

inline int __mulhi(int a, int b) { return int((int64_t(a) * b) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline long long __mul64hi(long long a, long long b) { return (long long)(((__int128)a * b) >> 64); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
/* prmt.b32: nibble i of the selector names the byte of (y, x) that becomes byte i; its top bit asks for copies of the sign. */
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t both = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        unsigned nibble = selector >> 4 * i & 15, byte = unsigned(both >> 8 * (nibble & 7)) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __float_as_int(float value) { int bits; memcpy(&bits, &value, 4); return bits; }
inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
inline float __int_as_float(int value) { float real; memcpy(&real, &value, 4); return real; }
inline float __uint_as_float(unsigned value) { float real; memcpy(&real, &value, 4); return real; }
/* cvt.rni.s32.f32: half to even, saturating, NaN to 0. */
inline int __float2int_rn(float value) {
    if (value != value) return 0;
    if (value >= 2147483648.0f) return INT32_MAX;
    return value <= -2147483648.0f ? INT32_MIN : int(nearbyintf(value));
}
inline float __fmul_rn(float a, float b) { volatile float product = a * b; return product; }
inline float __fadd_rn(float a, float b) { volatile float sum = a + b; return sum; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __int2float_rn(int value) { return float(value); }

inline int __dp4a(int a, int b, int c) {
    unsigned sum = unsigned(c);
    for (int i = 0; i < 4; ++i) sum += unsigned(int(int8_t(unsigned(a) >> 8 * i)) * int(int8_t(unsigned(b) >> 8 * i)));
    return int(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; ++i) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
    return c;
}

template <class T> inline T atomicAdd(T *address, T value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }

/* shfl.sync of a whole warp. */
namespace qcc_host {
template <class T, class Source>
T shuffle(const char *what, unsigned mask, T value, Source source) {
    static_assert(sizeof(T) <= 8, "a register or two");
    if (mask != 0xffffffffu) fail("%s: mask %#x, expected all lanes", what, mask);
    struct Arguments { T value, result; } mine{value, value};
    collective(what, mine, [&](Arguments **lanes) {
        for (int lane = 0; lane < WARP; ++lane) lanes[lane]->result = lanes[source(lane)]->value;
    });
    return mine.result;
}
} // namespace qcc_host

template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    return qcc_host::shuffle("__shfl_xor_sync", mask, value, [=](int lane) {
        int other = lane ^ lanes;
        return other / width <= lane / width ? other : lane;
    });
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return qcc_host::shuffle("__shfl_down_sync", mask, value, [=](int lane) {
        return lane % width + int(delta) < width ? lane + int(delta) : lane;
    });
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return qcc_host::shuffle("__shfl_up_sync", mask, value, [=](int lane) { return lane % width >= int(delta) ? lane - int(delta) : lane; });
}
/* Each lane names its own source, so the sources are exchanged too. */
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    if (mask != 0xffffffffu) qcc_host::fail("__shfl_sync: mask %#x, expected all lanes", mask);
    struct Arguments { T value, result; int source; } mine{value, value, source};
    qcc_host::collective("__shfl_sync", mine, [width](Arguments **lanes) {
        for (int lane = 0; lane < qcc_host::WARP; ++lane)
            lanes[lane]->result = lanes[lane / width * width + ((lanes[lane]->source % width) + width) % width]->value;
    });
    return mine.result;
}
inline void __syncwarp(unsigned = 0xffffffffu) {
    int nothing = 0;
    qcc_host::collective("__syncwarp", nothing, [](int **) {});
}
