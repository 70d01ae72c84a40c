/* view_stale.c - what a TLB would drop: CR3, CR4, INVLPG and INVPCID.
 *
 * A view behaves like a TLB:
 *
 *   not present -> present   nothing to do: the next access faults and fills
 *   CR3, CR4, INVPCID        mark spaces stale: before the next use, compare the entries that
 *                            mappings were made from with the guest's tables, unmap what differs
 *   CR3 with bit 63 set      nothing, if the space is that PCID's and not stale
 *   INVLPG                   compare at once; but of a program's pages by its kernel: together,
 *                            before the program runs again
 *   CR0, CR4, EFER bits      that change what entries mean: everything goes
 *
 * Leaves that hold only global pages are left by what leaves global pages.
 *
 * A space may be compared under another root than its mappings were made with (view.c recycles
 * supervisor spaces so): rebase() finds the directory entries again, then all that differs goes.
 *
 * Context: as view.c; never in the fault handler. */
#include "monitor/cpu/view.h"

#define NO_TABLE (~0xfffull) /* an address outside RAM: reads as all ones, equals no entry */

/* ---- comparing ---- */

/* Entries that are looked at together: as many as have their flags in one word. */
#define GROUP 8

/* The first group from there on that differs, and has flags; count: there is none. words: of 64
 * bits, in a group. */
static inline __attribute__((always_inline)) unsigned
next_difference(const struct leaf *leaf, const uint64_t *is, unsigned group, unsigned count,
                const unsigned words)
{
    const uint64_t *flags = (const uint64_t *)(const void *)leaf->flags, *was = leaf->words;

    for (; group < count; group++) {
        const uint64_t *a = was + group * words, *b = is + group * words;
        if (!flags[group])
            continue;
        uint64_t differs = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
        if (words == 8)
            differs |= (a[4] ^ b[4]) | (a[5] ^ b[5]) | (a[6] ^ b[6]) | (a[7] ^ b[7]);
        if (differs)
            break;
    }
    return group;
}

/* Whether a mapping was made from entry i, and from another than there is now. The copy of one that
 * no mapping was made from becomes what there is now, so that its group is alike the next time. */
static bool entry_differs(const struct view *view, struct leaf *leaf, const uint8_t *table,
                          unsigned i)
{
    uint64_t is = view->shift == 21 ? ((const uint64_t *)(const void *)table)[i]
                                    : ((const uint32_t *)(const void *)table)[i];

    if (leaf->flags[i])
        return view_pte(view, leaf, i) != is;
    if (view->shift == 21)
        leaf->pte64[i] = is;
    else
        leaf->pte32[i] = (uint32_t)is;
    return false;
}

/* A program of 48 MiB has 12,000 entries to look at in each switch to it. */
static void revalidate_leaf(struct mon_vcpu *v, struct view *view, unsigned slot)
{
    struct leaf *leaf = view->leaf[slot];
    const uint8_t *table = mon_vm_ram(v, leaf->table_gpa, NULL);
    const uint64_t *words = (const uint64_t *)(const void *)table;
    uint64_t gla = (uint64_t)slot << view->shift;
    unsigned run = 0, run_start = 0, count = view_slot_pages(view) / GROUP;

    if (!table) {
        view_drop_slot(v, view, slot);
        return;
    }
    for (unsigned group = 0;; group++) {
        group = view->shift == 21 ? next_difference(leaf, words, group, count, 8)
                                  : next_difference(leaf, words, group, count, 4);
        if (group == count)
            break;
        for (unsigned i = group * GROUP; i < (group + 1) * GROUP; i++) {
            if (!entry_differs(view, leaf, table, i))
                continue;
            if (run && run_start + run == i) {
                run++;
                continue;
            }
            if (run)
                view_unmap(v, view, gla + ((uint64_t)run_start << 12), run);
            run_start = i;
            run = 1;
        }
    }
    if (run)
        view_unmap(v, view, gla + ((uint64_t)run_start << 12), run);
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
        if (view_read_entry(v, view, view->pde_gpa[slot]) != view->pde[slot]) {
            view_drop_slot(v, view, slot);
            dropped = true;
        } else if (view->leaf[slot] && view->leaf[slot]->table_gpa != NO_ROOT &&
                   (global || !view->leaf[slot]->all_global)) {
            revalidate_leaf(v, view, slot);
            dropped |= !view->leaf[slot];
        }
    }
    if (dropped)
        view_compact(view);
    view_mend(v, view);
}

static uint64_t read64(const struct mon_vcpu *v, uint64_t gpa)
{
    const uint8_t *p = mon_vm_ram(v, gpa, NULL);
    return p ? *(const uint64_t *)(const void *)p : 0;
}

/* Where the entry that decides over a slot is: in the page directory, or in the table above it for
 * a page of 1 GiB (*gigantic). gigabyte: linear address bits 30 and 31. */
static uint64_t directory(const struct mon_vcpu *v, const struct view *view, unsigned gigabyte,
                          bool *gigantic)
{
    uint64_t gla = view_canonical(view->hi) | (uint64_t)gigabyte << 30, entry;

    *gigantic = false;
    if (view->shift == 22)
        return view->space->root;
    if (!mon_long(v)) {
        entry = v->pdpte[gigabyte];
        return entry & MON_PTE_P ? entry & MON_PTE_FRAME : NO_TABLE;
    }
    entry = read64(v, (view->space->root & MON_PTE_FRAME) + (gla >> 39 & 511) * 8);
    if (!(entry & MON_PTE_P))
        return NO_TABLE;
    uint64_t at = (entry & MON_PTE_FRAME) + (gla >> 30 & 511) * 8;
    entry = read64(v, at);
    if (!(entry & MON_PTE_P))
        return NO_TABLE;
    *gigantic = entry & MON_PTE_PS;
    return *gigantic ? at : entry & MON_PTE_FRAME;
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
            view_detach(v, view);
    }
}

/* ---- INVLPG ---- */

/* The entry of a page has changed. One that will do for any access is mapped at once, over the old
 * mapping: that saves an unmapping and a fault. (One that does not allow writing any more, as after
 * mprotect(), is likely to fault next.) */
static void replace(struct mon_vcpu *v, struct view *view, uint64_t gla)
{
    unsigned slot = (unsigned)((gla & 0xffffffffu) >> view->shift);
    unsigned page = (unsigned)(gla >> 12) & (view_slot_pages(view) - 1);
    bool code = view->leaf[slot]->flags[page] & (PF_EXEC | PF_CROSS);

    if (!code && view->space == v->views->current && view_refill(v, gla))
        return;
    if (view->leaf[slot])
        view_unmap(v, view, (uint32_t)gla & ~4095u, 1);
}

static void invlpg_in(struct mon_vcpu *v, struct view *view, uint64_t gla)
{
    unsigned slot = (unsigned)((gla & 0xffffffffu) >> view->shift);
    uint64_t lpn = (gla & 0xffffffffu) >> 12;
    struct leaf *leaf = view->leaf[slot];
    unsigned page = (unsigned)lpn & (view_slot_pages(view) - 1);

    if (!view->slot_used[slot] || view->pde_gpa[slot] == NO_ROOT)
        return;
    if (view_read_entry(v, view, view->pde_gpa[slot]) != view->pde[slot]) {
        view_drop_slot(v, view, slot);
        view_compact(view);
    } else if (leaf && leaf->table_gpa != NO_ROOT && leaf->flags[page] &&
               view_read_entry(v, view, leaf->table_gpa + page * (view->shift == 21 ? 8u : 4u)) !=
                   view_pte(view, leaf, page)) {
        replace(v, view, gla);
    }
    view_mend(v, view);
}

static void end_run(struct mon_vcpu *v, struct view *view, uint64_t start, unsigned run)
{
    if (run == 1)
        replace(v, view, start);
    else if (run)
        view_unmap(v, view, (uint32_t)start, run);
    if (run)
        view_mend(v, view);
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
        struct view *view = view_at(set->pending_space, view_hi_of(gla));
        if (!view)
            continue;
        rebase(v, view);
        unsigned slot = (unsigned)((gla & 0xffffffffu) >> view->shift);
        unsigned page = (unsigned)(gla >> 12) & (view_slot_pages(view) - 1);
        bool follows = run && view == run_view && gla == start + ((uint64_t)run << 12) && page;
        if (run && !follows) {
            end_run(v, run_view, start, run);
            run = 0;
        }
        const struct leaf *leaf = view->leaf[slot]; /* end_run() may have emptied the view */
        if (!leaf || leaf->table_gpa == NO_ROOT || view->pde_gpa[slot] == NO_ROOT ||
            view_read_entry(v, view, view->pde_gpa[slot]) != view->pde[slot]) {
            end_run(v, run_view, start, run);
            run = 0;
            invlpg_in(v, view, gla);
        } else if (leaf->flags[page] &&
                   view_read_entry(v, view,
                                   leaf->table_gpa + page * (view->shift == 21 ? 8u : 4u)) !=
                       view_pte(view, leaf, page)) {
            start = run ? start : gla;
            run_view = view;
            run++;
        } else if (run) {
            end_run(v, run_view, start, run);
            run = 0;
        }
    }
    end_run(v, run_view, start, run);
    set->npending = 0;
}

static void make_stale(struct space *space, enum staleness stale)
{
    if (space->stale < stale)
        space->stale = (uint8_t)stale;
}

/* A program's space is not in use while its kernel runs: its pages can wait. */
static void invlpg_later(struct mon_vcpu *v, struct space *space, uint64_t gla)
{
    struct mon_view_set *set = v->views;

    v->cpu->sides_ok = 0;
    if (set->npending == VIEW_MAX_PENDING || (set->npending && set->pending_space != space)) {
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

    view_clear_super_page(v, gla);
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
        struct space *space = &set->space[i];
        struct view *view = space->used ? view_at(space, view_hi_of(gla)) : NULL;
        if (!view)
            continue;
        if (space->cls == VIEW_USER && space != set->current && space->root == view_root_of(v)) {
            invlpg_later(v, space, gla);
            continue;
        }
        if (space->root == view_root_of(v))
            rebase(v, view);
        invlpg_in(v, view, gla);
    }
}

/* ---- staleness ---- */

static uint16_t pcid_of(const struct mon_vcpu *v)
{
    return v->cr4 & MON_CR4_PCIDE ? v->cr3 & 0xfff : 0;
}

static bool has_pending(const struct mon_view_set *set, const struct space *space)
{
    return set->npending && set->pending_space == space;
}

bool view_is_fresh(const struct mon_vcpu *v, const struct space *space)
{
    return space->stale == FRESH && space->pcid == pcid_of(v) && !has_pending(v->views, space);
}

void view_make_fresh(struct mon_vcpu *v, struct space *space)
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

/* Everything out, for changes after which no mapping can stay. */
static void empty_spaces(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
        struct space *space = &v->views->space[i];
        if (space->used) {
            view_empty_space(v, space);
            space->root = NO_ROOT;
        }
    }
    v->views->current = NULL;
    view_clear_super(v);
}

static void stale_spaces(struct mon_vcpu *v, bool every, uint16_t pcid, enum staleness stale)
{
    v->mode_changed = true;
    if (stale == STALE_ALL)
        view_clear_super(v);
    else
        view_clear_super_local(v);
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
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
    view_clear_super_local(v);
    if (!keep)
        stale_spaces(v, false, pcid_of(v), STALE_LOCAL);
}

void mon_view_flush(struct mon_vcpu *v, bool global)
{
    struct mon_view_set *set = v->views;

    if (!set)
        return;
    if (set->config != view_paging_config(v)) {
        v->mode_changed = true;
        set->config = view_paging_config(v);
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

void mon_view_drop_all(struct mon_vm *vm)
{
    for (unsigned n = 0; n < MON_MAX_VCPUS; n++) {
        struct mon_vcpu *v = vm->vcpu[n];
        if (v)
            mon_walk_cache_flush(v);
        for (unsigned i = 0; v && v->views && i < VIEW_MAX_VIEWS; i++) {
            if (v->views->view[i].space)
                view_empty(v, &v->views->view[i]);
        }
    }
}
