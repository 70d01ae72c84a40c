/* watch.c - whether guest code has touched anything of the host's.
 *
 * Canaries: pages of a pattern at host addresses that equal guest addresses, where an access that
 * was not moved into a window would land. They must not change, and the pattern must not turn up in
 * the guest. Maps: in the windows' zones there are guest pages, tables of deltas and, at the end of
 * 4 GiB that are nobody's window, jump tables, nothing else, never executable and never across the
 * end of a window; guest pages are nowhere else but
 * where the library and this program map them; no mapping is writable and executable. Guards: what
 * the library maps for itself lies between pages that nobody may touch. */
#include "tests/escape/escape.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TIB    (1ull << 40)
#define WINDOW (4ull << 30)

#define JUMP_TABLE (4u << 20) /* at most, at the end of 4 GiB */
#define JUMP_PART  (2u << 20) /* of a jump table of 32-bit code */

/* Where windows are (runtime/window.c), and nothing else. */
static const struct {
    uint64_t from, to;
} zones[] = {
    {31 * TIB, 42 * TIB}, {46 * TIB, 84 * TIB}, {88 * TIB, 96 * TIB}, {101 * TIB, 125 * TIB}};

#define PATTERN32 0x9d5ec7e1u
#define PATTERN64 ((uint64_t)PATTERN32 << 32 | PATTERN32)

static struct canary {
    uint64_t at, size;
    uint8_t *page;
} canaries[] = {
    {0x10000, RAM_SIZE - 0x10000, NULL},
    {0x7ffe0000, 0x10000, NULL},
    {0x80000000, 0x20000, NULL},
    {0xbfff0000, 0x20000, NULL},
    {0xffff0000, 0x20000, NULL},
    {0x8000000000, 0x100000, NULL},
    {0x8040000000 - 0x10000, 0x20000, NULL},
};
#define CANARIES (sizeof(canaries) / sizeof(canaries[0]))

bool watch_start(void)
{
    unsigned there = 0;
    for (unsigned i = 0; i < CANARIES; i++) {
        struct canary *c = &canaries[i];
        void *p = mmap((void *)c->at, c->size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == MAP_FAILED)
            continue; /* a sanitizer's shadow is there */
        c->page = p;
        there++;
        for (uint64_t at = 0; at < c->size; at += 8)
            memcpy(c->page + at, &(uint64_t){PATTERN64}, 8);
    }
    printf("    %u of %u canary areas, the first of %s\n", there, (unsigned)CANARIES,
           canaries[0].page ? "guest RAM's addresses" : "none");
    return canaries[0].page != NULL;
}

bool watch_canaries(void)
{
    for (unsigned i = 0; i < CANARIES; i++) {
        const struct canary *c = &canaries[i];
        for (uint64_t at = 0; c->page && at < c->size; at += 8) {
            uint64_t now;
            memcpy(&now, c->page + at, 8);
            if (now != PATTERN64) {
                printf("    host memory at %llx was written\n", (unsigned long long)(c->at + at));
                return false;
            }
        }
    }
    return true;
}

bool watch_leaks(const struct machine *m)
{
    for (uint32_t at = 0; at < RAM_SIZE; at += 8) {
        uint64_t now;
        memcpy(&now, m->ram + at, 8);
        if (now == PATTERN64) {
            printf("    host memory was copied to guest address %x\n", at);
            return false;
        }
    }
    return true;
}

bool watch_registers(const struct machine *m)
{
    struct novt_regs r;
    novt_vcpu_get_regs(m->vcpu, &r);
    for (unsigned i = 0; i < 16; i++)
        if ((uint32_t)r.gpr[i] == PATTERN32) {
            printf("    host memory was loaded into register %u\n", i);
            return false;
        }
    return true;
}

struct mapping {
    uint64_t start, end;
    char flags[5];
    const char *name;
};

static bool in_zone(const struct mapping *x)
{
    for (unsigned i = 0; i < sizeof(zones) / sizeof(zones[0]); i++)
        if (x->end > zones[i].from && x->start < zones[i].to)
            return true;
    return false;
}

/* elsewhere: mappings of guest RAM outside the zones so far. */
static bool mapping_is_right(const struct mapping *x, unsigned *elsewhere)
{
    bool ram = !strncmp(x->name, "/memfd:escape-ram", 17);
    /* 64-bit code's at the end of a range, parts of 32-bit code's at multiples of their size */
    bool jumps = !strncmp(x->name, "/memfd:novt-jump-table", 22) &&
                 (x->start % WINDOW >= WINDOW - JUMP_TABLE ||
                  (x->start % JUMP_PART == 0 && x->end - x->start == JUMP_PART));
    bool table = jumps || !strncmp(x->name, "/memfd:novt-deltas", 18) ||
                 !strncmp(x->name, "/memfd:novt-places", 18);

    if (strchr(x->flags, 'x') && (strchr(x->flags, 'w') || ram || table))
        return false;
    if (!in_zone(x))
        return !ram || ++*elsewhere <= 2; /* the program's and the library's own */
    return (ram || table) && x->start / WINDOW == (x->end - 1) / WINDOW;
}

bool watch_maps(void)
{
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    bool right = f != NULL;
    unsigned elsewhere = 0;

    while (f && fgets(line, sizeof(line), f)) {
        unsigned long long start, end;
        struct mapping x = {.name = line};
        int name = 0;
        if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %n", &start, &end, x.flags, &name) < 3)
            continue;
        x.start = start;
        x.end = end;
        x.name = line + name;
        if (!mapping_is_right(&x, &elsewhere)) {
            printf("    a mapping that should not be: %s", line);
            right = false;
        }
    }
    if (f)
        fclose(f);
    return right;
}

/* ---- guards ---- */

#define GUARD     (64u << 10)
#define ARENAS    12 /* of anonymous memory: the code cache's ten, views, vector state */
#define OWN_FILES 4  /* code and single instructions, writable and executable */

struct neighbours {
    struct mapping here;
    bool guarded; /* here follows a guard */
    bool own;     /* here is a file of the library's */
    unsigned arenas, files;
    bool right;
};

static bool is_guard(const struct mapping *x)
{
    return !strncmp(x->flags, "---", 3) && x->end - x->start >= GUARD;
}

/* next follows here: whether here has both its guards. */
static void next_mapping(struct neighbours *n, const struct mapping *next, bool next_own)
{
    if (n->own && next_own && next->start == n->here.end) {
        n->here.end = next->end; /* one file with two rights */
        return;
    }
    bool follows = is_guard(next) && next->start == n->here.end;

    if (n->own && !(n->guarded && follows)) {
        printf("    %llx-%llx has no guards\n", (unsigned long long)n->here.start,
               (unsigned long long)n->here.end);
        n->right = false;
    }
    n->files += n->own;
    n->arenas += !n->own && n->guarded && follows && !strcmp(n->here.flags, "rw-p");
    n->guarded = is_guard(&n->here) && n->here.end == next->start;
    n->here = *next;
    n->own = next_own;
}

bool watch_guards(void)
{
    struct neighbours n = {.right = true};
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");

    while (f && fgets(line, sizeof(line), f)) {
        struct mapping x;
        unsigned long long start, end;
        if (sscanf(line, "%llx-%llx %4s", &start, &end, x.flags) != 3)
            continue;
        x.start = start;
        x.end = end;
        next_mapping(&n, &x, strstr(line, "/memfd:novt-") && !in_zone(&x));
    }
    if (f)
        fclose(f);
    if (n.arenas < ARENAS || n.files < OWN_FILES) {
        printf("    only %u arenas and %u mapped files have guards\n", n.arenas, n.files);
        n.right = false;
    }
    return n.right;
}

struct usage watch_usage(void)
{
    struct usage u = {0};
    char line[512];
    unsigned long long kib;
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "RssAnon: %llu", &kib) == 1)
            u.anonymous = kib << 10;
    if (f)
        fclose(f);
    f = fopen("/proc/self/maps", "re");
    while (f && fgets(line, sizeof(line), f))
        u.mappings++;
    if (f)
        fclose(f);
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        u.descriptors++;
    if (d)
        closedir(d);
    return u;
}
