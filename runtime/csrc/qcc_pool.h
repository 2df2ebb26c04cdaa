/* Threads that share the work of one kernel call: [0, tasks) is cut into contiguous chunks, one per thread, always the same way.
 *
 * The caller's thread does chunk 0, so a pool of one thread starts none. A worker spins for some microseconds after each
 * job, because the next kernel usually follows at once, and then sleeps in the kernel; so does a caller that waits for
 * workers. A worker looks at nothing but its own ticket until the ticket changes: jobs that use fewer chunks than there are
 * threads never touch the others, and nobody can read the fields of a later job by being late.
 *
 * After fork() the child has no workers: the pool notices (the process id differs) and the caller does every chunk itself.
 */
#ifndef QCC_POOL_H
#define QCC_POOL_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { QCC_POOL_THREADS = 64, QCC_POOL_SPINS = 2000, QCC_POOL_YIELD = 64 };

/* Does the tasks in [begin, end); 0 on success. */
typedef int32_t (*qcc_pool_function)(const void *data, int32_t begin, int32_t end);

struct qcc_pool;

struct qcc_pool_worker {
    _Alignas(64) _Atomic uint32_t ticket; /* changes when there is work for this worker, or when it shall stop */
    _Atomic uint32_t asleep;
    struct qcc_pool *pool;
    int32_t number; /* of the chunk that it does */
    pthread_t thread;
};

struct qcc_pool {
    /* The job; written by the caller only while no worker is at work. */
    qcc_pool_function function;
    const void *data;
    int32_t tasks, chunks;
    int32_t stop;
    int32_t threads; /* including the caller's */
    pid_t owner;
    _Alignas(64) _Atomic uint32_t pending; /* workers that have not finished */
    _Atomic uint32_t waiting;              /* the caller sleeps until pending is 0 */
    _Atomic int32_t status;                /* the first failure */
    struct qcc_pool_worker workers[QCC_POOL_THREADS - 1];
};

/* Now and then the processor is offered to others: where cores are shared, the thread that is awaited may wait for this one. */
static void qcc_pool_relax(int spin) {
    if (spin % QCC_POOL_YIELD == QCC_POOL_YIELD - 1) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void qcc_pool_sleep(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void qcc_pool_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

static void qcc_pool_chunk(struct qcc_pool *pool, int32_t number) {
    int32_t begin = (int32_t)((int64_t)pool->tasks * number / pool->chunks);
    int32_t end = (int32_t)((int64_t)pool->tasks * (number + 1) / pool->chunks);
    int32_t status = pool->function(pool->data, begin, end), none = 0;
    if (status != 0) atomic_compare_exchange_strong(&pool->status, &none, status);
}

static void *qcc_pool_work(void *argument) {
    struct qcc_pool_worker *worker = argument;
    struct qcc_pool *pool = worker->pool;
    for (uint32_t seen = 0;; ++seen) {
        for (int spin = 0; spin < QCC_POOL_SPINS && atomic_load(&worker->ticket) == seen; ++spin) qcc_pool_relax(spin);
        if (atomic_load(&worker->ticket) == seen) {
            /* `asleep` is set before the last look at the ticket and the caller changes the ticket before it looks at
             * `asleep`: one of the two sees the other. */
            atomic_store(&worker->asleep, 1);
            while (atomic_load(&worker->ticket) == seen) qcc_pool_sleep(&worker->ticket, seen);
            atomic_store(&worker->asleep, 0);
        }
        if (pool->stop) return NULL;
        qcc_pool_chunk(pool, worker->number);
        if (atomic_fetch_sub(&pool->pending, 1) == 1 && atomic_load(&pool->waiting)) qcc_pool_wake(&pool->pending);
    }
}

static void qcc_pool_call(struct qcc_pool_worker *worker) {
    atomic_fetch_add(&worker->ticket, 1);
    if (atomic_load(&worker->asleep)) qcc_pool_wake(&worker->ticket);
}

static void qcc_pool_await(struct qcc_pool *pool) {
    for (int spin = 0; spin < QCC_POOL_SPINS && atomic_load(&pool->pending) != 0; ++spin) qcc_pool_relax(spin);
    if (atomic_load(&pool->pending) == 0) return;
    atomic_store(&pool->waiting, 1);
    for (uint32_t pending; (pending = atomic_load(&pool->pending)) != 0;) qcc_pool_sleep(&pool->pending, pending);
    atomic_store(&pool->waiting, 0);
}

/* Does tasks [0, tasks) in at most `chunks` pieces and returns when all are done: 0, or a failed piece's status. */
static int32_t qcc_pool_run(struct qcc_pool *pool, qcc_pool_function function, const void *data, int32_t tasks, int32_t chunks) {
    if (chunks > pool->threads) chunks = pool->threads;
    if (chunks <= 1) return function(data, 0, tasks);
    pool->function = function;
    pool->data = data;
    pool->tasks = tasks;
    pool->chunks = chunks;
    atomic_store(&pool->status, 0);
    atomic_store(&pool->pending, (uint32_t)(chunks - 1));
    for (int32_t i = 0; i < chunks - 1; ++i) qcc_pool_call(&pool->workers[i]);
    qcc_pool_chunk(pool, 0);
    qcc_pool_await(pool);
    return atomic_load(&pool->status);
}

/* To be called before a series of qcc_pool_run: a forked child must not wait for threads that it does not have. */
static void qcc_pool_enter(struct qcc_pool *pool) {
    if (pool->threads > 1 && getpid() != pool->owner) pool->threads = 1;
}

static void qcc_pool_close(struct qcc_pool *pool) {
    qcc_pool_enter(pool);
    if (pool->threads <= 1) return;
    pool->stop = 1;
    for (int32_t i = 0; i < pool->threads - 1; ++i) qcc_pool_call(&pool->workers[i]);
    for (int32_t i = 0; i < pool->threads - 1; ++i) pthread_join(pool->workers[i].thread, NULL);
    pool->threads = 1;
}

/* Starts threads - 1 workers, which leave all signals to the application's own threads. 0, or an errno with none started. */
static int qcc_pool_open(struct qcc_pool *pool, int32_t threads) {
    sigset_t all, before;
    int error = 0;
    pool->threads = 1;
    pool->owner = getpid();
    pool->stop = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (error == 0 && pool->threads < threads) {
        struct qcc_pool_worker *worker = &pool->workers[pool->threads - 1];
        atomic_init(&worker->ticket, 0);
        atomic_init(&worker->asleep, 0);
        worker->pool = pool;
        worker->number = pool->threads;
        error = pthread_create(&worker->thread, NULL, qcc_pool_work, worker);
        if (error == 0) ++pool->threads;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) qcc_pool_close(pool);
    return error;
}

#endif
