/* Counts calls of the allocator: none may happen between the end of NAME_init and NAME_close. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "toy.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Thread_local int in_allocator;
static _Atomic int allocations;

void *malloc(size_t size) { ++allocations; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { ++allocations; return __libc_calloc(count, size); }
int posix_memalign(void **result, size_t alignment, size_t size) {
    ++allocations;
    *result = __libc_memalign(alignment, size);
    return *result == NULL;
}

int main(int count, char **arguments) {
    (void)in_allocator;
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    static float x[toy_INPUT_0_ELEMENTS], real[toy_OUTPUT_0_ELEMENTS];
    static unsigned char codes[toy_OUTPUT_1_BYTES];
    static uint64_t times[toy_STEPS];
    const void *inputs[] = {x};
    void *outputs[] = {real, codes};
    toy_context *context;
    if (toy_init(&context, NULL, NULL, threads) != toy_OK) return 10;
    int after_init = allocations;
    for (int i = 0; i < 50; ++i)
        if (toy_run(context, inputs, outputs) != toy_OK || toy_run_profiled(context, inputs, outputs, times) != toy_OK) return 11;
    int after_runs = allocations;
    if (toy_run(context, NULL, outputs) != toy_BAD_ARGUMENT || strstr(toy_error(context), "input 0, x, is NULL") == NULL) return 12;
    toy_close(context);
    printf("%d %d\n", after_init, after_runs - after_init);
    return 0;
}
