/* move.c - blocks copied to another linear address.
 *
 * Programs and libraries of position-independent code are mapped at other addresses in every
 * process. Their pages are the same, so what has been translated for one process serves the next
 * one after the constants that follow from the pc have been changed: a copy costs some 0.2 us where
 * a translation costs some 3. Each block that can be moved (64-bit code above 4 GiB, so that all
 * such constants have 64 bits) comes with a list of them.
 *
 * Processes end, so copies have a part of the region for themselves, and go together when it is
 * full; what they were made from stays. They share its pc map and its list of constants.
 *
 * The index by physical address holds the last block that was translated for it; a block in whose
 * code a guess was wrong (cc_see()) is forgotten there, and so not copied any further. */
#include "codecache/cc.h"
#include "runtime/rt.h"

/* The two entries that a block may be in. */
static uint32_t *last_at(const struct cc *cc, uint64_t gpa, uint32_t key)
{
    uint64_t h = (gpa ^ (uint64_t)key << 40) * 0x9e3779b97f4a7c15ull;
    return &cc->last[(h >> 32) % CC_LAST & ~1ull];
}

static bool is_at(const struct cc *cc, uint32_t index, uint64_t gpa, uint32_t key)
{
    const struct cc_block *b = &cc->blocks[index];
    return index != CC_NONE && b->gpa == gpa && b->key == key;
}

void cc_move_note(struct cc *cc, const struct cc_block *b)
{
    uint32_t *last = last_at(cc, b->gpa, b->key);

    if (!b->movable)
        return;
    if (!is_at(cc, last[0], b->gpa, b->key))
        last[1] = last[0];
    last[0] = (uint32_t)(b - cc->blocks);
}

void cc_move_forget(struct cc *cc, const struct cc_block *b)
{
    uint32_t *last = last_at(cc, b->gpa, b->key);

    for (unsigned i = 0; i < 2; i++) {
        if (is_at(cc, last[i], b->gpa, b->key))
            last[i] = CC_NONE;
    }
}

void cc_move_flush(struct cc *cc, const struct cc_block *b)
{
    uint32_t *last = last_at(cc, b->gpa, b->key);

    last[0] = last[1] = CC_NONE;
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
    uint32_t index_mask;
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
        set32(at, (uint32_t)((slot / 8 + m->slide) & m->index_mask) * 8);
        break;
    case CC_RELOC_DELTA: /* mov $address, %r10; mov %gs:index*8, %r11: at is the index's field */
        set32(at, (uint32_t)(load64(at - 5 - 8) >> 32 & 0xffff) * 8);
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
                       uint8_t *code, uint32_t index)
{
    struct cc_site *sites = &cc->sites[from->first_site + m->sites];

    for (unsigned i = 0; i < from->nsites; i++) {
        const struct cc_site *site = &cc->sites[from->first_site + i];
        sites[i] = (struct cc_site){.to = site->to,
                                    .far = site->far,
                                    .known = site->known,
                                    .jump = (site->jump + m->host) & INT32_MAX,
                                    .block = index};
        set32(code + (site->jump - from->host),
              cc_exit_of(cc, from->first_site + m->sites + i) - (sites[i].jump + 4));
        if (site->far)
            cc_place_look(cc, sites[i].jump, 0);
    }
}

struct cc_block *cc_move(struct cc *cc, uint64_t pc, uint64_t gpa, uint32_t key, bool entry)
{
    const uint32_t *last = last_at(cc, gpa, key);
    uint32_t of = is_at(cc, last[0], gpa, key) ? last[0] : last[1];
    const struct cc_block *from = &cc->blocks[of];
    struct cc_copies *copies = &cc->copies;

    copies->full = false;
    if (!is_at(cc, of, gpa, key) || !from->valid || pc < CC_MOVE_FROM || pc >= CC_MOVE_TO ||
        (entry && !from->direct) || (cc_collided(cc, pc) && !from->collided))
        return NULL;
    size_t room = cc->exits_at - cc->main_size - copies->used;
    copies->full = from->total > room || copies->nblocks == copies->max_blocks ||
                   from->nsites > copies->max_sites - copies->nsites;
    if (copies->full)
        return NULL;
    uint32_t host = (uint32_t)(cc->main_size + copies->used);
    uint8_t *code = cc->rw + host;
    struct move m = {.slide = pc - from->pc,
                     .host = host - from->host,
                     .sites = cc->max_sites + copies->nsites - from->first_site,
                     .index_mask = cc->index_mask};
    copy(code, cc->rw + from->host, from->total);
    for (unsigned i = 0; i < from->nrelocs; i++) {
        struct cc_reloc r;
        __builtin_memcpy(&r, &cc->maps[from->map + from->nmap + i], sizeof(r));
        relocate(code + r.at, r.kind, &m);
    }
    uint32_t index = cc->max_blocks + copies->nblocks++;
    struct cc_block *b = &cc->blocks[index];
    *b = *from;
    b->pc = pc;
    b->host = host;
    b->links_in = CC_NONE;
    b->first_site += m.sites;
    copy_sites(cc, from, &m, code, index);
    copies->nsites += b->nsites;
    cc_exits_make(cc, &copies->nexits, cc->max_sites + copies->nsites);
    copies->used += (b->total + 15u) & ~15u;
    if (copies->used > cc->exits_at - cc->main_size)
        copies->used = cc->exits_at - cc->main_size;
    cc_index_add(cc, index);
    return b;
}

/* Links between copies go with both. */
static void drop_copy(struct cc *cc, uint32_t index)
{
    struct cc_block *b = &cc->blocks[index];

    for (uint32_t in = b->links_in; in != CC_NONE;) {
        uint32_t next = cc->sites[in].next_in;
        if (in < cc->max_sites)
            cc_unlink(cc, &cc->sites[in]);
        in = next;
    }
    for (unsigned i = 0; i < b->nsites; i++) {
        if (cc->sites[b->first_site + i].target < cc->max_blocks)
            cc_unlink(cc, &cc->sites[b->first_site + i]);
    }
    cc_index_remove(cc, index);
}

/* The newest first: it stands at the head of its lists. */
void cc_flush_copies(struct cc *cc)
{
    for (uint32_t n = cc->copies.nblocks; n-- > 0;) {
        uint32_t index = cc->max_blocks + n;
        if (cc->blocks[index].valid)
            drop_copy(cc, index);
    }
    cc->copies.nblocks = cc->copies.nsites = 0;
    cc->copies.used = 0;
    cc->copies.full = false;
    cc->copies.flushes++;
}
