/* view_code.c - pages with translated code: their protection, and the jump tables' entries.
 *
 * A page is write-protected in every view of every vCPU before its bytes are read for translation.
 * Protect first, then read: the other order could translate bytes that are no longer there.
 *
 * Jump tables belong to address spaces, because a pc means a block only there. An entry has to go
 * when the mapping that its code was fetched through goes:
 *
 *   user spaces have tables of their own; the leaf's flags say which pages have entries (PF_EXEC,
 *   PF_CROSS), and view_leaf.c clears these when it unmaps
 *   supervisor spaces share one per vCPU: entries from global pages stay over CR3 writes, others
 *   are listed and dropped (mon_view_set.local); two bitmaps say which pages have any, for INVLPG
 *
 * Context: as view.c; never in the fault handler. */
#include "monitor/cpu/view.h"

/* ---- the supervisor's jump table ---- */

/* A page's word in its set; pages 4 GiB apart share a bit, and are cleared too often. */
static uint64_t *page_set_word(struct page_set *set, uint64_t lpn)
{
    return &set->bits[lpn >> 14 & 63][lpn >> 6 & 255];
}

static void page_set_add(struct page_set *set, uint64_t lpn)
{
    set->parts |= 1ull << (lpn >> 14 & 63);
    *page_set_word(set, lpn) |= 1ull << (lpn & 63);
}

static bool page_set_has(struct page_set *set, uint64_t lpn)
{
    return *page_set_word(set, lpn) >> (lpn & 63) & 1;
}

static void page_set_empty(struct page_set *set)
{
    for (; set->parts; set->parts &= set->parts - 1) {
        uint64_t *bits = set->bits[__builtin_ctzll(set->parts)];
        for (unsigned i = 0; i < 256; i++)
            bits[i] = 0;
    }
}

void view_clear_super(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    cc_table_clear(&v->vm->cc, set->super_table);
    set->local_count = 0;
    page_set_empty(&set->super_exec);
    page_set_empty(&set->super_cross);
}

void view_clear_super_local(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    if (set->local_count > VIEW_MAX_LOCAL) {
        view_clear_super(v);
        return;
    }
    for (uint32_t i = 0; i < set->local_count; i++) {
        cc_table_forget(&v->vm->cc, set->super_table, set->local[i]);
        cc_place_clear_page(&v->vm->cc, set->super_table, set->local[i]);
    }
    set->local_count = 0;
}

void view_clear_super_page(struct mon_vcpu *v, uint64_t gla)
{
    struct mon_view_set *set = v->views;

    if (page_set_has(&set->super_exec, gla >> 12))
        cc_table_clear_page(&v->vm->cc, set->super_table, gla & ~4095ull);
    if (page_set_has(&set->super_cross, gla >> 12))
        cc_table_clear_page(&v->vm->cc, set->super_table, (gla & ~4095ull) - 4096);
}

/* Supervisor entries live in one table: global pages' until INVLPG or a global flush, others' until
 * the next CR3 write. */
static void track_super(struct mon_vcpu *v, const struct cc_block *b, bool global)
{
    struct mon_view_set *set = v->views;

    page_set_add(&set->super_exec, b->pc >> 12);
    if (cc_crosses(b))
        page_set_add(&set->super_cross, (b->pc >> 12) + 1);
    if (global)
        return;
    if (set->local_count < VIEW_MAX_LOCAL)
        set->local[set->local_count] = b->pc;
    if (set->local_count <= VIEW_MAX_LOCAL)
        set->local_count++;
}

/* ---- entries ---- */

void **view_select_table(struct mon_vcpu *v, struct space *space, uint32_t key)
{
    struct mon_view_set *set = v->views;

    if (space->cls == VIEW_USER) {
        if (space->table_key != key)
            cc_table_clear(&v->vm->cc, space->table);
        space->table_key = key;
        return space->table;
    }
    if (set->super_key != key)
        view_clear_super(v);
    set->super_key = key;
    return set->super_table;
}

static void track_exec(struct mon_vcpu *v, struct view *view, uint64_t gla,
                       const struct mon_walk *walk, uint8_t flags)
{
    unsigned slot, last = walk->levels - 1u, i;

    if (!view)
        return;
    slot = (unsigned)((uint32_t)gla >> view->shift);
    i = (unsigned)(gla >> 12) & (view_slot_pages(view) - 1);
    if (!(v->cr0 & MON_CR0_PG) || walk->page_shift >= view->shift) {
        /* Dropping a large slot clears the whole table; make sure that there is one. */
        if (!view->slot_used[slot])
            mon_view_fill(v, gla, false);
        if (view->leaf[slot])
            view->leaf[slot]->flags[i] |= flags;
        return;
    }
    struct leaf *leaf =
        view_leaf_for(v, view, slot, walk->entry[last - 1], walk->entry_gpa[last - 1],
                      walk->entry_gpa[last] & ~4095ull, 0);
    if (leaf && leaf->flags[i] && view_pte(view, leaf, i) != walk->entry[last])
        view_unmap(v, view, (uint32_t)gla & ~4095u, 1);
    if (view_mend(v, view)) /* into an empty view: once */
        leaf = view_leaf_for(v, view, slot, walk->entry[last - 1], walk->entry_gpa[last - 1],
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

void mon_view_enter_block(struct mon_vcpu *v, const struct cc_block *b, const struct mon_walk *walk,
                          const struct mon_walk *walk2)
{
    struct space *space = v->views->current;
    uint64_t next_page = (b->pc | 4095) + 1;

    if (!b->wide)
        next_page = (uint32_t)next_page;
    if (space->cls == VIEW_USER) {
        track_exec(v, view_get(v, space, view_hi_of(b->pc)), b->pc, walk, PF_EXEC);
        if (walk2)
            track_exec(v, view_get(v, space, view_hi_of(next_page)), next_page, walk2,
                       PF_EXEC | PF_CROSS);
    } else {
        track_super(v, b, (v->cr4 & MON_CR4_PGE) && walk->global && (!walk2 || walk2->global));
    }
    if (v->host_failure)
        return;
    cc_place_enter(&v->vm->cc, v->table, b);
    if (b->wide && !b->direct)
        return;
    if (cc_table_set(&v->vm->cc, v->table, b))
        mon_count(v, MON_STAT_entries_replaced);
}

/* ---- protection ---- */

static void protect_in_view(struct mon_vcpu *v, struct view *view, uint64_t gpa, bool small)
{
    uint64_t size = 1ull << view->shift;

    for (unsigned i = 0; i < view->nused; i++) {
        unsigned slot = view->used_slot[i];
        uint64_t gla = (uint64_t)slot << view->shift;
        struct leaf *leaf = view->leaf[slot];
        if (view->slot_large[slot] == 2 && gpa - view->slot_gpa[slot] < size) {
            if (rt_os_protect(view->window + gla + (gpa - view->slot_gpa[slot]), 4096, RT_PROT_R) <
                0) {
                view_empty(v, view);
                return;
            }
            view->maps += 2;
            v->views->maps += 2;
        }
        for (unsigned j = 0; small && leaf && j < view_slot_pages(view); j++) {
            if (!(leaf->flags[j] & PF_WRITE) || view_frame(view, view_pte(view, leaf, j)) != gpa)
                continue;
            if (rt_os_protect(view->window + gla + ((uint64_t)j << 12), 4096, RT_PROT_R) < 0) {
                view_empty(v, view);
                return;
            }
            leaf->flags[j] &= (uint8_t)~PF_WRITE;
            view->maps += 2;
            v->views->maps += 2;
        }
    }
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
        for (unsigned i = 0; v && v->views && i < VIEW_MAX_VIEWS; i++) {
            if (v->views->view[i].space)
                protect_in_view(v, &v->views->view[i], gpa, page->maps != 0);
        }
    }
    if (page->maps != 0xff)
        page->maps = 0;
}

/* ---- dropping entries ---- */

static void drop_user_code(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
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
        view_clear_super(v);
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
