/* A network for GPUs from C: memory of the caller for everything, arrays on the GPU, a stream, and the arena read back. Prints "ok".
 * The few functions of the driver that a program needs for memory and streams are declared here: no toolkit is needed. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "small.h"

typedef int (*function)();

static void expect(int good, const char *what, const small_context *context) {
    if (good) return;
    printf("%s: %s\n", what, small_error(context));
    exit(1);
}

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *cuda = NULL, *stream = NULL;
    int (*init)(unsigned), (*retain)(void **, int), (*push)(void *), (*allocate)(unsigned long long *, size_t), (*release)(unsigned long long);
    int (*upload)(unsigned long long, const void *, size_t), (*download)(void *, unsigned long long, size_t);
    int (*create)(void **, unsigned), (*await)(void *), (*destroy)(void *);
    if (driver == NULL) return 2;
    *(void **)&init = dlsym(driver, "cuInit");
    *(void **)&retain = dlsym(driver, "cuDevicePrimaryCtxRetain");
    *(void **)&push = dlsym(driver, "cuCtxPushCurrent_v2");
    *(void **)&allocate = dlsym(driver, "cuMemAlloc_v2");
    *(void **)&release = dlsym(driver, "cuMemFree_v2");
    *(void **)&upload = dlsym(driver, "cuMemcpyHtoD_v2");
    *(void **)&download = dlsym(driver, "cuMemcpyDtoH_v2");
    *(void **)&create = dlsym(driver, "cuStreamCreate");
    *(void **)&await = dlsym(driver, "cuStreamSynchronize");
    *(void **)&destroy = dlsym(driver, "cuStreamDestroy_v2");
    init(0);
    retain(&cuda, 0);
    push(cuda);
    create(&stream, 1);

    static _Alignas(64) unsigned char storage[small_CONTEXT_BYTES];
    static float image[small_INPUT_0_ELEMENTS], expected[small_OUTPUT_0_ELEMENTS], found[small_OUTPUT_0_ELEMENTS];
    unsigned long long arena, source, result;
    unsigned char byte;
    allocate(&arena, small_ARENA_BYTES);
    allocate(&source, sizeof image);
    allocate(&result, sizeof found);
    for (int i = 0; i < small_INPUT_0_ELEMENTS; ++i) image[i] = (float)(i % 13) * 0.1f - 0.6f;
    upload(source, image, sizeof image);

    small_context *context, *other;
    expect(small_init(&context, storage, storage, 1) == small_BAD_ARGUMENT, "main memory as an arena must be refused", NULL);
    expect(small_init(&context, storage, (void *)(size_t)arena, 1) == small_OK, "init", NULL);
    expect(small_init_device(&other, NULL, NULL, 0) == small_OK, "init on a device", NULL);
    expect(small_init_device(&other, NULL, NULL, 7) == small_BAD_ARGUMENT && other == NULL, "there is no GPU 7", NULL);
    expect(small_init_device(&other, NULL, NULL, 0) == small_OK, "init again", NULL);
    const void *host_in[] = {image}, *device_in[] = {(void *)(size_t)source};
    void *host_out[] = {expected}, *device_out[] = {(void *)(size_t)result};
    expect(small_run(other, host_in, host_out) == small_OK, "run", other);
    expect(small_run_device(context, device_in, device_out, stream) == small_OK, "run on the GPU", context);
    expect(small_run_device(context, host_in, device_out, stream) == small_BAD_ARGUMENT, "main memory as an input must be refused", context);
    await(stream);
    download(found, result, sizeof found);
    expect(memcmp(found, expected, sizeof found) == 0, "both runs must agree", context);
    expect(small_read_arena(context, &byte, small_ARENA_BYTES - 1, 1) == small_OK, "the arena's last byte", context);
    expect(small_read_arena(context, &byte, small_ARENA_BYTES, 1) == small_BAD_ARGUMENT, "beyond the arena", context);
    expect(small_selftest(context) == small_OK, "selftest", context);
    small_close(context);
    small_close(other);
    small_close(NULL);
    destroy(stream);
    release(arena);
    release(source);
    release(result);
    puts("ok");
    return 0;
}
