/* A libcuda.so.1 without a GPU: the entry points that qcc's libraries use, over main memory; kernels run as host code (launch.h).
 *
 * The environment configures it: QCC_FAKE_CUDA_KERNELS (libraries with the kernels), _SM (compute capability), _COUNT (GPUs), _MEMORY
 * (bytes that can be allocated), _ORDER (1: threads in descending order), _FAIL ("cuFunction=ERROR": that function fails), _TIMES
 * ("kernel=MICROSECONDS,...": what events say that runs of kernels took, those that are not named the last; instead of real time).
 * What a stream is given is done when the stream is waited for, and not before: a missing wait shows.
 */
#include "fake_state.h"

using namespace fake;

#define API extern "C" __attribute__((visibility("default"))) int
/* Every entry point: one at a time, the injected failure, the failure of an earlier kernel. */
#define ENTER \
    std::lock_guard<std::recursive_mutex> guard(lock); \
    if (int injected = injected_error(__func__)) return injected; \
    if (!state.initialized) return NOT_INITIALIZED;
#define ENTER_CONTEXT \
    ENTER; \
    if (state.sticky != SUCCESS) return state.sticky; \
    if (current.empty()) return INVALID_CONTEXT;

static int injected_error(const char *function) {
    const char *rule = getenv("QCC_FAKE_CUDA_FAIL");
    size_t length = strlen(function);
    return rule != nullptr && strncmp(rule, function, length) == 0 && rule[length] == '=' ? atoi(rule + length + 1) : 0;
}

API cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *stream);

static int memory_error(uintptr_t address, size_t bytes) { return holder(address, bytes) != nullptr ? SUCCESS : INVALID_VALUE; }

API cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    state.initialized = setting("QCC_FAKE_CUDA_COUNT", 1) > 0;
    if (int injected = injected_error(__func__)) return injected;
    return state.initialized ? SUCCESS : NO_DEVICE;
}
API cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
API cuGetErrorName(int error, const char **name) { *name = name_of(error); return SUCCESS; }
API cuGetErrorString(int error, const char **text) { *text = error == OUT_OF_MEMORY ? "out of memory" : "as the fake driver says"; return SUCCESS; }
API cuDeviceGetCount(int *count) { *count = int(setting("QCC_FAKE_CUDA_COUNT", 1)); return SUCCESS; }
API cuDeviceGet(int *device, int number) { *device = number; return SUCCESS; }
API cuDeviceGetName(char *name, int size, int) { snprintf(name, size_t(size), "emulated GPU (no hardware)"); return SUCCESS; }
API cuDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 75 ? sm() / 10 : attribute == 76 ? sm() % 10 : attribute == 97 ? most_shared() : 1;
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER;
    *context = reinterpret_cast<void *>(uintptr_t(device) + 1);
    ++state.contexts;
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { --state.contexts; return SUCCESS; }
API cuCtxPushCurrent_v2(void *context) { ENTER; current.push_back(context); return SUCCESS; }
API cuCtxPopCurrent_v2(void **context) {
    if (current.empty()) return INVALID_CONTEXT;
    *context = current.back();
    current.pop_back();
    return SUCCESS;
}
API cuCtxGetCurrent(void **context) { *context = current.empty() ? nullptr : current.back(); return SUCCESS; }
API cuCtxSynchronize() { ENTER_CONTEXT; flush(&state.default_stream); return state.sticky; }

API cuModuleLoadData(void **module, const void *image) {
    ENTER_CONTEXT;
    if (int error = judge_image(static_cast<const unsigned char *>(image))) return error;
    *module = new Module{open_libraries(), {}};
    ++state.modules;
    return SUCCESS;
}
API cuModuleUnload(void *module) { delete static_cast<Module *>(module); --state.modules; return SUCCESS; }
API cuModuleGetFunction(void **function, void *handle, const char *name) {
    ENTER_CONTEXT;
    auto *module = static_cast<Module *>(handle);
    for (const Library &library : module->libraries) {
        int number = library.find(name);
        if (number < 0) continue;
        module->functions.push_back(std::make_unique<Function>(Function{library, number, library.table[number].parameters}));
        *function = module->functions.back().get();
        return SUCCESS;
    }
    return NOT_FOUND;
}
API cuFuncSetAttribute(void *function, int attribute, int value) {
    ENTER_CONTEXT;
    if (attribute != 8 || value > most_shared()) return INVALID_VALUE;
    static_cast<Function *>(function)->shared_limit = value;
    return SUCCESS;
}

API cuMemAlloc_v2(uintptr_t *address, size_t bytes) {
    ENTER_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (state.used + bytes > size_t(setting("QCC_FAKE_CUDA_MEMORY", 8l << 30))) return OUT_OF_MEMORY;
    qcc_host::Region region = qcc_host::Region::make(bytes);
    memset(region.data, 0xcd, bytes);
    *address = reinterpret_cast<uintptr_t>(region.data);
    state.memory[*address] = region;
    state.used += bytes;
    return SUCCESS;
}
API cuMemFree_v2(uintptr_t address) {
    ENTER_CONTEXT;
    flush(&state.default_stream);
    auto found = state.memory.find(address);
    if (found == state.memory.end()) return INVALID_VALUE;
    state.used -= found->second.bytes;
    found->second.release();
    state.memory.erase(found);
    return SUCCESS;
}
/* Of these two, the call may return before the bytes are there: they come in the order of the default stream, which streams that were
 * created as non-blocking do not wait for. */
API cuMemsetD8_v2(uintptr_t address, unsigned char value, size_t bytes) {
    ENTER_CONTEXT;
    if (int error = memory_error(address, bytes)) return error;
    state.default_stream.work.push_back([=] { memset(reinterpret_cast<void *>(address), value, bytes); });
    return SUCCESS;
}
API cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
API cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t bytes) {
    ENTER_CONTEXT;
    if (int error = memory_error(from, bytes)) return error;
    flush(&state.default_stream);
    memcpy(to, reinterpret_cast<void *>(from), bytes);
    return state.sticky;
}
/* The caller may change pageable memory once the call is over. */
API cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    if (int error = memory_error(to, bytes)) return error;
    std::vector<char> copy(static_cast<const char *>(from), static_cast<const char *>(from) + bytes);
    of(stream)->work.push_back([=, copy = std::move(copy)] { memcpy(reinterpret_cast<void *>(to), copy.data(), bytes); });
    return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    if (int error = memory_error(from, bytes)) return error;
    of(stream)->work.push_back([=] { memcpy(to, reinterpret_cast<void *>(from), bytes); });
    return SUCCESS;
}
API cuPointerGetAttribute(void *value, int attribute, uintptr_t address) {
    ENTER;
    if (holder(address, 1) == nullptr) return INVALID_VALUE;
    *static_cast<int *>(value) = attribute == 2 ? 2 : 0;
    return SUCCESS;
}

API cuStreamCreate(void **stream, unsigned) { ENTER_CONTEXT; *stream = new Stream; ++state.streams; return SUCCESS; }
API cuStreamDestroy_v2(void *stream) { delete static_cast<Stream *>(stream); --state.streams; return SUCCESS; }
API cuStreamSynchronize(void *stream) { ENTER_CONTEXT; flush(of(stream)); return state.sticky; }
API cuEventCreate(void **event, unsigned) { ENTER_CONTEXT; *event = new Event; ++state.events; return SUCCESS; }
API cuEventDestroy_v2(void *event) { delete static_cast<Event *>(event); --state.events; return SUCCESS; }
API cuEventRecord(void *handle, void *stream) {
    ENTER_CONTEXT;
    auto *event = static_cast<Event *>(handle);
    event->done = false;
    event->stream = of(stream);
    of(stream)->work.push_back([=] { event->done = true; event->milliseconds = now(); });
    return SUCCESS;
}
API cuEventSynchronize(void *handle) {
    ENTER_CONTEXT;
    auto *event = static_cast<Event *>(handle);
    if (!event->done) flush(event->stream);
    return state.sticky;
}
API cuStreamWaitEvent(void *stream, void *handle, unsigned) {
    ENTER_CONTEXT;
    auto *event = static_cast<Event *>(handle);
    of(stream)->work.push_back([=] { if (!event->done) flush(event->stream); });
    return SUCCESS;
}
API cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    ENTER_CONTEXT;
    if (!static_cast<Event *>(from)->done || !static_cast<Event *>(to)->done) return 600; /* CUDA_ERROR_NOT_READY */
    *milliseconds = float(static_cast<Event *>(to)->milliseconds - static_cast<Event *>(from)->milliseconds);
    return SUCCESS;
}

API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **arguments, void **) {
    ENTER_CONTEXT;
    unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    Launch launch = describe(function, grid, block, shared, arguments);
    if (int error = check(launch)) return error;
    of(stream)->work.push_back([=] { run(launch); });
    return SUCCESS;
}

/* CUDA_KERNEL_NODE_PARAMS_v1 */
struct Parameters { void *function; unsigned grid[3], block[3], shared; void **arguments; void **extra; };

API cuGraphCreate(void **graph, unsigned) { ENTER_CONTEXT; *graph = new Graph; ++state.graphs; return SUCCESS; }
API cuGraphDestroy(void *graph) { delete static_cast<Graph *>(graph); --state.graphs; return SUCCESS; }
/* A node is its number, counted from 1; a node must depend on the one before it, as qcc's do. */
API cuGraphAddKernelNode(uintptr_t *node, void *handle, const uintptr_t *dependencies, size_t count, const Parameters *parameters) {
    ENTER_CONTEXT;
    auto *graph = static_cast<Graph *>(handle);
    Launch launch = describe(parameters->function, parameters->grid, parameters->block, parameters->shared, parameters->arguments);
    if (int error = check(launch)) return error;
    if (count != (graph->nodes.empty() ? 0 : 1) || (count == 1 && dependencies[0] != graph->nodes.size())) return INVALID_VALUE;
    graph->nodes.push_back(launch);
    *node = graph->nodes.size();
    return SUCCESS;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    ENTER_CONTEXT;
    *executable = new Executable{static_cast<Graph *>(graph)->nodes};
    ++state.executables;
    return SUCCESS;
}
API cuGraphExecKernelNodeSetParams(void *executable, uintptr_t node, const Parameters *parameters) {
    ENTER_CONTEXT;
    Launch launch = describe(parameters->function, parameters->grid, parameters->block, parameters->shared, parameters->arguments);
    static_cast<Executable *>(executable)->nodes.at(node - 1) = launch;
    return SUCCESS;
}
API cuGraphExecDestroy(void *executable) { delete static_cast<Executable *>(executable); --state.executables; return SUCCESS; }
API cuGraphLaunch(void *executable, void *stream) {
    ENTER_CONTEXT;
    ++state.graph_launches;
    auto nodes = static_cast<Executable *>(executable)->nodes;
    of(stream)->work.push_back([nodes] {
        for (const Launch &node : nodes) run(node);
    });
    return SUCCESS;
}

/* For tests: things alive (memory, contexts, modules, streams, events, graphs, executables), then kernels run, graphs launched, and the
 * compute capability and kind (1: PTX) of the image loaded last. */
extern "C" __attribute__((visibility("default"))) void qcc_fake_statistics(int *numbers) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    const int values[] = {int(state.memory.size()), state.contexts, state.modules, state.streams, state.events, state.graphs,
                          state.executables, state.launches, state.graph_launches, state.image_sm, state.image_is_ptx};
    memcpy(numbers, values, sizeof values);
}
/* Forgets the failure of a kernel, and says what it was. */
extern "C" __attribute__((visibility("default"))) const char *qcc_fake_recover() {
    static char text[700];
    std::lock_guard<std::recursive_mutex> guard(lock);
    snprintf(text, sizeof text, "%s", state.sticky == SUCCESS ? "" : state.kernel_error);
    state.sticky = SUCCESS;
    return text;
}
