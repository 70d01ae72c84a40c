/* table.c - jump tables: from a pc to the block that an address space has there.
 *
 * A table is a private copy-on-write view of one memfd whose entries all hold the miss stub, so a
 * new one costs one mmap, and memory only for the pages that get entries. Processes come and go
 * faster than memory should: a cleared table keeps up to KEPT of its pages, because filling one is
 * cheaper than a fault and a copy. The page in front of the table says which it has touched.
 *
 *   4 GiB:  [ ...       | victims | head | table ]  4 GiB in which nothing is ever mapped
 *
 * 64-bit entry checks load from a table's last byte, or from beyond (translator/long_flow.c). */
#include "codecache/cc.h"
#include "runtime/rt.h"

#include <errno.h>

#define MAP_SIZE (CC_TABLE_IN_FRONT + CC_TABLE_SIZE)
#define MAP_AT   (RT_WINDOW_SIZE - MAP_SIZE)
#define KEPT     40
#define PER_PAGE (4096 / sizeof(void *))

static void fill(struct cc *cc, void **entry, size_t n)
{
    for (size_t i = 0; i < n; i++)
        entry[i] = cc->miss_stub;
}

static int make_templates(struct cc *cc)
{
    cc->table_fd = rt_os_memfd("novt-jump-table", MAP_SIZE);
    if (cc->table_fd < 0)
        return cc->table_fd;
    uint8_t *map = rt_os_map_shared(cc->table_fd, 0, MAP_SIZE, RT_PROT_RW);
    if (!map)
        return -ENOMEM;
    void **table = (void **)(void *)(map + CC_TABLE_IN_FRONT);
    fill(cc, table, CC_TABLE_ENTRIES);
    cc_victims_make(cc, cc_victims(table), CC_VICTIMS);
    rt_os_release(map, MAP_SIZE);
    cc->places_fd = cc_places_memfd();
    return cc->places_fd < 0 ? cc->places_fd : 0;
}

int cc_seal_stubs(struct cc *cc, uint8_t *miss_stub, uint8_t *closed_stub)
{
    cc->start = cc->used;
    cc->miss_stub = miss_stub;
    cc->closed_stub = closed_stub;
    int rc = make_templates(cc);
    if (rc < 0)
        return rc;
    cc->miss_table = cc_table_new(cc);
    return cc->miss_table ? rt_os_protect(cc->miss_table, CC_TABLE_SIZE, RT_PROT_R) : -ENOMEM;
}

void **cc_table_new(struct cc *cc)
{
    uint8_t *range = rt_window_claim();

    if (range && rt_os_map_private(range + MAP_AT, cc->table_fd, 0, MAP_SIZE))
        return (void **)(void *)(range + MAP_AT + CC_TABLE_IN_FRONT);
    if (range)
        rt_window_release(range);
    return NULL;
}

void *cc_table_at(const struct cc *cc, void **table, uint64_t pc, bool wide)
{
    const struct cc_flat *flat = cc_table_head(table)->flat;

    if (wide)
        return table[cc_index(cc, pc)];
    return flat ? cc_flat_at(cc, flat, (uint32_t)pc) : cc->miss_stub;
}

const struct cc_block *cc_table_other(const struct cc *cc, void **table, uint64_t pc)
{
    uint8_t *hpc = table[cc_index(cc, pc)];
    const struct cc_block *b = hpc == cc->miss_stub ? NULL : cc_find(cc, hpc);

    return b && b->pc != pc ? b : NULL;
}

bool cc_table_set(const struct cc *cc, void **table, const struct cc_block *b)
{
    struct cc_table_head *head = cc_table_head(table);
    uint32_t index = cc_index(cc, b->pc);
    void *hpc = cc->rx + b->host;

    if (!b->wide) {
        cc_flat_set(cc, head->flat, (uint32_t)b->pc, hpc);
        return false;
    }
    if (table[index] == hpc)
        return false;
    const struct cc_block *other = cc_table_other(cc, table, b->pc);
    if (other)
        cc_victim_set(table, other->pc, cc->rx + other->host, true);
    cc_victim_set(table, b->pc, hpc, other);
    table[index] = hpc;
    head->page[index * sizeof(void *) / 4096] = CC_TABLE_FILLED;
    return other;
}

void cc_table_forget(const struct cc *cc, void **table, uint64_t pc)
{
    struct cc_flat *flat = cc_table_head(table)->flat;

    table[cc_index(cc, pc)] = cc->miss_stub;
    cc_victim_forget(cc, table, pc);
    if (flat && cc_flat_at(cc, flat, (uint32_t)pc) != cc->miss_stub)
        cc_flat_set(cc, flat, (uint32_t)pc, cc->miss_stub);
}

void **cc_table_flat(void **table)
{
    struct cc_table_head *head = cc_table_head(table);

    if (!head->flat)
        head->flat = cc_flat_new();
    return head->flat ? cc_flat_base(head->flat) : NULL;
}

void cc_table_clear(struct cc *cc, void **table)
{
    struct cc_table_head *head = cc_table_head(table);
    uint8_t *page = head->page;
    unsigned touched = 0;

    cc_place_clear(table);
    cc_victims_clear(cc, table);
    if (head->flat)
        cc_flat_clear(cc, head->flat);
    for (unsigned i = 0; i < CC_TABLE_PAGES; i++)
        touched += page[i] != CC_TABLE_UNTOUCHED;
    /* Private pages go; what is read next is the memfd's again. */
    bool gone = touched > KEPT && rt_os_discard(table, CC_TABLE_SIZE) == 0;
    for (unsigned i = 0; i < CC_TABLE_PAGES; i++) {
        if (!gone && page[i] == CC_TABLE_FILLED)
            fill(cc, table + i * PER_PAGE, PER_PAGE);
        if (page[i] != CC_TABLE_UNTOUCHED)
            page[i] = gone ? CC_TABLE_UNTOUCHED : CC_TABLE_EMPTY;
    }
}

void cc_table_clear_page(struct cc *cc, void **table, uint64_t pc)
{
    unsigned first = (cc_index(cc, pc) & ~4095u) / PER_PAGE;
    const uint8_t *page = cc_table_head(table)->page;
    struct cc_flat *flat = cc_table_head(table)->flat;

    cc_place_clear_page(cc, table, pc);
    cc_victims_clear_page(cc, table, pc);
    if (flat)
        cc_flat_clear_page(cc, flat, (uint32_t)pc);
    for (unsigned i = first; i < first + 4096 / PER_PAGE; i++) {
        if (page[i] == CC_TABLE_FILLED)
            fill(cc, table + i * PER_PAGE, PER_PAGE);
    }
}

void cc_table_free(void **table)
{
    if (!table)
        return;
    cc_flat_free(cc_table_head(table)->flat);
    rt_window_release((uint8_t *)table - CC_TABLE_IN_FRONT - MAP_AT);
}
