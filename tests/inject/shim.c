/* shim.c - a host that refuses: preloaded into novt, it fails calls of the C library in turn.
 *
 *   NOVT_FAIL=N        the Nth counted call fails, once
 *   NOVT_FAIL_FROM=N   and every one after it
 *   NOVT_FAIL_COUNT=F  the number of counted calls is written to file F at the end
 *   NOVT_CLOCK=1       the time of day jumps by an hour, back and forth, at every look
 *   NOVT_FULL=1        writes to files fail, as on a full disk (not those to a terminal or pipe)
 *
 * Counted are allocations, mappings and their changes, memfds, descriptors, threads, timers and
 * signal set-up, from the start of main() on (argp_parse() is its first call). Each fails as the
 * host would fail it. What libraries call inside themselves is not counted. */
#define _GNU_SOURCE
#include <argp.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned long count, fail_at, fail_from;
static int counting, clock_jumps, disk_full;
static const char *count_file;

static unsigned long number(const char *name)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 10) : 0;
}

static void write_count(void)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%lu\n", count), fd;
    counting = 0;
    fd = count_file ? open(count_file, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
    if (fd >= 0 && write(fd, text, (size_t)n) < 0)
        _exit(125);
}

__attribute__((constructor)) static void set_up(void)
{
    fail_at = number("NOVT_FAIL");
    fail_from = number("NOVT_FAIL_FROM");
    count_file = getenv("NOVT_FAIL_COUNT");
    clock_jumps = number("NOVT_CLOCK") != 0;
    disk_full = number("NOVT_FULL") != 0;
    if (count_file)
        atexit(write_count);
}

/* Whether this call is to fail; signal handlers map memory too. */
static int refused(int error)
{
    unsigned long n;
    if (!counting)
        return 0;
    n = __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    if (n != fail_at && !(fail_from && n >= fail_from))
        return 0;
    errno = error;
    return 1;
}

#define REAL(name)  ((__typeof__(&name))real(#name, &cached_##name))
#define CACHE(name) static void *cached_##name
static void *real(const char *name, void **cache)
{
    if (!*cache)
        *cache = dlsym(RTLD_NEXT, name);
    return *cache;
}

CACHE(argp_parse);
error_t argp_parse(const struct argp *argp, int argc, char **argv, unsigned flags, int *index,
                   void *input)
{
    counting = 1;
    return REAL(argp_parse)(argp, argc, argv, flags, index, input);
}

/* --- Memory: bare system calls, because signal handlers come here ------------------------------*/

void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
    return refused(ENOMEM) ? MAP_FAILED
                           : (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
}
int munmap(void *at, size_t size)
{
    return refused(ENOMEM) ? -1 : (int)syscall(SYS_munmap, at, size);
}
int mprotect(void *at, size_t size, int prot)
{
    return refused(ENOMEM) ? -1 : (int)syscall(SYS_mprotect, at, size, prot);
}
int madvise(void *at, size_t size, int advice)
{
    return refused(EAGAIN) ? -1 : (int)syscall(SYS_madvise, at, size, advice);
}
int memfd_create(const char *name, unsigned flags)
{
    return refused(EMFILE) ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}
int ftruncate(int fd, off_t size)
{
    return refused(ENOSPC) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

CACHE(malloc);
void *malloc(size_t size)
{
    return refused(ENOMEM) ? NULL : REAL(malloc)(size);
}
CACHE(calloc);
void *calloc(size_t n, size_t size)
{
    static char early[4096];
    static size_t used;
    if (!cached_calloc && !counting && used + n * size <= sizeof(early)) { /* of dlsym() itself */
        used += (n * size + 15) & ~(size_t)15;
        return early + used - ((n * size + 15) & ~(size_t)15);
    }
    return refused(ENOMEM) ? NULL : REAL(calloc)(n, size);
}
void *mi_heap_new(void);
void *mi_heap_zalloc(void *heap, size_t size);
void *mi_heap_zalloc_aligned(void *heap, size_t size, size_t alignment);
CACHE(mi_heap_new);
void *mi_heap_new(void)
{
    return refused(ENOMEM) ? NULL : REAL(mi_heap_new)();
}
CACHE(mi_heap_zalloc);
void *mi_heap_zalloc(void *heap, size_t size)
{
    return refused(ENOMEM) ? NULL : REAL(mi_heap_zalloc)(heap, size);
}
CACHE(mi_heap_zalloc_aligned);
void *mi_heap_zalloc_aligned(void *heap, size_t size, size_t alignment)
{
    return refused(ENOMEM) ? NULL : REAL(mi_heap_zalloc_aligned)(heap, size, alignment);
}

/* --- Descriptors, threads, signals -------------------------------------------------------------*/

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return refused(EMFILE) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
CACHE(fopen);
FILE *fopen(const char *path, const char *mode)
{
    return refused(EMFILE) ? NULL : REAL(fopen)(path, mode);
}
int timerfd_create(int clock, int flags)
{
    return refused(EMFILE) ? -1 : (int)syscall(SYS_timerfd_create, clock, flags);
}
int eventfd(unsigned value, int flags)
{
    return refused(EMFILE) ? -1 : (int)syscall(SYS_eventfd2, value, flags);
}
CACHE(fcntl);
int fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    long arg = va_arg(args, long);
    va_end(args);
    return refused(EMFILE) ? -1 : REAL(fcntl)(fd, command, arg);
}
CACHE(pthread_create);
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    return refused(EAGAIN) ? EAGAIN : REAL(pthread_create)(thread, attr, run, arg);
}
CACHE(sigaction);
int sigaction(int number_, const struct sigaction *action, struct sigaction *old)
{
    return refused(EINVAL) ? -1 : REAL(sigaction)(number_, action, old);
}
int sigaltstack(const stack_t *stack, stack_t *old)
{
    return refused(ENOMEM) ? -1 : (int)syscall(SYS_sigaltstack, stack, old);
}

/* --- Clock and disk ----------------------------------------------------------------------------*/

CACHE(clock_gettime);
int clock_gettime(clockid_t clock, struct timespec *ts)
{
    static int looks;
    int rc = REAL(clock_gettime)(clock, ts);
    if (rc == 0 && clock == CLOCK_REALTIME && clock_jumps)
        ts->tv_sec += looks++ % 2 ? 3600 : -3600;
    return rc;
}
ssize_t write(int fd, const void *data, size_t size)
{
    struct stat st;
    if (disk_full && fd > 2 && syscall(SYS_fstat, fd, &st) == 0 && S_ISREG(st.st_mode)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, fd, data, size);
}
