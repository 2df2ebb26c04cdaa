/* What the fake driver keeps: allocations, streams whose work is done as late as the driver may do it, graphs, and kernels of this machine. */
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "memory.h"

namespace fake {

enum Error {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_OUT_OF_RESOURCES = 701,
};

inline const char *name_of(int error) {
    switch (error) {
    case SUCCESS: return "CUDA_SUCCESS";
    case INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
    case OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
    case NOT_INITIALIZED: return "CUDA_ERROR_NOT_INITIALIZED";
    case NO_DEVICE: return "CUDA_ERROR_NO_DEVICE";
    case INVALID_IMAGE: return "CUDA_ERROR_INVALID_IMAGE";
    case INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
    case NO_BINARY_FOR_GPU: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
    case INVALID_PTX: return "CUDA_ERROR_INVALID_PTX";
    case NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
    case ILLEGAL_ADDRESS: return "CUDA_ERROR_ILLEGAL_ADDRESS";
    case LAUNCH_OUT_OF_RESOURCES: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
    default: return "CUDA_ERROR_UNKNOWN";
    }
}

inline long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text != nullptr && *text != '\0' ? atol(text) : otherwise;
}

/* A library that tests/cuda/harness.py compiled from the same CUDA C as the machine code. */
struct Library {
    int (*find)(const char *);
    int (*launch)(int, const unsigned *, const unsigned *, unsigned, void **, int, int, char *, size_t);
    const struct Entry { const char *name; void (*call)(void **); int parameters; } *table;
};

struct Module { std::vector<Library> libraries; std::vector<std::unique_ptr<struct Function>> functions; };
struct Function { Library library; int number; int parameters; int shared_limit = 48 * 1024; };

struct Launch {
    Function *function = nullptr;
    unsigned grid[3], block[3], shared = 0;
    std::vector<uint64_t> values;
};

struct Stream;
struct Event { bool done = true; Stream *stream = nullptr; double milliseconds = 0; };
struct Stream { std::deque<std::function<void()>> work; };
struct Graph { std::vector<Launch> nodes; };
struct Executable { std::vector<Launch> nodes; };

struct State {
    std::map<uintptr_t, qcc_host::Region> memory;
    size_t used = 0;
    Stream default_stream;
    bool initialized = false;
    int sticky = SUCCESS;
    char kernel_error[700] = "";
    int contexts = 0, modules = 0, streams = 0, events = 0, graphs = 0, executables = 0, launches = 0, graph_launches = 0;
    int image_sm = 0, image_is_ptx = 0;
};

inline State state;
inline std::recursive_mutex lock;
inline thread_local std::vector<void *> current;

inline int sm() { return int(setting("QCC_FAKE_CUDA_SM", 80)); }
inline int most_shared() { return sm() == 75 ? 64 * 1024 : sm() == 80 ? 163 * 1024 : sm() == 90 ? 227 * 1024 : 99 * 1024; }

/* How long runs took so far, where times are made up. */
inline double made_up_time = 0;

inline double microseconds_of(const char *kernel) {
    const char *text = getenv("QCC_FAKE_CUDA_TIMES");
    double found = 0;
    while (text != nullptr && *text != '\0') {
        const char *equals = strchr(text, '='), *comma = strchr(text, ',');
        found = atof(equals + 1);
        if (strlen(kernel) == size_t(equals - text) && strncmp(kernel, text, size_t(equals - text)) == 0) break;
        text = comma == nullptr ? nullptr : comma + 1;
    }
    return found;
}

inline double now() {
    if (getenv("QCC_FAKE_CUDA_TIMES") != nullptr) return made_up_time;
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline Stream *of(void *stream) { return stream == nullptr ? &state.default_stream : static_cast<Stream *>(stream); }

inline void flush(Stream *stream) {
    while (!stream->work.empty()) {
        auto step = std::move(stream->work.front());
        stream->work.pop_front();
        step();
    }
}

/* The allocation that holds these bytes. */
inline const qcc_host::Region *holder(uintptr_t address, size_t bytes) {
    auto found = state.memory.upper_bound(address);
    if (found == state.memory.begin()) return nullptr;
    --found;
    return found->second.holds(reinterpret_cast<void *>(address), bytes) ? &found->second : nullptr;
}

/* A kernel that does what a GPU forbids leaves the context unusable, as there. */
inline void run(const Launch &launch) {
    if (state.sticky != SUCCESS) return;
    std::vector<uint64_t> values = launch.values;
    std::vector<void *> pointers;
    for (uint64_t &value : values) pointers.push_back(&value);
    ++state.launches;
    made_up_time += microseconds_of(launch.function->library.table[launch.function->number].name) * 1e-3;
    if (launch.function->library.launch(launch.function->number, launch.grid, launch.block, launch.shared, pointers.data(),
                                        int(setting("QCC_FAKE_CUDA_ORDER", 0)), 2, state.kernel_error, sizeof state.kernel_error) != 0)
        state.sticky = ILLEGAL_ADDRESS;
}

/* What the driver looks at before it accepts a launch. */
inline int check(const Launch &launch) {
    unsigned threads = launch.block[0] * launch.block[1] * launch.block[2];
    for (int i = 0; i < 3; ++i)
        if (launch.grid[i] == 0 || launch.block[i] == 0 || (i > 0 && launch.grid[i] > 65535)) return INVALID_VALUE;
    if (threads > 1024) return INVALID_VALUE;
    return int(launch.shared) > launch.function->shared_limit ? INVALID_VALUE : SUCCESS;
}

inline Launch describe(void *function, const unsigned *grid, const unsigned *block, unsigned shared, void **arguments) {
    Launch launch;
    launch.function = static_cast<Function *>(function);
    memcpy(launch.grid, grid, sizeof launch.grid);
    memcpy(launch.block, block, sizeof launch.block);
    launch.shared = shared;
    for (int i = 0; i < launch.function->parameters; ++i) launch.values.push_back(*static_cast<uint64_t *>(arguments[i]));
    return launch;
}

/* Machine code must be for the same generation and no later step; PTX for no later one at all. */
inline int judge_image(const unsigned char *image) {
    if (memcmp(image, "\x7f" "ELF", 4) != 0) {
        const char *target = strstr(reinterpret_cast<const char *>(image), ".target sm_");
        state.image_is_ptx = 1;
        if (target == nullptr) return INVALID_IMAGE;
        state.image_sm = atoi(target + 11);
        return state.image_sm <= sm() ? SUCCESS : INVALID_PTX;
    }
    uint32_t flags;
    memcpy(&flags, image + 48, 4);   /* e_flags; the compute capability is its lowest byte, in later toolkits the second */
    int low = int(flags & 255), second = int(flags >> 8 & 255);
    state.image_is_ptx = 0;
    state.image_sm = low >= 50 && low <= 121 ? low : second;
    return state.image_sm / 10 == sm() / 10 && state.image_sm <= sm() ? SUCCESS : NO_BINARY_FOR_GPU;
}

/* The libraries named in QCC_FAKE_CUDA_KERNELS, separated by colons. */
inline std::vector<Library> open_libraries() {
    std::vector<Library> libraries;
    std::string paths = getenv("QCC_FAKE_CUDA_KERNELS") ? getenv("QCC_FAKE_CUDA_KERNELS") : "";
    for (size_t begin = 0; begin < paths.size();) {
        size_t end = paths.find(':', begin);
        if (end == std::string::npos) end = paths.size();
        std::string path = paths.substr(begin, end - begin);
        begin = end + 1;
        void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            fprintf(stderr, "fake CUDA driver: %s\n", dlerror());
            continue;
        }
        Library library;
        *reinterpret_cast<void **>(&library.find) = dlsym(handle, "qcc_host_find");
        *reinterpret_cast<void **>(&library.launch) = dlsym(handle, "qcc_host_launch");
        library.table = static_cast<const Library::Entry *>(dlsym(handle, "qcc_host_table"));
        libraries.push_back(library);
    }
    return libraries;
}

} // namespace fake
