/* view.h - views: the guest's address spaces as windows of host memory. Private to view*.c; vm.h
 * has what others call.
 *
 *   space (root, class) -> view (4 GiB of linear addresses, one window)
 *     view -> slot (4 MiB, or 2 MiB with PAE and in long mode)
 *               -> leaf: a copy of the page table, a flag byte a page
 *               -> or a large page, mapped as a run
 *
 *   view.c         spaces: found, made, recycled, made current
 *   view_home.c    windows of host addresses for views, and the deltas that lead there
 *   view_leaf.c    what a view holds: slots and leaves, and their end
 *   view_fill.c    page faults: pages and runs of pages are mapped
 *   view_stale.c   what a TLB would drop: CR3, CR4, INVLPG, INVPCID
 *   view_code.c    pages with translated code, and jump tables
 *
 * A space belongs to a page-table root and a privilege class; one without `used` is free. A view
 * belongs to a space and has a window while it does. A slot of a view is in use (slot_used,
 * used_slot) when something is or was mapped in it, and remembers the directory entry that this was
 * made from. Nothing is mapped that is not accounted for in a leaf's flags or slot_large.
 *
 * Whoever unmaps or protects may find that the host refuses: view_unmap() and view_drop_slot() set
 * view.broken, and view_mend() has to follow before the guest runs. */
#ifndef NOVT_MONITOR_VIEW_H
#define NOVT_MONITOR_VIEW_H

#include "monitor/cpu/vm.h"

#define VIEW_MAX_SLOTS    2048
#define VIEW_MAX_SPACES   26
#define VIEW_MAX_VIEWS    160
#define VIEW_MAX_OF_SPACE 30 /* views of one space */
#define VIEW_MAX_PENDING  64
#define VIEW_MAX_LOCAL    1024 /* supervisor jump-table entries from pages that are not global */
#define NO_ROOT           (~0ull)

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
    union { /* the entries, as far as there are flags (or table_gpa is NO_ROOT) */
        uint64_t pte64[512];
        uint32_t pte32[1024];
        uint64_t words[512];
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
    uint16_t used_slot[VIEW_MAX_SLOTS];
    uint8_t slot_used[VIEW_MAX_SLOTS];
    uint8_t slot_large[VIEW_MAX_SLOTS]; /* 0, or 1 + writable: mapped as a run */
    uint64_t slot_gpa[VIEW_MAX_SLOTS];  /* of a large page */
    uint64_t pde_gpa[VIEW_MAX_SLOTS];   /* where the directory entry is; NO_ROOT: paging is off */
    uint64_t pde[VIEW_MAX_SLOTS];       /* the entry that mappings were made from */
    struct leaf *leaf[VIEW_MAX_SLOTS];
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
    bool own_places;  /* the array of places behind it is this space's, not the supervisor's */
    uint64_t home[4]; /* deltas by class; 0: none yet */
    struct view *view[VIEW_MAX_OF_SPACE];
};

/* Linear pages; those 4 GiB apart are one. Emptying it costs what was put in. */
struct page_set {
    uint64_t parts; /* bit n: something is in part n of bits */
    uint64_t bits[64][(1u << 20) / 64 / 64];
};

struct mon_view_set {
    struct space space[VIEW_MAX_SPACES];
    struct space *side[2];           /* of rt_cpu.side */
    struct space *current, *last[3]; /* last: of each class, where to look first */
    struct view view[VIEW_MAX_VIEWS];
    uint8_t *void_window; /* claimed, never mapped */
    int deltas_fd;        /* a table of deltas that all lead into the void */
    void **super_table;
    int super_places_fd; /* its array of places, which all supervisor spaces have behind deltas */
    uint32_t super_key;
    uint32_t local_count;
    uint64_t local[VIEW_MAX_LOCAL];
    struct page_set super_exec;  /* linear pages with entries in super_table */
    struct page_set super_cross; /* as PF_CROSS */
    /* INVLPG of a program's pages by its kernel, due before the program runs again. */
    struct space *pending_space;
    uint32_t npending;
    uint64_t pending[VIEW_MAX_PENDING];
    uint64_t config; /* paging control bits that mappings depend on */
    uint64_t clock;
    uint32_t maps;
    uint32_t placements; /* spreads the spaces' homes over the host's addresses */
    struct leaf *free_leaf;
};

/* ---- addresses ---- */

/* The control bits that mappings depend on: when one changes, none can stay. */
static inline uint64_t view_paging_config(const struct mon_vcpu *v)
{
    return (v->cr0 & (MON_CR0_PG | MON_CR0_WP)) |
           (uint64_t)(v->cr4 & (MON_CR4_PAE | MON_CR4_PSE | MON_CR4_SMAP)) << 32 |
           (v->efer & MON_EFER_NXE) << 20;
}

/* What tells address spaces apart: CR3's part of it. */
static inline uint64_t view_root_of(const struct mon_vcpu *v)
{
    if (!(v->cr0 & MON_CR0_PG))
        return 0;
    if (mon_long(v))
        return v->cr3 & MON_PTE_FRAME;
    return v->cr3 & (v->cr4 & MON_CR4_PAE ? 0xffffffe0u : 0xfffff000u);
}

/* The first of the 4 GiB of linear addresses with these bits 32 to 47; and the way back. */
static inline uint64_t view_canonical(uint64_t hi)
{
    return hi & 0x8000 ? hi << 32 | 0xffff000000000000ull : hi << 32;
}

static inline uint16_t view_hi_of(uint64_t gla)
{
    return (uint16_t)(gla >> 32);
}

/* Address bits 46 and 47: windows of one class share a delta (view_home.c). */
static inline unsigned view_home_class(uint16_t hi)
{
    return tr_class(view_canonical(hi));
}

/* The space's view of hi, or NULL. */
static inline struct view *view_at(const struct space *space, uint16_t hi)
{
    for (unsigned i = 0; i < space->nviews; i++) {
        if (space->view[i]->hi == hi)
            return space->view[i];
    }
    return NULL;
}

/* ---- entries ---- */

static inline unsigned view_slot_pages(const struct view *view)
{
    return 1u << (view->shift - 12);
}

/* A leaf's copy of entry i, and the frame that an entry names. */
static inline uint64_t view_pte(const struct view *view, const struct leaf *leaf, unsigned i)
{
    return view->shift == 21 ? leaf->pte64[i] : leaf->pte32[i];
}

static inline uint64_t view_frame(const struct view *view, uint64_t pte)
{
    return view->shift == 21 ? pte & MON_PTE_FRAME : pte & 0xfffff000u;
}

/* The guest's entry at gpa as it is now; outside RAM all ones. */
static inline uint64_t view_read_entry(const struct mon_vcpu *v, const struct view *view,
                                       uint64_t gpa)
{
    const uint8_t *p = mon_vm_ram(v, gpa, NULL);

    if (!p)
        return ~0ull;
    return view->shift == 21 ? *(const uint64_t *)(const void *)p
                             : *(const uint32_t *)(const void *)p;
}

/* ---- what a view holds (view_leaf.c) ---- */

/* Marks a slot as used: the caller fills in what it was made from. */
void view_use_slot(struct view *view, unsigned slot);
/* Takes what was dropped out of the list of used slots. Not while someone goes through the list. */
void view_compact(struct view *view);
/* The leaf for a slot, made from the page table that the walk used (or, with NO_ROOT as table_gpa,
 * from a large page: large_pte is its first page's entry). What the slot held otherwise goes. NULL:
 * no memory. */
struct leaf *view_leaf_for(struct mon_vcpu *v, struct view *view, unsigned slot, uint64_t entry,
                           uint64_t entry_gpa, uint64_t table_gpa, uint64_t large_pte);
/* Unmaps pages of one slot that has a leaf; gla counts from the view's start. */
void view_unmap(struct mon_vcpu *v, struct view *view, uint64_t gla, unsigned pages);
/* The same without the host's part; true: something is mapped there. The caller replaces it. */
bool view_forget(struct mon_vcpu *v, struct view *view, uint64_t gla, unsigned pages);
/* Maps the page at gla of the current space, whatever was mapped there, if a write would be allowed
 * and set no accessed or dirty bit. False: what was there may still be. */
bool view_refill(struct mon_vcpu *v, uint64_t gla);
void view_drop_slot(struct mon_vcpu *v, struct view *view, unsigned slot);
/* Everything out of a view, which keeps its window: one munmap. */
void view_empty(struct mon_vcpu *v, struct view *view);

/* After something that unmaps: true when that failed, and all of the view has gone instead. */
static inline bool view_mend(struct mon_vcpu *v, struct view *view)
{
    if (__builtin_expect(!view->broken, 1))
        return false;
    view_empty(v, view);
    return true;
}

/* ---- views and windows (view_home.c) ---- */

/* The view of hi, made if there is none; NULL with v->host_failure set when it cannot be. May take
 * one from another space, or from this one: not the two that came last, because an instruction may
 * need both. */
struct view *view_get(struct mon_vcpu *v, struct space *space, uint16_t hi);
/* Empties a view and gives it and its window back. */
void view_detach(struct mon_vcpu *v, struct view *view);
/* All views of a space. */
void view_empty_space(struct mon_vcpu *v, struct space *space);

/* ---- spaces (view.c) ---- */

/* The user or supervisor space that was longest not in use (with_views: of those that have any);
 * never the current one. NULL: there is none. */
struct space *view_oldest_space(struct mon_view_set *set, bool super, bool with_views);

/* ---- what a TLB would drop (view_stale.c) ---- */

/* Whether a space can be used as it is; and makes it so. */
bool view_is_fresh(const struct mon_vcpu *v, const struct space *space);
void view_make_fresh(struct mon_vcpu *v, struct space *space);

/* ---- jump tables (view_code.c) ---- */

/* The jump table for a space; emptied when it was filled in another mode. */
void **view_select_table(struct mon_vcpu *v, struct space *space, uint32_t key);
/* Empties the supervisor's jump table: all of it, what is not from global pages, and what INVLPG of
 * a page drops. */
void view_clear_super(struct mon_vcpu *v);
void view_clear_super_local(struct mon_vcpu *v);
void view_clear_super_page(struct mon_vcpu *v, uint64_t gla);

#endif
