/* view_leaf.c - what a view holds: slots, leaves, and how their pages leave the window.
 *
 * A slot stands for one entry of the guest's page directory and holds either a large page (part of
 * a run) or a leaf: a flag byte for each page, and of those that are mapped the page table's entry
 * as it was then. Comparing it with the guest's table says what a TLB could no longer hold
 * (view_stale.c).
 *
 * A page that leaves takes with it what depends on its mapping: the user jump table's entries for
 * code in it (those of a large page are not known one by one, so the whole table goes), and its
 * place in cc_page.maps, which counts writable mappings and sticks at 255.
 *
 * The host may refuse to unmap part of a range, because that splits a mapping: then view.broken is
 * set, and view_mend() empties the whole window, which splits nothing.
 *
 * Leaves come from memory that is never given back before the VM ends.
 *
 * Context: as view.c; everything here also in the fault handler. */
#include "monitor/cpu/view.h"

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

void view_use_slot(struct view *view, unsigned slot)
{
    if (view->slot_used[slot])
        return;
    view->slot_used[slot] = 1;
    view->used_slot[view->nused++] = (uint16_t)slot;
}

struct leaf *view_leaf_for(struct mon_vcpu *v, struct view *view, unsigned slot, uint64_t entry,
                           uint64_t entry_gpa, uint64_t table_gpa, uint64_t large_pte)
{
    struct leaf *leaf = view->leaf[slot];

    if (leaf && (leaf->table_gpa != table_gpa || view->pde[slot] != entry)) {
        view_drop_slot(v, view, slot);
        view_compact(view);
        leaf = NULL;
    } else if (!leaf && view->slot_used[slot]) {
        view_drop_slot(v, view, slot);
        view_compact(view);
    }
    if (leaf)
        return leaf;
    leaf = leaf_new(v);
    if (!leaf)
        return NULL;
    leaf->table_gpa = table_gpa;
    for (unsigned i = 0; table_gpa == NO_ROOT && i < view_slot_pages(view); i++) {
        if (view->shift == 21)
            leaf->pte64[i] = large_pte + ((uint64_t)i << 12);
        else
            leaf->pte32[i] = (uint32_t)(large_pte + ((uint64_t)i << 12));
    }
    view->leaf[slot] = leaf;
    view_use_slot(view, slot);
    view->pde[slot] = entry;
    view->pde_gpa[slot] = entry_gpa;
    return leaf;
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

bool view_forget(struct mon_vcpu *v, struct view *view, uint64_t gla, unsigned pages)
{
    struct leaf *leaf = view->leaf[gla >> view->shift];
    unsigned first = (unsigned)(gla >> 12) & (view_slot_pages(view) - 1);
    bool mapped = false;

    for (unsigned i = first; i < first + pages; i++) {
        uint8_t flags = leaf->flags[i];
        if (flags & PF_EXEC)
            clear_code_page(v, view, gla + ((uint64_t)(i - first) << 12), flags);
        if (flags & PF_WRITE) {
            struct cc_page *page = cc_page(&v->vm->cc, view_frame(view, view_pte(view, leaf, i)));
            if (page && page->maps && page->maps != 0xff)
                page->maps--;
        }
        mapped |= flags & PF_MAPPED;
        leaf->flags[i] = 0;
    }
    return mapped;
}

void view_unmap(struct mon_vcpu *v, struct view *view, uint64_t gla, unsigned pages)
{
    if (!view_forget(v, view, gla, pages))
        return;
    view->broken |= rt_os_unmap(view->window + gla, (size_t)pages << 12) < 0;
    mon_count(v, MON_STAT_window_dropped);
}

void view_drop_slot(struct mon_vcpu *v, struct view *view, unsigned slot)
{
    uint64_t gla = (uint64_t)slot << view->shift;

    if (view->leaf[slot]) {
        view_unmap(v, view, gla, view_slot_pages(view));
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

void view_compact(struct view *view)
{
    unsigned n = 0;

    for (unsigned i = 0; i < view->nused; i++) {
        if (view->slot_used[view->used_slot[i]])
            view->used_slot[n++] = view->used_slot[i];
    }
    view->nused = (uint16_t)n;
}

void view_empty(struct mon_vcpu *v, struct view *view)
{
    for (unsigned i = 0; i < view->nused; i++) {
        unsigned slot = view->used_slot[i];
        struct leaf *leaf = view->leaf[slot];
        if (leaf) {
            for (unsigned j = 0; j < view_slot_pages(view); j++) {
                struct cc_page *page =
                    leaf->flags[j] & PF_WRITE
                        ? cc_page(&v->vm->cc, view_frame(view, view_pte(view, leaf, j)))
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
