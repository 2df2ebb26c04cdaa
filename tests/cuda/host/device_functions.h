/* The functions that runtime/csrc/qcc_device.cuh declares for a host, with the meaning that their PTX has on the device. */
#pragma once

#include "qcc_device.cuh"
#include "warp_instructions.h"

inline void qcc_mma_m16n8k32_u8s8(int32_t *d, const uint32_t *a, const uint32_t *b) {
    qcc_host::Product<16, 8, 32, 8, false, true>::run("mma.m16n8k32.u8.s8", d, a, b);
}
inline void qcc_mma_m16n8k64_u4s4(int32_t *d, const uint32_t *a, const uint32_t *b) {
    qcc_host::Product<16, 8, 64, 4, false, true>::run("mma.m16n8k64.u4.s4", d, a, b);
}
inline void qcc_ldmatrix_x4(uint32_t *r, const void *row) { qcc_host::load_matrices<4, false>("ldmatrix.x4", r, row); }

inline void qcc_cp_async_16(void *shared, const void *global) { qcc_host::copy_async(shared, global, 16, 16); }
inline void qcc_cp_async_8(void *shared, const void *global) { qcc_host::copy_async(shared, global, 8, 8); }
inline void qcc_cp_async_4(void *shared, const void *global) { qcc_host::copy_async(shared, global, 4, 4); }
inline void qcc_cp_async_commit() { qcc_host::commit_copies(); }
template <int N> void qcc_cp_async_wait() { qcc_host::wait_copies(N); }

namespace qcc_host {
/* One access of the device: it faults unless the address is a multiple of its size. */
template <int WORDS> void move_words(const char *what, void *to, const void *from, const void *memory) {
    if (reinterpret_cast<uintptr_t>(memory) % (4 * WORDS) != 0) fail("%s: address %p is not aligned to %d bytes", what, memory, 4 * WORDS);
    memcpy(to, from, 4 * WORDS);
}
} // namespace qcc_host

inline void qcc_load_16(uint32_t *r, const void *address) { qcc_host::move_words<4>("16-byte load", r, address, address); }
inline void qcc_load_8(uint32_t *r, const void *address) { qcc_host::move_words<2>("8-byte load", r, address, address); }
inline void qcc_load_4(uint32_t *r, const void *address) { qcc_host::move_words<1>("4-byte load", r, address, address); }
inline void qcc_store_16(void *address, const uint32_t *r) { qcc_host::move_words<4>("16-byte store", address, r, address); }
inline void qcc_store_8(void *address, const uint32_t *r) { qcc_host::move_words<2>("8-byte store", address, r, address); }
inline void qcc_store_4(void *address, const uint32_t *r) { qcc_host::move_words<1>("4-byte store", address, r, address); }

inline int32_t qcc_dp4a_u8s8(uint32_t a, uint32_t b, int32_t c) {
    uint32_t sum = uint32_t(c);
    for (int i = 0; i < 4; ++i) sum += uint32_t(int32_t(a >> 8 * i & 255) * int32_t(int8_t(b >> 8 * i)));
    return int32_t(sum);
}
inline uint32_t qcc_prmt(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
inline int32_t qcc_shfl_xor(int32_t value, int32_t mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
