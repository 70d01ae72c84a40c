/* cc.h - the code cache's face: where translated blocks live, how they are found and linked.
 *
 *   region.c       executable memory           block.c   the index, and from host pc to guest state
 *   table.c        jump tables                 link.c    direct branches from block to block
 *   flat.c         those of 32-bit code        place.c   links from page to page
 *   victim.c       entries that have lost their slot in a jump table
 *   invalidate.c   blocks whose bytes changed  move.c    blocks copied to another linear address
 *   device.c       instructions that access devices
 *   jitinfo.c      blocks made known to unwinders, gdb and perf
 *
 * Two kinds of address, never mixed: guest ones are integers (pc, gpa, gfn), host ones pointers
 * (uint8_t *hpc), the latter always in the executable view; writers use cc_rw().
 *
 * Locking: one vCPU thread at a time holds the VM lock when calling; signal handlers of that
 * thread may call cc_contains(), cc_find() and cc_recover(). */
#ifndef NOVT_CODECACHE_CC_H
#define NOVT_CODECACHE_CC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rt_cpu;
struct rt_context;

#define CC_TABLE_ENTRIES (1u << 18)
#define CC_TABLE_SIZE    (CC_TABLE_ENTRIES * sizeof(void *))
#define CC_TABLE_PAGES   (CC_TABLE_SIZE / 4096)
#define CC_HASH_SIZE     (1u << 19)
#define CC_NONE          0u /* index 0 of blocks and sites is never used */

/* What has been moved when a host instruction faults (docs/design.md, precise state). */
enum cc_recipe {
    CC_R_IDENTITY, /* every guest register is in its own host register */
    CC_R_STRING,   /* rsi and rdi hold host addresses: their low halves are the guest's */
    CC_R_STRING64, /* rsi and rdi have had r10 and r11 added */
    /* 32-bit code: from -6 to 6 pushed or popped words are not in esp yet; CC_R_STACK + that. */
    CC_R_STACK_MIN,
    CC_R_STACK = CC_R_STACK_MIN + 6,
    CC_R_STACK_MAX = CC_R_STACK + 6,
};
_Static_assert(CC_R_STACK_MAX < 16, "a row has four bits for the recipe");

/* One row of a block's host pc to guest pc table, ascending by host offset. */
struct cc_map {
    uint16_t host;  /* offset from the block's start */
    uint16_t guest; /* offset from pc: 0xf000 bits hold the recipe */
};

/* A translated block, in one cache line. Blocks are never freed one by one: a flush drops all of
 * them, or all copies. */
struct cc_block {
    uint64_t pc;         /* guest linear address of the first byte */
    uint64_t gpa : 48;   /* guest-physical address of the first byte */
    uint64_t key : 16;   /* translation mode bits */
    uint64_t gpa2 : 48;  /* page of the second half of a crossing instruction, or CC_NO_GPA */
    uint64_t total : 16; /* bytes of host code with the records behind it */
    uint32_t host;       /* offset in the region: its indirect entry, if it has one */
    uint16_t host_len;
    uint16_t len;   /* guest bytes */
    uint8_t direct; /* 64-bit code: offset of the direct entry from host; 0: no indirect one */
    uint8_t insns, nsites;
    bool valid : 1;
    bool movable : 1,
        collided : 1; /* has relocations; checks entries as those that have collided */
    bool wide : 1;    /* 64-bit code: other register conventions (vcpu.h) */
    bool loops : 1;   /* its own branches back lead behind its front */
    uint8_t nmap;     /* rows */
    uint8_t front;    /* 64-bit code: bytes of checks at the direct entry */
    uint16_t nrelocs;
    uint32_t map; /* its first row in the arena; the relocations follow its rows */
    uint32_t hash_next;
    uint32_t page_next[2]; /* list of blocks with code on the page, for each of its pages */
    uint32_t links_in;     /* sites that jump to this block */
    uint32_t first_site;
};
_Static_assert(sizeof(struct cc_block) == 64, "a block's record fills a cache line");

#define CC_NO_GPA ((1ull << 48) - 1)
static inline bool cc_crosses(const struct cc_block *b)
{
    return b->gpa2 != CC_NO_GPA;
}

/* A direct branch in a block: patched to the target when linked, to its exit (link.c) when not. */
struct cc_site {
    uint32_t jump : 31; /* region offset of the rel32 field */
    uint32_t far : 1;   /* to another page: the place of the target is looked up first (place.c) */
    uint32_t block;     /* the block that it belongs to */
    uint32_t target;    /* the linked block, or CC_NONE */
    uint32_t next_in;   /* next in the target's links_in */
    int32_t to;         /* where it leads: distance from the block's pc */
    uint32_t known;     /* 64-bit code: what is known of registers there, for cc.skip() */
};

/* A constant in a block's host code that follows from where the block is (move.c). */
enum cc_reloc_kind {
    CC_RELOC_PC,         /* 64 bits: a linear address in the guest's code, or relative to it */
    CC_RELOC_MINUS_PC,   /* 64 bits: the negative of one */
    CC_RELOC_TABLE_SLOT, /* 32 bits: displacement of a pc's entry in the jump table */
    CC_RELOC_DELTA,      /* 32 bits: displacement of a slot's delta, behind the address */
    CC_RELOC_AWAY,       /* 32 bits: relative distance to code that is not the block's */
    CC_RELOC_HOST,       /* 32 bits: offset in the region */
};
struct cc_reloc {
    uint16_t at; /* offset from the block's start */
    uint16_t kind;
};

/* A page of code as some address space has it (place.c). */
struct cc_place {
    uint64_t page;      /* linear page number */
    uint64_t gfn, gfn2; /* guest-physical ones; gfn2 as in cc_block.gpa2 */
    uint32_t next;
};
#define CC_MAX_PLACES    32768u
#define CC_PLACE_HASH    8192u
#define CC_PLACE_PRESENT 128u
/* 64-bit code: where the array of places is behind GS. */
#define CC_PLACES_AT   (1u << 20)
#define CC_PLACES_SIZE (CC_MAX_PLACES * sizeof(uint32_t))

struct cc_page {
    uint32_t blocks; /* first block with code on this page */
    uint16_t drops;  /* how often all of its blocks went because of writes beside them */
    uint16_t misses; /* writes beside its blocks since the last time */
    uint8_t code;    /* the page is write-protected in all views */
    uint8_t maps;    /* small writable mappings in views, saturating */
};

/* Linear addresses of code that may be moved: all constants near have 64 bits, and are canonical.
 */
#define CC_MOVE_FROM 0x200000000ull
#define CC_MOVE_TO   0x7ffe00000000ull
#define CC_LAST      (1u << 17) /* entries of the index by physical address */
#define CC_MARKS     (1u << 18) /* how many pcs are told apart, more or less */

/* What class of memory (long_operand.c) an instruction accesses for which the first guess was
 * wrong: one, or in time several. */
enum cc_seen { CC_SEEN_NOTHING, CC_SEEN_CLASS0, CC_SEEN_MIXED = CC_SEEN_CLASS0 + 4 };

/* device.c: an instruction, by its guest-physical address and first two bytes. */
struct cc_device {
    uint64_t gpa;
    uint16_t bytes;
    uint8_t faults; /* 0: the entry is free */
};
#define CC_DEVICES       512
#define CC_DEVICE_FAULTS 4

/* The stub that looks for a pc among a jump table's victims (victim.c): region offsets of its
 * start, of where r11 has rcx, of its jump to the block, and of its end. */
struct cc_probe {
    uint32_t start, saved, jump, end;
};

struct cc {
    uint8_t *rx, *rw; /* the two views of the region */
    bool for_perf;    /* set before cc_create(): perf has to find names of generated code */
    int fd;
    /* Bytes: of all; to where translations may go, and go; where they start, behind the stubs;
     * where the sites' exits start, behind the copies, and how many sites have theirs. */
    size_t size, main_size, used, start, exits_at;
    uint32_t nexits;   /* of the first ones; copies.nexits: the first site that has none */
    uint8_t *reserved; /* of the open reservation, or NULL */
    struct cc_block *blocks;
    struct cc_site *sites;
    struct cc_map *maps; /* rows of pc maps, and relocations */
    uint32_t nblocks, nsites, nmaps;
    uint32_t max_blocks, max_sites, max_maps;
    /* Copies of blocks (move.c) lie behind all others, in the region and in both arrays. */
    struct cc_copies {
        size_t used;
        uint32_t nblocks, nsites, nexits, max_blocks, max_sites;
        bool full, few;   /* few: their part of the region is the small one (cc_share()) */
        uint32_t flushes; /* since the region was shared out */
    } copies;
    struct cc_place *places;
    uint32_t *place_hash, nplaces;
    uint32_t *hash;
    uint32_t *last;        /* by physical address and key: move.c */
    struct cc_page *pages; /* by gfn */
    uint64_t max_gfn;
    uint32_t *code_2m;       /* code pages in each 2 MiB of guest-physical memory */
    uint32_t index_mask;     /* which bits of a pc are its index in a jump table */
    bool has_masks;          /* the host's CPU: rt_cpu_has_masks() */
    void **miss_table;       /* every entry leads to the miss stub */
    int table_fd, places_fd; /* what new ones are private copies of */
    uint8_t *miss_stub;      /* what a jump table's empty entries hold */
    uint8_t *closed_stub;    /* where the indirect entries of dropped 64-bit blocks lead */
    struct cc_probe probe;
    /* How many bytes of the code at a direct entry find out what is known already; NULL: none. */
    unsigned (*skip)(const uint8_t *entry, uint32_t known);
    /* By cc_mark(); reserved, mostly never touched. */
    uint8_t *collided; /* pcs of blocks that share a table slot */
    uint8_t *seen;     /* physical addresses of instructions: enum cc_seen */
    uint8_t *entered;  /* physical addresses of code that jump tables lead to */
    uint8_t *fronts;   /* physical addresses of blocks: how often checks in front failed in vain */
    bool has_devices;
    struct cc_device devices[CC_DEVICES];
    uint64_t flushes, invalidated, linked, unlinked;
    uint64_t guest_bytes, host_bytes; /* of all blocks ever added */
};

/* Returns 0 or a negative errno. */
int cc_create(struct cc *cc, size_t size, uint64_t max_gpa);
void cc_destroy(struct cc *cc);
/* Bytes of address space that such a cache takes. */
uint64_t cc_address_space(size_t size, uint64_t max_gpa);

/* region.c: executable memory as a transaction. */

/* The writable view's address of the next free byte, with at least n bytes behind it; NULL when the
 * region is full (the caller flushes). */
uint8_t *cc_reserve(struct cc *cc, size_t n);
/* Publishes n bytes of the reservation; returns their address in the executable view. */
uint8_t *cc_commit(struct cc *cc, size_t n);
void cc_abort(struct cc *cc);
/* Shares the region out between translations and copies of them; while there are no copies. */
void cc_share(struct cc *cc, bool few_copies);
static inline uint8_t *cc_rw(const struct cc *cc, const uint8_t *hpc)
{
    return cc->rw + (hpc - cc->rx);
}
static inline bool cc_contains(const struct cc *cc, const uint8_t *hpc)
{
    return hpc >= cc->rx && hpc < cc->rx + cc->size;
}
/* Marks the end of the permanent stubs and builds the miss table for miss_stub. */
int cc_seal_stubs(struct cc *cc, uint8_t *miss_stub, uint8_t *closed_stub);

/* table.c: jump tables. For 64-bit code 262,144 host addresses, by the low 18 bits of the pc, or
 * the low 16 where PEXT is slow (cc.index_mask); for 32-bit code an entry for every pc (flat.c).
 * Empty entries lead to the miss stub. A table is used for one kind of code at a time. */
enum cc_table_page { CC_TABLE_UNTOUCHED, CC_TABLE_EMPTY, CC_TABLE_FILLED };

void **cc_table_new(struct cc *cc);
void cc_table_clear(struct cc *cc, void **table);
/* Takes out all entries for pcs in the page of pc (and others that share their place). */
void cc_table_clear_page(struct cc *cc, void **table, uint64_t pc);
void cc_table_free(void **table);
static inline uint32_t cc_index(const struct cc *cc, uint64_t pc)
{
    return (uint32_t)pc & cc->index_mask;
}
/* What is known of a table, in the page in front of it. */
struct cc_table_head {
    uint8_t page[CC_TABLE_PAGES]; /* enum cc_table_page */
    /* By number: 0 or CC_PLACE_PRESENT; NULL: no 64-bit code. None above max_place is present. */
    uint32_t *places, max_place;
    struct cc_flat *flat; /* NULL: no 32-bit code yet */
    uint64_t victims;     /* which pages of victims have any */
    uint64_t victims_of;  /* pages of code that victims are of, by hash */
};
#define CC_TABLE_HEAD_SIZE 4096
static inline struct cc_table_head *cc_table_head(void **table)
{
    return (struct cc_table_head *)(void *)((uint8_t *)table - CC_TABLE_HEAD_SIZE);
}
/* What an indirect branch finds through it. */
void *cc_table_at(const struct cc *cc, void **table, uint64_t pc, bool wide);
/* The block of another pc of 64-bit code that is in pc's slot, valid or not; or NULL. */
const struct cc_block *cc_table_other(const struct cc *cc, void **table, uint64_t pc);
/* Returns whether another pc's block has lost the slot. */
bool cc_table_set(const struct cc *cc, void **table, const struct cc_block *b);
/* Takes out the entry for pc. */
void cc_table_forget(const struct cc *cc, void **table, uint64_t pc);
/* What 32-bit code has in r14, made if need be; NULL: no host memory. */
void **cc_table_flat(void **table);

/* victim.c: what table.c calls for them. In front of a table's head. */
struct cc_victim {
    uint64_t pc;
    void *hpc;
};
#define CC_VICTIMS      (1u << 13)
#define CC_VICTIMS_SIZE (CC_VICTIMS * sizeof(struct cc_victim))
/* Bytes of a table's mapping in front of it. */
#define CC_TABLE_IN_FRONT (CC_VICTIMS_SIZE + CC_TABLE_HEAD_SIZE)
static inline struct cc_victim *cc_victims(void **table)
{
    return (struct cc_victim *)(void *)((uint8_t *)table - CC_TABLE_IN_FRONT);
}
void cc_victims_make(const struct cc *cc, struct cc_victim *victims, size_t n);
/* pc's block is at hpc now. lost: another pc's block had its slot, so both will need a second
 * place. */
void cc_victim_set(void **table, uint64_t pc, void *hpc, bool lost);
void cc_victim_forget(const struct cc *cc, void **table, uint64_t pc);
void cc_victims_clear_page(const struct cc *cc, void **table, uint64_t pc);
void cc_victims_clear(const struct cc *cc, void **table);
/* A kick interrupted the probe: it starts again, and finds the jump table that there is now. */
bool cc_probe_again(const struct cc *cc, struct rt_context *context);

/* flat.c: what table.c calls for 32-bit code. */
#define CC_FLAT_ENTRIES (1ull << 32)
/* A table of 32-bit code that always misses: not canonical, whatever the index. */
#define CC_FLAT_MISS ((void *)(1ull << 63))
struct cc_flat *cc_flat_new(void);
void cc_flat_free(struct cc_flat *flat);
void **cc_flat_base(const struct cc_flat *flat);
void *cc_flat_at(const struct cc *cc, const struct cc_flat *flat, uint32_t pc);
/* Without host memory there will be no entry. */
void cc_flat_set(const struct cc *cc, struct cc_flat *flat, uint32_t pc, void *hpc);
void cc_flat_clear(const struct cc *cc, struct cc_flat *flat);
void cc_flat_clear_page(const struct cc *cc, struct cc_flat *flat, uint32_t pc);

/* block.c */

/* A new block's record and arrays; NULL when an arena is full. Rows of map are copied. */
struct cc_block *cc_block_add(struct cc *cc, const struct cc_block *proto, const struct cc_map *map,
                              const struct cc_site *sites, const struct cc_reloc *relocs);
struct cc_block *cc_lookup(const struct cc *cc, uint64_t pc, uint64_t gpa, uint32_t key);
/* Enters a block into the index, by its pc and by its pages; it is valid from now on. */
void cc_index_add(struct cc *cc, uint32_t index);
/* Takes it out again. */
void cc_index_remove(struct cc *cc, uint32_t index);
/* The block whose host code contains hpc, valid or not; NULL for stubs. */
struct cc_block *cc_find(const struct cc *cc, const uint8_t *hpc);
/* Guest pc of the instruction that hpc belongs to, and what has been moved. */
uint64_t cc_guest_pc(const struct cc *cc, const struct cc_block *b, const uint8_t *hpc,
                     enum cc_recipe *recipe);
/* Writes the guest's registers at the start of the faulting instruction into cpu. False: hpc is in
 * no block. */
bool cc_recover(const struct cc *cc, struct rt_cpu *cpu, const struct rt_context *context);
/* Drops every block; jump tables must be cleared by the caller. */
void cc_flush(struct cc *cc);
/* Drops every copy, after which the region may be shared out anew; jump tables of user mode must be
 * cleared by the caller. */
void cc_flush_copies(struct cc *cc);

/* move.c */

/* A copy of a block of user mode for the same bytes at another linear address, pc, with an indirect
 * entry if need be. NULL: nothing to
 * copy; with copies.full: no room before cc_flush_copies(). */
struct cc_block *cc_move(struct cc *cc, uint64_t pc, uint64_t gpa, uint32_t key, bool entry);
/* b may be copied from now on; nothing like it any more. */
void cc_move_note(struct cc *cc, const struct cc_block *b);
void cc_move_forget(struct cc *cc, const struct cc_block *b);
/* For cc_flush(): whatever is in the entries that b may be in. */
void cc_move_flush(struct cc *cc, const struct cc_block *b);

/* link.c */

/* Region offset of the code that site number index leads to while it is not linked. */
uint32_t cc_exit_of(const struct cc *cc, uint32_t index);
/* Makes the exits of sites from *made up to n. They stay: they hold nothing but the number. */
void cc_exits_make(struct cc *cc, uint32_t *made, uint32_t n);
/* Bytes that the exits of so many sites take; sites come in groups of so many. */
size_t cc_exits_size(uint32_t sites);
#define CC_EXIT_GROUP 24u
static inline uint64_t cc_site_pc(const struct cc *cc, const struct cc_site *site)
{
    const struct cc_block *b = &cc->blocks[site->block];
    uint64_t pc = b->pc + (uint64_t)(int64_t)site->to;

    return b->wide ? pc : (uint32_t)pc;
}
/* Region offset of where the branch at site enters target: behind what it need not find out. */
uint32_t cc_entry_of(const struct cc *cc, const struct cc_site *site,
                     const struct cc_block *target);
void cc_link(struct cc *cc, struct cc_site *site, struct cc_block *target);
void cc_unlink(struct cc *cc, struct cc_site *site);
/* Unlinks every site of b: the way out for interrupts. */
void cc_unlink_exits(struct cc *cc, struct cc_block *b);

/* place.c */

/* A memfd of an array of places, none present. */
int cc_places_memfd(void);
/* The look-up in front of a far site's jump is for that place. */
void cc_place_look(const struct cc *cc, uint32_t jump, uint32_t number);
/* Links a far site, which is not linked. False: no place is left before cc_places_forget(). */
bool cc_place_link(struct cc *cc, struct cc_site *site, struct cc_block *target);
/* The address space of table has b's page where b was fetched from. */
void cc_place_enter(const struct cc *cc, void **table, const struct cc_block *b);
/* What cc_table_clear_page() and cc_table_clear() take out of an array of places. */
void cc_place_clear_page(const struct cc *cc, void **table, uint64_t pc);
void cc_place_clear(void **table);
/* The site whose look-up of a place hpc belongs to, or NULL. */
struct cc_site *cc_far_site(const struct cc *cc, const uint8_t *hpc);
/* Cuts all links of far sites; all tables must be cleared by the caller. */
void cc_places_forget(struct cc *cc);

/* invalidate.c: guest-physical pages that hold code. */

/* Bytes [gpa, gpa + len) changed: drops every block made from them. Returns true when the page
 * holds no code any more. */
bool cc_invalidate(struct cc *cc, uint64_t gpa, unsigned len);
void cc_invalidate_page(struct cc *cc, uint64_t gfn);
/* Block b was entered for another pc with the same slot: drops it, and remembers to translate it
 * with an entry check that does not fault. */
void cc_collide(struct cc *cc, struct cc_block *b);
static inline uint32_t cc_mark(uint64_t pc)
{
    return (uint32_t)((pc * 0x9e3779b97f4a7c15ull) >> 32) % CC_MARKS;
}
/* The block for pc, which is still to be made, will collide. */
static inline void cc_collides(struct cc *cc, uint64_t pc)
{
    cc->collided[cc_mark(pc)] = 1;
}
static inline bool cc_collided(const struct cc *cc, uint64_t pc)
{
    return cc->collided[cc_mark(pc)];
}
/* Block b, which has no indirect entry, is to have one: drops it, and remembers that. */
void cc_enter(struct cc *cc, struct cc_block *b);
static inline bool cc_entered(const struct cc *cc, uint64_t gpa)
{
    return cc->entered[cc_mark(gpa)];
}
/* The instruction at gpa, in block b, accesses memory of another class than its code was made for:
 * drops the block and remembers the class. */
void cc_see(struct cc *cc, struct cc_block *b, uint64_t gpa, unsigned class);
/* A check in b's front has failed, and neither for want of a window nor for a wrong class: after a
 * few times drops b, which is not to have such checks. */
#define CC_FRONT_TRIES 3
void cc_front_failed(struct cc *cc, struct cc_block *b);
static inline bool cc_front_suits(const struct cc *cc, uint64_t gpa)
{
    return cc->fronts[cc_mark(gpa)] < CC_FRONT_TRIES;
}
static inline uint8_t *cc_seen(struct cc *cc, uint64_t gpa)
{
    return &cc->seen[cc_mark(gpa)];
}
/* Drops a block that is to be made in another way from now on. */
void cc_drop(struct cc *cc, struct cc_block *b);

/* device.c: the instruction at gpa, which begins with these bytes, has accessed a device and
 * faulted. True: it keeps doing so. */
bool cc_device_note(struct cc *cc, uint64_t gpa, uint16_t bytes);
/* Whether it is to be a callout. */
bool cc_device_known(struct cc *cc, uint64_t gpa, uint16_t bytes);

static inline struct cc_page *cc_page(const struct cc *cc, uint64_t gpa)
{
    return (gpa >> 12) < cc->max_gfn ? &cc->pages[gpa >> 12] : NULL;
}

#endif
