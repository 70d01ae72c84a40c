/* view_fill.c - page faults of translated code: what the guest has mapped comes into the window.
 *
 * A fault costs far more than a page, so a fill takes the run around it: consecutive entries for
 * consecutive frames with like rights (RUN_MAX small pages; large pages as far as they go on), as
 * one host mapping. A large page is mapped whole where all of it lies in one RAM slot, otherwise
 * page by page through a leaf that is made up for it.
 *
 * A page is writable in a view only if its dirty bit is set and it holds no translated code
 * (cc_page.code): then a store faults, and the slow path does it and drops the blocks.
 *
 * Each fill uses up host mappings, of which the process has a limited number (mon_vm.map_budget);
 * the least recently used space's views are emptied to stay below, and when the host refuses.
 *
 * Context: in the fault handler, translated code interrupted; mon_view_prefill() on the vCPU's
 * thread. */
#include "monitor/cpu/view.h"

#define RUN_MAX 512 /* pages mapped by one small fill */

/* ---- room ---- */

static struct view *largest_view(const struct mon_view_set *set, bool of_current)
{
    struct view *best = NULL;

    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
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
        view_empty(v, victim);
    }
}

/* ---- runs ---- */

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

static bool map_run(struct mon_vcpu *v, struct view *view, uint64_t gla, uint64_t gpa,
                    uint64_t bytes, bool writable)
{
    const struct mon_slot *ram = ram_slot(v->vm, gpa);
    uint64_t offset = gpa - ram->gpa;

    while (rt_os_map_at(view->window + gla, bytes, writable ? RT_PROT_RW : RT_PROT_R, ram->fd,
                        ram->offset + offset, bytes <= 16 * 4096) < 0) {
        struct view *victim = largest_view(v->views, false);
        if (!victim) {
            mon_count(v, MON_STAT_window_refused);
            return false;
        }
        view_empty(v, victim);
    }
    view->maps += 2;
    v->views->maps += 2;
    mon_count(v, MON_STAT_window_mappings);
    v->vm->stat[MON_STAT_window_pages] += bytes >> 12;
    return true;
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
            view_empty(v, view);
            return false;
        }
        view->maps += 2;
        v->views->maps += 2;
    }
    return true;
}

/* ---- large pages ---- */

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
        view_drop_slot(v, view, slot);
    view_compact(view);
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
                    view_read_entry(v, view, entry_gpa + (next - slot) * step) != entry + at)
                    break;
            }
        }
        view_use_slot(view, next);
        view->pde_gpa[next] = entry_gpa == NO_ROOT ? NO_ROOT : entry_gpa + (next - slot) * step;
        view->pde[next] = entry_gpa == NO_ROOT ? 0 : gigantic ? entry : entry + at;
        view->slot_large[next] = (uint8_t)(1 + writable);
        view->slot_gpa[next] = gpa + at;
        bytes = at + size;
    }
    if (!map_run(v, view, gla, gpa, bytes, writable)) {
        view_empty(v, view); /* slots are marked above that hold nothing */
        return false;
    }
    return !writable || protect_code_in(v, view, gla, gpa, bytes);
}

/* ---- small pages ---- */

/* What neighbours in a run must have in common. */
#define PTE_SAME (MON_PTE_P | MON_PTE_W | MON_PTE_U | MON_PTE_A | MON_PTE_XD)
/* What a large page's entry has of those that small ones are made of: all but PS and PAT. */
#define PTE_SMALL (MON_PTE_P | MON_PTE_W | MON_PTE_U | MON_PTE_A | MON_PTE_D | MON_PTE_G)

static bool joins(struct mon_vcpu *v, const struct view *view, const struct leaf *leaf, unsigned i,
                  uint64_t pte, uint64_t want, bool writable)
{
    if (((pte ^ want) & (PTE_SAME | (writable ? MON_PTE_D : 0))) ||
        view_frame(view, pte) != view_frame(view, want) || leaf->flags[i] & PF_MAPPED)
        return false;
    return !writable || !page_has_code(v->vm, view_frame(view, pte));
}

static uint64_t current_pte(const struct mon_vcpu *v, const struct view *view,
                            const struct leaf *leaf, unsigned i)
{
    if (leaf->table_gpa == NO_ROOT)
        return view_pte(view, leaf, i);
    return view_read_entry(v, view, leaf->table_gpa + i * (view->shift == 21 ? 8u : 4u));
}

static void note_mapped(struct mon_vcpu *v, struct view *view, struct leaf *leaf, unsigned i,
                        uint64_t pte, bool writable)
{
    struct cc_page *page = cc_page(&v->vm->cc, view_frame(view, pte));

    if (writable && !(leaf->flags[i] & PF_WRITE) && page && page->maps != 0xff)
        page->maps++;
    leaf->flags[i] = (uint8_t)((leaf->flags[i] & PF_EXEC) | PF_MAPPED | (writable ? PF_WRITE : 0));
    if (view->shift == 21)
        leaf->pte64[i] = pte;
    else
        leaf->pte32[i] = (uint32_t)pte;
    if (!(pte & MON_PTE_G) || !(v->cr4 & MON_CR4_PGE))
        leaf->all_global = false;
}

/* Maps the page and the run around it: consecutive entries for consecutive frames. */
static bool fill_small(struct mon_vcpu *v, struct view *view, struct leaf *leaf, uint64_t gla,
                       bool writable)
{
    unsigned i = (unsigned)(gla >> 12) & (view_slot_pages(view) - 1), first = i, last = i;
    uint64_t pte = current_pte(v, view, leaf, i);
    uint64_t gpa = view_frame(view, pte);
    const struct mon_slot *ram = ram_slot(v->vm, gpa);

    if (!ram)
        return false;
    bool other = leaf->flags[i] && view_frame(view, view_pte(view, leaf, i)) != gpa;
    bool replaces = other && view_forget(v, view, gla & ~4095ull, 1);
    while (last + 1 < view_slot_pages(view) && last - first < RUN_MAX &&
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
                 (uint64_t)(last - first + 1) << 12, writable)) {
        view->broken |= replaces && rt_os_unmap(view->window + (gla & ~4095ull), 4096) < 0;
        return false;
    }
    for (unsigned j = first; j <= last; j++)
        note_mapped(v, view, leaf, j, current_pte(v, view, leaf, j), writable);
    return true;
}

/* ---- the fault ---- */

static bool fill_identity(struct mon_vcpu *v, struct view *view, uint64_t gla)
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
    struct leaf *leaf = view_leaf_for(v, view, slot, 0, NO_ROOT, NO_ROOT,
                                      ((uint64_t)slot << view->shift) | PTE_SMALL);
    return leaf && fill_small(v, view, leaf, gla, !page_has_code(v->vm, gla) && !ram->readonly);
}

static bool walk_writable(const struct mon_vcpu *v, const struct mon_walk *walk)
{
    bool allowed = walk->writable || (v->cpu->cpl != 3 && !(v->cr0 & MON_CR0_WP));
    return allowed && walk->dirty;
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
        struct leaf *leaf = view_leaf_for(v, view, slot, walk->entry[last], walk->entry_gpa[last],
                                          NO_ROOT, base | (walk->entry[last] & PTE_SMALL));
        return leaf && fill_small(v, view, leaf, gla, writable && !code);
    }
    struct leaf *leaf =
        view_leaf_for(v, view, slot, walk->entry[last - 1], walk->entry_gpa[last - 1],
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
        return MON_FILL_DEVICE;
    }
    if (write && page_has_code(v->vm, walk.gpa)) {
        mon_count(v, MON_STAT_fault_smc);
        return MON_FILL_STEP;
    }
    keep_budget(v);
    uint64_t refused = v->vm->stat[MON_STAT_window_refused];
    struct view *view = view_at(v->views->current, view_hi_of(gla));
    bool done = v->cr0 & MON_CR0_PG ? fill_paged(v, view, (uint32_t)gla, &walk)
                                    : fill_identity(v, view, gla);
    mon_count(v, MON_STAT_fault_window_fill);
    view_mend(v, view); /* then the next fault fills again */
    if (done)
        return MON_FILL_DONE;
    /* What the host refuses to map is as far away as a device: no fault for each access to it. */
    return v->vm->stat[MON_STAT_window_refused] != refused ? MON_FILL_DEVICE : MON_FILL_STEP;
}

/* Whether the page at gla is mapped for such an access, and as the guest's tables are now. */
static bool is_filled(const struct mon_vcpu *v, const struct view *view, uint64_t gla, bool write)
{
    const struct leaf *leaf = view->leaf[(uint32_t)gla >> view->shift];
    unsigned i = (unsigned)(gla >> 12) & (view_slot_pages(view) - 1);

    return leaf && leaf->flags[i] & (write ? PF_WRITE : PF_MAPPED) &&
           view_pte(view, leaf, i) == current_pte(v, view, leaf, i);
}

/* Whether an access to gla would be allowed and set no accessed or dirty bit. */
static bool is_ready(struct mon_vcpu *v, uint64_t gla, bool write)
{
    struct mon_walk walk;

    return (v->cr0 & MON_CR0_PG) && mon_walk_peek(v, gla, &walk) &&
           (walk.user || v->cpu->cpl != 3) && (walk.entry[walk.levels - 1] & MON_PTE_A) &&
           (!write || (walk.writable && walk.dirty));
}

void mon_view_prefill(struct mon_vcpu *v, uint64_t gla, bool write)
{
    if (!is_ready(v, gla, write))
        return;
    if (v->key & TR_K_LONG)
        mon_view_touch(v, gla);
    const struct view *view = view_at(v->views->current, view_hi_of(gla));
    if (view && !is_filled(v, view, gla, write))
        mon_view_fill(v, gla, write);
}

bool view_refill(struct mon_vcpu *v, uint64_t gla)
{
    return is_ready(v, gla, true) && mon_view_fill(v, gla, true) == MON_FILL_DONE;
}
