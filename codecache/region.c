/* region.c - executable memory, and the jump tables that lead into it.
 *
 * Owns every page that holds generated code: one memfd (for perf: anonymous memory) mapped twice,
 * executable here, writable there, so no address is ever both. A writer holds one reservation:
 *
 *   reserve -> (emit) -> commit      the bytes stay
 *                     -> abort       bytes forgotten, nothing was published
 *
 *   [permanent stubs | block | block | ...            free             ]
 *   0                start                 used                        size
 *
 * A full region fails the reservation; the monitor then flushes everything and tries again: code
 * is cheap to make again and a flush needs no bookkeeping.
 *
 * Jump tables are private copy-on-write views of one memfd whose entries all hold the miss stub:
 * a new or cleared table costs one mmap, and memory only for the pages that get entries. */
#include "codecache/cc.h"
#include "runtime/rt.h"

#include <errno.h>

#define HASH_SIZE (1u << 19) /* as in block.c */

static int map_views(struct cc *cc)
{
    if (cc->for_perf) {
        cc->rw = rt_os_map_twice(cc->size, &cc->rx);
        return cc->rw ? 0 : -ENOMEM;
    }
    cc->fd = rt_os_memfd("novt-code", cc->size);
    if (cc->fd < 0)
        return cc->fd;
    cc->rw = rt_os_map_shared(cc->fd, 0, cc->size, RT_PROT_RW);
    cc->rx = rt_os_map_shared(cc->fd, 0, cc->size, RT_PROT_RX);
    return cc->rw && cc->rx ? 0 : -ENOMEM;
}

/* Sizes follow from what translations look like: 40 bytes of host code a row, 60 a site. */
static void size_arenas(struct cc *cc, size_t size, uint64_t max_gpa)
{
    cc->size = size;
    cc->max_blocks = (uint32_t)(size / 48);
    cc->max_sites = (uint32_t)(size / 32);
    cc->max_maps = (uint32_t)(size / 4);
    cc->max_relocs = (uint32_t)(size / 32);
    cc->max_gfn = max_gpa >> 12;
}

uint64_t cc_address_space(size_t size, uint64_t max_gpa)
{
    struct cc cc;
    size_arenas(&cc, size, max_gpa);
    return 2 * size + cc.max_blocks * sizeof(*cc.blocks) + cc.max_sites * sizeof(*cc.sites) +
           cc.max_maps * sizeof(*cc.maps) + cc.max_relocs * sizeof(*cc.relocs) +
           HASH_SIZE * sizeof(*cc.hash) + cc.max_gfn * sizeof(*cc.pages) +
           cc.max_gfn / 512 * sizeof(*cc.code_2m) + CC_TABLE_SIZE;
}

static int reserve_arenas(struct cc *cc)
{
    cc->blocks = rt_os_reserve(cc->max_blocks * sizeof(*cc->blocks));
    cc->sites = rt_os_reserve(cc->max_sites * sizeof(*cc->sites));
    cc->maps = rt_os_reserve(cc->max_maps * sizeof(*cc->maps));
    cc->hash = rt_os_reserve(HASH_SIZE * sizeof(*cc->hash));
    cc->pages = rt_os_reserve(cc->max_gfn * sizeof(*cc->pages));
    cc->code_2m = rt_os_reserve((cc->max_gfn / 512 + 1) * sizeof(*cc->code_2m));
    cc->relocs = rt_os_reserve(cc->max_relocs * sizeof(*cc->relocs));
    cc->last = rt_os_reserve(CC_LAST * sizeof(*cc->last));
    cc->collided = rt_os_reserve(CC_MARKS);
    cc->seen = rt_os_reserve(CC_MARKS);
    cc->nblocks = cc->nsites = 1;
    return cc->blocks && cc->sites && cc->maps && cc->hash && cc->pages && cc->code_2m &&
                   cc->relocs && cc->last && cc->collided && cc->seen
               ? 0
               : -ENOMEM;
}

int cc_create(struct cc *cc, size_t size, uint64_t max_gpa)
{
    size_arenas(cc, size, max_gpa);
    cc->fd = cc->table_fd = -1;
    int rc = map_views(cc);
    if (rc == 0)
        rc = reserve_arenas(cc);
    if (rc < 0)
        cc_destroy(cc);
    return rc;
}

void cc_destroy(struct cc *cc)
{
    rt_os_unmap(cc->rw, cc->size);
    rt_os_unmap(cc->rx, cc->size);
    rt_os_unmap(cc->blocks, cc->max_blocks * sizeof(*cc->blocks));
    rt_os_unmap(cc->sites, cc->max_sites * sizeof(*cc->sites));
    rt_os_unmap(cc->maps, cc->max_maps * sizeof(*cc->maps));
    rt_os_unmap(cc->hash, HASH_SIZE * sizeof(*cc->hash));
    rt_os_unmap(cc->pages, cc->max_gfn * sizeof(*cc->pages));
    rt_os_unmap(cc->code_2m, (cc->max_gfn / 512 + 1) * sizeof(*cc->code_2m));
    rt_os_unmap(cc->relocs, cc->max_relocs * sizeof(*cc->relocs));
    rt_os_unmap(cc->last, CC_LAST * sizeof(*cc->last));
    rt_os_unmap(cc->collided, CC_MARKS);
    rt_os_unmap(cc->seen, CC_MARKS);
    cc_table_free(cc->miss_table);
    rt_os_close(cc->fd);
    rt_os_close(cc->table_fd);
    cc->fd = cc->table_fd = -1;
}

uint8_t *cc_reserve(struct cc *cc, size_t n)
{
    RT_ASSERT(!cc->reserved);
    if (cc->size - cc->used < n)
        return NULL;
    cc->reserved = cc->rw + cc->used;
    return cc->reserved;
}

uint8_t *cc_commit(struct cc *cc, size_t n)
{
    uint8_t *hpc = cc->rx + cc->used;

    RT_ASSERT(cc->reserved && n <= cc->size - cc->used);
    cc->used += (n + 15) & ~(size_t)15;
    if (cc->used > cc->size)
        cc->used = cc->size;
    cc->reserved = NULL;
    return hpc;
}

void cc_abort(struct cc *cc)
{
    cc->reserved = NULL;
}

int cc_seal_stubs(struct cc *cc, uint8_t *miss_stub)
{
    cc->start = cc->used;
    cc->miss_stub = miss_stub;
    cc->table_fd = rt_os_memfd("novt-jump-table", CC_TABLE_SIZE);
    if (cc->table_fd < 0)
        return cc->table_fd;
    void **entries = rt_os_map_shared(cc->table_fd, 0, CC_TABLE_SIZE, RT_PROT_RW);
    if (!entries)
        return -ENOMEM;
    for (unsigned i = 0; i < CC_TABLE_ENTRIES; i++)
        entries[i] = miss_stub;
    rt_os_unmap(entries, CC_TABLE_SIZE);
    cc->miss_table = cc_table_new(cc);
    return cc->miss_table ? rt_os_protect(cc->miss_table, CC_TABLE_SIZE, RT_PROT_R) : -ENOMEM;
}

/* A table ends where 4 GiB begin in which nothing is ever mapped: 64-bit entry checks load from its
 * last byte, or from beyond (translator/long_flow.c). */
#define TABLE_AT (RT_WINDOW_SIZE - CC_TABLE_SIZE)

void **cc_table_new(struct cc *cc)
{
    uint8_t *range = rt_window_claim();

    if (range && rt_os_map_private(range + TABLE_AT, cc->table_fd, 0, CC_TABLE_SIZE))
        return (void **)(void *)(range + TABLE_AT);
    if (range)
        rt_window_release(range);
    return NULL;
}

void cc_table_clear(struct cc *cc, void **table)
{
    /* Private pages go; what is read next is the memfd's again. */
    if (rt_os_discard(table, CC_TABLE_SIZE) == 0)
        return;
    for (unsigned i = 0; i < CC_TABLE_ENTRIES; i++)
        table[i] = cc->miss_stub;
}

void cc_table_clear_page(struct cc *cc, void **table, uint64_t pc)
{
    void **entry = table + (pc & (CC_TABLE_ENTRIES - 1) & ~4095ull);

    for (unsigned i = 0; i < 4096; i++) {
        if (entry[i] != cc->miss_stub)
            entry[i] = cc->miss_stub;
    }
}

void cc_table_free(void **table)
{
    if (table)
        rt_window_release((uint8_t *)table - TABLE_AT);
}
