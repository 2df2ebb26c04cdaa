/* What this machine can do at best, as JSON lines: multiply-accumulates of 8-bit integers, and bytes read from a working set.
 *
 *     cc -O2 -march=native -o peak peak.c && ./peak BYTES...
 *
 * The products are written in assembly: twenty-four accumulators (twelve with 256-bit registers) that depend on nothing but
 * themselves hide the latency of the instruction, and the compiler cannot move them to memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TRIALS = 15, TURNS = 200000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define TWELVE(I) I(0) I(1) I(2) I(3) I(4) I(5) I(6) I(7) I(8) I(9) I(10) I(11)

#if defined(__AVX512VNNI__)
static const char *const instruction = "vpdpbusd zmm";
enum { MACS_PER_TURN = 24 * 64 };
#define DOT(n) "vpdpbusd %%zmm31, %%zmm30, %%zmm" #n "\n\t"
static void turn(void) {
    __asm__ volatile(TWELVE(DOT) DOT(12) DOT(13) DOT(14) DOT(15) DOT(16) DOT(17) DOT(18) DOT(19) DOT(20) DOT(21) DOT(22) DOT(23)
                     : : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                     "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23");
}
#else
#if defined(__AVXVNNI__)
static const char *const instruction = "vpdpbusd ymm";
enum { MACS_PER_TURN = 12 * 32 };
#define DOT(n) "{vex} vpdpbusd %%ymm15, %%ymm14, %%ymm" #n "\n\t"
#else
static const char *const instruction = "vpmaddwd ymm, vpaddd ymm";
enum { MACS_PER_TURN = 12 * 16 };
#define DOT(n) "vpmaddwd %%ymm15, %%ymm14, %%ymm13\n\tvpaddd %%ymm13, %%ymm" #n ", %%ymm" #n "\n\t"
#endif
static void turn(void) {
    __asm__ volatile(TWELVE(DOT) : : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                     "xmm13");
}
#endif

static double macs_per_second(void) {
    double best = 1e9;
    for (int trial = 0; trial < TRIALS; trial++) {
        double start = now();
        for (int i = 0; i < TURNS; i++) turn();
        double elapsed = now() - start;
        if (elapsed < best) best = elapsed;
    }
    return (double)TURNS * MACS_PER_TURN / best;
}

#define READ(n, offset) "vpxor " #offset "(%0), %%ymm" #n ", %%ymm" #n "\n\t"
static void read_256_bytes(const unsigned char *address) {
    __asm__ volatile(READ(0, 0) READ(1, 32) READ(2, 64) READ(3, 96) READ(4, 128) READ(5, 160) READ(6, 192) READ(7, 224)
                     : : "r"(address) : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
}

static double bytes_per_second(size_t bytes) {
    size_t vectors = bytes / 256 ? bytes / 256 : 1;
    unsigned char *data = aligned_alloc(64, vectors * 256);
    if (data == NULL) {
        perror("peak: cannot allocate the working set");
        exit(1);
    }
    memset(data, 1, vectors * 256);
    size_t passes = ((size_t)64 << 20) / (vectors * 256) + 1;
    double best = 1e9;
    for (int trial = 0; trial < TRIALS; trial++) {
        double start = now();
        for (size_t pass = 0; pass < passes; pass++)
            for (size_t i = 0; i < vectors; i++) read_256_bytes(data + 256 * i);
        double elapsed = now() - start;
        if (elapsed < best) best = elapsed;
    }
    free(data);
    return (double)passes * (double)vectors * 256 / best;
}

int main(int count, char **arguments) {
    printf("{\"instruction\": \"%s\", \"macs_per_second\": %.6g}\n", instruction, macs_per_second());
    for (int i = 1; i < count; i++) {
        size_t bytes = strtoull(arguments[i], NULL, 10);
        printf("{\"bytes\": %zu, \"bytes_per_second\": %.6g}\n", bytes, bytes_per_second(bytes));
    }
    return 0;
}
