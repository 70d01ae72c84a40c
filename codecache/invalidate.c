/* invalidate.c - blocks dropped because the bytes they were made from changed.
 *
 * An invalid block keeps its host code and record until the next flush (a signal may still find its
 * pc in it), but nothing leads to it: links into it are cut, and its indirect entry, which jump
 * tables and victims may hold, is overwritten by a jump to the closed stub. 32-bit code has none: a
 * block's first byte becomes HLT, which faults and is a miss (trap.c). Whoever comes back to that
 * very byte from a fault has executed nothing of the block. */
#include "codecache/cc.h"
#include "runtime/rt.h"

static void close_entry(struct cc *cc, struct cc_block *b)
{
    uint8_t *entry = cc->rw + b->host;
    int32_t rel = (int32_t)(cc->closed_stub - (cc->rx + b->host + 5));

    if (!b->direct) {
        if (!b->wide)
            entry[0] = 0xf4;
        return;
    }
    RT_ASSERT(b->direct >= 5);
    entry[0] = 0xe9;
    __builtin_memcpy(entry + 1, &rel, 4);
}

static void block_drop(struct cc *cc, uint32_t index)
{
    struct cc_block *b = &cc->blocks[index];

    while (b->links_in != CC_NONE)
        cc_unlink(cc, &cc->sites[b->links_in]);
    cc_unlink_exits(cc, b);
    close_entry(cc, b);
    cc_index_remove(cc, index);
    cc->invalidated++;
}

static bool overlaps(const struct cc_block *b, uint64_t gpa, unsigned len)
{
    uint64_t first = 4096 - (b->gpa & 4095);

    if (!cc_crosses(b) || b->len <= first)
        return gpa < b->gpa + b->len && b->gpa < gpa + len;
    return (gpa < b->gpa + first && b->gpa < gpa + len) ||
           (gpa < b->gpa2 + (b->len - first) && b->gpa2 < gpa + len);
}

/* A store beside the blocks of a page costs a fault and a slow step (4 us), translating a page's
 * blocks again some 30 us. So after 8 stores the page is taken for data and its blocks dropped;
 * each time that this turns out wrong the patience doubles, up to 512 stores. */
static bool write_is_data(struct cc_page *page)
{
    unsigned patience = 8u << (page->drops < 6 ? page->drops : 6);

    return ++page->misses > patience;
}

bool cc_invalidate(struct cc *cc, uint64_t gpa, unsigned len)
{
    struct cc_page *page = cc_page(cc, gpa);
    bool hit = false;

    if (!page || page->blocks == CC_NONE)
        return true;
    for (uint32_t link = page->blocks; link != CC_NONE;) {
        uint32_t next = cc->blocks[link >> 1].page_next[link & 1];
        if (overlaps(&cc->blocks[link >> 1], gpa, len)) {
            block_drop(cc, link >> 1);
            hit = true;
            next = page->blocks; /* both of its list entries are gone: start again */
        }
        link = next;
    }
    if (!hit && write_is_data(page)) {
        cc_invalidate_page(cc, gpa >> 12);
        page->misses = 0;
        page->drops++;
    }
    return page->blocks == CC_NONE;
}

void cc_invalidate_page(struct cc *cc, uint64_t gfn)
{
    struct cc_page *page = cc_page(cc, gfn << 12);

    while (page && page->blocks != CC_NONE)
        block_drop(cc, page->blocks >> 1);
}

void cc_collide(struct cc *cc, struct cc_block *b)
{
    cc_collides(cc, b->pc);
    if (b->valid)
        block_drop(cc, (uint32_t)(b - cc->blocks));
}

void cc_enter(struct cc *cc, struct cc_block *b)
{
    cc->entered[cc_mark(b->gpa)] = 1;
    cc_move_forget(cc, b);
    if (b->valid)
        block_drop(cc, (uint32_t)(b - cc->blocks));
}

void cc_see(struct cc *cc, struct cc_block *b, uint64_t gpa, unsigned class)
{
    uint8_t *seen = cc_seen(cc, gpa);

    cc_move_forget(cc, b);

    *seen = *seen == CC_SEEN_NOTHING ? (uint8_t)(CC_SEEN_CLASS0 + class) : CC_SEEN_MIXED;
    if (b->valid)
        block_drop(cc, (uint32_t)(b - cc->blocks));
}

void cc_front_failed(struct cc *cc, struct cc_block *b)
{
    if (++cc->fronts[cc_mark(b->gpa)] >= CC_FRONT_TRIES)
        cc_drop(cc, b);
}

void cc_drop(struct cc *cc, struct cc_block *b)
{
    cc_move_forget(cc, b);
    if (b->valid)
        block_drop(cc, (uint32_t)(b - cc->blocks));
}
