/* shim.c - a host that refuses: preloaded into novt, it fails calls of the C library in turn.
 *
 *   NOVT_FAIL=[KIND:]N        the Nth call (of that kind) fails, once
 *
 *   NOVT_FAIL_FROM=[KIND:]N   and every one after it
 *
 *   NOVT_FAIL_SITE=ID:N,...   the Nth call (for 0: each) from some call sites fails
 *
 *   NOVT_FAIL_LIST=FILE       at the end: what was called, and from where
 *
 *   NOVT_CLOCK=1              the time of day jumps by an hour, back and forth, at every look
 *
 *   NOVT_FULL=1               writes to files fail, as on a full disk (not to a terminal or pipe)
 *
 * Counted are the calls of enum kind, from the start of main() on (argp_parse() is its first call).
 * Each fails as the host would fail it. Of what libraries call inside themselves, only allocations
 * are counted, and what they call as the program does.
 *
 * A call site is the chain of the callers in the program itself, DEPTH at most: who called
 * rt_os_map_at() counts, not only that it called mmap(). It ends at a signal frame, behind which
 * rbp is the guest's. Calls from libraries have none: they are one site for each kind.
 *
 * The file has "calls N", "refused N", "KIND N" for each kind, and "site ID KIND CALLS ADDRESS..."
 * with the return addresses, the innermost first, as the program's symbol table has them. */
#define _GNU_SOURCE
#include <argp.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KINDS(_) \
    _(map)       \
    _(remap)     \
    _(unmap)     \
    _(protect)   \
    _(discard)   \
    _(memfd) _(grow) _(heap) _(open) _(timer) _(event) _(dup) _(thread) _(signal) _(stack)
enum kind {
#define KIND(name) KIND_##name,
    KINDS(KIND)
#undef KIND
        KIND_COUNT
};
static const char *const kind_names[] = {
#define NAME(name) #name,
    KINDS(NAME)
#undef NAME
};

#define DEPTH 6
#define SITES 4096 /* a power of two */
struct site {
    uint32_t id; /* 0: free */
    enum kind kind;
    unsigned long calls;
    uintptr_t caller[DEPTH];
};

/* What NOVT_FAIL and NOVT_FAIL_FROM say. */
struct order {
    int kind; /* KIND_COUNT: all */
    unsigned long n;
};

static struct site sites[SITES];
static unsigned long count[KIND_COUNT + 1], refusals;
static struct order fail_at, fail_from;
static struct {
    unsigned long id, call;
} fail_site[8];
static uintptr_t text_from, text_to, text_base;
static int counting, clock_jumps, disk_full, list_fd = -1;
static char lock;

static struct order order(const char *name)
{
    struct order o = {KIND_COUNT, 0};
    const char *text = getenv(name), *colon = text ? strchr(text, ':') : NULL;

    for (int k = 0; colon && k < KIND_COUNT; k++) {
        if (strlen(kind_names[k]) == (size_t)(colon - text) &&
            !strncmp(text, kind_names[k], (size_t)(colon - text)))
            o.kind = k;
    }
    if (colon && o.kind == KIND_COUNT)
        _exit(125);
    o.n = text ? strtoul(colon ? colon + 1 : text, NULL, 10) : 0;
    return o;
}

static void write_list(void)
{
    counting = 0;
    dprintf(list_fd, "calls %lu\nrefused %lu\n", count[KIND_COUNT], refusals);
    for (int k = 0; k < KIND_COUNT; k++)
        dprintf(list_fd, "%s %lu\n", kind_names[k], count[k]);
    for (const struct site *s = sites; s < sites + SITES; s++) {
        if (!s->id)
            continue;
        dprintf(list_fd, "site %u %s %lu", s->id, kind_names[s->kind], s->calls);
        for (unsigned i = 0; i < DEPTH && s->caller[i]; i++)
            dprintf(list_fd, " %lx", s->caller[i] - text_base);
        dprintf(list_fd, "\n");
    }
}

/* The program is the first object; where its code is. */
static int find_text(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    text_base = info->dlpi_addr;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type == PT_LOAD && ph->p_flags & PF_X) {
            text_from = text_base + ph->p_vaddr;
            text_to = text_from + ph->p_memsz;
        }
    }
    return 1;
}

static void read_sites(const char *text)
{
    char *end;

    for (unsigned i = 0; text && *text; i++, text = *end ? end + 1 : NULL) {
        if (i == sizeof(fail_site) / sizeof(fail_site[0]))
            _exit(125);
        fail_site[i].id = strtoul(text, &end, 10);
        fail_site[i].call = *end == ':' ? strtoul(end + 1, &end, 10) : 0;
    }
}

__attribute__((constructor)) static void set_up(void)
{
    const char *list = getenv("NOVT_FAIL_LIST");

    dl_iterate_phdr(find_text, NULL);
    fail_at = order("NOVT_FAIL");
    fail_from = order("NOVT_FAIL_FROM");
    read_sites(getenv("NOVT_FAIL_SITE"));
    clock_jumps = getenv("NOVT_CLOCK") != NULL;
    disk_full = getenv("NOVT_FULL") != NULL;
    if (list) { /* now: the sandbox takes open() away */
        list_fd = (int)syscall(SYS_openat, AT_FDCWD, list, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                               0600);
        atexit(write_list);
    }
}

/* The return addresses from frame on that are in the program. */
static void walk(void *const *frame, uintptr_t caller[DEPTH])
{
    for (unsigned i = 0; i < DEPTH; i++) {
        uintptr_t ret = (uintptr_t)frame[1];
        if (ret < text_from || ret >= text_to)
            return;
        caller[i] = ret;
        frame = frame[0];
    }
}

static struct site *site_of(enum kind kind, const uintptr_t caller[DEPTH])
{
    uint32_t id = 2166136261u;

    for (unsigned i = 0; i < DEPTH; i++)
        id = (id ^ (uint32_t)(caller[i] ? caller[i] - text_base : 0)) * 16777619u;
    id = (id ^ kind) * 16777619u;
    id += !id;
    for (uint32_t i = id; i != id + SITES; i++) {
        struct site *s = &sites[i % SITES];
        if (s->id == id)
            return s;
        if (!s->id) {
            s->id = id;
            s->kind = kind;
            for (unsigned n = 0; n < DEPTH; n++)
                s->caller[n] = caller[n];
            return s;
        }
    }
    abort();
}

static int is_meant(const struct order *o, enum kind kind, int from)
{
    unsigned long n = count[o->kind];

    return o->n && (o->kind == KIND_COUNT || o->kind == (int)kind) &&
           (n == o->n || (from && n > o->n));
}

static int is_meant_there(const struct site *site)
{
    for (unsigned i = 0; i < sizeof(fail_site) / sizeof(fail_site[0]); i++) {
        if (site->id == fail_site[i].id && (!fail_site[i].call || site->calls == fail_site[i].call))
            return 1;
    }
    return 0;
}

/* Whether this call is to fail. The handler of faults comes here too, but it interrupts translated
 * code, which does not hold the lock. The guest's vectors are in the registers: hence
 * -mgeneral-regs-only. */
__attribute__((noinline)) static int refused_from(enum kind kind, void *const *frame, int error)
{
    uintptr_t caller[DEPTH] = {0};
    int yes;

    walk(frame, caller);
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE)) {
    }
    struct site *site = site_of(kind, caller);
    count[kind]++;
    count[KIND_COUNT]++;
    site->calls++;
    yes = is_meant(&fail_at, kind, 0) || is_meant(&fail_from, kind, 1) || is_meant_there(site);
    refusals += (unsigned)yes;
    __atomic_clear(&lock, __ATOMIC_RELEASE);
    if (yes)
        errno = error;
    return yes;
}
#define refused(kind, error) \
    (counting && refused_from(KIND_##kind, (void *const *)__builtin_frame_address(0), error))

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
    return refused(map, ENOMEM) ? MAP_FAILED
                                : (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
}
int munmap(void *at, size_t size)
{
    return refused(unmap, ENOMEM) ? -1 : (int)syscall(SYS_munmap, at, size);
}
void *mremap(void *at, size_t size, size_t new_size, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    return refused(remap, ENOMEM) ? MAP_FAILED
                                  : (void *)syscall(SYS_mremap, at, size, new_size, flags, to);
}
int mprotect(void *at, size_t size, int prot)
{
    return refused(protect, ENOMEM) ? -1 : (int)syscall(SYS_mprotect, at, size, prot);
}
int madvise(void *at, size_t size, int advice)
{
    return refused(discard, EAGAIN) ? -1 : (int)syscall(SYS_madvise, at, size, advice);
}
int memfd_create(const char *name, unsigned flags)
{
    return refused(memfd, EMFILE) ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}
int ftruncate(int fd, off_t size)
{
    return refused(grow, ENOSPC) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

CACHE(malloc);
void *malloc(size_t size)
{
    return refused(heap, ENOMEM) ? NULL : REAL(malloc)(size);
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
    return refused(heap, ENOMEM) ? NULL : REAL(calloc)(n, size);
}
void *mi_heap_new(void);
void *mi_heap_zalloc(void *heap, size_t size);
void *mi_heap_zalloc_aligned(void *heap, size_t size, size_t alignment);
CACHE(mi_heap_new);
void *mi_heap_new(void)
{
    return refused(heap, ENOMEM) ? NULL : REAL(mi_heap_new)();
}
CACHE(mi_heap_zalloc);
void *mi_heap_zalloc(void *heap, size_t size)
{
    return refused(heap, ENOMEM) ? NULL : REAL(mi_heap_zalloc)(heap, size);
}
CACHE(mi_heap_zalloc_aligned);
void *mi_heap_zalloc_aligned(void *heap, size_t size, size_t alignment)
{
    return refused(heap, ENOMEM) ? NULL : REAL(mi_heap_zalloc_aligned)(heap, size, alignment);
}

/* --- Descriptors, threads, signals -------------------------------------------------------------*/

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return refused(open, EMFILE) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
CACHE(fopen);
FILE *fopen(const char *path, const char *mode)
{
    return refused(open, EMFILE) ? NULL : REAL(fopen)(path, mode);
}
int timerfd_create(int clock, int flags)
{
    return refused(timer, EMFILE) ? -1 : (int)syscall(SYS_timerfd_create, clock, flags);
}
int eventfd(unsigned value, int flags)
{
    return refused(event, EMFILE) ? -1 : (int)syscall(SYS_eventfd2, value, flags);
}
CACHE(fcntl);
int fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    long arg = va_arg(args, long);
    va_end(args);
    return refused(dup, EMFILE) ? -1 : REAL(fcntl)(fd, command, arg);
}
CACHE(pthread_create);
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    return refused(thread, EAGAIN) ? EAGAIN : REAL(pthread_create)(thread, attr, run, arg);
}
CACHE(sigaction);
int sigaction(int number_, const struct sigaction *action, struct sigaction *old)
{
    return refused(signal, EINVAL) ? -1 : REAL(sigaction)(number_, action, old);
}
int sigaltstack(const stack_t *stack, stack_t *old)
{
    return refused(stack, ENOMEM) ? -1 : (int)syscall(SYS_sigaltstack, stack, old);
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
