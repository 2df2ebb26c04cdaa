/* Reads bytes as fast as a loop of loads can: 0, for benchmarks that call it like a kernel. Bytes after the last 256 are left out. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { ROUND = 256, LINE = 64 };

#if defined(__AVX512F__)
typedef __m512i vector;
#define LOAD(address) _mm512_loadu_si512(address)
#else
typedef __m256i vector;
#define LOAD(address) _mm256_loadu_si256((const __m256i *)(address))
#endif
enum { VECTORS = ROUND / sizeof(vector) };

/* `ahead`: bytes that lines are asked for before they are read; 0: never. */
int32_t read_bytes(const unsigned char *bytes, int64_t count, int64_t ahead) {
    for (int64_t start = 0; start + ROUND <= count; start += ROUND) {
        if (ahead != 0)
            for (int64_t line = 0; line < ROUND; line += LINE) _mm_prefetch((const char *)bytes + start + ahead + line, _MM_HINT_T0);
        for (size_t number = 0; number < VECTORS; ++number) {
            vector loaded = LOAD(bytes + start + (int64_t)(number * sizeof(vector)));
            __asm__ volatile("" : : "v"(loaded)); /* the load must not be left out */
        }
    }
    return 0;
}
