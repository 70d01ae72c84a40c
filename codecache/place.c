/* place.c - links from page to page, which are valid only where both pages are.
 *
 * A place is a page of code as some address space has it: a linear page and the guest-physical page
 * behind it; for code that crosses into the next page, both. Places have numbers, and each jump
 * table comes with an array of them that says which its address space is known to have. A branch to
 * another page that is linked looks its target's place up before it jumps:
 *
 *     mov %gs:places+number*4, %r10d       0, or PRESENT
 *     mov %gs:-PRESENT(%r10d), %r10b       faults for 0: the monitor finds out what is there
 *     jmp target
 *
 * So a link costs two loads that nothing waits for, where the jump table costs an indirect jump, a
 * load that it waits for, and a check at the target. An array's entry goes when the table's entries
 * for the page do. Number 0 is always present: what a branch that is not linked looks up.
 *
 * When there are no numbers left, all these links are cut and numbering starts again. */
#include "codecache/cc.h"
#include "runtime/rt.h"

#include <errno.h>

#define DISP_BEFORE 11 /* bytes from the place's displacement to the jump's */

int cc_places_memfd(void)
{
    int fd = rt_os_memfd("novt-places", CC_PLACES_SIZE);
    uint32_t *places = fd < 0 ? NULL : rt_os_map_shared(fd, 0, CC_PLACES_SIZE, RT_PROT_RW);

    if (places) {
        places[0] = CC_PLACE_PRESENT;
        rt_os_release(places, CC_PLACES_SIZE);
    } else if (fd >= 0) {
        rt_os_close(fd);
        fd = -ENOMEM;
    }
    return fd;
}

static uint32_t *bucket_of(const struct cc *cc, uint64_t pc)
{
    return &cc->place_hash[((pc >> 12) * 0x9e3779b97f4a7c15ull >> 40) % CC_PLACE_HASH];
}

/* The number of b's place, or 0. */
static uint32_t find(const struct cc *cc, const struct cc_block *b)
{
    uint32_t n = *bucket_of(cc, b->pc);

    while (n && (cc->places[n].page != b->pc >> 12 || cc->places[n].gfn != b->gpa >> 12 ||
                 cc->places[n].gfn2 != b->gpa2 >> 12))
        n = cc->places[n].next;
    return n;
}

static uint32_t find_or_make(struct cc *cc, const struct cc_block *b)
{
    uint32_t n = find(cc, b), *bucket = bucket_of(cc, b->pc);

    if (n || cc->nplaces == CC_MAX_PLACES)
        return n;
    n = cc->nplaces++;
    cc->places[n] = (struct cc_place){
        .page = b->pc >> 12, .gfn = b->gpa >> 12, .gfn2 = b->gpa2 >> 12, .next = *bucket};
    *bucket = n;
    return n;
}

void cc_place_look(const struct cc *cc, uint32_t jump, uint32_t number)
{
    uint32_t disp = CC_PLACES_AT + number * 4;
    __builtin_memcpy(cc->rw + jump - DISP_BEFORE, &disp, 4);
}

bool cc_place_link(struct cc *cc, struct cc_site *site, struct cc_block *target)
{
    uint32_t number = find_or_make(cc, target);

    if (!number)
        return false;
    cc_place_look(cc, site->jump, number);
    cc_link(cc, site, target);
    return true;
}

void cc_place_enter(const struct cc *cc, void **table, const struct cc_block *b)
{
    struct cc_table_head *head = cc_table_head(table);
    uint32_t n = head->places ? find(cc, b) : 0;

    if (!n)
        return;
    head->places[n] = CC_PLACE_PRESENT;
    head->max_place = n > head->max_place ? n : head->max_place;
}

void cc_place_clear_page(const struct cc *cc, void **table, uint64_t pc)
{
    uint32_t *places = cc_table_head(table)->places;

    if (!places)
        return;
    for (uint32_t n = *bucket_of(cc, pc); n; n = cc->places[n].next) {
        if (cc->places[n].page == pc >> 12)
            places[n] = 0;
    }
}

void cc_place_clear(void **table)
{
    struct cc_table_head *head = cc_table_head(table);

    for (uint32_t n = 1; n <= head->max_place; n++)
        head->places[n] = 0;
    head->max_place = 0;
}

struct cc_site *cc_far_site(const struct cc *cc, const uint8_t *hpc)
{
    const struct cc_block *b = cc_find(cc, hpc);
    uint32_t at = (uint32_t)(hpc - cc->rx);

    for (unsigned i = 0; b && i < b->nsites; i++) {
        struct cc_site *site = &cc->sites[b->first_site + i];
        if (site->far && site->jump - at < DISP_BEFORE)
            return site;
    }
    return NULL;
}

static void cut(struct cc *cc, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        if (cc->sites[i].far)
            cc_unlink(cc, &cc->sites[i]);
    }
}

void cc_places_forget(struct cc *cc)
{
    cut(cc, 1, cc->nsites);
    cut(cc, cc->max_sites, cc->max_sites + cc->copies.nsites);
    for (uint32_t n = 1; n < cc->nplaces; n++)
        *bucket_of(cc, cc->places[n].page << 12) = 0;
    cc->nplaces = 1;
}
