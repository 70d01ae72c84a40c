/* view.c - spaces: the guest's address spaces as windows of host memory.
 *
 * A space belongs to a page-table root and a privilege class. Its windows (4 GiB of host addresses
 * each) hold the guest's pages at window + linear address, mapped on demand by walking the guest's
 * page tables in the fault handler; the host's MMU does the rest. A 32-bit space is one view with
 * one window. A 64-bit space has a view for each 4 GiB that it touches, and a table of deltas,
 * indexed by address bits 32 to 47, that leads translated code to the windows; where there is none
 * it leads into a void that always faults. view.h has the structures and the other files' parts.
 *
 * Supervisor spaces are few and recycled by revalidation, so that the kernel's half stays mapped
 * when processes come and go; a user space is emptied when it is recycled.
 *
 * System calls that stay in the code cache change over between the two sides of the current root
 * without C: mon_view_sides() puts both into rt_cpu.side while both can be used as they are, and
 * mon_view_took_side() hears of it later.
 *
 * The host may refuse any call (too many mappings, no memory). A refused mapping is tried again
 * with less of other spaces, then the slow path does without; a window where pages could not be
 * unmapped or protected is emptied whole, which needs no new host mapping. What cannot be done at
 * all ends novt_vcpu_run() with NOVT_E_NOMEM (mon_vcpu.host_failure).
 *
 * Context: the vCPU's thread; mon_view_fill() and what it calls in the fault handler, translated
 * code interrupted. */
#include "monitor/cpu/view.h"

#define DELTAS_SIZE (65536 * sizeof(uint64_t))
#define MAX_SUPER   6

/* ---- creation ---- */

static int make_void_deltas(struct mon_view_set *set)
{
    set->deltas_fd = rt_os_memfd("novt-deltas", DELTAS_SIZE);
    if (set->deltas_fd < 0)
        return NOVT_E_NOMEM;
    uint64_t *deltas = rt_os_map_shared(set->deltas_fd, 0, DELTAS_SIZE, RT_PROT_RW);
    if (!deltas)
        return NOVT_E_NOMEM;
    for (uint64_t hi = 0; hi < 65536; hi++)
        deltas[hi] = (uint64_t)set->void_window - view_canonical(hi);
    rt_os_release(deltas, DELTAS_SIZE);
    return NOVT_OK;
}

int mon_views_create(struct mon_vcpu *v)
{
    struct mon_view_set *set = rt_os_reserve(sizeof(*set));

    if (!set)
        return NOVT_E_NOMEM;
    v->views = set;
    set->deltas_fd = set->super_places_fd = -1;
    set->void_window = rt_window_claim();
    set->super_table = cc_table_new(&v->vm->cc);
    set->super_places_fd = cc_places_memfd();
    set->config = view_paging_config(v);
    if (!set->void_window || !set->super_table || set->super_places_fd < 0)
        return NOVT_E_NOMEM;
    uint32_t *places = rt_os_map_shared(set->super_places_fd, 0, CC_PLACES_SIZE, RT_PROT_RW);
    cc_table_head(set->super_table)->places = places;
    return places ? make_void_deltas(set) : NOVT_E_NOMEM;
}

void mon_views_destroy(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    if (!set)
        return;
    for (unsigned i = 0; i < VIEW_MAX_VIEWS; i++) {
        if (set->view[i].space)
            rt_window_release(set->view[i].window);
    }
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
        cc_table_free(set->space[i].table);
        if (set->space[i].deltas)
            rt_window_release((uint8_t *)set->space[i].deltas);
    }
    if (set->void_window)
        rt_window_release(set->void_window);
    if (set->super_table && cc_table_head(set->super_table)->places)
        rt_os_release(cc_table_head(set->super_table)->places, CC_PLACES_SIZE);
    cc_table_free(set->super_table);
    rt_os_close(set->super_places_fd);
    rt_os_close(set->deltas_fd);
    rt_os_release(set, sizeof(*set));
    v->views = NULL;
}

/* ---- finding and making spaces ---- */

struct space *view_oldest_space(struct mon_view_set *set, bool super, bool with_views)
{
    struct space *best = NULL;

    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
        struct space *space = &set->space[i];
        if (space->used && space != set->current && (space->cls != VIEW_USER) == super &&
            (!with_views || space->nviews) && (!best || space->stamp < best->stamp))
            best = space;
    }
    return best;
}

/* A supervisor space keeps its mappings when it is recycled; what the new root disagrees with goes.
 */
static void recycle_space(struct mon_vcpu *v, struct space *space, uint64_t root,
                          enum view_class cls)
{
    mon_count(v, MON_STAT_views_recycled);
    if (cls == VIEW_USER || space->cls != cls)
        view_empty_space(v, space);
    space->root = root;
    space->cls = (uint8_t)cls;
    space->stale = STALE_ALL;
}

static struct space *unused_space(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
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
    for (unsigned i = 0; i < VIEW_MAX_SPACES; i++) {
        space = &set->space[i];
        if (space->used && space->root == root && space->cls == cls)
            return space;
        supers += space->used && space->cls != VIEW_USER;
    }
    old = view_oldest_space(set, cls != VIEW_USER, false);
    if (cls != VIEW_USER && supers < MAX_SUPER)
        old = NULL;
    space = old && cls != VIEW_USER ? NULL : unused_space(v);
    if (space) {
        space->root = root;
        space->cls = (uint8_t)cls;
        return space;
    }
    if (!old)
        old = view_oldest_space(set, cls == VIEW_USER, false);
    if (!old)
        return NULL;
    recycle_space(v, old, root, cls);
    return old;
}

/* Which pages of code the space has: its own array, or that of all supervisor spaces. */
static bool map_places(struct mon_vcpu *v, struct space *space, uint8_t *range)
{
    void *at = range + CC_PLACES_AT;

    space->own_places = space->cls == VIEW_USER;
    cc_table_head(space->table)->places = space->own_places ? at : NULL;
    if (space->own_places)
        return rt_os_map_private(at, v->vm->cc.places_fd, 0, CC_PLACES_SIZE);
    return rt_os_map_at(at, CC_PLACES_SIZE, RT_PROT_R, v->views->super_places_fd, 0, false) == 0;
}

/* The first 64-bit code in a space: windows that 32-bit code had are not at home. */
static bool make_deltas(struct mon_vcpu *v, struct space *space)
{
    uint8_t *range;

    if (space->deltas)
        return space->own_places == (space->cls == VIEW_USER) ||
               map_places(v, space, (uint8_t *)space->deltas);
    range = rt_window_claim();
    if (!range)
        return false;
    if (!rt_os_map_private(range, v->views->deltas_fd, 0, DELTAS_SIZE) ||
        !map_places(v, space, range)) {
        rt_window_release(range);
        return false;
    }
    view_empty_space(v, space);
    space->deltas = (uint64_t *)(void *)range;
    return true;
}

/* ---- what translated code runs on ---- */

static enum view_class class_of(const struct mon_vcpu *v)
{
    if (v->cpu->cpl == 3)
        return VIEW_USER;
    return (v->cr4 & MON_CR4_SMAP) && !(v->cpu->rflags & RT_AC) ? VIEW_SMAP : VIEW_SUPER;
}

void mon_view_select(struct mon_vcpu *v, uint32_t key)
{
    struct mon_view_set *set = v->views;
    struct space *space = space_for(v, view_root_of(v), class_of(v));

    if (!space || ((key & TR_K_LONG) && !make_deltas(v, space))) {
        v->host_failure = "no host memory for another guest address space";
        return;
    }
    space->stamp = ++set->clock;
    set->current = set->last[space->cls] = space;
    view_make_fresh(v, space);
    if (key & TR_K_LONG) {
        v->cpu->window = (uint8_t *)space->deltas;
        for (unsigned i = 0; i < 4; i++)
            v->cpu->class_delta[i] = space->home[i];
    } else {
        struct view *view = view_get(v, space, 0);
        if (!view)
            return;
        v->cpu->window = view->window;
    }
    v->table = view_select_table(v, space, key);
    if (!(key & TR_K_LONG) && !cc_table_flat(v->table))
        v->host_failure = "no host memory for another guest address space";
}

static struct space *fresh_space(const struct mon_vcpu *v, enum view_class cls)
{
    const uint64_t root = view_root_of(v);
    struct space *space = v->views->last[cls];

    for (unsigned i = 0; !space || !space->used || space->root != root || space->cls != cls; i++) {
        if (i == VIEW_MAX_SPACES)
            return NULL;
        space = &v->views->space[i];
    }
    return view_is_fresh(v, space) ? space : NULL;
}

/* What 64-bit code has as its window is the space's for good; 32-bit code's goes when its view
 * does, and no view comes or goes without mon_mode_update(). */
static bool prepare_side(struct rt_side *side, const struct space *space, void **table, bool wide)
{
    const struct view *view = view_at(space, 0);

    side->window = wide ? (void *)space->deltas : view ? view->window : NULL;
    side->jump_table = wide ? table : cc_table_flat(table);
    for (unsigned i = 0; i < 4; i++)
        side->class_delta[i] = space->home[i];
    return side->window && side->jump_table;
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
        if (!prepare_side(&cpu->side[n], space, n ? space->table : set->super_table,
                          key[n] & TR_K_LONG))
            return;
    }
    cpu->sides_ok = 1;
}

void mon_view_took_side(struct mon_vcpu *v, unsigned side)
{
    struct mon_view_set *set = v->views;

    set->current = set->last[set->side[side]->cls] = set->side[side];
    set->current->stamp = ++set->clock;
    v->table = side ? set->current->table : set->super_table;
}

void mon_view_take_side(struct mon_vcpu *v, unsigned side)
{
    struct rt_cpu *cpu = v->cpu;

    cpu->window = cpu->side[side].window;
    for (unsigned i = 0; i < 4; i++)
        cpu->class_delta[i] = cpu->side[side].class_delta[i];
    mon_view_took_side(v, side);
}

/* ---- questions about addresses ---- */

static bool view_gla(const struct view *view, uint64_t host, uint64_t *gla)
{
    uint64_t offset = host - (uint64_t)view->window;

    if (offset >= RT_WINDOW_SIZE)
        return false;
    *gla = view_canonical(view->hi) | offset;
    return true;
}

bool mon_view_gla(const struct mon_vcpu *v, uint64_t host, uint64_t *gla)
{
    const struct space *space = v->views->current;

    for (unsigned i = 0; i < space->nviews; i++)
        if (view_gla(space->view[i], host, gla))
            return true;
    return false;
}

bool mon_view_find(const struct mon_vcpu *v, uint64_t host, uint64_t *gla)
{
    for (unsigned i = 0; i < VIEW_MAX_VIEWS; i++) {
        const struct view *view = &v->views->view[i];
        if (view->space && view_gla(view, host, gla))
            return true;
    }
    return false;
}

bool mon_view_is_check(const struct mon_vcpu *v, uint64_t host)
{
    const struct space *space = v->views->current;

    return space->deltas && host - (uint64_t)space->deltas < RT_WINDOW_SIZE;
}

bool mon_view_is_absent_place(const struct mon_vcpu *v, uint64_t host)
{
    const struct space *space = v->views->current;

    return space->deltas && host - (uint64_t)space->deltas == (uint32_t)-CC_PLACE_PRESENT;
}

bool mon_view_at_home(const struct mon_vcpu *v, uint64_t gla)
{
    const struct view *view = view_at(v->views->current, view_hi_of(gla));

    return view && view->at_home && view_canonical(view->hi) == (gla & ~0xffffffffull);
}

void mon_view_touch(struct mon_vcpu *v, uint64_t gla)
{
    struct mon_walk walk;

    if (view_canonical(view_hi_of(gla)) == (gla & ~0xffffffffull) &&
        !view_at(v->views->current, view_hi_of(gla)) && mon_walk_peek(v, gla, &walk))
        view_get(v, v->views->current, view_hi_of(gla));
}
