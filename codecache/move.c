/* move.c - blocks copied to another linear address.
 *
 * Programs and libraries of position-independent code are mapped at other addresses in every
 * process. Their pages are the same, so what has been translated for one process serves the next
 * one after the constants that follow from the pc have been changed: a copy costs some 0.2 us where
 * a translation costs some 3. Each block that can be moved (64-bit code above 4 GiB, so that all
 * such constants have 64 bits) comes with a list of them.
 *
 * The index by physical address holds the last block that was made for it; a block in whose code
 * a guess was wrong (cc_see()) is forgotten there, and so not copied any further. */
#include "codecache/cc.h"
#include "runtime/rt.h"

static uint32_t *last_at(const struct cc *cc, uint64_t gpa, uint32_t key)
{
    uint64_t h = (gpa ^ (uint64_t)key << 40) * 0x9e3779b97f4a7c15ull;
    return &cc->last[(h >> 32) % CC_LAST];
}

void cc_move_note(struct cc *cc, const struct cc_block *b)
{
    if (b->movable)
        *last_at(cc, b->gpa, b->key) = (uint32_t)(b - cc->blocks);
}

void cc_move_forget(struct cc *cc, const struct cc_block *b)
{
    uint32_t *last = last_at(cc, b->gpa, b->key);

    if (cc->blocks[*last].gpa == b->gpa)
        *last = CC_NONE;
}

static uint64_t load64(const uint8_t *at)
{
    uint64_t value;
    __builtin_memcpy(&value, at, 8);
    return value;
}

static void add64(uint8_t *at, uint64_t by)
{
    uint64_t value = load64(at) + by;
    __builtin_memcpy(at, &value, 8);
}

static void set32(uint8_t *at, uint32_t value)
{
    __builtin_memcpy(at, &value, 4);
}

static void add32(uint8_t *at, uint32_t by)
{
    uint32_t value;
    __builtin_memcpy(&value, at, 4);
    set32(at, value + by);
}

/* Not memcpy(): the guest's vector state is live. */
static void copy(uint8_t *to, const uint8_t *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* What changes between a block and its copy. */
struct move {
    uint64_t slide; /* of the guest's pc */
    uint32_t host;  /* of the host code */
    uint32_t sites; /* of the indices of its sites */
};

static void relocate(uint8_t *at, unsigned kind, const struct move *m)
{
    uint32_t slot;

    switch (kind) {
    case CC_RELOC_PC:
        add64(at, m->slide);
        break;
    case CC_RELOC_MINUS_PC:
        add64(at, -m->slide);
        break;
    case CC_RELOC_TABLE_SLOT:
        __builtin_memcpy(&slot, at, 4);
        set32(at, (uint32_t)((slot / 8 + m->slide) & (CC_TABLE_ENTRIES - 1)) * 8);
        break;
    case CC_RELOC_DELTA: /* mov $address, %r10; mov %gs:index*8, %r11: at is the index's field */
        set32(at, (uint32_t)(load64(at - 5 - 8) >> 32 & 0xffff) * 8);
        break;
    case CC_RELOC_SITE:
        add32(at, m->sites);
        break;
    case CC_RELOC_AWAY:
        add32(at, -m->host);
        break;
    case CC_RELOC_HOST:
        add32(at, m->host);
        break;
    }
}

static void copy_sites(const struct cc *cc, const struct cc_block *from, const struct move *m,
                       uint8_t *code, struct cc_site *sites)
{
    for (unsigned i = 0; i < from->nsites; i++) {
        const struct cc_site *site = &cc->sites[from->first_site + i];
        sites[i] = (struct cc_site){.target_pc = site->target_pc + m->slide,
                                    .jump = site->jump + m->host,
                                    .stub = site->stub + m->host};
        set32(code + (site->jump - from->host), site->stub - (site->jump + 4));
    }
}

struct cc_block *cc_move(struct cc *cc, uint64_t pc, uint64_t gpa, uint32_t key)
{
    const struct cc_block *from = &cc->blocks[*last_at(cc, gpa, key)];
    struct cc_site sites[CC_MOVE_SITES];

    if (from == cc->blocks || !from->valid || from->gpa != gpa || from->key != key ||
        from->nsites > CC_MOVE_SITES || pc < CC_MOVE_FROM || pc >= CC_MOVE_TO ||
        (cc_collided(cc, pc) && !from->collided))
        return NULL;
    uint8_t *code = cc_reserve(cc, from->total);
    if (!code)
        return NULL;
    struct move m = {.slide = pc - from->pc,
                     .host = (uint32_t)(code - cc->rw) - from->host,
                     .sites = cc->nsites - from->first_site};
    copy(code, cc->rw + from->host, from->total);
    for (unsigned i = 0; i < from->nrelocs; i++) {
        const struct cc_reloc *r = &cc->relocs[from->reloc + i];
        relocate(code + r->at, r->kind, &m);
    }
    copy_sites(cc, from, &m, code, sites);
    struct cc_block proto = *from;
    proto.pc = pc;
    proto.host += m.host;
    proto.links_in = CC_NONE;
    struct cc_block *b = cc_block_add(cc, &proto, cc->maps + from->map, sites, NULL);
    if (!b) {
        cc_abort(cc);
        return NULL;
    }
    b->reloc = from->reloc;
    cc_commit(cc, from->total);
    return b;
}
