/* A plugin for qemu-user: counts the instructions that a program executes. Instructions of 64-bit ARM are one word each.
 *
 *     cc -shared -fPIC -O2 -o libinstructions.so instructions.c
 *     qemu-aarch64 -plugin libinstructions.so -d plugin program
 *
 * QEMU's header is in no package, so what is used of its interface is declared here.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define VISIBLE __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*executed)(unsigned, void *), int flags, void *data);
extern void qemu_plugin_register_atexit_cb(plugin_id id, void (*leaving)(plugin_id, void *), void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern void qemu_plugin_outs(const char *text);

VISIBLE int qemu_plugin_version = 1;
static _Atomic uint64_t total;

static void executed(unsigned cpu, void *data) {
    (void)cpu;
    atomic_fetch_add_explicit(&total, (uintptr_t)data, memory_order_relaxed);
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void leaving(plugin_id id, void *data) {
    (void)id;
    (void)data;
    char text[64];
    snprintf(text, sizeof text, "instructions: %" PRIu64 "\n", (uint64_t)total);
    qemu_plugin_outs(text);
}

VISIBLE int qemu_plugin_install(plugin_id id, const void *info, int count, char **options) {
    (void)info;
    (void)count;
    (void)options;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, leaving, NULL);
    return 0;
}
