/* link.c - chaining: direct branches patched to jump from block to block.
 *
 * Only branches within one guest page are linked, so that a link is valid wherever its own block
 * is; branches to other pages go through the jump table, which follows the address space.
 *
 * A patch is one aligned-or-not 4-byte store of a rel32 through the writable view: other vCPUs see
 * the old or the new target, and both are right. */
#include "codecache/cc.h"
#include "runtime/rt.h"

static void patch(struct cc *cc, uint32_t field, uint32_t target)
{
    int32_t rel = (int32_t)(target - (field + 4));
    __atomic_store_n((int32_t *)(void *)(cc->rw + field), rel, __ATOMIC_RELEASE);
}

void cc_link(struct cc *cc, struct cc_site *site, struct cc_block *target)
{
    if (site->target != CC_NONE)
        return;
    patch(cc, site->jump, target->host + target->direct);
    site->target = (uint32_t)(target - cc->blocks);
    site->next_in = target->links_in;
    target->links_in = (uint32_t)(site - cc->sites);
    cc->linked++;
}

void cc_unlink(struct cc *cc, struct cc_site *site)
{
    if (site->target == CC_NONE)
        return;
    struct cc_block *target = &cc->blocks[site->target];
    uint32_t self = (uint32_t)(site - cc->sites), *at = &target->links_in;
    while (*at != self)
        at = &cc->sites[*at].next_in;
    *at = site->next_in;
    site->target = CC_NONE;
    patch(cc, site->jump, site->stub);
    cc->unlinked++;
}

void cc_unlink_exits(struct cc *cc, struct cc_block *b)
{
    for (unsigned i = 0; i < b->nsites; i++)
        cc_unlink(cc, &cc->sites[b->first_site + i]);
}
