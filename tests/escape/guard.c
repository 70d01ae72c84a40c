/* guard.c - a heap of which every block lies between pages that fault: preloaded into tests.
 *
 * Takes the place of the C library's and mimalloc's allocators, the heaps of a VM included
 * (tests/valgrind/heap.c, linked with it). A block is a page with a record, a page without access,
 * the pages of the block and of fill, and another page without access. NOVT_GUARD says where it is:
 *
 *   high, as without   at the end of its pages: what is read or written behind it faults
 *   low                at their beginning: what is read or written before it faults
 *
 * On the other side of the block, and behind a size that its alignment does not divide, there is
 * fill, which is looked at when the block is freed. A freed block's pages are gone: later accesses
 * fault.
 *
 * It stands behind the seccomp filter (monitor/sandbox.c) like any allocator. Needs some 4 mappings
 * for a block, so it is for programs with few of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE  4096u
#define FILL  0xa5
#define MAGIC 0x6e6f76742d677561ull

struct record {
    uint64_t magic;
    uint8_t *block;
    size_t size, pages; /* pages of fill and block */
};

__attribute__((noreturn)) static void damaged(const struct record *r, const char *what)
{
    char text[120];
    int n =
        snprintf(text, sizeof(text), "guard: a block of %zu bytes: %s\n", r ? r->size : 0, what);

    if (write(STDERR_FILENO, text, (size_t)n) < 0)
        _exit(125);
    abort();
}

static bool is_low(void)
{
    static int low = -1;

    if (low < 0) {
        const char *text = getenv("NOVT_GUARD");
        low = text && !strcmp(text, "low");
    }
    return low;
}

static uint8_t *pages_of(const struct record *r)
{
    return (uint8_t *)(uintptr_t)r + 2 * PAGE;
}

static void *allocate(size_t size, size_t alignment)
{
    if (size > SIZE_MAX / 2 || alignment > PAGE) {
        errno = ENOMEM;
        return NULL;
    }
    size_t pages = (size + PAGE - 1) / PAGE + !size, room = pages * PAGE;
    uint8_t *all = mmap(NULL, room + 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct record *r = (struct record *)(void *)all;
    if (all == MAP_FAILED)
        return NULL;
    if (mprotect(all, PAGE, PROT_READ | PROT_WRITE) ||
        mprotect(all + 2 * PAGE, room, PROT_READ | PROT_WRITE)) {
        munmap(all, room + 3 * PAGE);
        return NULL;
    }
    uint8_t *block = pages_of(r) + (is_low() ? 0 : (room - size) & ~(alignment - 1));
    *r = (struct record){MAGIC, block, size, pages};
    memset(pages_of(r), FILL, room);
    return block;
}

static struct record *record_of(void *p)
{
    struct record *r = (struct record *)(((uintptr_t)p & ~(uintptr_t)(PAGE - 1)) - 2 * PAGE);

    if (r->magic != MAGIC || r->block != p)
        damaged(NULL, "freed what was not allocated");
    return r;
}

static void check_fill(const struct record *r)
{
    const uint8_t *from = pages_of(r), *to = from + r->pages * PAGE;

    for (const uint8_t *p = from; p < r->block; p++) {
        if (*p != FILL)
            damaged(r, "written before it");
    }
    for (const uint8_t *p = r->block + r->size; p < to; p++) {
        if (*p != FILL)
            damaged(r, "written behind it");
    }
}

void free(void *p)
{
    if (!p)
        return;
    struct record *r = record_of(p);
    check_fill(r);
    munmap(r, (r->pages + 3) * PAGE);
}

/* --- The faces ---------------------------------------------------------------------------------*/

#define ALIGNMENT _Alignof(max_align_t)

void *malloc(size_t size)
{
    return allocate(size, ALIGNMENT);
}

void *calloc(size_t n, size_t size)
{
    size_t all;

    if (__builtin_mul_overflow(n, size, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = allocate(all, ALIGNMENT);
    return p ? memset(p, 0, all) : NULL;
}

void *realloc(void *old, size_t size)
{
    void *p = allocate(size, ALIGNMENT);

    if (p && old) {
        size_t had = record_of(old)->size;
        memcpy(p, old, had < size ? had : size);
        free(old);
    }
    return p;
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
    *p = allocate(size, alignment);
    return *p ? 0 : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return allocate(size, alignment);
}

void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size)
{
    return allocate(size, alignment);
}

size_t malloc_usable_size(void *p);
size_t malloc_usable_size(void *p)
{
    return p ? record_of(p)->size : 0;
}
