/* block.c - the index of translated blocks, and the way from a host pc back to the guest's state.
 *
 * A block is identified by (linear pc, guest-physical address, key): address spaces that map the
 * same page at the same address share it. Records are appended in the order of their host code, so
 * a host pc is found by bisection. */
#include "codecache/cc.h"
#include "runtime/rt.h"

#define GUEST_OFFSET 0x0fffu

/* A page's blocks stand side by side: 4 cache lines. */
static uint32_t hash_of(uint64_t pc, uint64_t gpa, uint32_t key)
{
    uint64_t h = ((pc >> 12) * 0x9e3779b97f4a7c15ull) ^ ((gpa >> 12) * 0xc2b2ae3d27d4eb4full) ^
                 (key * 0x165667b19e3779f9ull);
    return ((uint32_t)(h >> 40) << 6 | (uint32_t)((pc ^ pc >> 6) & 63)) & (CC_HASH_SIZE - 1);
}

static void page_add(struct cc *cc, uint32_t index, uint64_t gpa, unsigned which)
{
    struct cc_page *page = cc_page(cc, gpa);

    RT_ASSERT(page);
    cc->blocks[index].page_next[which] = page->blocks;
    page->blocks = index << 1 | which;
}

void cc_index_add(struct cc *cc, uint32_t index)
{
    struct cc_block *b = &cc->blocks[index];
    uint32_t *bucket = &cc->hash[hash_of(b->pc, b->gpa, b->key)];

    b->hash_next = *bucket;
    *bucket = index;
    page_add(cc, index, b->gpa, 0);
    if (cc_crosses(b))
        page_add(cc, index, b->gpa2, 1);
    b->valid = true;
}

struct cc_block *cc_block_add(struct cc *cc, const struct cc_block *proto, const struct cc_map *map,
                              const struct cc_site *sites, const struct cc_reloc *relocs)
{
    if (cc->nblocks >= cc->max_blocks || cc->nsites + proto->nsites > cc->max_sites ||
        cc->nmaps + proto->nmap + proto->nrelocs > cc->max_maps)
        return NULL;
    uint32_t index = cc->nblocks++;
    struct cc_block *b = &cc->blocks[index];
    *b = *proto;
    b->first_site = cc->nsites;
    b->map = cc->nmaps;
    for (unsigned i = 0; i < b->nsites; i++) {
        cc->sites[cc->nsites] = sites[i];
        cc->sites[cc->nsites++].block = index;
    }
    for (unsigned i = 0; i < b->nmap; i++)
        cc->maps[cc->nmaps++] = map[i];
    for (unsigned i = 0; i < b->nrelocs; i++)
        __builtin_memcpy(&cc->maps[cc->nmaps++], &relocs[i], sizeof(*relocs));
    cc_exits_make(cc, &cc->nexits, cc->nsites);
    cc_index_add(cc, index);
    cc_move_note(cc, b);
    cc->guest_bytes += b->len;
    cc->host_bytes += b->host_len;
    return b;
}

static void page_remove(struct cc *cc, uint32_t index, unsigned which)
{
    struct cc_block *b = &cc->blocks[index];
    uint32_t *at = &cc_page(cc, which ? b->gpa2 : b->gpa)->blocks;
    while (*at != (index << 1 | which))
        at = &cc->blocks[*at >> 1].page_next[*at & 1];
    *at = b->page_next[which];
}

void cc_index_remove(struct cc *cc, uint32_t index)
{
    struct cc_block *b = &cc->blocks[index];
    uint32_t *at = &cc->hash[hash_of(b->pc, b->gpa, b->key)];

    while (*at != index)
        at = &cc->blocks[*at].hash_next;
    *at = b->hash_next;
    page_remove(cc, index, 0);
    if (cc_crosses(b))
        page_remove(cc, index, 1);
    b->valid = false;
}

struct cc_block *cc_lookup(const struct cc *cc, uint64_t pc, uint64_t gpa, uint32_t key)
{
    uint32_t index = cc->hash[hash_of(pc, gpa, key)];
    for (; index != CC_NONE; index = cc->blocks[index].hash_next) {
        struct cc_block *b = &cc->blocks[index];
        if (b->pc == pc && b->gpa == gpa && b->key == key)
            return b;
    }
    return NULL;
}

struct cc_block *cc_find(const struct cc *cc, const uint8_t *hpc)
{
    if (!cc_contains(cc, hpc))
        return NULL;
    uint32_t offset = (uint32_t)(hpc - cc->rx), lo = 1, hi = cc->nblocks;
    if (offset >= cc->main_size) {
        lo = cc->max_blocks;
        hi = lo + cc->copies.nblocks;
    }
    if (lo >= hi)
        return NULL;
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (cc->blocks[mid].host <= offset)
            lo = mid;
        else
            hi = mid;
    }
    struct cc_block *b = &cc->blocks[lo];
    return offset >= b->host && offset < b->host + b->host_len ? b : NULL;
}

uint64_t cc_guest_pc(const struct cc *cc, const struct cc_block *b, const uint8_t *hpc,
                     enum cc_recipe *recipe)
{
    uint32_t offset = (uint32_t)(hpc - cc->rx) - b->host;
    const struct cc_map *rows = &cc->maps[b->map];
    unsigned found = 0;

    for (unsigned i = 0; i < b->nmap && rows[i].host <= offset; i++)
        found = i;
    if (!b->nmap)
        return b->pc;
    *recipe = (enum cc_recipe)(rows[found].guest >> 12);
    return b->pc + (rows[found].guest & GUEST_OFFSET);
}

static void recover_32(struct rt_cpu *cpu, const struct rt_context *context, enum cc_recipe recipe)
{
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = context->gpr[i];
    if (recipe == CC_R_STRING) {
        cpu->gpr[RT_SI] = (uint32_t)cpu->gpr[RT_SI];
        cpu->gpr[RT_DI] = (uint32_t)cpu->gpr[RT_DI];
    }
    if (recipe >= CC_R_STACK_MIN)
        cpu->gpr[RT_SP] = (uint32_t)cpu->gpr[RT_SP] + 4u * (unsigned)(recipe - CC_R_STACK);
    cpu->insns = context->gpr[13];
}

/* r9 to r11 are in memory already. */
static void recover_64(struct rt_cpu *cpu, const struct rt_context *context, enum cc_recipe recipe)
{
    for (unsigned i = 0; i < 16; i++) {
        if (i < 9 || i > 11)
            cpu->gpr[i] = context->gpr[i];
    }
    cpu->host_rsp = context->gpr[RT_SP];
    cpu->gpr[RT_SP] += cpu->rsp_undo;
    if (recipe == CC_R_STRING64) {
        cpu->gpr[RT_SI] -= context->gpr[10];
        cpu->gpr[RT_DI] -= context->gpr[11];
    }
}

bool cc_recover(const struct cc *cc, struct rt_cpu *cpu, const struct rt_context *context)
{
    enum cc_recipe recipe = CC_R_IDENTITY;
    const struct cc_block *b = cc_find(cc, (const uint8_t *)context->rip);

    if (!b)
        return false;
    cpu->rip = cc_guest_pc(cc, b, (const uint8_t *)context->rip, &recipe);
    if (b->wide)
        recover_64(cpu, context, recipe);
    else
        recover_32(cpu, context, recipe);
    cpu->hflags = context->rflags;
    return true;
}

/* Goes by the blocks, not through the indexes, which have 2.5 MiB: tests flush for every block. */
void cc_flush(struct cc *cc)
{
    cc_flush_copies(cc);
    for (uint32_t i = 1; i < cc->nblocks; i++) {
        struct cc_block *b = &cc->blocks[i];
        cc->hash[hash_of(b->pc, b->gpa, b->key)] = CC_NONE;
        cc_move_flush(cc, b);
        cc_page(cc, b->gpa)->blocks = CC_NONE;
        if (cc_crosses(b))
            cc_page(cc, b->gpa2)->blocks = CC_NONE;
    }
    cc->nblocks = cc->nsites = 1;
    cc_places_forget(cc);
    cc->nmaps = 0;
    cc_share(cc, false);
    cc->used = cc->start;
    cc->flushes++;
}
