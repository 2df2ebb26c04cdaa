/* Answers `cpuid` for code in which every `cpuid` was replaced by `int3; nop`: the machine's answer less the instruction sets named in
 * QCC_MASK ("avx512" or "avx512,avxvnni"). Loaded into a process before anything else. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

/* leaf 7: subleaf 0 EBX, ECX, EDX; subleaf 1 EAX, EDX */
#define AVX512_EBX (1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31)
#define AVX512_ECX (1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14)
#define AVX512_EDX (1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25)
#define AVX512_BF16 (1u << 5)
#define AVXVNNI_EAX (1u << 4)
#define AVXVNNI_EDX (1u << 4 | 1u << 5 | 1u << 10)

static int no_avx512, no_avxvnni;

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX], a, b, c, d;
    (void)signal, (void)info;
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 7 && part == 0 && no_avx512)
        b &= ~AVX512_EBX, c &= ~AVX512_ECX, d &= ~AVX512_EDX;
    if (leaf == 7 && part == 1) {
        a &= ~(no_avx512 ? AVX512_BF16 : 0) & ~(no_avxvnni ? AVXVNNI_EAX : 0);
        d &= ~(no_avxvnni ? AVXVNNI_EDX : 0);
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
}

__attribute__((constructor)) static void start(void) {
    const char *masked = getenv("QCC_MASK");
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    no_avx512 = masked && strstr(masked, "avx512"), no_avxvnni = masked && strstr(masked, "avxvnni");
    sigaction(SIGTRAP, &action, 0);
}
