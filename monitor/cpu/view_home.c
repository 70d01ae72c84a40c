/* view_home.c - windows for views, and the deltas that lead to them.
 *
 * Windows of one class, which is address bits 46 and 47, are placed so that one delta serves all of
 * them (space.home): translated code adds it without a lookup, after a load from the byte that
 * stands for the slot has not faulted (check_page(); long_operand.c has the code, and why no
 * address gets past it). The range of 4 GiB that holds a 64-bit space's tables:
 *
 *   0            deltas, 512 KiB
 *   512 MiB - 128 MiB ... + 128 MiB   check pages of class 0: one for each slot that is at home
 *   1 GiB, 1.5 GiB, 2 GiB             of classes 1, 2, 3
 *
 * When the place of a slot is taken (by another space), the class moves: another delta, which fits
 * all its slots. Where none is found, the view's window is anywhere (view.at_home false) and
 * translated code gets there through the table of deltas.
 *
 * A slot is 4 GiB of linear addresses here, numbered by their bits 32 to 47 (hi).
 *
 * Context: as view.c; view_get() in the fault handler too. */
#include "monitor/cpu/view.h"

/* Where the byte that stands for a slot's addresses is; translated code computes the same
 * (long_operand.c). */
static uint8_t *check_page(const struct space *space, uint16_t hi)
{
    uint32_t index = (uint32_t)(view_canonical(hi) >> 20) + TR_CHECK_BASE(view_home_class(hi));

    return (uint8_t *)space->deltas + index;
}

bool mon_view_check_holds(const struct mon_vcpu *v, uint64_t host)
{
    const struct space *space = v->views->current;

    for (unsigned i = 0; i < space->nviews; i++) {
        if (space->view[i]->at_home &&
            (uint64_t)check_page(space, space->view[i]->hi) == (host & ~4095ull))
            return true;
    }
    return false;
}

/* ---- views come and go ---- */

void view_detach(struct mon_vcpu *v, struct view *view)
{
    struct space *space = view->space;
    unsigned i = 0;

    if (!v->cpu->in_cache) /* in a fault handler only after the host has failed */
        mon_x87_settle(v);
    view_empty(v, view);
    while (space->view[i] != view)
        i++;
    space->view[i] = space->view[--space->nviews];
    if (space->deltas)
        space->deltas[view->hi] = (uint64_t)v->views->void_window - view_canonical(view->hi);
    /* With a byte that says otherwise, nothing else may ever come to that window's place. */
    if (!view->at_home || rt_os_unmap(check_page(space, view->hi), 4096) == 0)
        rt_window_release(view->window);
    view->window = NULL;
    view->at_home = false;
    view->space = NULL;
}

void view_empty_space(struct mon_vcpu *v, struct space *space)
{
    while (space->nviews)
        view_detach(v, space->view[0]);
}

/* A view object: a free one, or one of the oldest space's. */
static struct view *take_view(struct mon_vcpu *v)
{
    struct mon_view_set *set = v->views;

    for (unsigned i = 0; i < VIEW_MAX_VIEWS; i++) {
        if (!set->view[i].space)
            return &set->view[i];
    }
    struct space *victim = view_oldest_space(set, false, true);
    if (!victim)
        victim = view_oldest_space(set, true, true);
    if (!victim)
        victim = set->current;
    struct view *view = victim->view[0];
    view_detach(v, view);
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
    if (!rt_window_possible(view_canonical(hi) + delta))
        return false;
    for (unsigned i = 0; view_home_class(hi) == 1 && i < 4; i++) {
        if (!rt_window_possible(view_canonical(class1_also[i]) + delta))
            return false;
    }
    for (unsigned i = 0; i < space->nviews; i++) {
        uint16_t other = space->view[i]->hi;
        if (view_home_class(other) == view_home_class(hi) &&
            !rt_window_possible(view_canonical(other) + delta))
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
        if (view_home_class(space->view[i]->hi) == class)
            view_detach(v, space->view[i]);
        else
            i++;
    }
}

/* Claims a window for slot hi at home: where the class's delta puts it. */
static uint8_t *claim_at_home(const struct space *space, uint16_t hi, uint64_t delta)
{
    uint64_t base = view_canonical(hi) + delta;
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
        uint64_t delta = granule * RT_WINDOW_SIZE - view_canonical(hi);
        if (!home_suits(space, hi, delta))
            continue;
        if (space->home[view_home_class(hi)])
            detach_class(v, space, view_home_class(hi));
        window = claim_at_home(space, hi, delta);
        if (window)
            set_home(v, space, view_home_class(hi), delta);
    }
    mon_count(v, MON_STAT_homes_moved);
    return window;
}

/* False: every range of host addresses is taken, by this VM or by others of the process. */
static bool take_window(struct mon_vcpu *v, struct space *space, struct view *view)
{
    uint64_t delta = space->home[view_home_class(view->hi)];

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
    return view->window;
}

/* ---- the view for an address ---- */

static bool uses_pae(const struct mon_vcpu *v)
{
    return !(v->cr0 & MON_CR0_PG) || (v->cr4 & MON_CR4_PAE);
}

/* In turn, and never the two that came last: an instruction may need both. */
static struct view *view_to_part_with(struct space *space)
{
    return space->view[space->parted++ % (space->nviews - 2u)];
}

struct view *view_get(struct mon_vcpu *v, struct space *space, uint16_t hi)
{
    struct view *view = view_at(space, hi);

    if (view)
        return view;
    if (space->nviews == VIEW_MAX_OF_SPACE)
        view_detach(v, view_to_part_with(space));
    view = take_view(v);
    view->hi = hi;
    view->shift = uses_pae(v) ? 21 : 22;
    if (!take_window(v, space, view)) {
        v->host_failure = "no host addresses for another 4 GiB of guest addresses";
        return NULL;
    }
    view->space = space;
    space->view[space->nviews++] = view;
    if (space->deltas)
        space->deltas[hi] = (uint64_t)view->window - view_canonical(hi);
    return view;
}
