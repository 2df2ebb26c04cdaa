/* Two libraries in one program, with the program's own memory, in strict C99. */
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "toy.h"

static unsigned char first_memory[toy_CONTEXT_BYTES + toy_ARENA_BYTES + 64];
static unsigned char second_memory[engine_CONTEXT_BYTES + engine_ARENA_BYTES + 64];

static unsigned char *aligned(unsigned char *memory) { return memory + (64 - (uintptr_t)memory % 64) % 64; }

int main(void) {
    toy_context *first;
    engine_context *second;
    unsigned char *a = aligned(first_memory), *b = aligned(second_memory);
    if (toy_init(&first, a + 1, NULL, 1) != toy_BAD_ARGUMENT || first != NULL || strstr(toy_error(NULL), "aligned") == NULL) return 1;
    if (toy_init(&first, NULL, NULL, 0) != toy_BAD_ARGUMENT || strstr(toy_error(NULL), "0 threads") == NULL) return 2;
    if (toy_init(&first, a, a + toy_CONTEXT_BYTES, 1) != toy_OK) return 3;
    if (engine_init(&second, b, b + engine_CONTEXT_BYTES, 3) != engine_OK) return 4;
    if (toy_arena(first) != a + toy_CONTEXT_BYTES) return 5;
    for (int i = 0; i < 3; ++i)
        if (toy_selftest(first) != toy_OK || engine_selftest(second) != engine_OK) return 6;
    if (toy_steps() != toy_STEPS || strcmp(toy_step_name(1), "y") != 0 || toy_step_name(toy_STEPS) != NULL) return 7;
    if (strcmp(toy_output(1)->dtype, "u8") != 0 || toy_output(1)->zero_point != 100 || toy_output(1)->scale != 16.0) return 8;
    if (toy_input(0)->rank != 1 || toy_input(0)->shape[0] != toy_INPUT_0_ELEMENTS || toy_input(1) != NULL) return 9;
    if (strcmp(toy_digest(), engine_digest()) == 0) return 10;
    toy_close(first);
    engine_close(second);
    return 0;
}
