/* region.c - executable memory, and the arenas of what is known about it.
 *
 * Owns every page that holds generated code: one memfd (for perf: anonymous memory) mapped twice,
 * executable here, writable there, so no address is ever both. A writer holds one reservation:
 *
 *   reserve -> (emit) -> commit      the bytes stay
 *                     -> abort       bytes forgotten, nothing was published
 *
 *   [permanent stubs | block | block | ...     free    | copies of blocks   free | exits of sites ]
 *   0                start            used             main_size                 exits_at      size
 *
 * A full region fails the reservation; the monitor then flushes everything and tries again: code
 * is cheap to make again and a flush needs no bookkeeping. */
#include "codecache/cc.h"
#include "runtime/rt.h"

#include <errno.h>

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

/* Copies have a quarter, until translations need more than the rest. */
void cc_share(struct cc *cc, bool few_copies)
{
    size_t copies = cc->exits_at / (few_copies ? 16 : 4);

    RT_ASSERT(!cc->copies.used);
    cc->main_size = cc->exits_at - copies / 4096 * 4096;
    cc->copies.few = few_copies;
    cc->copies.flushes = 0;
}

/* Sizes follow from what translations look like: 40 bytes of host code a row, as many a site. */
static void size_arenas(struct cc *cc, size_t size, uint64_t max_gpa)
{
    cc->size = size;
    cc->max_blocks = (uint32_t)(size / 48);
    cc->max_sites = (uint32_t)(size / 48 / CC_EXIT_GROUP * CC_EXIT_GROUP);
    cc->max_maps = (uint32_t)(size / 4);
    cc->copies = (struct cc_copies){
        .max_blocks = cc->max_blocks / 4, .max_sites = cc->max_sites / 4, .nexits = cc->max_sites};
    cc->exits_at = (size - cc_exits_size(cc->max_sites + cc->copies.max_sites)) & ~4095ul;
    cc_share(cc, false);
    cc->max_gfn = max_gpa >> 12;
}

static size_t all_blocks(const struct cc *cc)
{
    return cc->max_blocks + cc->copies.max_blocks;
}

static size_t all_sites(const struct cc *cc)
{
    return cc->max_sites + cc->copies.max_sites;
}

uint64_t cc_address_space(size_t size, uint64_t max_gpa)
{
    struct cc cc;
    size_arenas(&cc, size, max_gpa);
    return 2 * size + all_blocks(&cc) * sizeof(*cc.blocks) + all_sites(&cc) * sizeof(*cc.sites) +
           cc.max_maps * sizeof(*cc.maps) + CC_HASH_SIZE * sizeof(*cc.hash) +
           cc.max_gfn * sizeof(*cc.pages) + cc.max_gfn / 512 * sizeof(*cc.code_2m) + CC_TABLE_SIZE;
}

static int reserve_arenas(struct cc *cc)
{
    cc->blocks = rt_os_reserve(all_blocks(cc) * sizeof(*cc->blocks));
    cc->sites = rt_os_reserve(all_sites(cc) * sizeof(*cc->sites));
    cc->maps = rt_os_reserve(cc->max_maps * sizeof(*cc->maps));
    cc->hash = rt_os_reserve(CC_HASH_SIZE * sizeof(*cc->hash));
    cc->pages = rt_os_reserve(cc->max_gfn * sizeof(*cc->pages));
    cc->code_2m = rt_os_reserve((cc->max_gfn / 512 + 1) * sizeof(*cc->code_2m));
    cc->last = rt_os_reserve(CC_LAST * sizeof(*cc->last));
    cc->collided = rt_os_reserve(CC_MARKS);
    cc->seen = rt_os_reserve(CC_MARKS);
    cc->entered = rt_os_reserve(CC_MARKS);
    cc->fronts = rt_os_reserve(CC_MARKS);
    cc->places = rt_os_reserve(CC_MAX_PLACES * sizeof(*cc->places));
    cc->place_hash = rt_os_reserve(CC_PLACE_HASH * sizeof(*cc->place_hash));
    cc->nblocks = cc->nsites = cc->nplaces = 1;
    return cc->blocks && cc->sites && cc->maps && cc->hash && cc->pages && cc->code_2m &&
                   cc->last && cc->collided && cc->seen && cc->entered && cc->fronts &&
                   cc->places && cc->place_hash
               ? 0
               : -ENOMEM;
}

int cc_create(struct cc *cc, size_t size, uint64_t max_gpa)
{
    size_arenas(cc, size, max_gpa);
    cc->fd = cc->table_fd = cc->places_fd = -1;
    cc->index_mask = rt_cpu_table_mask();
    cc->has_masks = rt_cpu_has_masks();
    int rc = map_views(cc);
    if (rc == 0)
        rc = reserve_arenas(cc);
    if (rc < 0)
        cc_destroy(cc);
    return rc;
}

void cc_destroy(struct cc *cc)
{
    rt_os_release(cc->rw, cc->size);
    rt_os_release(cc->rx, cc->size);
    rt_os_release(cc->blocks, all_blocks(cc) * sizeof(*cc->blocks));
    rt_os_release(cc->sites, all_sites(cc) * sizeof(*cc->sites));
    rt_os_release(cc->maps, cc->max_maps * sizeof(*cc->maps));
    rt_os_release(cc->hash, CC_HASH_SIZE * sizeof(*cc->hash));
    rt_os_release(cc->pages, cc->max_gfn * sizeof(*cc->pages));
    rt_os_release(cc->code_2m, (cc->max_gfn / 512 + 1) * sizeof(*cc->code_2m));
    rt_os_release(cc->last, CC_LAST * sizeof(*cc->last));
    rt_os_release(cc->collided, CC_MARKS);
    rt_os_release(cc->seen, CC_MARKS);
    rt_os_release(cc->entered, CC_MARKS);
    rt_os_release(cc->fronts, CC_MARKS);
    rt_os_release(cc->places, CC_MAX_PLACES * sizeof(*cc->places));
    rt_os_release(cc->place_hash, CC_PLACE_HASH * sizeof(*cc->place_hash));
    cc_table_free(cc->miss_table);
    rt_os_close(cc->fd);
    rt_os_close(cc->table_fd);
    rt_os_close(cc->places_fd);
    cc->fd = cc->table_fd = cc->places_fd = -1;
}

uint8_t *cc_reserve(struct cc *cc, size_t n)
{
    RT_ASSERT(!cc->reserved);
    if (cc->main_size - cc->used < n)
        return NULL;
    cc->reserved = cc->rw + cc->used;
    return cc->reserved;
}

uint8_t *cc_commit(struct cc *cc, size_t n)
{
    uint8_t *hpc = cc->rx + cc->used;

    RT_ASSERT(cc->reserved && n <= cc->main_size - cc->used);
    cc->used += (n + 15) & ~(size_t)15;
    if (cc->used > cc->main_size)
        cc->used = cc->main_size;
    cc->reserved = NULL;
    return hpc;
}

void cc_abort(struct cc *cc)
{
    cc->reserved = NULL;
}
