/* Launches kernels that were compiled for the host. Include last: the file that includes this ends with a table of its kernels,
 *
 *     QCC_HOST_KERNELS(QCC_HOST_KERNEL(net_k0), QCC_HOST_KERNEL(net_k1))
 */
#pragma once

#include <atomic>
#include <csignal>
#include <thread>
#include <utility>

#include "device_functions.h"

struct qcc_host_kernel {
    const char *name;
    void (*call)(void **);
    int parameters;
};
extern "C" __attribute__((visibility("default"))) const struct qcc_host_kernel qcc_host_table[];
extern "C" __attribute__((visibility("default"))) const int qcc_host_count;

namespace qcc_host {

template <class... Types, size_t... Positions>
inline void call_with(void (*kernel)(Types...), void **arguments, std::index_sequence<Positions...>) {
    kernel(*static_cast<Types *>(arguments[Positions])...);
}
template <class... Types> inline void call(void (*kernel)(Types...), void **arguments) {
    call_with(kernel, arguments, std::index_sequence_for<Types...>());
}
template <class... Types> constexpr int parameters(void (*)(Types...)) { return sizeof...(Types); }

/* A signal inside of a kernel (a guard page, or a check of the sanitizer) ends the block with a message. */
inline void on_signal(int signal, siginfo_t *information, void *) {
    if (here == nullptr) {
        std::signal(signal, SIG_DFL);
        raise(signal);
        return;
    }
    const void *address = information->si_addr;
    const char *what = signal == SIGILL    ? "an index outside of an array, or a misaligned access"
                       : shared.near(address) ? "an access outside of shared memory"
                       : signal == SIGFPE  ? "a division by zero"
                                           : "an access outside of the operands' memory";
    snprintf(block->error, sizeof block->error, "block (%u,%u,%u), thread (%u,%u,%u): %s (signal %d, address %p)", block->index.x,
             block->index.y, block->index.z, here->index.x, here->index.y, here->index.z, what, signal, address);
    siglongjmp(block->rescue, 1);
}

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

struct Handlers {
    struct sigaction before[4];
    Handlers() {
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &action, &before[i]);
    }
    ~Handlers() {
        for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
    }
};

struct Launch {
    const qcc_host_kernel *kernel;
    Index grid, extent;
    unsigned shared_bytes;
    void **arguments;
    bool descending;
    std::atomic<unsigned> next{0};
    std::atomic<bool> failed{false};
    char error[600] = "";
};

inline bool run_block(char *stacks) {
    if (sigsetjmp(block->rescue, 1) != 0) {
        here = nullptr;
        return false;
    }
    shared.begin_block();
    prepare(stacks);
    bool good = run_threads();
    if (good && !shared.intact()) {
        snprintf(block->error, sizeof block->error, "block (%u,%u,%u): bytes beyond the end of shared memory were written", block->index.x,
                 block->index.y, block->index.z);
        good = false;
    }
    return good;
}

/* What one host thread does: blocks, until there is none left. */
inline void run_blocks(Launch &launch) {
    Block mine;
    mine.extent = launch.extent;
    mine.grid = launch.grid;
    mine.function = launch.kernel->call;
    mine.arguments = launch.arguments;
    mine.descending = launch.descending;
    block = &mine;
    size_t room = STACK * launch.extent.count();
    char *stacks = static_cast<char *>(mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (launch.shared_bytes != 0) shared.dynamic = Region::make(launch.shared_bytes);
    unsigned count = launch.grid.count();
    for (unsigned i; !launch.failed && (i = launch.next++) < count;) {
        unsigned number = launch.descending ? count - 1 - i : i;
        mine.index = {number % launch.grid.x, number / launch.grid.x % launch.grid.y, number / (launch.grid.x * launch.grid.y)};
        if (!run_block(stacks) && !launch.failed.exchange(true))
            snprintf(launch.error, sizeof launch.error, "%s: %s", launch.kernel->name, mine.error);
    }
    shared.release();
    munmap(stacks, room);
    block = nullptr;
}

} // namespace qcc_host

#define QCC_HOST_KERNEL(symbol) \
    { #symbol, [](void **arguments) { qcc_host::call(symbol, arguments); }, qcc_host::parameters(symbol) }
#define QCC_HOST_KERNELS(...)                                     \
    const qcc_host_kernel qcc_host_table[] = {__VA_ARGS__};       \
    const int qcc_host_count = int(sizeof qcc_host_table / sizeof *qcc_host_table);

#define QCC_HOST_API extern "C" __attribute__((visibility("default")))

/* Number of a kernel in the table, or -1. */
QCC_HOST_API int qcc_host_find(const char *name) {
    for (int i = 0; i < qcc_host_count; ++i)
        if (strcmp(qcc_host_table[i].name, name) == 0) return i;
    return -1;
}

/* Runs a kernel: 0, or 1 with a message in `error`. Like cuLaunchKernel, arguments[i] points to argument i. */
QCC_HOST_API int qcc_host_launch(int number, const unsigned *grid, const unsigned *extent, unsigned shared_bytes, void **arguments,
                                 int descending, int threads, char *error, size_t error_bytes) {
    using namespace qcc_host;
    Launch launch{&qcc_host_table[number], {grid[0], grid[1], grid[2]}, {extent[0], extent[1], extent[2]}, shared_bytes, arguments,
                  descending != 0};
    Handlers handlers;
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads && unsigned(i) < launch.grid.count(); ++i) helpers.emplace_back([&launch] { run_blocks(launch); });
    run_blocks(launch);
    for (std::thread &helper : helpers) helper.join();
    snprintf(error, error_bytes, "%s", launch.error);
    return launch.failed ? 1 : 0;
}

/* Memory that ends (or, `front`, begins) at an unreadable page, at a multiple of 128; for operands of kernels under test. */
QCC_HOST_API void *qcc_host_allocate(size_t bytes, int front, void **handle) {
    auto *region = new qcc_host::Region(qcc_host::Region::make(bytes, front != 0));
    *handle = region;
    return region->data;
}
QCC_HOST_API void qcc_host_free(void *handle) {
    auto *region = static_cast<qcc_host::Region *>(handle);
    region->release();
    delete region;
}
