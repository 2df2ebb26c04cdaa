/* Which instruction sets this machine offers, under the names that Linux prints in /proc/cpuinfo.
 *
 * A library asks before it runs its first kernel, so that a CPU that lacks something gives a message, never an illegal
 * instruction. A name that the table below does not know counts as missing. This code itself needs only the baseline ISA.
 */
#ifndef QCC_CPU_H
#define QCC_CPU_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>

/* Register state that the operating system must save before an extension may be used (bits of XCR0). */
enum { QCC_CPU_NO_STATE = 0, QCC_CPU_YMM = 0x06, QCC_CPU_ZMM = 0xe6, QCC_CPU_TILES = 0x60000 };
enum { QCC_CPU_EAX, QCC_CPU_EBX, QCC_CPU_ECX, QCC_CPU_EDX };

struct qcc_cpu_feature {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t word, bit;
    uint32_t state;
};

static const struct qcc_cpu_feature qcc_cpu_features[] = {
    {"pni", 1, 0, QCC_CPU_ECX, 0, QCC_CPU_NO_STATE},          {"ssse3", 1, 0, QCC_CPU_ECX, 9, QCC_CPU_NO_STATE},
    {"fma", 1, 0, QCC_CPU_ECX, 12, QCC_CPU_YMM},              {"sse4_1", 1, 0, QCC_CPU_ECX, 19, QCC_CPU_NO_STATE},
    {"sse4_2", 1, 0, QCC_CPU_ECX, 20, QCC_CPU_NO_STATE},      {"movbe", 1, 0, QCC_CPU_ECX, 22, QCC_CPU_NO_STATE},
    {"popcnt", 1, 0, QCC_CPU_ECX, 23, QCC_CPU_NO_STATE},      {"avx", 1, 0, QCC_CPU_ECX, 28, QCC_CPU_YMM},
    {"f16c", 1, 0, QCC_CPU_ECX, 29, QCC_CPU_YMM},             {"bmi1", 7, 0, QCC_CPU_EBX, 3, QCC_CPU_NO_STATE},
    {"avx2", 7, 0, QCC_CPU_EBX, 5, QCC_CPU_YMM},              {"bmi2", 7, 0, QCC_CPU_EBX, 8, QCC_CPU_NO_STATE},
    {"avx512f", 7, 0, QCC_CPU_EBX, 16, QCC_CPU_ZMM},          {"avx512dq", 7, 0, QCC_CPU_EBX, 17, QCC_CPU_ZMM},
    {"avx512ifma", 7, 0, QCC_CPU_EBX, 21, QCC_CPU_ZMM},       {"avx512cd", 7, 0, QCC_CPU_EBX, 28, QCC_CPU_ZMM},
    {"avx512bw", 7, 0, QCC_CPU_EBX, 30, QCC_CPU_ZMM},         {"avx512vl", 7, 0, QCC_CPU_EBX, 31, QCC_CPU_ZMM},
    {"avx512vbmi", 7, 0, QCC_CPU_ECX, 1, QCC_CPU_ZMM},        {"avx512_vbmi2", 7, 0, QCC_CPU_ECX, 6, QCC_CPU_ZMM},
    {"gfni", 7, 0, QCC_CPU_ECX, 8, QCC_CPU_NO_STATE},         {"avx512_vnni", 7, 0, QCC_CPU_ECX, 11, QCC_CPU_ZMM},
    {"avx512_bitalg", 7, 0, QCC_CPU_ECX, 12, QCC_CPU_ZMM},    {"avx512_vpopcntdq", 7, 0, QCC_CPU_ECX, 14, QCC_CPU_ZMM},
    {"avx512_fp16", 7, 0, QCC_CPU_EDX, 23, QCC_CPU_ZMM},      {"amx_bf16", 7, 0, QCC_CPU_EDX, 22, QCC_CPU_TILES},
    {"amx_tile", 7, 0, QCC_CPU_EDX, 24, QCC_CPU_TILES},       {"amx_int8", 7, 0, QCC_CPU_EDX, 25, QCC_CPU_TILES},
    {"avx_vnni", 7, 1, QCC_CPU_EAX, 4, QCC_CPU_YMM},          {"avx512_bf16", 7, 1, QCC_CPU_EAX, 5, QCC_CPU_ZMM},
    {"avx_vnni_int8", 7, 1, QCC_CPU_EDX, 4, QCC_CPU_YMM},     {"abm", 0x80000001u, 0, QCC_CPU_ECX, 5, QCC_CPU_NO_STATE},
    {"sse4a", 0x80000001u, 0, QCC_CPU_ECX, 6, QCC_CPU_NO_STATE}, {"3dnow", 0x80000001u, 0, QCC_CPU_EDX, 31, QCC_CPU_NO_STATE},
};

static uint64_t qcc_cpu_enabled_state(void) {
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return 0; /* OSXSAVE */
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int qcc_cpu_has(const char *name) {
    for (size_t i = 0; i < sizeof qcc_cpu_features / sizeof *qcc_cpu_features; ++i) {
        const struct qcc_cpu_feature *feature = &qcc_cpu_features[i];
        if (strcmp(name, feature->name) != 0) continue;
        uint32_t word[4];
        /* A subleaf above the highest one would answer with another leaf's bits on some CPUs: leaf 7 tells its count in eax. */
        if (feature->subleaf != 0 &&
            (!__get_cpuid_count(feature->leaf, 0, &word[0], &word[1], &word[2], &word[3]) || word[0] < feature->subleaf))
            return 0;
        if (!__get_cpuid_count(feature->leaf, feature->subleaf, &word[0], &word[1], &word[2], &word[3])) return 0;
        if (!(word[feature->word] >> feature->bit & 1)) return 0;
        return feature->state == QCC_CPU_NO_STATE || (qcc_cpu_enabled_state() & feature->state) == feature->state;
    }
    return 0;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

/* The kernel tells in two words what it found and saves the state of; the bits are part of its interface to programs. */
struct qcc_cpu_feature {
    const char *name;
    unsigned long word;
    uint8_t bit;
};

static const struct qcc_cpu_feature qcc_cpu_features[] = {
    {"fp", AT_HWCAP, 0},      {"asimd", AT_HWCAP, 1},   {"atomics", AT_HWCAP, 8}, {"fphp", AT_HWCAP, 9},    {"asimdhp", AT_HWCAP, 10},
    {"asimdrdm", AT_HWCAP, 12}, {"asimddp", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},   {"asimdfhm", AT_HWCAP, 23}, {"sve2", AT_HWCAP2, 1},
    {"svei8mm", AT_HWCAP2, 9},  {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14},
};

static int qcc_cpu_has(const char *name) {
    for (size_t i = 0; i < sizeof qcc_cpu_features / sizeof *qcc_cpu_features; ++i)
        if (strcmp(name, qcc_cpu_features[i].name) == 0) return getauxval(qcc_cpu_features[i].word) >> qcc_cpu_features[i].bit & 1;
    return 0;
}

#else
#error "qcc_cpu_has(name) is not written for this architecture: add a branch here that answers for the names in its target records"
#endif

/* Writes the names that this machine lacks, separated by blanks, and returns how many there are. */
static int qcc_cpu_missing(const char *const *names, int count, char *text, size_t size) {
    int missing = 0;
    size_t used = 0;
    if (size > 0) text[0] = '\0';
    for (int i = 0; i < count; ++i) {
        if (qcc_cpu_has(names[i])) continue;
        int length = snprintf(text + used, size - used, missing ? " %s" : "%s", names[i]);
        if (length > 0 && used + (size_t)length < size) used += (size_t)length;
        ++missing;
    }
    return missing;
}

#endif
