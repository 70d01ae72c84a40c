/* view.c - views: the guest's address spaces as windows of host memory.
 *
 * A view belongs to a page-table root and a privilege class. Its window (4 GiB of host addresses)
 * holds the guest's pages at window + linear address, mapped on demand by walking the guest's page
 * tables in the fault handler; the host's MMU does the rest. A view behaves like a TLB:
 *
 *   not present -> present   nothing to do: the next access faults and fills
 *   CR3, CR4, INVPCID        mark spaces stale: before the next use, compare the entries that
 *   (INVLPG at once)         mappings were made from with the guest's tables, unmap what differs
 *   CR3 with bit 63 set      nothing, if the space is that PCID's and not stale
 *
 *   space (root, class) -> view (4 GiB of linear addresses, one window)
 *     view -> slot (4 MiB, or 2 MiB with PAE and in long mode)
 *               -> leaf: a copy of the page table, a flag byte a page
 *               -> or a large page, mapped as a run
 *
 * A 32-bit space is one view. A 64-bit space has a view for each 4 GiB that it touches, and a table
 * of deltas, indexed by address bits 32 to 47, that leads translated code to the windows; where
 * there is none it leads into a void that always faults.
 *
 * Windows of one class, which is address bits 46 and 47, are placed so that one delta serves all of
 * them (space.home): translated code adds it without a lookup, after a load from the byte that
 * stands for the slot has not faulted (mon_check_page(); long_operand.c has the code, and why no
 * address gets past it). The range of 4 GiB that holds a space's tables:
 *
 *   0            deltas, 512 KiB
 *   512 MiB - 128 MiB ... + 128 MiB   check pages of class 0: one for each slot that is at home
 *   1 GiB, 1.5 GiB, 2 GiB             of classes 1, 2, 3
 *
 * When the place of a slot is taken (by another space), the class moves: another delta, which fits
 * all its slots.
 *
 * A page is writable in a view only if its dirty bit is set and it holds no translated code
 * (cc_page.code): then a store faults, and the slow path does it and drops the blocks.
 *
 * Jump tables belong to address spaces, because a pc means a block only there. User views have
 * their own; supervisor views share one per vCPU: entries from global pages stay over CR3 writes,
 * others are listed and dropped.
 *
 * Supervisor windows are few and recycled by revalidation, so that the kernel's half stays mapped
 * when processes come and go.
 *
 * The host may refuse any call (too many mappings, no memory). A refused mapping is tried again
 * with less of other spaces, then the slow path does without; a window where pages could not be
 * unmapped or protected is emptied whole, which needs no new host mapping. What cannot be done at
 * all ends novt_vcpu_run() with NOVT_E_NOMEM (mon_vcpu.host_failure).
 *
 * Context: the vCPU's thread; mon_view_fill() in the fault handler, translated code interrupted. */
#include "monitor/cpu/vm.h"

#include <string.h>

#define MAX_SLOTS   2048
#define MAX_SPACES  26
#define MAX_SUPER   6
#define MAX_VIEWS   160
#define SPACE_VIEWS 30 /* of one space */
#define DELTAS_SIZE (65536 * sizeof(uint64_t))
#define MAX_PENDING 64
#define MAX_LOCAL   1024 /* supervisor jump-table entries from pages that are not global */
#define RUN_MAX     512  /* pages mapped by one small fill */
#define NO_ROOT     (~0ull)
#define NO_TABLE    (~0xfffull) /* an address outside RAM: reads as all ones, equals no entry */

enum view_class { VIEW_USER, VIEW_SUPER, VIEW_SMAP /* supervisor, user pages out of reach */ };

enum page_flag {
    PF_MAPPED = 1,
    PF_WRITE = 2,
    PF_EXEC = 4,  /* the jump table has entries from this page */
    PF_CROSS = 8, /* and entries from the page before, whose instruction ends in this one */
};

struct leaf {
    uint64_t table_gpa; /* the guest's page table; NO_ROOT: made from a large page */
    bool all_global;
    union {
        uint64_t pte64[512];
        uint32_t pte32[1024];
        uint64_t raw[512];
        struct leaf *next_free;
    };
    uint8_t flags[1024];
};

struct view {
    struct space *space; /* NULL: free, without a window */
    uint16_t hi;         /* bits 32 to 47 of its linear addresses */
    bool at_home;        /* window - linear address is its class's delta */
    uint8_t shift;       /* of a slot: 21 or 22 */
    uint8_t *window;
    uint32_t maps; /* host mappings, an upper bound */
    bool broken;   /* the host refused to unmap something: all of it has to go */
    uint16_t nused;
    uint16_t used_slot[MAX_SLOTS];
    uint8_t slot_used[MAX_SLOTS];
    uint8_t slot_large[MAX_SLOTS]; /* 0, or 1 + writable: mapped as a run */
    uint64_t slot_gpa[MAX_SLOTS];  /* of a large page */
    uint64_t pde_gpa[MAX_SLOTS];   /* where the directory entry is; NO_ROOT: paging is off */
    uint64_t pde[MAX_SLOTS];       /* the entry that mappings were made from */
    struct leaf *leaf[MAX_SLOTS];
};

/* What of a space's mappings has to be compared with the guest's tables before it is used again. */
enum staleness { FRESH, STALE_LOCAL /* all but global pages */, STALE_ALL };

struct space {
    bool used;
    uint8_t stale; /* enum staleness */
    uint16_t pcid; /* whose translations its mappings are */
    uint8_t cls;   /* enum view_class */
    uint8_t nviews;
    uint8_t parted; /* which view goes when another is needed */
    uint64_t root, stamp;
    void **table; /* jump table; user spaces only */
    uint32_t table_key;
    uint64_t *deltas; /* 64-bit spaces: window - linear address, by bits 32 to 47 */
    uint64_t home[4]; /* deltas by class; 0: none yet */
    struct view *view[SPACE_VIEWS];
};

struct mon_view_set {
    struct space space[MAX_SPACES];
    struct space *side[2];           /* of rt_cpu.side */
    struct space *current, *last[3]; /* last: of each class, where to look first */
    struct view view[MAX_VIEWS];
    uint8_t *void_window; /* claimed, never mapped */
    int deltas_fd;        /* a table of deltas that all lead into the void */
    void **super_table;
    uint32_t super_key;
    uint32_t local_count;
    uint64_t local[MAX_LOCAL];
    uint64_t super_exec[(1u << 20) / 64];  /* linear pages with entries in super_table */
    uint64_t super_cross[(1u << 20) / 64]; /* as PF_CROSS */
    /* INVLPG of a program's pages by its kernel, due before the program runs again. */
    struct space *pending_space;
    uint32_t npending;
    uint64_t pending[MAX_PENDING];
    uint64_t config; /* paging control bits that mappings depend on */
    uint64_t clock;
    uint32_t maps;
    uint32_t placements; /* spreads the spaces' homes over the host's addresses */
    struct leaf *free_leaf;
};

static uint64_t paging_config(const struct mon_vcpu *v)
{
    return (v->cr0 & (MON_CR0_PG | MON_CR0_WP)) |
           (uint64_t)(v->cr4 & (MON_CR4_PAE | MON_CR4_PSE | MON_CR4_SMAP)) << 32 |
           (v->efer & MON_EFER_NXE) << 20;
}

static bool uses_pae(const struct mon_vcpu *v)
{
    return !(v->cr0 & MON_CR0_PG) || (v->cr4 & MON_CR4_PAE);
}

static uint64_t root_of(const struct mon_vcpu *v)
{
    if (!(v->cr0 & MON_CR0_PG))
        return 0;
    if (mon_long(v))
        return v->cr3 & 0x000ffffffffff000ull;
    return v->cr3 & (v->cr4 & MON_CR4_PAE ? 0xffffffe0u : 0xfffff000u);
}

static uint64_t canonical(uint64_t hi)
{
    return hi & 0x8000 ? hi << 32 | 0xffff000000000000ull : hi << 32;
}

static uint16_t hi_of(uint64_t gla)
{
    return (uint16_t)(gla >> 32);
}

static unsigned home_class(uint16_t hi)
{
    return hi >> 14;
}

/* Where the byte that stands for a slot's addresses is; translated code computes the same
 * (long_operand.c). */
static uint8_t *check_page(const struct space *space, uint16_t hi)
{
    uint32_t index = (uint32_t)(canonical(hi) >> 20) + TR_CHECK_BASE(home_class(hi));

    return (uint8_t *)space->deltas + index;
}

static struct view *view_at(const struct space *space, uint16_t hi)
{
    for (unsigned i = 0; i < space->nviews; i++) {
        if (space->view[i]->hi == hi)
            return space->view[i];
    }
    return NULL;
}

static enum view_class class_of(const struct mon_vcpu *v)
{
    if (v->cpu->cpl == 3)
        return VIEW_USER;
    return (v->cr4 & MON_CR4_SMAP) && !(v->cpu->rflags & RT_AC) ? VIEW_SMAP : VIEW_SUPER;
}

/* ---- leaves ---- */

static struct leaf *leaf_new(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;
    struct leaf *leaf = set->free_leaf;

    if (!leaf) { /* a batch at a time, from memory that is never given back before the VM ends */
        size_t batch = 64;
        leaf = rt_os_reserve(batch * sizeof(*leaf));
        if (!leaf)
            return NULL;
        for (size_t i = 0; i < batch; i++) {
            leaf[i].next_free = set->free_leaf;
            set->free_leaf = &leaf[i];
        }
        leaf = set->free_leaf;
    }
    set->free_leaf = leaf->next_free;
    for (unsigned i = 0; i < sizeof(leaf->flags) / 8; i++)
        ((uint64_t *)(void *)leaf->flags)[i] = 0;
    leaf->all_global = true;
    return leaf;
}

static void leaf_free(struct mon_view_set *set, struct leaf *leaf)
{
    leaf->next_free = set->free_leaf;
    set->free_leaf = leaf;
}

static uint64_t leaf_pte(const struct view *view, const struct leaf *leaf, unsigned i)
{
    return view->shift == 21 ? leaf->pte64[i] : leaf->pte32[i];
}

static uint64_t pte_frame(const struct view *view, uint64_t pte)
{
    return view->shift == 21 ? pte & 0x000ffffffffff000ull : pte & 0xfffff000u;
}

static uint64_t read_entry(const struct mon_vcpu *v, const struct view *view, uint64_t gpa)
{
    const uint8_t *p = mon_vm_ram(v, gpa, NULL);

    if (!p)
        return ~0ull;
    return view->shift == 21 ? *(const uint64_t *)(const void *)p
                             : *(const uint32_t *)(const void *)p;
}

static unsigned slot_pages(const struct view *view)
{
    return 1u << (view->shift - 12);
}

/* ---- unmapping ---- */

static void clear_code_page(struct mon_vcpu *v, struct view *view, uint64_t gla, uint8_t flags)
{
    if (view->space->cls != VIEW_USER)
        return;
    cc_table_clear_page(&v->vm->cc, view->space->table, gla);
    if (flags & PF_CROSS)
        cc_table_clear_page(&v->vm->cc, view->space->table, gla - 4096);
}

static void unmap_pages(struct mon_vcpu *v, struct view *view, uint64_t gla, unsigned pages)
{
    struct leaf *leaf = view->leaf[gla >> view->shift];
    unsigned first = (unsigned)(gla >> 12) & (slot_pages(view) - 1);
    bool mapped = false;

    for (unsigned i = first; i < first + pages; i++) {
        uint8_t flags = leaf->flags[i];
        if (flags & PF_EXEC)
            clear_code_page(v, view, gla + ((uint64_t)(i - first) << 12), flags);
        if (flags & PF_WRITE) {
            struct cc_page *page = cc_page(&v->vm->cc, pte_frame(view, leaf_pte(view, leaf, i)));
            if (page && page->maps && page->maps != 0xff)
                page->maps--;
        }
        mapped |= flags & PF_MAPPED;
        leaf->flags[i] = 0;
    }
    if (!mapped)
        return;
    view->broken |= rt_os_unmap(view->window + gla, (size_t)pages << 12) < 0;
    mon_count(v, MON_STAT_window_dropped);
}

static void drop_slot(struct mon_vcpu *v, struct view *view, unsigned slot)
{
    uint64_t gla = (uint64_t)slot << view->shift;

    if (view->leaf[slot]) {
        unmap_pages(v, view, gla, slot_pages(view));
        leaf_free(v->views, view->leaf[slot]);
    }
    if (view->slot_large[slot]) {
        view->broken |= rt_os_unmap(view->window + gla, 1ull << view->shift) < 0;
        if (view->space->cls == VIEW_USER) /* code may have been entered anywhere in it */
            cc_table_clear(&v->vm->cc, view->space->table);
    }
    view->leaf[slot] = NULL;
    view->slot_large[slot] = 0;
    view->slot_used[slot] = 0;
    view->pde[slot] = 0;
}

static void compact_used(struct view *view)
{
    unsigned n = 0;

    for (unsigned i = 0; i < view->nused; i++) {
        if (view->slot_used[view->used_slot[i]])
            view->used_slot[n++] = view->used_slot[i];
    }
    view->nused = (uint16_t)n;
}

/* Everything out of a view: one munmap. */
static void empty_view(struct mon_vcpu *v, struct view *view)
{
    for (unsigned i = 0; i < view->nused; i++) {
        unsigned slot = view->used_slot[i];
        struct leaf *leaf = view->leaf[slot];
        if (leaf) {
            for (unsigned j = 0; j < slot_pages(view); j++) {
                struct cc_page *page =
                    leaf->flags[j] & PF_WRITE
                        ? cc_page(&v->vm->cc, pte_frame(view, leaf_pte(view, leaf, j)))
                        : NULL;
                if (page && page->maps && page->maps != 0xff)
                    page->maps--;
            }
            leaf_free(v->views, leaf);
        }
        view->leaf[slot] = NULL;
        view->slot_large[slot] = 0;
        view->slot_used[slot] = 0;
    }
    view->nused = 0;
    v->views->maps -= view->maps;
    view->maps = 0;
    if (rt_os_unmap(view->window, RT_WINDOW_SIZE) < 0)
        v->host_failure = "cannot unmap guest pages";
    view->broken = false;
    if (view->space->cls == VIEW_USER)
        cc_table_clear(&v->vm->cc, view->space->table);
}

/* After something that unmaps: true when that failed, and all of the view has gone instead. */
static bool mend(struct mon_vcpu *v, struct view *view)
{
    if (__builtin_expect(!view->broken, 1))
        return false;
    empty_view(v, view);
    return true;
}

/* ---- revalidation ---- */

static void revalidate_leaf(struct mon_vcpu *v, struct view *view, unsigned slot)
{
    struct leaf *leaf = view->leaf[slot];
    const uint8_t *ram = mon_vm_ram(v, leaf->table_gpa, NULL);
    const uint64_t *now = (const uint64_t *)(const void *)ram;
    uint64_t gla = (uint64_t)slot << view->shift;
    unsigned per_word = view->shift == 21 ? 1 : 2;
    unsigned run = 0, run_start = 0;

    if (!ram) {
        drop_slot(v, view, slot);
        return;
    }
    for (unsigned w = 0; w < 512; w++) {
        if (leaf->raw[w] == now[w])
            continue;
        for (unsigned k = 0; k < per_word; k++) {
            unsigned i = w * per_word + k;
            uint64_t was = leaf_pte(view, leaf, i);
            uint64_t is = per_word == 1 ? now[w] : (uint32_t)(now[w] >> (32 * k));
            if (was == is || !leaf->flags[i])
                continue;
            if (run && run_start + run == i) {
                run++;
                continue;
            }
            if (run)
                unmap_pages(v, view, gla + ((uint64_t)run_start << 12), run);
            run_start = i;
            run = 1;
        }
    }
    if (run)
        unmap_pages(v, view, gla + ((uint64_t)run_start << 12), run);
    for (unsigned w = 0; w < 512; w++)
        leaf->raw[w] = now[w];
}

/* Compares what mappings were made from with the guest's tables now. Without global, leaves that
 * hold only global pages are left: their TLB entries survive a CR3 write. */
static void revalidate(struct mon_vcpu *v, struct view *view, bool global)
{
    bool dropped = false;

    mon_count(v, MON_STAT_window_revalidations);
    for (unsigned i = 0; i < view->nused; i++) {
        unsigned slot = view->used_slot[i];
        if (view->pde_gpa[slot] == NO_ROOT)
            continue;
        if (read_entry(v, view, view->pde_gpa[slot]) != view->pde[slot]) {
            drop_slot(v, view, slot);
            dropped = true;
        } else if (view->leaf[slot] && view->leaf[slot]->table_gpa != NO_ROOT &&
                   (global || !view->leaf[slot]->all_global)) {
            revalidate_leaf(v, view, slot);
            dropped |= !view->leaf[slot];
        }
    }
    if (dropped)
        compact_used(view);
    mend(v, view);
}

static uint64_t read64(const struct mon_vcpu *v, uint64_t gpa)
{
    const uint8_t *p = mon_vm_ram(v, gpa, NULL);
    return p ? *(const uint64_t *)(const void *)p : 0;
}

#define ENTRY_P     1u
#define ENTRY_PS    0x80u
#define ENTRY_FRAME 0x000ffffffffff000ull

/* Where the entry that decides over a slot is: in the page directory, or in the table above it for
 * a page of 1 GiB (*gigantic). gigabyte: linear address bits 30 and 31. */
static uint64_t directory(const struct mon_vcpu *v, const struct view *view, unsigned gigabyte,
                          bool *gigantic)
{
    uint64_t gla = canonical(view->hi) | (uint64_t)gigabyte << 30, entry;

    *gigantic = false;
    if (view->shift == 22)
        return view->space->root;
    if (!mon_long(v)) {
        entry = v->pdpte[gigabyte];
        return entry & ENTRY_P ? entry & ENTRY_FRAME : NO_TABLE;
    }
    entry = read64(v, (view->space->root & ENTRY_FRAME) + (gla >> 39 & 511) * 8);
    if (!(entry & ENTRY_P))
        return NO_TABLE;
    uint64_t at = (entry & ENTRY_FRAME) + (gla >> 30 & 511) * 8;
    entry = read64(v, at);
    if (!(entry & ENTRY_P))
        return NO_TABLE;
    *gigantic = entry & ENTRY_PS;
    return *gigantic ? at : entry & ENTRY_FRAME;
}

/* Under a new root, or after changes of the upper levels, the directory entries are elsewhere. */
static void rebase(struct mon_vcpu *v, struct view *view)
{
    uint64_t table[4];
    bool gigantic[4], known[4] = {false, false, false, false};

    for (unsigned i = 0; i < view->nused; i++) {
        unsigned slot = view->used_slot[i], g = view->shift == 22 ? 0 : slot >> 9;
        if (view->pde_gpa[slot] == NO_ROOT)
            continue;
        if (!known[g])
            table[g] = directory(v, view, g, &gigantic[g]);
        known[g] = true;
        if (table[g] == NO_TABLE || gigantic[g])
            view->pde_gpa[slot] = table[g];
        else
            view->pde_gpa[slot] =
                view->shift == 22 ? table[g] + slot * 4u : table[g] + (slot & 511) * 8u;
    }
}

/* ---- finding and making spaces and views ---- */

static void detach_view(struct mon_vcpu *v, struct view *view)
{
    struct space *space = view->space;
    unsigned i = 0;

    empty_view(v, view);
    while (space->view[i] != view)
        i++;
    space->view[i] = space->view[--space->nviews];
    if (space->deltas)
        space->deltas[view->hi] = (uint64_t)v->views->void_window - canonical(view->hi);
    /* With a byte that says otherwise, nothing else may ever come to that window's place. */
    if (!view->at_home || rt_os_unmap(check_page(space, view->hi), 4096) == 0)
        rt_window_release(view->window);
    view->window = NULL;
    view->at_home = false;
    view->space = NULL;
}

static struct space *oldest_space(struct mon_view_set *set, bool super, bool with_views)
{
    struct space *best = NULL;

    for (unsigned i = 0; i < MAX_SPACES; i++) {
        struct space *space = &set->space[i];
        if (space->used && space != set->current && (space->cls != VIEW_USER) == super &&
            (!with_views || space->nviews) && (!best || space->stamp < best->stamp))
            best = space;
    }
    return best;
}

/* A view object: a free one, or one of the oldest space's. */
static struct view *take_view(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    for (unsigned i = 0; i < MAX_VIEWS; i++) {
        if (!set->view[i].space)
            return &set->view[i];
    }
    struct space *victim = oldest_space(set, false, true);
    if (!victim)
        victim = oldest_space(set, true, true);
    if (!victim)
        victim = set->current;
    struct view *view = victim->view[0];
    detach_view(v, view);
    return view;
}

/* ---- homes: one delta for all slots of a class ---- */

#define HOME_TRIES 20000
#define HOME_STEP  1009 /* prime, in units of a window */

/* Addresses that a class is likely to hold as well: programs, and the stack with the mappings below
 * it (Linux, arch/x86: ELF_ET_DYN_BASE and TASK_SIZE). */
static const uint16_t class1_also[] = {0x5555, 0x5655, 0x7eff, 0x7fff};

static bool home_suits(const struct space *space, uint16_t hi, uint64_t delta)
{
    if (!rt_window_possible(canonical(hi) + delta))
        return false;
    for (unsigned i = 0; home_class(hi) == 1 && i < 4; i++) {
        if (!rt_window_possible(canonical(class1_also[i]) + delta))
            return false;
    }
    for (unsigned i = 0; i < space->nviews; i++) {
        uint16_t other = space->view[i]->hi;
        if (home_class(other) == home_class(hi) && !rt_window_possible(canonical(other) + delta))
            return false;
    }
    return true;
}

static void set_home(struct mon_vcpu *v, struct space *space, unsigned class, uint64_t delta)
{
    space->home[class] = delta;
    if (space == v->views->current)
        v->cpu->class_delta[class] = delta;
    v->cpu->sides_ok = 0;
    v->mode_changed = true;
}

static void detach_class(struct mon_vcpu *v, struct space *space, unsigned class)
{
    for (unsigned i = 0; i < space->nviews;) {
        if (home_class(space->view[i]->hi) == class)
            detach_view(v, space->view[i]);
        else
            i++;
    }
}

/* Claims a window for slot hi at home: where the class's delta puts it. */
static uint8_t *claim_at_home(const struct space *space, uint16_t hi, uint64_t delta)
{
    uint64_t base = canonical(hi) + delta;
    const struct view *below = view_at(space, (uint16_t)(hi - 1));
    const struct view *above = view_at(space, (uint16_t)(hi + 1));
    bool owns_below = below && (uint64_t)below->window == base - RT_WINDOW_SIZE;
    bool owns_above = above && (uint64_t)above->window == base + RT_WINDOW_SIZE;

    return rt_window_claim_at(base, owns_below, owns_above) ? (uint8_t *)base : NULL;
}

/* Finds a new delta for a class. All its views go (their pages come back on demand), so that none
 * stays away from home. */
static uint8_t *move_home(struct mon_vcpu *v, struct space *space, uint16_t hi)
{
    struct mon_view_set *set = v->views;
    uint64_t first = (uint64_t)++set->placements * 331;
    uint8_t *window = NULL;

    for (unsigned i = 0; i < HOME_TRIES && !window; i++) {
        uint64_t granule = (first + (uint64_t)i * HOME_STEP) % (1u << 15);
        uint64_t delta = granule * RT_WINDOW_SIZE - canonical(hi);
        if (!home_suits(space, hi, delta))
            continue;
        if (space->home[home_class(hi)])
            detach_class(v, space, home_class(hi));
        window = claim_at_home(space, hi, delta);
        if (window)
            set_home(v, space, home_class(hi), delta);
    }
    mon_count(v, MON_STAT_homes_moved);
    return window;
}

static void take_window(struct mon_vcpu *v, struct space *space, struct view *view)
{
    uint64_t delta = space->home[home_class(view->hi)];

    view->at_home = false;
    view->window = NULL;
    if (space->deltas) {
        if (delta)
            view->window = claim_at_home(space, view->hi, delta);
        if (!view->window)
            view->window = move_home(v, space, view->hi);
        view->at_home = view->window && rt_os_map_at(check_page(space, view->hi), 4096, RT_PROT_R,
                                                     v->views->deltas_fd, 0, true) == 0;
    }
    if (!view->window)
        view->window = rt_window_claim();
    RT_ASSERT(view->window);
}

/* In turn, and never the two that came last: an instruction may need both. */
static struct view *view_to_part_with(struct space *space)
{
    return space->view[space->parted++ % (space->nviews - 2u)];
}

static struct view *view_get(struct mon_vcpu *v, struct space *space, uint16_t hi)
{
    struct view *view = view_at(space, hi);

    if (view)
        return view;
    if (space->nviews == SPACE_VIEWS)
        detach_view(v, view_to_part_with(space));
    view = take_view(v);
    view->hi = hi;
    view->shift = uses_pae(v) ? 21 : 22;
    take_window(v, space, view);
    view->space = space;
    space->view[space->nviews++] = view;
    if (space->deltas)
        space->deltas[hi] = (uint64_t)view->window - canonical(hi);
    return view;
}

/* Views where nothing is left go: with address space layout randomization each process has its own.
 */
static void revalidate_space(struct mon_vcpu *v, struct space *space, bool global)
{
    for (unsigned i = 0; i < space->nviews;) {
        struct view *view = space->view[i];
        rebase(v, view);
        revalidate(v, view, global);
        if (view->nused || !space->deltas)
            i++;
        else
            detach_view(v, view);
    }
}

static void empty_space(struct mon_vcpu *v, struct space *space)
{
    while (space->nviews)
        detach_view(v, space->view[0]);
}

/* A supervisor space keeps its mappings when it is recycled; what the new root disagrees with goes.
 */
static void recycle_space(struct mon_vcpu *v, struct space *space, uint64_t root,
                          enum view_class cls)
{
    mon_count(v, MON_STAT_views_recycled);
    if (cls == VIEW_USER || space->cls != cls)
        empty_space(v, space);
    space->root = root;
    space->cls = (uint8_t)cls;
    space->stale = STALE_ALL;
}

static struct space *unused_space(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        struct space *space = &v->views->space[i];
        if (space->used)
            continue;
        space->table = cc_table_new(&v->vm->cc);
        space->used = space->table;
        return space->used ? space : NULL;
    }
    return NULL;
}

static struct space *space_for(struct mon_vcpu *v, uint64_t root, enum view_class cls)
{
    struct mon_view_set *set = v->views;
    struct space *space = set->last[cls], *old;
    unsigned supers = 0;

    if (space && space->root == root && space->cls == cls)
        return space;
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        space = &set->space[i];
        if (space->used && space->root == root && space->cls == cls)
            return space;
        supers += space->used && space->cls != VIEW_USER;
    }
    old = oldest_space(set, cls != VIEW_USER, false);
    if (cls != VIEW_USER && supers < MAX_SUPER)
        old = NULL;
    space = old && cls != VIEW_USER ? NULL : unused_space(v);
    if (space) {
        space->root = root;
        space->cls = (uint8_t)cls;
        return space;
    }
    if (!old)
        old = oldest_space(set, cls == VIEW_USER, false);
    if (!old)
        return NULL;
    recycle_space(v, old, root, cls);
    return old;
}

static int make_void_deltas(struct mon_view_set *set)
{
    set->deltas_fd = rt_os_memfd("novt-deltas", DELTAS_SIZE);
    if (set->deltas_fd < 0)
        return NOVT_E_NOMEM;
    uint64_t *deltas = rt_os_map_shared(set->deltas_fd, 0, DELTAS_SIZE, RT_PROT_RW);
    if (!deltas)
        return NOVT_E_NOMEM;
    for (uint64_t hi = 0; hi < 65536; hi++)
        deltas[hi] = (uint64_t)set->void_window - canonical(hi);
    rt_os_release(deltas, DELTAS_SIZE);
    return NOVT_OK;
}

int mon_views_create(struct mon_vcpu *v)
{
    struct mon_view_set *set = rt_os_reserve(sizeof(*set));

    if (!set)
        return NOVT_E_NOMEM;
    v->views = set;
    set->deltas_fd = -1;
    set->void_window = rt_window_claim();
    set->super_table = cc_table_new(&v->vm->cc);
    set->config = paging_config(v);
    return set->void_window && set->super_table ? make_void_deltas(set) : NOVT_E_NOMEM;
}

void mon_views_destroy(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    if (!set)
        return;
    for (unsigned i = 0; i < MAX_VIEWS; i++) {
        if (set->view[i].space)
            rt_window_release(set->view[i].window);
    }
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        cc_table_free(set->space[i].table);
        if (set->space[i].deltas)
            rt_window_release((uint8_t *)set->space[i].deltas);
    }
    if (set->void_window)
        rt_window_release(set->void_window);
    cc_table_free(set->super_table);
    rt_os_close(set->deltas_fd);
    rt_os_release(set, sizeof(*set));
    v->views = NULL;
}

static void clear_super_table(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    cc_table_clear(&v->vm->cc, set->super_table);
    set->local_count = 0;
    for (unsigned i = 0; i < sizeof(set->super_exec) / 8; i++)
        set->super_exec[i] = set->super_cross[i] = 0;
}

static void clear_super_local(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    if (set->local_count > MAX_LOCAL) {
        clear_super_table(v);
        return;
    }
    for (uint32_t i = 0; i < set->local_count; i++)
        set->super_table[cc_index(&v->vm->cc, set->local[i])] = v->vm->cc.miss_stub;
    set->local_count = 0;
}

/* The jump table for the current space; emptied when it was filled in another mode. */
static void **select_table(struct mon_vcpu *v, struct space *space, uint32_t key)
{
    struct mon_view_set *set = v->views;

    if (space->cls == VIEW_USER) {
        if (space->table_key != key)
            cc_table_clear(&v->vm->cc, space->table);
        space->table_key = key;
        return space->table;
    }
    if (set->super_key != key)
        clear_super_table(v);
    set->super_key = key;
    return set->super_table;
}

/* The first 64-bit code in a space: windows that 32-bit code had are not at home. */
static bool make_deltas(struct mon_vcpu *v, struct space *space)
{
    uint8_t *range;

    if (space->deltas)
        return true;
    range = rt_window_claim();
    if (!range)
        return false;
    if (!rt_os_map_private(range, v->views->deltas_fd, 0, DELTAS_SIZE)) {
        rt_window_release(range);
        return false;
    }
    empty_space(v, space);
    space->deltas = (uint64_t *)(void *)range;
    return true;
}

static void make_stale(struct space *space, enum staleness stale)
{
    if (space->stale < stale)
        space->stale = (uint8_t)stale;
}

static uint16_t pcid_of(const struct mon_vcpu *v)
{
    return v->cr4 & MON_CR4_PCIDE ? v->cr3 & 0xfff : 0;
}

static void invlpg_pending(struct mon_vcpu *v);

static bool has_pending(const struct mon_view_set *set, const struct space *space)
{
    return set->npending && set->pending_space == space;
}

static void make_fresh(struct mon_vcpu *v, struct space *space)
{
    if (has_pending(v->views, space))
        invlpg_pending(v);
    if (space->pcid != pcid_of(v))
        make_stale(space, STALE_LOCAL);
    space->pcid = pcid_of(v);
    if (space->stale != FRESH)
        revalidate_space(v, space, space->stale == STALE_ALL);
    space->stale = FRESH;
}

void mon_view_select(struct mon_vcpu *v, uint32_t key)
{
    struct mon_view_set *set = v->views;
    struct space *space = space_for(v, root_of(v), class_of(v));

    if (!space || ((key & TR_K_LONG) && !make_deltas(v, space))) {
        v->host_failure = "no host memory for another guest address space";
        return;
    }
    space->stamp = ++set->clock;
    set->current = set->last[space->cls] = space;
    make_fresh(v, space);
    if (key & TR_K_LONG) {
        v->cpu->window = (uint8_t *)space->deltas;
        for (unsigned i = 0; i < 4; i++)
            v->cpu->class_delta[i] = space->home[i];
    } else {
        v->cpu->window = view_get(v, space, 0)->window;
    }
    v->cpu->jump_table = select_table(v, space, key);
}

static struct space *fresh_space(const struct mon_vcpu *v, enum view_class cls)
{
    const uint64_t root = root_of(v);
    struct space *space = v->views->last[cls];

    for (unsigned i = 0; !space || !space->used || space->root != root || space->cls != cls; i++) {
        if (i == MAX_SPACES)
            return NULL;
        space = &v->views->space[i];
    }
    bool fresh = space->stale == FRESH && space->pcid == pcid_of(v) && space->deltas &&
                 !has_pending(v->views, space);
    return fresh ? space : NULL;
}

void mon_view_sides(struct mon_vcpu *v, const uint32_t key[2])
{
    struct mon_view_set *set = v->views;
    struct rt_cpu *cpu = v->cpu;

    for (unsigned n = 0; n < 2; n++) {
        struct space *space = fresh_space(v, n ? VIEW_USER : VIEW_SUPER);
        if (!space || (n ? space->table_key : set->super_key) != key[n])
            return;
        set->side[n] = space;
        cpu->side[n].window = space->deltas;
        cpu->side[n].jump_table = n ? space->table : set->super_table;
        for (unsigned i = 0; i < 4; i++)
            cpu->side[n].class_delta[i] = space->home[i];
    }
    cpu->sides_ok = 1;
}

void mon_view_took_side(struct mon_vcpu *v, unsigned side)
{
    struct mon_view_set *set = v->views;

    set->current = set->last[set->side[side]->cls] = set->side[side];
    set->current->stamp = ++set->clock;
}

bool mon_view_gla(const struct mon_vcpu *v, uint64_t host, uint64_t *gla)
{
    const struct space *space = v->views->current;

    for (unsigned i = 0; i < space->nviews; i++) {
        uint64_t offset = host - (uint64_t)space->view[i]->window;
        if (offset < RT_WINDOW_SIZE) {
            *gla = canonical(space->view[i]->hi) | offset;
            return true;
        }
    }
    return false;
}

bool mon_view_is_check(const struct mon_vcpu *v, uint64_t host)
{
    const struct space *space = v->views->current;

    return space->deltas && host - (uint64_t)space->deltas < RT_WINDOW_SIZE;
}

bool mon_view_at_home(const struct mon_vcpu *v, uint64_t gla)
{
    const struct view *view = view_at(v->views->current, hi_of(gla));

    return view && view->at_home && canonical(view->hi) == (gla & ~0xffffffffull);
}

void mon_view_touch(struct mon_vcpu *v, uint64_t gla)
{
    struct mon_walk walk;

    if (canonical(hi_of(gla)) == (gla & ~0xffffffffull) &&
        !view_at(v->views->current, hi_of(gla)) && mon_walk_peek(v, gla, &walk))
        view_get(v, v->views->current, hi_of(gla));
}

uint64_t mon_view_delta(const struct mon_vcpu *v, uint64_t gla)
{
    return v->views->current->deltas[hi_of(gla)];
}

/* Everything out, for changes after which no mapping can stay. */
static void empty_spaces(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        struct space *space = &v->views->space[i];
        if (space->used) {
            empty_space(v, space);
            space->root = NO_ROOT;
        }
    }
    v->views->current = NULL;
    clear_super_table(v);
}

static void stale_spaces(struct mon_vcpu *v, bool every, uint16_t pcid, enum staleness stale)
{
    v->mode_changed = true;
    if (stale == STALE_ALL)
        clear_super_table(v);
    else
        clear_super_local(v);
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        struct space *space = &v->views->space[i];
        if (space->used && (every || space->pcid == pcid))
            make_stale(space, stale);
    }
}

void mon_view_cr3(struct mon_vcpu *v, bool keep)
{
    if (!v->views)
        return;
    v->mode_changed = true;
    clear_super_local(v);
    if (!keep)
        stale_spaces(v, false, pcid_of(v), STALE_LOCAL);
}

void mon_view_flush(struct mon_vcpu *v, bool global)
{
    struct mon_view_set *set = v->views;

    if (!set)
        return;
    if (set->config != paging_config(v)) {
        v->mode_changed = true;
        set->config = paging_config(v);
        empty_spaces(v);
        return;
    }
    stale_spaces(v, true, 0, global ? STALE_ALL : STALE_LOCAL);
}

void mon_view_invpcid(struct mon_vcpu *v, uint16_t pcid)
{
    if (v->views)
        stale_spaces(v, false, pcid, STALE_LOCAL);
}

static void invlpg_in(struct mon_vcpu *v, struct view *view, uint64_t gla)
{
    unsigned slot = (unsigned)((gla & 0xffffffffu) >> view->shift);
    uint64_t lpn = (gla & 0xffffffffu) >> 12;
    struct leaf *leaf = view->leaf[slot];
    unsigned page = (unsigned)lpn & (slot_pages(view) - 1);

    if (!view->slot_used[slot] || view->pde_gpa[slot] == NO_ROOT)
        return;
    if (read_entry(v, view, view->pde_gpa[slot]) != view->pde[slot]) {
        drop_slot(v, view, slot);
        compact_used(view);
    } else if (leaf && leaf->table_gpa != NO_ROOT && leaf->flags[page] &&
               read_entry(v, view, leaf->table_gpa + page * (view->shift == 21 ? 8u : 4u)) !=
                   leaf_pte(view, leaf, page)) {
        unmap_pages(v, view, lpn << 12, 1);
    }
    mend(v, view);
}

/* Runs of pages that the guest has invalidated one by one are unmapped together. */
static void invlpg_pending(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;
    struct view *run_view = NULL;
    uint64_t start = 0;
    unsigned run = 0;

    for (uint32_t i = 0; i < set->npending; i++) {
        uint64_t gla = set->pending[i] & ~4095ull;
        struct view *view = view_at(set->pending_space, hi_of(gla));
        if (!view)
            continue;
        rebase(v, view);
        unsigned slot = (unsigned)((gla & 0xffffffffu) >> view->shift);
        const struct leaf *leaf = view->leaf[slot];
        unsigned page = (unsigned)(gla >> 12) & (slot_pages(view) - 1);
        bool follows = run && view == run_view && gla == start + ((uint64_t)run << 12) && page;
        if (run && !follows) {
            unmap_pages(v, run_view, (uint32_t)start, run);
            run = 0;
        }
        if (!leaf || leaf->table_gpa == NO_ROOT || view->pde_gpa[slot] == NO_ROOT ||
            read_entry(v, view, view->pde_gpa[slot]) != view->pde[slot]) {
            if (run)
                unmap_pages(v, run_view, (uint32_t)start, run);
            run = 0;
            invlpg_in(v, view, gla);
        } else if (leaf->flags[page] &&
                   read_entry(v, view, leaf->table_gpa + page * (view->shift == 21 ? 8u : 4u)) !=
                       leaf_pte(view, leaf, page)) {
            start = run ? start : gla;
            run_view = view;
            run++;
        } else if (run) {
            unmap_pages(v, run_view, (uint32_t)start, run);
            run = 0;
        }
    }
    if (run)
        unmap_pages(v, run_view, (uint32_t)start, run);
    set->npending = 0;
}

/* A program's space is not in use while its kernel runs: its pages can wait. */
static void invlpg_later(struct mon_vcpu *v, struct space *space, uint64_t gla)
{
    struct mon_view_set *set = v->views;

    v->cpu->sides_ok = 0;
    if (set->npending == MAX_PENDING || (set->npending && set->pending_space != space)) {
        make_stale(space, STALE_ALL);
        return;
    }
    set->pending_space = space;
    set->pending[set->npending++] = gla;
}

/* In all spaces: their mappings may be of global pages, or of the same root for another privilege
 * class. */
void mon_view_invlpg(struct mon_vcpu *v, uint64_t gla)
{
    struct mon_view_set *set = v->views;
    uint64_t lpn = gla >> 12 & 0xfffff;

    if (set->super_exec[lpn / 64] >> (lpn % 64) & 1)
        cc_table_clear_page(&v->vm->cc, set->super_table, gla & ~4095ull);
    if (set->super_cross[lpn / 64] >> (lpn % 64) & 1)
        cc_table_clear_page(&v->vm->cc, set->super_table, (gla & ~4095ull) - 4096);
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        struct space *space = &set->space[i];
        struct view *view = space->used ? view_at(space, hi_of(gla)) : NULL;
        if (!view)
            continue;
        if (space->cls == VIEW_USER && space != set->current && space->root == root_of(v)) {
            invlpg_later(v, space, gla);
            continue;
        }
        if (space->root == root_of(v))
            rebase(v, view);
        invlpg_in(v, view, gla);
    }
}

/* ---- filling ---- */

static const struct mon_slot *ram_slot(const struct mon_vm *vm, uint64_t gpa)
{
    for (unsigned i = 0; i < MON_MAX_SLOTS; i++) {
        const struct mon_slot *slot = &vm->slot[i];
        if (slot->used && gpa - slot->gpa < slot->size)
            return slot;
    }
    return NULL;
}

static bool page_has_code(const struct mon_vm *vm, uint64_t gpa)
{
    const struct cc_page *page = cc_page(&vm->cc, gpa);
    return page && page->code;
}

static struct view *largest_view(const struct mon_view_set *set, bool of_current)
{
    struct view *best = NULL;

    for (unsigned i = 0; i < MAX_SPACES; i++) {
        const struct space *space = &set->space[i];
        if (!space->used || (space == set->current) != of_current)
            continue;
        for (unsigned n = 0; n < space->nviews; n++) {
            struct view *view = space->view[n];
            if (view->maps && (!best || space->stamp < best->space->stamp ||
                               (space == best->space && view->maps > best->maps)))
                best = view;
        }
    }
    return best;
}

/* Makes room when the windows use more host mappings than the budget allows: the least recently
 * used space's views first. A view keeps its window, so deltas in registers stay right. */
static void keep_budget(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    while (set->maps + 600 > v->vm->map_budget) {
        struct view *victim = largest_view(set, false);
        if (!victim)
            victim = largest_view(set, true);
        if (!victim)
            return;
        empty_view(v, victim);
    }
}

static bool map_run(struct mon_vcpu *v, struct view *view, uint64_t gla, uint64_t gpa,
                    uint64_t bytes, bool writable)
{
    const struct mon_slot *ram = ram_slot(v->vm, gpa);
    uint64_t offset = gpa - ram->gpa;

    while (rt_os_map_at(view->window + gla, bytes, writable ? RT_PROT_RW : RT_PROT_R, ram->fd,
                        ram->offset + offset, bytes <= 16 * 4096) < 0) {
        struct view *victim = largest_view(v->views, false);
        if (!victim)
            return false;
        empty_view(v, victim);
    }
    view->maps += 2;
    v->views->maps += 2;
    mon_count(v, MON_STAT_window_mappings);
    v->vm->stat[MON_STAT_window_pages] += bytes >> 12;
    return true;
}

static void use_slot(struct view *view, unsigned slot)
{
    if (view->slot_used[slot])
        return;
    view->slot_used[slot] = 1;
    view->used_slot[view->nused++] = (uint16_t)slot;
}

/* Protects the pages with code inside a large run that is mapped writable. */
static bool protect_code_in(struct mon_vcpu *v, struct view *view, uint64_t gla, uint64_t gpa,
                            uint64_t bytes)
{
    struct cc *cc = &v->vm->cc;

    for (uint64_t at = 0; at < bytes; at += 4096) {
        uint64_t page = gpa + at;
        if (!(page & 0x1fffff) && (page >> 12) < cc->max_gfn && !cc->code_2m[page >> 21]) {
            at += 0x1ff000;
            continue;
        }
        if (!page_has_code(v->vm, page))
            continue;
        if (rt_os_protect(view->window + gla + at, 4096, RT_PROT_R) < 0) {
            empty_view(v, view);
            return false;
        }
        view->maps += 2;
        v->views->maps += 2;
    }
    return true;
}

static bool walk_writable(const struct mon_vcpu *v, const struct mon_walk *walk)
{
    bool allowed = walk->writable || (v->cpu->cpl != 3 && !(v->cr0 & MON_CR0_WP));
    return allowed && walk->dirty;
}

/* A large page is mapped whole if it lies in one RAM slot, with its like neighbours. */
static bool fill_large(struct mon_vcpu *v, struct view *view, unsigned slot, uint64_t entry,
                       uint64_t entry_gpa, uint64_t gpa, bool writable, bool gigantic)
{
    uint64_t size = 1ull << view->shift, bytes = size;
    uint64_t step = gigantic ? 0 : view->shift == 21 ? 8 : 4; /* between directory entries */
    uint64_t gla = (uint64_t)slot << view->shift;
    const struct mon_slot *ram = ram_slot(v->vm, gpa);

    if (!ram || ram->readonly || gpa - ram->gpa + size > ram->size)
        return false;
    if (view->slot_used[slot])
        drop_slot(v, view, slot);
    compact_used(view);
    for (unsigned next = slot;; next++) {
        uint64_t at = (uint64_t)(next - slot) << view->shift;
        if (next != slot) {
            if (next >= 1u << (32 - view->shift) || view->slot_used[next] ||
                gpa - ram->gpa + at + size > ram->size)
                break;
            if (entry_gpa != NO_ROOT) {
                if (view->shift == 21 && !(next & 511))
                    break; /* another directory */
                if (!gigantic &&
                    read_entry(v, view, entry_gpa + (next - slot) * step) != entry + at)
                    break;
            }
        }
        use_slot(view, next);
        view->pde_gpa[next] = entry_gpa == NO_ROOT ? NO_ROOT : entry_gpa + (next - slot) * step;
        view->pde[next] = entry_gpa == NO_ROOT ? 0 : gigantic ? entry : entry + at;
        view->slot_large[next] = (uint8_t)(1 + writable);
        view->slot_gpa[next] = gpa + at;
        bytes = at + size;
    }
    if (!map_run(v, view, gla, gpa, bytes, writable)) {
        empty_view(v, view); /* slots are marked above that hold nothing */
        return false;
    }
    return !writable || protect_code_in(v, view, gla, gpa, bytes);
}

/* The leaf for a slot, made from the page table that the walk used (or from a large page). */
static struct leaf *leaf_for(struct mon_vcpu *v, struct view *view, unsigned slot, uint64_t entry,
                             uint64_t entry_gpa, uint64_t table_gpa, uint64_t large_pte)
{
    struct leaf *leaf = view->leaf[slot];

    if (leaf && (leaf->table_gpa != table_gpa || view->pde[slot] != entry)) {
        drop_slot(v, view, slot);
        compact_used(view);
        leaf = NULL;
    } else if (!leaf && view->slot_used[slot]) {
        drop_slot(v, view, slot);
        compact_used(view);
    }
    if (leaf)
        return leaf;
    leaf = leaf_new(v);
    if (!leaf)
        return NULL;
    leaf->table_gpa = table_gpa;
    const uint64_t *raw = table_gpa == NO_ROOT
                              ? NULL
                              : (const uint64_t *)(const void *)mon_vm_ram(v, table_gpa, NULL);
    for (unsigned i = 0; raw && i < 512; i++)
        leaf->raw[i] = raw[i];
    for (unsigned i = 0; !raw && i < slot_pages(view); i++) {
        if (view->shift == 21)
            leaf->pte64[i] = large_pte + ((uint64_t)i << 12);
        else
            leaf->pte32[i] = (uint32_t)(large_pte + ((uint64_t)i << 12));
    }
    view->leaf[slot] = leaf;
    use_slot(view, slot);
    view->pde[slot] = entry;
    view->pde_gpa[slot] = entry_gpa;
    return leaf;
}

#define PTE_P 1u
#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_G 0x100u
/* What neighbours in a run must have in common: P W U A, and NX. */
#define PTE_SAME 0x8000000000000027ull

static bool joins(struct mon_vcpu *v, const struct view *view, const struct leaf *leaf, unsigned i,
                  uint64_t pte, uint64_t want, bool writable)
{
    if (((pte ^ want) & (PTE_SAME | (writable ? PTE_D : 0))) ||
        pte_frame(view, pte) != pte_frame(view, want) || leaf->flags[i] & PF_MAPPED)
        return false;
    return !writable || !page_has_code(v->vm, pte_frame(view, pte));
}

static uint64_t current_pte(const struct mon_vcpu *v, const struct view *view,
                            const struct leaf *leaf, unsigned i)
{
    if (leaf->table_gpa == NO_ROOT)
        return leaf_pte(view, leaf, i);
    return read_entry(v, view, leaf->table_gpa + i * (view->shift == 21 ? 8u : 4u));
}

static void note_mapped(struct mon_vcpu *v, struct view *view, struct leaf *leaf, unsigned i,
                        uint64_t pte, bool writable)
{
    struct cc_page *page = cc_page(&v->vm->cc, pte_frame(view, pte));

    if (writable && !(leaf->flags[i] & PF_WRITE) && page && page->maps != 0xff)
        page->maps++;
    leaf->flags[i] = (uint8_t)((leaf->flags[i] & PF_EXEC) | PF_MAPPED | (writable ? PF_WRITE : 0));
    if (view->shift == 21)
        leaf->pte64[i] = pte;
    else
        leaf->pte32[i] = (uint32_t)pte;
    if (!(pte & PTE_G) || !(v->cr4 & MON_CR4_PGE))
        leaf->all_global = false;
}

/* Maps the page and the run around it: consecutive entries for consecutive frames. */
static bool fill_small(struct mon_vcpu *v, struct view *view, struct leaf *leaf, uint64_t gla,
                       bool writable)
{
    unsigned i = (unsigned)(gla >> 12) & (slot_pages(view) - 1), first = i, last = i;
    uint64_t pte = current_pte(v, view, leaf, i);
    uint64_t gpa = pte_frame(view, pte);
    const struct mon_slot *ram = ram_slot(v->vm, gpa);

    if (!ram)
        return false;
    if (leaf->flags[i] && pte_frame(view, leaf_pte(view, leaf, i)) != gpa)
        unmap_pages(v, view, gla & ~4095ull, 1);
    while (last + 1 < slot_pages(view) && last - first < RUN_MAX &&
           gpa + ((uint64_t)(last + 2 - i) << 12) - ram->gpa <= ram->size) {
        uint64_t next = current_pte(v, view, leaf, last + 1);
        if (!joins(v, view, leaf, last + 1, next, pte + ((uint64_t)(last + 1 - i) << 12), writable))
            break;
        last++;
    }
    while (first > 0 && last - first < RUN_MAX &&
           gpa - ((uint64_t)(i - first + 1) << 12) >= ram->gpa) {
        uint64_t next = current_pte(v, view, leaf, first - 1);
        if (!joins(v, view, leaf, first - 1, next, pte - ((uint64_t)(i - first + 1) << 12),
                   writable))
            break;
        first--;
    }
    uint64_t start = (gla & ~4095ull) - ((uint64_t)(i - first) << 12);
    if (!map_run(v, view, start, gpa - ((uint64_t)(i - first) << 12),
                 (uint64_t)(last - first + 1) << 12, writable))
        return false;
    for (unsigned j = first; j <= last; j++)
        note_mapped(v, view, leaf, j, current_pte(v, view, leaf, j), writable);
    return true;
}

static bool fill_identity(struct mon_vcpu *v, struct view *view, uint64_t gla, bool write)
{
    unsigned slot = (unsigned)(gla >> view->shift);
    const struct mon_slot *ram = ram_slot(v->vm, gla);

    if (!ram)
        return false;
    if (!view->leaf[slot] && !view->slot_large[slot] &&
        fill_large(v, view, slot, 0, NO_ROOT, (uint64_t)slot << view->shift, true, false))
        return true;
    if (view->slot_large[slot])
        return false;
    struct leaf *leaf =
        leaf_for(v, view, slot, 0, NO_ROOT, NO_ROOT, ((uint64_t)slot << view->shift) | 0x167);
    (void)write;
    return leaf && fill_small(v, view, leaf, gla, !page_has_code(v->vm, gla) && !ram->readonly);
}

static bool fill_paged(struct mon_vcpu *v, struct view *view, uint64_t gla,
                       const struct mon_walk *walk)
{
    unsigned slot = (unsigned)(gla >> view->shift);
    bool code = page_has_code(v->vm, walk->gpa);
    bool writable = walk_writable(v, walk);
    unsigned last = walk->levels - 1u;

    if (walk->page_shift >= view->shift) {
        uint64_t mask = (1ull << view->shift) - 1;
        bool split = view->leaf[slot] && view->leaf[slot]->table_gpa == NO_ROOT &&
                     view->pde[slot] == walk->entry[last];
        uint64_t base = (walk->gpa & ~4095ull) - (gla & mask & ~4095ull);
        /* Mapped as a run, but this page write-protected because it held code: it holds none now.
         */
        if (view->slot_large[slot] == 2 && view->pde[slot] == walk->entry[last] && writable &&
            !code && rt_os_protect(view->window + (gla & ~4095ull), 4096, RT_PROT_RW) == 0)
            return true;
        if (!split && fill_large(v, view, slot, walk->entry[last], walk->entry_gpa[last], base,
                                 writable, walk->page_shift == 30))
            return true;
        struct leaf *leaf = leaf_for(v, view, slot, walk->entry[last], walk->entry_gpa[last],
                                     NO_ROOT, base | (walk->entry[last] & 0x167));
        return leaf && fill_small(v, view, leaf, gla, writable && !code);
    }
    struct leaf *leaf = leaf_for(v, view, slot, walk->entry[last - 1], walk->entry_gpa[last - 1],
                                 walk->entry_gpa[last] & ~4095ull, 0);
    return leaf && fill_small(v, view, leaf, gla, writable && !code);
}

enum mon_fill mon_view_fill(struct mon_vcpu *v, uint64_t gla, bool write)
{
    struct mon_walk walk;
    const struct mon_slot *ram;

    if (mon_walk(v, gla, write ? MON_WRITE : MON_READ, v->cpu->cpl, &walk) != MON_OK) {
        mon_count(v, MON_STAT_fault_guest_page);
        return MON_FILL_EXCEPTION;
    }
    ram = ram_slot(v->vm, walk.gpa);
    if (!ram || (write && ram->readonly)) {
        mon_count(v, MON_STAT_fault_mmio);
        return MON_FILL_STEP;
    }
    if (write && page_has_code(v->vm, walk.gpa)) {
        mon_count(v, MON_STAT_fault_smc);
        return MON_FILL_STEP;
    }
    keep_budget(v);
    struct view *view = view_at(v->views->current, hi_of(gla));
    bool done = v->cr0 & MON_CR0_PG ? fill_paged(v, view, (uint32_t)gla, &walk)
                                    : fill_identity(v, view, gla, write);
    mon_count(v, MON_STAT_fault_window_fill);
    mend(v, view); /* then the next fault fills again */
    return done ? MON_FILL_DONE : MON_FILL_STEP;
}

void mon_view_prefill(struct mon_vcpu *v, uint64_t gla, bool write)
{
    struct mon_walk walk;

    if (!(v->cr0 & MON_CR0_PG) || !mon_walk_peek(v, gla, &walk) || !walk.user ||
        !(walk.entry[walk.levels - 1] & PTE_A) || (write && !(walk.writable && walk.dirty)))
        return;
    if (v->key & TR_K_LONG)
        mon_view_touch(v, gla);
    if (view_at(v->views->current, hi_of(gla)))
        mon_view_fill(v, gla, write);
}

/* ---- code ---- */

static void track_exec(struct mon_vcpu *v, struct view *view, uint64_t gla,
                       const struct mon_walk *walk, uint8_t flags)
{
    unsigned slot = (unsigned)((uint32_t)gla >> view->shift), last = walk->levels - 1u;
    unsigned i = (unsigned)(gla >> 12) & (slot_pages(view) - 1);

    if (!(v->cr0 & MON_CR0_PG) || walk->page_shift >= view->shift) {
        /* Dropping a large slot clears the whole table; make sure that there is one. */
        if (!view->slot_used[slot])
            mon_view_fill(v, gla, false);
        if (view->leaf[slot])
            view->leaf[slot]->flags[i] |= flags;
        return;
    }
    struct leaf *leaf = leaf_for(v, view, slot, walk->entry[last - 1], walk->entry_gpa[last - 1],
                                 walk->entry_gpa[last] & ~4095ull, 0);
    if (leaf && leaf->flags[i] && leaf_pte(view, leaf, i) != walk->entry[last])
        unmap_pages(v, view, (uint32_t)gla & ~4095u, 1);
    if (mend(v, view)) /* into an empty view: once */
        leaf = leaf_for(v, view, slot, walk->entry[last - 1], walk->entry_gpa[last - 1],
                        walk->entry_gpa[last] & ~4095ull, 0);
    if (!leaf) { /* whoever changed this mapping would not know of the block */
        v->host_failure = "no host memory for another guest page table";
        return;
    }
    if (!leaf->flags[i]) {
        if (view->shift == 21)
            leaf->pte64[i] = walk->entry[last];
        else
            leaf->pte32[i] = (uint32_t)walk->entry[last];
        leaf->all_global &= walk->global && (v->cr4 & MON_CR4_PGE);
    }
    leaf->flags[i] |= flags;
}

static void set_bit(uint64_t *map, uint64_t bit)
{
    map[bit / 64] |= 1ull << (bit % 64);
}

/* Supervisor entries live in one table: global pages' until INVLPG or a global flush, others' until
 * the next CR3 write. */
static void track_super(struct mon_vcpu *v, const struct cc_block *b, bool global)
{
    struct mon_view_set *set = v->views;
    uint64_t lpn = b->pc >> 12 & 0xfffff; /* pages 4 GiB apart share a bit: cleared too often */

    set_bit(set->super_exec, lpn);
    if (cc_crosses(b))
        set_bit(set->super_cross, (lpn + 1) & 0xfffff);
    if (global)
        return;
    if (set->local_count < MAX_LOCAL)
        set->local[set->local_count] = b->pc;
    if (set->local_count <= MAX_LOCAL)
        set->local_count++;
}

void mon_view_enter_block(struct mon_vcpu *v, const struct cc_block *b, const struct mon_walk *walk,
                          const struct mon_walk *walk2)
{
    struct space *space = v->views->current;
    uint64_t next_page = (b->pc | 4095) + 1;

    if (!b->wide)
        next_page = (uint32_t)next_page;
    if (space->cls == VIEW_USER) {
        track_exec(v, view_get(v, space, hi_of(b->pc)), b->pc, walk, PF_EXEC);
        if (walk2)
            track_exec(v, view_get(v, space, hi_of(next_page)), next_page, walk2,
                       PF_EXEC | PF_CROSS);
    } else {
        track_super(v, b, (v->cr4 & MON_CR4_PGE) && walk->global && (!walk2 || walk2->global));
    }
    if (v->host_failure)
        return;
    const void *was = ((void **)v->cpu->jump_table)[cc_index(&v->vm->cc, b->pc)];
    if (was != v->vm->cc.miss_stub && was != v->vm->cc.rx + b->host)
        mon_count(v, MON_STAT_entries_replaced);
    cc_table_set(&v->vm->cc, v->cpu->jump_table, b);
}

static void protect_in_view(struct mon_vm *vm, struct mon_vcpu *v, struct view *view, uint64_t gpa,
                            bool small)
{
    uint64_t size = 1ull << view->shift;

    for (unsigned i = 0; i < view->nused; i++) {
        unsigned slot = view->used_slot[i];
        uint64_t gla = (uint64_t)slot << view->shift;
        struct leaf *leaf = view->leaf[slot];
        if (view->slot_large[slot] == 2 && gpa - view->slot_gpa[slot] < size) {
            if (rt_os_protect(view->window + gla + (gpa - view->slot_gpa[slot]), 4096, RT_PROT_R) <
                0) {
                empty_view(v, view);
                return;
            }
            view->maps += 2;
            v->views->maps += 2;
        }
        for (unsigned j = 0; small && leaf && j < slot_pages(view); j++) {
            if (!(leaf->flags[j] & PF_WRITE) || pte_frame(view, leaf_pte(view, leaf, j)) != gpa)
                continue;
            if (rt_os_protect(view->window + gla + ((uint64_t)j << 12), 4096, RT_PROT_R) < 0) {
                empty_view(v, view);
                return;
            }
            leaf->flags[j] &= (uint8_t)~PF_WRITE;
            view->maps += 2;
            v->views->maps += 2;
        }
    }
    (void)vm;
}

void mon_view_protect_code(struct mon_vm *vm, uint64_t gpa)
{
    struct cc_page *page = cc_page(&vm->cc, gpa);

    gpa &= ~4095ull;
    RT_ASSERT(page);
    if (page->code)
        return;
    page->code = 1;
    vm->cc.code_2m[gpa >> 21]++;
    vm->stat[MON_STAT_code_pages_protected]++;
    for (unsigned n = 0; n < MON_MAX_VCPUS; n++) {
        struct mon_vcpu *v = vm->vcpu[n];
        for (unsigned i = 0; v && v->views && i < MAX_VIEWS; i++) {
            if (v->views->view[i].space)
                protect_in_view(vm, v, &v->views->view[i], gpa, page->maps != 0);
        }
    }
    if (page->maps != 0xff)
        page->maps = 0;
}

static void drop_user_code(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < MAX_SPACES; i++) {
        if (v->views->space[i].used)
            cc_table_clear(&v->vm->cc, v->views->space[i].table);
    }
}

void mon_view_drop_code(struct mon_vm *vm)
{
    for (unsigned n = 0; n < MON_MAX_VCPUS; n++) {
        struct mon_vcpu *v = vm->vcpu[n];
        if (!v || !v->views)
            continue;
        clear_super_table(v);
        drop_user_code(v);
    }
}

void mon_view_drop_copies(struct mon_vm *vm)
{
    for (unsigned n = 0; n < MON_MAX_VCPUS; n++) {
        if (vm->vcpu[n] && vm->vcpu[n]->views)
            drop_user_code(vm->vcpu[n]);
    }
}

void mon_view_drop_all(struct mon_vm *vm)
{
    for (unsigned n = 0; n < MON_MAX_VCPUS; n++) {
        struct mon_vcpu *v = vm->vcpu[n];
        if (v)
            mon_walk_cache_flush(v);
        for (unsigned i = 0; v && v->views && i < MAX_VIEWS; i++) {
            if (v->views->view[i].space)
                empty_view(v, &v->views->view[i]);
        }
    }
}
