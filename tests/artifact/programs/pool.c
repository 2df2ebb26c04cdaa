/* Hammers the thread pool: every task of every job must be done exactly once; meant for ThreadSanitizer. */
#include <stdio.h>
#include <sys/wait.h>

#include "qcc_pool.h"

enum { TASKS = 1000 };

struct job {
    int counts[TASKS]; /* not atomic: tasks of different chunks are different cells, and jobs must not overlap */
    int failing;
};

static int32_t work(const void *data, int32_t begin, int32_t end) {
    struct job *job = (struct job *)data;
    for (int32_t i = begin; i < end; ++i) ++job->counts[i];
    return job->failing >= begin && job->failing < end ? 5 : 0;
}

static int hammer(int threads, int jobs) {
    static struct job job;
    static struct qcc_pool pool;
    job = (struct job){.failing = -1};
    pool = (struct qcc_pool){0};
    if (qcc_pool_open(&pool, threads) != 0) return 1;
    for (int i = 0; i < jobs; ++i) {
        if (qcc_pool_run(&pool, work, &job, TASKS, 1 + i % 7) != 0) return 2;
        if (i % 50 == 49) usleep(300); /* let the workers fall asleep */
    }
    job.failing = 3;
    if (qcc_pool_run(&pool, work, &job, TASKS, threads) != 5) return 3;
    job.failing = TASKS - 1;
    if (qcc_pool_run(&pool, work, &job, TASKS, threads) != 5) return 4;
    job.failing = -1;
    if (qcc_pool_run(&pool, work, &job, TASKS, threads) != 0 || qcc_pool_run(&pool, work, &job, 2, 7) != 0) return 5;
    for (int i = 0; i < TASKS; ++i)
        if (job.counts[i] != jobs + 3 + (i < 2)) return 6;
#ifndef NO_FORK
    pid_t child = fork();
    if (child == 0) {
        qcc_pool_enter(&pool);
        int status = qcc_pool_run(&pool, work, &job, TASKS, threads);
        qcc_pool_close(&pool);
        _exit(status);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) return 7;
#endif
    qcc_pool_close(&pool);
    return 0;
}

int main(void) {
    for (int threads = 1; threads <= 4; ++threads) {
        int status = hammer(threads, 400);
        if (status != 0) {
            printf("threads %d: failed at %d\n", threads, status);
            return status;
        }
    }
    return 0;
}
