/* os.c - the host operating system behind a small face.
 *
 * The only file of the engine that calls mmap, mprotect, munmap and clock_gettime (fault.c calls
 * sigaction). Nothing here keeps state.
 *
 * Thread: any. The mapping functions are called in signal context too (window fills): they are
 * bare system calls and touch no lock. */
#define _GNU_SOURCE
#include "runtime/rt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static int host_prot(int prot)
{
    return (prot & 1 ? PROT_READ : 0) | (prot & 2 ? PROT_WRITE : 0) | (prot & 4 ? PROT_EXEC : 0);
}

/* Unmapped pages on both sides of everything that has no place of its own: an index that is out of
 * range by up to so much faults instead of reaching the next arena. */
#define GUARD ((size_t)64 << 10)

static size_t with_guards(size_t size)
{
    return ((size + 4095) & ~(size_t)4095) + 2 * GUARD;
}

static void *map(void *at, size_t size, int prot, int flags, int fd, uint64_t offset)
{
    void *p = mmap(at, size, host_prot(prot), flags, fd, (off_t)offset);
    return p == MAP_FAILED ? NULL : p;
}

/* The same at a place of the host's choice, between guards. */
static void *map_guarded(size_t size, int prot, int flags, int fd, uint64_t offset)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    uint8_t *range = map(NULL, with_guards(size), RT_PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!range)
        return NULL;
    void *p = map(range + GUARD, size, prot, flags | MAP_FIXED, fd, offset);
    if (!p)
        munmap(range, with_guards(size));
    return p;
}

int rt_os_memfd(const char *name, size_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) == 0)
        return fd;
    int error = errno;
    close(fd);
    return -error;
}

int rt_os_dup(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

void rt_os_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

void *rt_os_map_shared(int fd, size_t offset, size_t size, int prot)
{
    return map_guarded(size, prot, MAP_SHARED, fd, offset);
}

void *rt_os_map_twice(size_t size, uint8_t **rx)
{
    void *rw = map_guarded(size, RT_PROT_RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *at = rw ? map_guarded(size, RT_PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
    /* old size 0: the mapping stays, too */
    if (at && mremap(rw, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED &&
        mprotect(at, size, host_prot(RT_PROT_RX)) == 0) {
        *rx = at;
        return rw;
    }
    rt_os_release(at, size);
    rt_os_release(rw, size);
    return NULL;
}

void *rt_os_map_private(void *at, int fd, size_t offset, size_t size)
{
    int flags = MAP_PRIVATE | MAP_NORESERVE;
    return at ? map(at, size, RT_PROT_RW, flags | MAP_FIXED, fd, offset)
              : map_guarded(size, RT_PROT_RW, flags, fd, offset);
}

void *rt_os_reserve(size_t size)
{
    return map_guarded(size, RT_PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

void rt_os_release(void *p, size_t size)
{
    if (p)
        munmap((uint8_t *)p - GUARD, with_guards(size));
}

int rt_os_unmap(void *p, size_t size)
{
    return !p || munmap(p, size) == 0 ? 0 : -errno;
}

int rt_os_discard(void *p, size_t size)
{
    return madvise(p, size, MADV_DONTNEED) == 0 ? 0 : -errno;
}

int rt_os_map_at(void *at, size_t size, int prot, int fd, uint64_t offset, bool populate)
{
    int flags = MAP_SHARED | MAP_FIXED | (populate ? MAP_POPULATE : 0);
    return map(at, size, prot, flags, fd, offset) ? 0 : -errno;
}

int rt_os_protect(void *at, size_t size, int prot)
{
    return mprotect(at, size, host_prot(prot)) == 0 ? 0 : -errno;
}

uint64_t rt_os_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t rt_os_wall_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

long rt_os_max_map_count(void)
{
    long count = 65530;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    if (!f)
        return count;
    if (fscanf(f, "%ld", &count) != 1)
        count = 65530;
    fclose(f);
    return count;
}

uint64_t rt_os_address_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) == 0 ? limit.rlim_cur : ~0ull;
}

bool rt_os_has_fsgsbase(void)
{
    return getauxval(AT_HWCAP2) & 2;
}

int rt_os_append_open(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -errno : fd;
}

int rt_os_append(int fd, const char *buf, size_t len)
{
    return write(fd, buf, len) == (ssize_t)len ? 0 : -EIO;
}

int rt_os_pid(void)
{
    return getpid();
}
