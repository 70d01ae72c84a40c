/* link.c - chaining: direct branches patched to jump from block to block.
 *
 * Within one guest page a link is valid wherever its own block is. A branch to another page makes
 * sure first that the address space has it (place.c).
 *
 * A patch is one aligned-or-not 4-byte store of a rel32 through the writable view: other vCPUs see
 * the old or the new target, and both are right. */
#include "codecache/cc.h"
#include "runtime/rt.h"

/* 24 exits of 5 bytes, each with its number among them, and what they share. They stand away from
 * the blocks, whose code is dense without them:
 *
 *     mov $k, %r9b; jmp rest  ...  rest: mov $first, %r10d; jmp *%fs:direct */
#define GROUP_SIZE 136u

uint32_t cc_exit_of(const struct cc *cc, uint32_t index)
{
    return (uint32_t)cc->exits_at + index / CC_EXIT_GROUP * GROUP_SIZE + index % CC_EXIT_GROUP * 5;
}

static void make_group(struct cc *cc, uint32_t first)
{
    uint8_t *group = cc->rw + cc_exit_of(cc, first), *rest = group + 5 * CC_EXIT_GROUP;
    uint32_t direct = (uint32_t)(rt_cpu_offset() + (intptr_t)offsetof(struct rt_cpu, direct));
    static const uint8_t code[] = {0x41, 0xba, 0, 0, 0, 0, 0x64, 0xff, 0x24, 0x25};

    for (uint32_t k = 0; k < CC_EXIT_GROUP; k++) {
        uint8_t *exit = group + 5 * k;
        exit[0] = 0x41;
        exit[1] = 0xb1;
        exit[2] = (uint8_t)k;
        exit[3] = 0xeb;
        exit[4] = (uint8_t)(rest - (exit + 5));
    }
    __builtin_memcpy(rest, code, sizeof(code));
    __builtin_memcpy(rest + 2, &first, 4);
    __builtin_memcpy(rest + sizeof(code), &direct, 4);
}

void cc_exits_make(struct cc *cc, uint32_t *made, uint32_t n)
{
    for (; *made < n; *made += CC_EXIT_GROUP)
        make_group(cc, *made);
}

size_t cc_exits_size(uint32_t sites)
{
    return (size_t)(sites / CC_EXIT_GROUP + 1) * GROUP_SIZE;
}

static void patch(struct cc *cc, uint32_t field, uint32_t target)
{
    int32_t rel = (int32_t)(target - (field + 4));
    __atomic_store_n((int32_t *)(void *)(cc->rw + field), rel, __ATOMIC_RELEASE);
}

uint32_t cc_entry_of(const struct cc *cc, const struct cc_site *site, const struct cc_block *target)
{
    uint32_t direct = target->host + target->direct;

    if (target->loops && target == &cc->blocks[site->block])
        return direct + target->front;
    return direct + (cc->skip && target->wide ? cc->skip(cc->rx + direct, site->known) : 0);
}

void cc_link(struct cc *cc, struct cc_site *site, struct cc_block *target)
{
    if (site->target != CC_NONE)
        return;
    patch(cc, site->jump, cc_entry_of(cc, site, target));
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
    patch(cc, site->jump, cc_exit_of(cc, self));
    if (site->far)
        cc_place_look(cc, site->jump, 0);
    cc->unlinked++;
}

void cc_unlink_exits(struct cc *cc, struct cc_block *b)
{
    for (unsigned i = 0; i < b->nsites; i++)
        cc_unlink(cc, &cc->sites[b->first_site + i]);
}
