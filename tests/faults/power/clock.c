/* A wall clock that can be set: loaded into a process by LD_PRELOAD (Linux, glibc).

   CLOCK_CONTROL names a file with one 64-bit number, in milliseconds, that others may
   change at any time: the wall clock is so much ahead. The monotonic clock is left
   alone, as it is when somebody sets the clock of a machine. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static int64_t right;
static volatile int64_t *ahead_ms = &right;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *shared = mmap(NULL, sizeof right, PROT_READ, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        abort();
    ahead_ms = shared;
}

int clock_gettime(clockid_t which, struct timespec *at) {
    static int (*really)(clockid_t, struct timespec *);
    if (!really)
        really = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = really(which, at);
    int64_t ms = *ahead_ms;
    if (!result && ms && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t ns = at->tv_nsec + ms % 1000 * 1000000 + INT64_C(1000000000);
        at->tv_sec += ms / 1000 + ns / 1000000000 - 1;
        at->tv_nsec = ns % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec is;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &is);
    at->tv_sec = is.tv_sec;
    at->tv_usec = is.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec is;
    clock_gettime(CLOCK_REALTIME, &is);
    if (at)
        *at = is.tv_sec;
    return is.tv_sec;
}
