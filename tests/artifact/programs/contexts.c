/* Contexts on several threads of the application, and one context that two threads fight for; meant for ThreadSanitizer. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "toy.h"

enum { RUNS = 60 };

static float x[toy_INPUT_0_ELEMENTS];
static float expected[toy_OUTPUT_0_ELEMENTS];
static toy_context *shared;

static int run(toy_context *context) {
    float real[toy_OUTPUT_0_ELEMENTS];
    unsigned char codes[toy_OUTPUT_1_BYTES];
    const void *inputs[] = {x};
    void *outputs[] = {real, codes};
    int status = toy_run(context, inputs, outputs);
    return status == toy_OK && memcmp(real, expected, sizeof real) != 0 ? -1 : status;
}

static void *own(void *result) {
    toy_context *context;
    int *failure = result;
    for (int round = 0; round < 3 && *failure == 0; ++round) {
        *failure = toy_init(&context, NULL, NULL, 3);
        for (int i = 0; i < RUNS && *failure == 0; ++i) *failure = run(context);
        toy_close(context);
    }
    return NULL;
}

static void *fight(void *result) {
    int *failure = result;
    for (int i = 0; i < RUNS && (*failure == 0 || *failure == toy_BUSY); ++i) *failure = run(shared);
    if (*failure == toy_BUSY) *failure = 0;
    return NULL;
}

int main(void) {
    unsigned char codes[toy_OUTPUT_1_BYTES];
    const void *inputs[] = {x};
    void *outputs[] = {expected, codes};
    for (int i = 0; i < toy_INPUT_0_ELEMENTS; ++i) x[i] = (float)(i % 37) - 18.0f;
    if (toy_init(&shared, NULL, NULL, 2) != toy_OK || toy_run(shared, inputs, outputs) != toy_OK) return 1;
    if (toy_selftest(shared) != toy_OK) return 2;
    pthread_t threads[4];
    int failures[4] = {0};
    for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, i < 2 ? own : fight, &failures[i]);
    for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
    toy_close(shared);
    for (int i = 0; i < 4; ++i)
        if (failures[i] != 0) return 10 + i;
    return 0;
}
