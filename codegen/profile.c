/* Times kernels and prints a profile as JSON: built for a device, run on it, its output kept.
 *
 * As in tuning_clock.py, constants rotate over as many bytes as the network has, all kernels take turns in an order that is
 * reversed from turn to turn, the thread's processor time counts, and a kernel's time is the least of its turns, the least disturbed one.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_OPERANDS = 16 };

struct kernel {
    const char *name;                 /* a string of JSON, quoted */
    int32_t (*call)(void **operands); /* all of the kernel's tasks */
    int operands;
    struct { long bytes; int constant; } of[MOST_OPERANDS];
};

#include "kernels.h" /* kernels[], KERNELS, TURNS, TURN_SECONDS, ROTATED_BYTES, HEAD */

static unsigned char *constants, *others[MOST_OPERANDS];
static long constants_bytes = ROTATED_BYTES;

static long room(long bytes) { return (bytes + 63) / 64 * 64; }

static unsigned char *block(long bytes) {
    unsigned char *memory = aligned_alloc(64, (size_t)room(bytes) + 4096);
    if (memory == NULL) exit(3);
    for (long i = 0; i < room(bytes) + 4096; ++i) memory[i] = (unsigned char)((uint32_t)i * 2654435761u >> 13);
    return memory;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long constants_of(const struct kernel *k) {
    long sum = 0;
    for (int i = 0; i < k->operands; ++i) sum += k->of[i].constant ? room(k->of[i].bytes) : 0;
    return sum;
}

static double run(const struct kernel *k, long count) {
    long step = constants_of(k), copies = step ? constants_bytes / step : 1, copy = 0;
    double start = now();
    for (long n = 0; n < count; ++n, copy = (copy + 1) % copies) {
        unsigned char *constant = constants + copy * step;
        void *operands[MOST_OPERANDS];
        for (int i = 0; i < k->operands; ++i) {
            operands[i] = k->of[i].constant ? constant : others[i];
            constant += k->of[i].constant ? room(k->of[i].bytes) : 0;
        }
        if (k->call(operands) != 0) {
            fprintf(stderr, "a kernel failed: %s\n", k->name);
            exit(2);
        }
    }
    return (now() - start) / (double)count;
}

int main(void) {
    static double seconds[KERNELS][TURNS];
    static long counts[KERNELS], largest[MOST_OPERANDS];
    for (int k = 0; k < KERNELS; ++k) {
        for (int i = 0; i < kernels[k].operands; ++i)
            if (!kernels[k].of[i].constant && largest[i] < kernels[k].of[i].bytes) largest[i] = kernels[k].of[i].bytes;
        if (constants_bytes < constants_of(&kernels[k])) constants_bytes = constants_of(&kernels[k]);
    }
    constants = block(constants_bytes);
    for (int i = 0; i < MOST_OPERANDS; ++i) others[i] = block(largest[i]);
    for (int k = 0; k < KERNELS; ++k) {
        run(&kernels[k], 2);
        double once = run(&kernels[k], 2);
        counts[k] = once > 0 && TURN_SECONDS / once > 1 ? (long)(TURN_SECONDS / once) : 1;
    }
    for (int turn = 0; turn < TURNS; ++turn)
        for (int n = 0; n < KERNELS; ++n) {
            int k = turn % 2 ? KERNELS - 1 - n : n;
            run(&kernels[k], 1);
            seconds[k][turn] = run(&kernels[k], counts[k]);
        }
    printf("{%s, \"seconds\": {", HEAD);
    for (int k = 0; k < KERNELS; ++k) {
        double least = seconds[k][0];
        for (int turn = 1; turn < TURNS; ++turn) least = seconds[k][turn] < least ? seconds[k][turn] : least;
        printf("%s\n %s: %.9g", k ? "," : "", kernels[k].name, least);
    }
    printf("}}\n");
    return 0;
}
