/* The threads of one CUDA block as fibers of one host thread: barriers and warp collectives have their exact meaning.
 *
 * A fiber runs until it waits for others (at a barrier, or in an instruction of the whole warp) or ends, so every execution with the
 * same order is the same. The order is an argument: what is right in one order only (a missing barrier) is found by running both.
 */
#pragma once

#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace qcc_host {

struct Index {
    unsigned x, y, z;
    unsigned count() const { return x * y * z; }
};

#if defined(__x86_64__)
extern "C" void qcc_host_switch(void **from, void *to);
/* Keeps the registers that a function must preserve on the stack that is left, takes them from the one that is entered. */
__asm__(".pushsection .text\n.local qcc_host_switch\n.type qcc_host_switch,@function\nqcc_host_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.popsection\n");

struct Context {
    void *pointer = nullptr;
    void make(char *stack, size_t bytes, void (*entry)()) {
        void **top = reinterpret_cast<void **>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t(15));
        *--top = nullptr; /* where `entry` would return to; keeps the stack aligned as after a call */
        *--top = reinterpret_cast<void *>(entry);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        pointer = top;
    }
    static void enter(Context &from, Context &to) { qcc_host_switch(&from.pointer, to.pointer); }
};
#else
struct Context {
    ucontext_t state;
    void make(char *stack, size_t bytes, void (*entry)()) {
        getcontext(&state);
        state.uc_stack.ss_sp = stack;
        state.uc_stack.ss_size = bytes;
        state.uc_link = nullptr;
        makecontext(&state, entry, 0);
    }
    static void enter(Context &from, Context &to) { swapcontext(&from.state, &to.state); }
};
#endif

constexpr int WARP = 32;
constexpr size_t STACK = 64 * 1024;

/* A cp.async that has not been waited for: its bytes arrive at the wait, as late as the instruction allows. */
struct Copy {
    char *to;
    const char *from;
    unsigned bytes, valid; /* bytes beyond `valid` become 0 */
    unsigned group;
};

enum class State { READY, AT_BARRIER, IN_WARP, ENDED };

struct Warp {
    int arrived = 0;
    const char *what = nullptr;
    void *arguments[WARP];
};

struct Thread {
    Context context;
    Index index{0, 0, 0};
    int number = 0;
    State state = State::READY;
    const char *what = "";
    std::vector<Copy> copies;
    unsigned groups = 0;
    int lane() const { return number % WARP; }
};

struct Block {
    Index index{0, 0, 0}, extent{1, 1, 1}, grid{1, 1, 1};
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    int at_barrier = 0, ended = 0, barrier_line = 0;
    bool descending = false;
    void (*function)(void **) = nullptr;
    void **arguments = nullptr;
    Context scheduler;
    sigjmp_buf rescue;
    char error[600] = "";
};

inline thread_local Block *block = nullptr;
inline thread_local Thread *here = nullptr;

inline void to_scheduler() { Context::enter(here->context, block->scheduler); }

/* Ends the block's execution with a message; the fibers are left where they stand. */
[[noreturn]] inline void fail(const char *format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(block->error, sizeof block->error, "block (%u,%u,%u), thread (%u,%u,%u): %s", block->index.x, block->index.y, block->index.z,
             here->index.x, here->index.y, here->index.z, text);
    to_scheduler();
    abort();
}

inline void wait(State state, const char *what) {
    here->state = state;
    here->what = what;
    to_scheduler();
}

inline void release_barrier() {
    for (Thread &thread : block->threads)
        if (thread.state == State::AT_BARRIER) thread.state = State::READY;
    block->at_barrier = 0;
}

inline bool barrier_is_full() { return block->at_barrier + block->ended == int(block->threads.size()); }

/* __syncthreads(): all threads that have not ended must come, and to the same one. */
inline void barrier(int line) {
    if (block->at_barrier == 0) block->barrier_line = line;
    if (block->barrier_line != line)
        fail("divergent barrier: __syncthreads() of line %d while others wait at that of line %d", line, block->barrier_line);
    ++block->at_barrier;
    if (!barrier_is_full()) return wait(State::AT_BARRIER, "__syncthreads()");
    release_barrier();
}

/* An instruction of a whole warp: when its last thread comes, `compute(arguments of the 32 lanes)` is done for all of them. */
template <class Arguments, class Compute>
void collective(const char *what, Arguments &mine, Compute compute) {
    Warp &warp = block->warps[here->number / WARP];
    if ((here->number / WARP + 1) * WARP > int(block->threads.size()))
        fail("%s in a warp of fewer than 32 threads", what);
    if (warp.arrived == 0) warp.what = what;
    if (strcmp(warp.what, what) != 0) fail("divergent warp: %s while other lanes are in %s", what, warp.what);
    warp.arguments[here->lane()] = &mine;
    if (++warp.arrived < WARP) return wait(State::IN_WARP, what);
    compute(reinterpret_cast<Arguments **>(warp.arguments));
    warp.arrived = 0;
    Thread *first = &block->threads[here->number / WARP * WARP];
    for (int lane = 0; lane < WARP; ++lane)
        if (&first[lane] != here) first[lane].state = State::READY;
}

inline void fiber() {
    block->function(block->arguments);
    here->state = State::ENDED;
    ++block->ended;
    if (block->at_barrier > 0 && barrier_is_full()) release_barrier();
    to_scheduler();
}

inline void describe_deadlock() {
    const Thread *other = nullptr, *stuck = nullptr;
    for (const Thread &thread : block->threads) {
        if (thread.state == State::IN_WARP) stuck = &thread;
        if (thread.state == State::AT_BARRIER) other = &thread;
    }
    if (stuck == nullptr) stuck = other;
    snprintf(block->error, sizeof block->error, "block (%u,%u,%u): deadlock: thread (%u,%u,%u) waits in %s for threads that %s",
             block->index.x, block->index.y, block->index.z, stuck->index.x, stuck->index.y, stuck->index.z, stuck->what,
             stuck->state == State::IN_WARP && other != nullptr ? "wait at a barrier" : "have ended");
}

/* Runs the threads of one warp until all of them wait or have ended; whether any could run. */
inline bool run_warp(int warp) {
    int begin = warp * WARP, count = int(block->threads.size()) - begin < WARP ? int(block->threads.size()) - begin : WARP;
    bool any = false;
    for (bool progress = true; progress;) {
        progress = false;
        for (int i = 0; i < count; ++i) {
            Thread &thread = block->threads[begin + (block->descending ? count - 1 - i : i)];
            if (thread.state != State::READY) continue;
            here = &thread;
            Context::enter(block->scheduler, thread.context);
            here = nullptr;
            if (block->error[0]) return true;
            progress = any = true;
        }
    }
    return any;
}

/* Runs the block to its end; false with a message in block->error when it cannot go on. */
inline bool run_threads() {
    int warps = int(block->warps.size());
    while (block->ended < int(block->threads.size())) {
        bool any = false;
        for (int i = 0; i < warps; ++i) {
            any |= run_warp(block->descending ? warps - 1 - i : i);
            if (block->error[0]) return false;
        }
        if (!any) describe_deadlock();
        if (block->error[0]) return false;
    }
    return true;
}

/* Makes the fibers of a block anew; `stacks` has STACK bytes for each. */
inline void prepare(char *stacks) {
    unsigned count = block->extent.count();
    block->threads.resize(count);
    block->warps.assign((count + WARP - 1) / WARP, Warp());
    block->at_barrier = block->ended = 0;
    for (unsigned i = 0; i < count; ++i) {
        Thread &thread = block->threads[i];
        thread.number = int(i);
        thread.index = {i % block->extent.x, i / block->extent.x % block->extent.y, i / (block->extent.x * block->extent.y)};
        thread.state = State::READY;
        thread.copies.clear();
        thread.groups = 0;
        thread.context.make(stacks + i * STACK, STACK, fiber);
    }
}

} // namespace qcc_host
