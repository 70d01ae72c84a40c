/* flat.c - jump tables of 32-bit code: an entry for every pc.
 *
 *     jmp *(%r14,%r8,8)      r8 is the pc, r14 the table: 32 GiB of host addresses
 *
 * So an indirect branch is one load, and a block that it reaches needs no check of the pc. Most of
 * a table are holes. A part of it, 2 MiB for 256 KiB of guest code, is mapped when the first entry
 * there is made: a private view of the memfd whose entries all hold the miss stub, so it takes
 * memory for those pages alone that get entries. A branch through a hole faults, and is a miss
 * (trap.c); so does one through CC_FLAT_MISS, the address of a table that always misses.
 *
 * A table with too many parts or pages starts again with none.
 *
 * Measured against 18 bits of the pc and a check in the block (PEXT, LEA, RORX, a load): an
 * interpreter by computed goto 3.0 -> 1.4 of native time. */
#include "codecache/cc.h"
#include "runtime/rt.h"

#define GRANULES   (CC_FLAT_ENTRIES * sizeof(void *) / RT_WINDOW_SIZE)
#define PART_SHIFT 18
#define PARTS      (1u << (32 - PART_SHIFT))
#define MAX_PARTS  64
#define MAX_PAGES  4096
#define KEPT_PAGES 40 /* what a cleared table keeps at most: as table.c */
#define KEPT_PARTS 16
#define PER_PAGE   (4096 / sizeof(void *))

struct cc_flat {
    void **entry;
    uint32_t nparts, npages; /* mapped; touched */
    uint8_t part_of[PARTS];  /* by pc >> PART_SHIFT: 1 + index in part, or 0 */
    struct {
        uint16_t number; /* its pc >> PART_SHIFT */
        uint8_t page[CC_TABLE_PAGES];
    } part[MAX_PARTS];
};
_Static_assert(1u << PART_SHIFT == CC_TABLE_ENTRIES, "a part is a view of the template");

struct cc_flat *cc_flat_new(void)
{
    struct cc_flat *flat = rt_os_reserve(sizeof(*flat));

    if (!flat)
        return NULL;
    flat->entry = (void **)(void *)rt_window_claim_run(GRANULES);
    if (flat->entry)
        return flat;
    rt_os_release(flat, sizeof(*flat));
    return NULL;
}

void cc_flat_free(struct cc_flat *flat)
{
    if (!flat)
        return;
    rt_window_release_run((uint8_t *)flat->entry, GRANULES);
    rt_os_release(flat, sizeof(*flat));
}

void **cc_flat_base(const struct cc_flat *flat)
{
    return flat->entry;
}

/* The entries that part's page number n holds. */
static void **page_at(const struct cc_flat *flat, unsigned part, unsigned n)
{
    return flat->entry + ((size_t)flat->part[part].number << PART_SHIFT) + n * PER_PAGE;
}

static void empty_pages(const struct cc *cc, struct cc_flat *flat, unsigned part, unsigned first,
                        unsigned end)
{
    uint8_t *page = flat->part[part].page;

    for (unsigned n = first; n < end; n++) {
        void **entry = page_at(flat, part, n);
        for (unsigned i = 0; page[n] == CC_TABLE_FILLED && i < PER_PAGE; i++)
            entry[i] = cc->miss_stub;
        if (page[n] == CC_TABLE_FILLED)
            page[n] = CC_TABLE_EMPTY;
    }
}

static void forget_parts(struct cc_flat *flat)
{
    for (unsigned i = 0; i < flat->nparts; i++) {
        flat->part_of[flat->part[i].number] = 0;
        __builtin_memset(flat->part[i].page, CC_TABLE_UNTOUCHED, sizeof(flat->part[i].page));
    }
    flat->nparts = flat->npages = 0;
}

void cc_flat_clear(const struct cc *cc, struct cc_flat *flat)
{
    if ((flat->npages > KEPT_PAGES || flat->nparts > KEPT_PARTS) &&
        rt_os_unmap(flat->entry, CC_FLAT_ENTRIES * sizeof(*flat->entry)) == 0) {
        forget_parts(flat);
        return;
    }
    for (unsigned part = 0; part < flat->nparts; part++)
        empty_pages(cc, flat, part, 0, CC_TABLE_PAGES);
}

void cc_flat_clear_page(const struct cc *cc, struct cc_flat *flat, uint32_t pc)
{
    unsigned part = flat->part_of[pc >> PART_SHIFT];
    unsigned first = (pc & (CC_TABLE_ENTRIES - 1) & ~4095u) / PER_PAGE;

    if (part)
        empty_pages(cc, flat, part - 1, first, first + 4096 / PER_PAGE);
}

void *cc_flat_at(const struct cc *cc, const struct cc_flat *flat, uint32_t pc)
{
    return flat->part_of[pc >> PART_SHIFT] ? flat->entry[pc] : cc->miss_stub;
}

/* The part for pc, mapped if it is not; 0: the host refuses. */
static unsigned part_for(const struct cc *cc, struct cc_flat *flat, uint32_t pc)
{
    unsigned number = pc >> PART_SHIFT;
    void **at = flat->entry + ((size_t)number << PART_SHIFT);

    if (flat->part_of[number])
        return flat->part_of[number];
    if (flat->nparts == MAX_PARTS)
        cc_flat_clear(cc, flat);
    if (flat->nparts == MAX_PARTS ||
        !rt_os_map_private(at, cc->table_fd, CC_TABLE_IN_FRONT, CC_TABLE_SIZE))
        return 0;
    flat->part[flat->nparts++].number = (uint16_t)number;
    flat->part_of[number] = (uint8_t)flat->nparts;
    return flat->nparts;
}

void cc_flat_set(const struct cc *cc, struct cc_flat *flat, uint32_t pc, void *hpc)
{
    unsigned n = (pc & (CC_TABLE_ENTRIES - 1)) / PER_PAGE, part;

    if (flat->npages == MAX_PAGES)
        cc_flat_clear(cc, flat);
    part = part_for(cc, flat, pc);
    if (!part)
        return;
    uint8_t *page = &flat->part[part - 1].page[n];
    flat->npages += *page == CC_TABLE_UNTOUCHED;
    *page = CC_TABLE_FILLED;
    flat->entry[pc] = hpc;
}
