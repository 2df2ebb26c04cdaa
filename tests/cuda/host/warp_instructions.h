/* The PTX meaning of mma.sync, ldmatrix, cp.async and dp4a. Which lane holds which element follows the PTX ISA, sections "Matrix fragments for
 * mma.m16n8k32" and its neighbours; tests/cuda/test_fragments.py compares with the same tables written in NumPy. */
#pragma once

#include "cuda_language.h"

namespace qcc_host {

/* Element number `index` of packed integers of so many bits. */
template <int BITS, bool SIGNED> inline int element(const unsigned *registers, int index) {
    constexpr int PER = 32 / BITS;
    unsigned bits = registers[index / PER] >> index % PER * BITS & ((1u << BITS) - 1);
    return SIGNED ? int(bits << (32 - BITS)) >> (32 - BITS) : int(bits);
}

/* A fragment element's place: lane = 4 * group + tig. A register holds 32 / BITS elements along k, from tig * (32 / BITS) on. */
template <int M, int N, int K, int BITS, bool A_SIGNED, bool B_SIGNED> struct Product {
    static constexpr int PER = 32 / BITS, SPAN = 4 * PER;               /* k covered by one register of all four tigs */
    static constexpr int ROWS = M / 8;                                  /* registers that lie in different rows */
    static constexpr int A = ROWS * (K / SPAN), B = K / SPAN, D = 2 * ROWS;
    struct Arguments {
        unsigned a[A], b[B];
        int d[D];
    };

    __attribute__((optimize("O3"))) static void compute(Arguments **lanes) {
        int16_t a[M][K], b[N][K];
        for (int lane = 0; lane < WARP; ++lane) {
            int group = lane / 4, tig = lane % 4;
            for (int part = 0; part < K / SPAN; ++part)
                for (int i = 0; i < PER; ++i) {
                    int k = part * SPAN + tig * PER + i;
                    for (int row = 0; row < ROWS; ++row)
                        a[group + 8 * row][k] = int16_t(element<BITS, A_SIGNED>(lanes[lane]->a + part * ROWS + row, i));
                    b[group][k] = int16_t(element<BITS, B_SIGNED>(lanes[lane]->b + part, i));
                }
        }
        for (int lane = 0; lane < WARP; ++lane)
            for (int i = 0; i < D; ++i) {
                const int16_t *x = a[lane / 4 + 8 * (i / 2)], *w = b[lane % 4 * 2 + i % 2];
                int sum = 0;
                for (int k = 0; k < K; ++k) sum += int(x[k]) * int(w[k]);
                lanes[lane]->d[i] = int(unsigned(lanes[lane]->d[i]) + unsigned(sum)); /* without .satfinite, sums wrap */
            }
    }

    /* d += a * b */
    template <class Sum, class Left, class Right> static void run(const char *what, Sum *d, const Left *a, const Right *b) {
        static_assert(sizeof(Sum) == 4 && sizeof(Left) <= 4 && sizeof(Right) <= 4, "registers, or bytes of them");
        Arguments mine;
        memcpy(mine.a, a, sizeof mine.a);
        memcpy(mine.b, b, sizeof mine.b);
        memcpy(mine.d, d, sizeof mine.d);
        collective(what, mine, compute);
        memcpy(d, mine.d, sizeof mine.d);
    }
};

/* ldmatrix.sync.aligned.m8n8.xCOUNT[.trans].shared.b16: lane 8*m + r brings the address of row r of matrix m (16 bytes). */
template <int COUNT, bool TRANSPOSED> void load_matrices(const char *what, void *registers, const void *row) {
    struct Arguments {
        const void *row;
        uint32_t result[COUNT];
    } mine{row, {}};
    if (here->lane() < 8 * COUNT) expect_shared(what, row, 16);
    collective(what, mine, [](Arguments **lanes) {
        for (int lane = 0; lane < WARP; ++lane)
            for (int m = 0; m < COUNT; ++m) {
                uint16_t pair[2];
                for (int i = 0; i < 2; ++i) {
                    int r = TRANSPOSED ? lane % 4 * 2 + i : lane / 4, c = TRANSPOSED ? lane / 4 : lane % 4 * 2 + i;
                    memcpy(&pair[i], static_cast<const char *>(lanes[8 * m + r]->row) + 2 * c, 2);
                }
                lanes[lane]->result[m] = pair[0] | uint32_t(pair[1]) << 16;
            }
    });
    memcpy(registers, mine.result, sizeof mine.result);
}

/* cp.async: until the wait that covers it, the destination holds noise. Bytes beyond `valid` are filled with zeros. */
inline void copy_async(void *to, const void *from, unsigned bytes, unsigned valid) {
    expect_shared("cp.async", to, bytes);
    if (valid > bytes) fail("cp.async: %u bytes to read, at most %u", valid, bytes);
    if (valid != 0 && reinterpret_cast<uintptr_t>(from) % bytes != 0) fail("cp.async: source %p is not aligned to %u bytes", from, bytes);
    memset(to, 0xd7, bytes);
    here->copies.push_back({static_cast<char *>(to), static_cast<const char *>(from), bytes, valid, here->groups});
}

inline void commit_copies() { ++here->groups; }

/* cp.async.wait_group N: all groups but the latest N have arrived. */
inline void wait_copies(unsigned pending) {
    std::vector<Copy> kept;
    for (const Copy &copy : here->copies) {
        if (copy.group + pending >= here->groups) {
            kept.push_back(copy);
            continue;
        }
        memset(copy.to, 0, copy.bytes);
        if (copy.valid != 0) memcpy(copy.to, copy.from, copy.valid);
    }
    here->copies.swap(kept);
}

} // namespace qcc_host
