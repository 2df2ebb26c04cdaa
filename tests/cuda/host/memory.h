/* Memory with unreadable pages on both sides, so that an access outside of it stops the kernel. */
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include "fibers.h"

namespace qcc_host {

constexpr size_t ALIGNMENT = 128;

struct Region {
    char *base = nullptr;  /* of the mapping */
    size_t mapped = 0;
    char *data = nullptr;  /* ends, but for alignment, where the last page begins */
    size_t bytes = 0;

    /* `front`: the data begins, instead of ends, at a guard page. */
    static Region make(size_t bytes, bool front = false) {
        size_t page = size_t(sysconf(_SC_PAGESIZE)), room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        size_t inside = (room + page - 1) / page * page;
        Region region;
        region.mapped = inside + 2 * page;
        region.base = static_cast<char *>(mmap(nullptr, region.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (region.base == MAP_FAILED || mprotect(region.base + page, inside, PROT_READ | PROT_WRITE) != 0) abort();
        region.data = region.base + page + (front ? 0 : inside - room);
        region.bytes = bytes;
        return region;
    }
    void release() {
        if (base != nullptr) munmap(base, mapped);
        *this = Region();
    }
    bool holds(const void *pointer, size_t count) const {
        const char *from = static_cast<const char *>(pointer);
        return data != nullptr && from >= data && from + count <= data + bytes;
    }
    bool near(const void *pointer) const { return base != nullptr && pointer >= base && pointer < base + mapped; }
};

/* The shared memory of the block that a host thread runs: one region for the dynamic array and one for each static one. */
struct SharedMemory {
    Region dynamic;
    std::vector<Region> arrays; /* by the number that the source gave them */

    /* What a block finds there, and what lies between the end of an array and its guard page: bytes that no kernel expects. */
    static void poison(const Region &region) {
        if (region.data == nullptr) return;
        size_t room = (region.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        uint32_t noise = 0x9e3779b9u;
        for (size_t i = 0; i < room; ++i) {
            region.data[i] = i < region.bytes ? char(noise >> 24) : char(0x5c);
            noise = noise * 1664525u + 1013904223u;
        }
    }
    static bool overrun(const Region &region) {
        size_t room = (region.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        for (size_t i = region.bytes; i < room; ++i)
            if (region.data[i] != char(0x5c)) return true;
        return false;
    }
    void begin_block() {
        poison(dynamic);
        for (Region &region : arrays) poison(region);
    }
    bool intact() const {
        for (const Region &region : arrays)
            if (region.data != nullptr && overrun(region)) return false;
        return dynamic.data == nullptr || !overrun(dynamic);
    }
    bool holds(const void *pointer, size_t count) const {
        for (const Region &region : arrays)
            if (region.holds(pointer, count)) return true;
        return dynamic.holds(pointer, count);
    }
    bool near(const void *pointer) const {
        for (const Region &region : arrays)
            if (region.near(pointer)) return true;
        return dynamic.near(pointer);
    }
    void release() {
        dynamic.release();
        for (Region &region : arrays) region.release();
        arrays.clear();
    }
};

inline thread_local SharedMemory shared;

/* What `extern __shared__` and `__shared__` declarations of the source become (tests/cuda/harness.py rewrites them). */
inline void *dynamic_shared() {
    if (shared.dynamic.data == nullptr) fail("the kernel uses dynamic shared memory, and is launched with none");
    return shared.dynamic.data;
}

inline void *static_shared(size_t number, size_t bytes) {
    if (shared.arrays.size() <= number) shared.arrays.resize(number + 1);
    if (shared.arrays[number].data == nullptr) {
        shared.arrays[number] = Region::make(bytes);
        SharedMemory::poison(shared.arrays[number]);
    }
    return shared.arrays[number].data;
}

inline void expect_shared(const char *what, const void *pointer, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) fail("%s: address %p in shared memory is not aligned to %zu bytes", what, pointer, bytes);
    if (!shared.holds(pointer, bytes)) fail("%s: %zu bytes at %p are not in the block's shared memory", what, bytes, pointer);
}

} // namespace qcc_host
