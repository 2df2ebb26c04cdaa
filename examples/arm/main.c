/* Runs a network on 64-bit ARM that was compiled, on any machine, with
 *
 *     qcc compile model.onnx --target aarch64 --name network -o network/
 *
 * The library checks itself, says which of its kernels this CPU gets, and how long a run takes.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "network.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int count, char **arguments) {
    int32_t threads = count > 1 ? atoi(arguments[1]) : 1;
    int runs = count > 2 ? atoi(arguments[2]) : 20;
    /* The network's memory, so that nothing is allocated: a context and its arena. */
    static _Alignas(network_ALIGNMENT) unsigned char storage[network_CONTEXT_BYTES], arena[network_ARENA_BYTES];
    network_context *context;
    if (network_init(&context, storage, arena, threads) != network_OK || network_selftest(context) != network_OK) {
        fprintf(stderr, "%s\n", network_error(context));
        network_close(context);
        return 1;
    }
    const void *inputs[network_INPUTS];
    void *outputs[network_OUTPUTS];
    for (int32_t i = 0; i < network_INPUTS; ++i) inputs[i] = calloc(1, network_input(i)->bytes);
    for (int32_t i = 0; i < network_OUTPUTS; ++i) outputs[i] = calloc(1, network_output(i)->bytes);
    double best = 1e9;
    for (int run = 0; run < runs; ++run) {
        double begin = now();
        if (network_run(context, inputs, outputs) != network_OK) {
            fprintf(stderr, "%s\n", network_error(context));
            return 2;
        }
        double seconds = now() - begin;
        best = seconds < best ? seconds : best;
    }
    printf("kernels: %s\nfastest of %d runs: %.3f ms\n", network_variant(context), runs, 1e3 * best);
    for (int32_t i = 0; i < network_OUTPUTS; ++i) free(outputs[i]);
    for (int32_t i = 0; i < network_INPUTS; ++i) free((void *)inputs[i]);
    network_close(context);
    return 0;
}
