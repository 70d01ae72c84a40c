/* vm.h - the VM behind the API, for the files of this folder that reach the code cache or the host.
 */
#ifndef NOVT_MONITOR_VM_H
#define NOVT_MONITOR_VM_H

#include "codecache/cc.h"
#include "monitor/cpu/cpu.h"
#include "runtime/rt.h"

#include <pthread.h>

#define MON_MAX_SLOTS   16
#define MON_MAX_VCPUS   8
#define MON_MAX_WRITTEN 64
#define MON_MAX_GPA     (1ull << 36) /* of RAM that may hold code */

/* Full, with its pc maps, sites and blocks, it takes some 80 MiB; 64 MiB took no less CPU time. */
#define MON_DEFAULT_CODE_CACHE (32ull << 20)

/* A memory slot: guest-physical range on the embedder's memfd. */
struct mon_slot {
    uint64_t gpa, size, offset;
    int fd;
    bool used, readonly;
    uint8_t *host; /* always readable and writable: devices' and the monitor's way in */
};

/* Counters: one row a line, shown by --stats in this order. */
enum mon_stat {
#define STAT(name, unit) MON_STAT_##name,
#include "monitor/cpu/stat.def"
#undef STAT
    MON_STAT_COUNT
};

struct mon_vm {
    struct novt_config config;
    char cpu_model[128];
    char error[256];
    struct mon_slot slot[MON_MAX_SLOTS];
    struct mon_vcpu *vcpu[MON_MAX_VCPUS];
    struct mon_cpuid cpuid;
    struct cc cc;
    struct tr_stubs stubs;
    struct tr_memo *memo;
    void *heap;           /* mi_heap_t * */
    pthread_mutex_t lock; /* translation, links and code pages, when several vCPUs run */
    uint64_t stat[MON_STAT_COUNT];
    /* Pages with code that the embedder wrote, under lock. */
    uint64_t written[MON_MAX_WRITTEN];
    uint32_t nwritten;
    bool written_all;
    uint32_t map_budget;
    uint64_t created_ns;
    struct cc_jitinfo *jitinfo;
};

/* What the fault handler left to do (mon_vcpu.after_fault). */
enum after_fault { AFTER_NOTHING, AFTER_EXCEPTION, AFTER_STEP, AFTER_CHECK, AFTER_ARRIVAL };

static inline void mon_count(struct mon_vcpu *v, enum mon_stat stat)
{
    v->vm->stat[stat]++;
}

/* ---- view.c: address spaces ---- */

int mon_views_create(struct mon_vcpu *v);
void mon_views_destroy(struct mon_vcpu *v);
/* Makes the view for the current CR3, CPL and RFLAGS.AC current: window and jump table in rt_cpu.
 */
void mon_view_select(struct mon_vcpu *v, uint32_t key);
/* Prepares both sides of the current address space for system calls in the cache, if they can be:
 * key[0] and key[1] are the modes at CPL 0 and CPL 3. */
void mon_view_sides(struct mon_vcpu *v, const uint32_t key[2]);
/* Translated code has changed to that side (0 or 1) by itself. */
void mon_view_took_side(struct mon_vcpu *v, unsigned side);
/* The same, when it has not yet. */
void mon_view_take_side(struct mon_vcpu *v, unsigned side);
/* The linear address behind a host address in one of the current space's windows. */
bool mon_view_gla(const struct mon_vcpu *v, uint64_t host, uint64_t *gla);
/* The same for all windows, the current space's or not. */
bool mon_view_find(const struct mon_vcpu *v, uint64_t host, uint64_t *gla);
/* 64-bit code: makes a window for the 4 GiB around gla, if something is mapped there. */
void mon_view_touch(struct mon_vcpu *v, uint64_t gla);
/* Whether a host address is among the bytes that check addresses, and whether gla's slot passes. */
/* The address that links load from when they lead to a page that the space is not known to have. */
bool mon_view_is_absent_place(const struct mon_vcpu *v, uint64_t host);
bool mon_view_is_check(const struct mon_vcpu *v, uint64_t host);
/* Whether the load of a check byte at that host address would not fault now. */
bool mon_view_check_holds(const struct mon_vcpu *v, uint64_t host);
bool mon_view_at_home(const struct mon_vcpu *v, uint64_t gla);
/* 64-bit code: what to add to gla. */
static inline uint64_t mon_view_delta(const struct mon_vcpu *v, uint64_t gla)
{
    return ((const uint64_t *)(void *)v->cpu->window)[gla >> 32 & 0xffff];
}

/* ---- view_fill.c ---- */

/* A page fault of translated code at linear address gla (signal context). */
enum mon_fill { MON_FILL_DONE, MON_FILL_EXCEPTION, MON_FILL_STEP, MON_FILL_DEVICE };
enum mon_fill mon_view_fill(struct mon_vcpu *v, uint64_t gla, bool write);
/* Fills the page at gla without a fault, if the guest's tables now allow the access and have the
 * accessed and dirty bits that it would set. */
void mon_view_prefill(struct mon_vcpu *v, uint64_t gla, bool write);

/* ---- view_code.c ---- */

/* Puts block b, fetched through walk (and walk2 if it crosses into the next page), into the current
 * jump table, to be dropped when the mapping changes. */
void mon_view_enter_block(struct mon_vcpu *v, const struct cc_block *b, const struct mon_walk *walk,
                          const struct mon_walk *walk2);
/* Write-protects a guest page in all views before its bytes are read for translation. */
void mon_view_protect_code(struct mon_vm *vm, uint64_t gpa);
/* Drops every jump table's entries (after a flush of the code cache). */
void mon_view_drop_code(struct mon_vm *vm);
/* The same for the jump tables of user mode alone. */
void mon_view_drop_copies(struct mon_vm *vm);

/* ---- view_stale.c (the rest of it is in cpu.h) ---- */

/* Drops every window mapping (memory slots changed). */
void mon_view_drop_all(struct mon_vm *vm);

/* ---- api.c ---- */

/* Makes v leave translated code soon. Any thread, signal handlers. */
void mon_vcpu_poke(struct mon_vcpu *v);
void mon_vm_take_written(struct mon_vm *vm);
/* Whether the embedder's handler has dealt with the exit. */
bool mon_vcpu_handled(struct mon_vcpu *v);
/* The embedder has answered the last IO, MMIO or MSR exit. */
void mon_vcpu_take_answer(struct mon_vcpu *v);

/* ---- mode.c ---- */

/* What v->mode_changed asks for: key, address space, jump table, or v->slow. */
void mon_mode_update(struct mon_vcpu *v);
/* What v->cpl_changed asks for. */
void mon_mode_switch(struct mon_vcpu *v);
/* Catches up with what translated code did by itself. Also in signal context. */
void mon_mode_follow(struct mon_vcpu *v);
/* rt_cpu has moved to another address (the thread's, or back). */
void mon_mode_rebind(struct mon_vcpu *v);
/* v->exc is about to be delivered: the page of a page fault is filled in when its handler returns.
 */
void mon_mode_page_fault(struct mon_vcpu *v);

/* ---- run.c, trap.c ---- */

int mon_run(struct mon_vcpu *v);
int mon_run_hooks(void);

#endif
