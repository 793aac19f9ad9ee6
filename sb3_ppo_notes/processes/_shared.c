/* Processes of one host that exchange numbers through memory they share, without a system call unless one is late.
 *
 * Each has a counter of its own. It writes its numbers, then raises the counter with release; the others wait for the
 * counter with acquire, and so see the numbers, on processors too that reorder writes. Nobody writes another's counter.
 *
 * Whoever waits spins for as long as a rank on a core of its own is usually late, then sleeps on the counter (futex), so
 * that more processes than cores do not take the cores from those that are waited for.
 *
 * processes/shared_memory.py calls this through ctypes. Where there is no futex, on other systems than Linux, the
 * functions are missing, and gloo is used. */

#define _GNU_SOURCE /* for syscall, whatever standard is asked for */
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#if defined(__linux__) && defined(__GNUC__)
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* To be changed with every change of Counter or of what the functions do with it, here and in shared_memory.py. */
EXPORT int shared_revision(void) { return 1; }

/* Buffers that are used in turn: a power of two, so that the turn may run over. */
enum { BUFFERS = 4 };

/* One cache line. */
typedef struct {
    _Atomic uint32_t turn; /* of the newest numbers; 32 bits, because that is what a futex is */
    uint32_t unused;
    uint64_t size[BUFFERS]; /* of what lies in each buffer, in bytes: written before the turn */
    char rest[24];
} Counter;

enum { ALL_HERE = -1, OTHER_SIZE = -2 };

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Write `size` bytes into this rank's place and say so. */
EXPORT void shared_put(Counter *own, void *place, const void *source, uint64_t size, uint32_t turn) {
    memcpy(place, source, size);
    own->size[turn % BUFFERS] = size;
    atomic_store_explicit(&own->turn, turn, memory_order_release);
    syscall(SYS_futex, &own->turn, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int is_here(Counter *counter, uint32_t turn) {
    /* A difference, so that the counters may run over. */
    return (int32_t)(atomic_load_explicit(&counter->turn, memory_order_acquire) - turn) >= 0;
}

/* ALL_HERE, or OTHER_SIZE if somebody has written another number of bytes than rank 0, or the first rank that has not
 * come to this turn within `limit` nanoseconds, the first `spin` of them without sleeping. */
EXPORT int shared_wait(Counter *counters, int n_ranks, uint32_t turn, int64_t spin, int64_t limit) {
    int64_t begin = now();
    for (int rank = 0; rank < n_ranks; rank++) {
        while (!is_here(&counters[rank], turn)) {
            int64_t waited = now() - begin;
            if (waited >= limit) return rank;
            if (waited < spin) {
#if defined(__x86_64__) || defined(__i386__)
                __builtin_ia32_pause();
#endif
                continue;
            }
            uint32_t seen = atomic_load_explicit(&counters[rank].turn, memory_order_acquire);
            if ((int32_t)(seen - turn) >= 0) break;
            struct timespec rest = {(limit - waited) / 1000000000, (limit - waited) % 1000000000};
            syscall(SYS_futex, &counters[rank].turn, FUTEX_WAIT, seen, &rest, NULL, 0);
        }
    }
    for (int rank = 1; rank < n_ranks; rank++)
        if (counters[rank].size[turn % BUFFERS] != counters[0].size[turn % BUFFERS]) return OTHER_SIZE;
    return ALL_HERE;
}
#endif

#define MODULE _shared
#include "../_module.h"
