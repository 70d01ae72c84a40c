/* boundary.c - interrupts at every instruction boundary and page faults at every access.
 *
 *   boundary DIR [16|32|64]     runs DIR/guest16.bin, guest32.bin and guest64.bin, or one of them
 *
 * A guest program, a few hundred instructions of every kind (guest16.S and so on), runs alone in
 * the slow path, which stops at each boundary: between two instructions, two iterations of a REP,
 * before a handler's first instruction. That gives the list of boundaries with the state at each,
 * and for an event at each of them the state at the end; what handlers were given is in memory, so
 * part of it. Then the same has to come out of translated code:
 *
 *   single    blocks of one instruction: it passes through the same states one by one, and stops at
 *             boundary k for the event
 *   entered   the slow path up to boundary k, translated code (whole, linked blocks) from there
 *   kicked    whole, linked blocks, and a kick while the host is at its n-th instruction in the
 *             code cache or on the way in, for every n (step.c). Translated code may go on to any
 *             boundary that exists; there the interrupt is injected
 *
 * The events: an external interrupt at every boundary, through the interrupt window where IF or a
 * shadow holds it back; a page that is not present from there on, for every page that the next
 * instruction fetches, reads or writes. */
#include "tests/boundary/boundary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BOUNDARIES 4096

static unsigned passed, failed;

/* ---- events ---- */

/* vector 0: the page is not present from now on; else an interrupt. */
struct event {
    uint8_t vector;
    uint32_t page;
};

static void make_absent(struct engine *e, uint32_t page)
{
    struct novt_sregs s;

    e->m.ram[PT + (page >> 12) * (e->guest->wide ? 8 : 4)] &= 0xfe;
    novt_vcpu_get_sregs(e->m.vcpu, &s);
    if (novt_vcpu_set_sregs(e->m.vcpu, &s)) /* which drops the TLB */
        die("setting the state");
}

static void happen(struct engine *e, const struct event *event, struct state *end)
{
    bool taken = true;

    if (event->vector == ABSENT)
        memcpy(e->m.ram + VICTIM, &event->page, 4);
    if (event->vector)
        taken = inject(e, event->vector);
    else
        make_absent(e, event->page);
    if (taken)
        run_to_the_end(e);
    get_state(e, end);
}

/* ---- the oracle ---- */

struct oracle {
    struct engine e;
    struct state *at; /* each boundary; the last is the end */
    unsigned count;   /* boundaries at which something can happen */
};

static void find_boundaries(struct oracle *o)
{
    o->at = calloc(MAX_BOUNDARIES, sizeof(*o->at));
    reset(&o->e);
    stop_at_each = true;
    get_state(&o->e, &o->at[0]);
    for (o->count = 1; o->count < MAX_BOUNDARIES; o->count++) {
        run_on(&o->e);
        get_state(&o->e, &o->at[o->count]);
        if (is_done(&o->e)) {
            stop_at_each = false;
            return;
        }
    }
    die("the program does not end");
}

static void foresee(struct oracle *o, unsigned k, const struct event *event, struct state *end)
{
    reset(&o->e);
    run_to_boundary(&o->e, k);
    happen(&o->e, event, end);
}

/* Where the first page fault of the last run came from; 0: there was none. */
static uint64_t faulted_at(const struct oracle *o)
{
    uint64_t first = 0, rip = 0;
    unsigned size = o->e.guest->wide ? 8 : 4;

    memcpy(&first, o->e.m.ram + LOG + 8, size);
    memcpy(&rip, o->e.m.ram + LOG + 8 + size, size);
    return first == PF ? rip : 0;
}

/* ---- the cases ---- */

static void verdict(const struct guest *g, bool good, const char *text)
{
    printf("%s boundary: %u-bit guest: %s\n", good ? "PASS" : "FAIL", g->bits, text);
    passed += good;
    failed += !good;
}

/* One instruction a block, through the same states. */
static bool check_states(struct oracle *o, struct engine *single)
{
    struct state s;
    unsigned k = 0;

    reset(single);
    stop_at_each = true;
    while (k + 1 < o->count) {
        run_on(single);
        get_state(single, &s);
        unsigned from = k++;
        while (!same(&s, &o->at[k]) && o->at[k].regs.rip == o->at[from].regs.rip)
            k++;
        if (!same(&s, &o->at[k])) {
            report("boundary", k, &o->at[k], &s);
            break;
        }
    }
    stop_at_each = false;
    return k + 1 == o->count;
}

static bool check_end(struct engine *e, const char *what, unsigned long k,
                      const struct event *event, const struct state *want)
{
    struct state got;

    happen(e, event, &got);
    if (same(&got, want))
        return true;
    report(what, k, want, &got);
    report_log(e);
    return false;
}

/* With blocks of one instruction. False: it does not stop there, in the middle of a REP. */
static bool stop_at_boundary(const struct oracle *o, struct engine *single, unsigned k)
{
    struct state s;

    reset(single);
    stop_at_each = true;
    get_state(single, &s);
    while (!same(&s, &o->at[k]) && !is_done(single)) {
        run_on(single);
        if (single->v->cpu->rip == o->at[k].regs.rip)
            get_state(single, &s);
    }
    stop_at_each = false;
    return !is_done(single);
}

static bool check_event(struct oracle *o, struct engine *single, struct engine *whole, unsigned k,
                        const struct event *event, const struct state *want)
{
    bool good = true;

    if (stop_at_boundary(o, single, k))
        good = check_end(single, "single, boundary", k, event, want);
    reset(whole);
    enter_at_boundary(whole, k);
    return good & check_end(whole, "entered, boundary", k, event, want);
}

static void case_interrupts(struct oracle *o, struct engine *single, struct engine *whole)
{
    const struct event event = {.vector = IRQ};
    struct state want;
    unsigned wrong = 0;
    char text[160];

    for (unsigned k = 0; k < o->count; k++) {
        foresee(o, k, &event, &want);
        wrong += !check_event(o, single, whole, k, &event, &want);
    }
    snprintf(text, sizeof(text), "an interrupt at each of %u boundaries, %u differ", o->count,
             wrong);
    verdict(o->e.guest, !wrong, text);
}

static const uint32_t victims[] = {PROGRAM,
                                   PROGRAM + 0x1000,
                                   PATCHED,
                                   USER,
                                   DATA,
                                   DATA + 0x1000,
                                   DATA + 0x2000,
                                   USER_TOP & ~0xfffu,
                                   STACK_TOP & ~0xfffu};

/* Supervisor code of the others takes its page faults on that stack. */
static bool is_victim(const struct guest *g, uint32_t page)
{
    return g->wide || page != (STACK_TOP & ~0xfffu);
}

static void case_faults(struct oracle *o, struct engine *single, struct engine *whole)
{
    struct state want;
    unsigned wrong = 0, count = 0;
    char text[160];

    for (unsigned k = 0; k < o->count; k++) {
        for (unsigned i = 0; i < sizeof(victims) / sizeof(victims[0]); i++) {
            const struct event event = {.page = victims[i]};
            if (!is_victim(o->e.guest, event.page))
                continue;
            foresee(o, k, &event, &want);
            if (faulted_at(o) != o->at[k].regs.rip)
                continue; /* another instruction's access */
            count++;
            wrong += !check_event(o, single, whole, k, &event, &want);
        }
    }
    snprintf(text, sizeof(text), "a page fault at each of %u accesses, %u differ", count, wrong);
    verdict(o->e.guest, !wrong && count > o->count / 2, text);
}

/* ---- kicks at each host instruction ---- */

static int boundary_of(const struct oracle *o, const struct state *s)
{
    for (unsigned k = 0; k < o->count; k++) {
        if (same(&o->at[k], s))
            return (int)k;
    }
    return -1;
}

/* Runs from the start; the kick comes in the given entry, at its host instruction n. False: there
 * are not so many. */
static bool kick_at(struct engine *e, unsigned entry, unsigned n)
{
    reset(e);
    step_begin(e, entry, n);
    do
        run_on(e);
    while (!step_has_kicked() && !is_done(e));
    step_end();
    return !is_done(e); /* the last entry may end with the program, kicked or not */
}

struct kicks {
    unsigned entry, at; /* where the kick is now */
    unsigned steps, wrong, reached, faults;
    uint8_t seen[MAX_BOUNDARIES];
};

static unsigned likeness(const struct state *a, const struct state *b)
{
    unsigned n = a->regs.rip == b->regs.rip ? 17 : 0;

    for (unsigned i = 0; i < 16; i++)
        n += a->regs.gpr[i] == b->regs.gpr[i];
    return n;
}

static void report_nearest(const struct oracle *o, const struct state *s, unsigned n)
{
    unsigned best = 0;

    for (unsigned k = 0; k < o->count; k++) {
        if (likeness(&o->at[k], s) > likeness(&o->at[best], s))
            best = k;
    }
    report("kick", n, &o->at[best], s);
}

/* Once more to where a kick led to boundary k. */
static bool kick_to(const struct oracle *o, struct engine *whole, const struct kicks *kicks,
                    unsigned k)
{
    struct state s;

    if (!kick_at(whole, kicks->entry, kicks->at))
        return false;
    get_state(whole, &s);
    return same(&s, &o->at[k]);
}

/* The interrupt's handler makes a page absent that the next instruction touches. */
static void kick_and_fault(struct oracle *o, struct engine *whole, unsigned k, struct kicks *kicks)
{
    struct state want;

    for (unsigned i = 0; i < sizeof(victims) / sizeof(victims[0]); i++) {
        const struct event event = {.vector = ABSENT, .page = victims[i]};
        if (!is_victim(o->e.guest, event.page))
            continue;
        foresee(o, k, &event, &want);
        if (!kick_to(o, whole, kicks, k))
            continue; /* the page of PATCHED is protected or not as stores to it have come */
        kicks->faults++;
        kicks->wrong += !check_end(whole, "page taken, kick", kicks->steps, &event, &want);
    }
}

static void kick_once(struct oracle *o, struct engine *whole, struct kicks *kicks)
{
    const struct event event = {.vector = IRQ};
    static struct state ends[MAX_BOUNDARIES];
    struct state s;
    int k;

    get_state(whole, &s);
    k = boundary_of(o, &s);
    if (k < 0) {
        kicks->wrong++;
        report_nearest(o, &s, kicks->steps);
        return;
    }
    bool first = !kicks->seen[k];
    if (first) {
        kicks->seen[k] = 1;
        kicks->reached++;
        foresee(o, (unsigned)k, &event, &ends[k]);
    }
    kicks->wrong += !check_end(whole, "kick", kicks->steps, &event, &ends[k]);
    if (first)
        kick_and_fault(o, whole, (unsigned)k, kicks);
}

static void case_kicks(struct oracle *o, struct engine *whole)
{
    static struct kicks kicks;
    char text[200];

    memset(&kicks, 0, sizeof(kicks));
    for (unsigned i = 0; i < 3; i++) { /* everything translated and linked */
        reset(whole);
        run_to_the_end(whole);
    }
    for (; kick_at(whole, kicks.entry, 0); kicks.entry++) {
        for (kicks.at = 0; kick_at(whole, kicks.entry, kicks.at); kicks.at++) {
            kick_once(o, whole, &kicks);
            kicks.steps++;
        }
    }
    snprintf(text, sizeof(text),
             "a kick at each of %u host instructions in %u entries, which reach %u boundaries, and "
             "there "
             "%u pages taken away, %u differ",
             kicks.steps, kicks.entry, kicks.reached, kicks.faults, kicks.wrong);
    verdict(o->e.guest, !kicks.wrong && kicks.steps > 1000, text);
}

static void run_guest(const char *dir, unsigned bits)
{
    static struct guest g;
    static struct oracle o;
    static struct engine single, whole;
    char text[100];

    load_guest(&g, dir, bits);
    create(&o.e, &g, NOVT_F_INTERPRET);
    create(&single, &g, NOVT_F_SHORT_BLOCKS);
    create(&whole, &g, 0);
    find_boundaries(&o);
    snprintf(text, sizeof(text), "the same state at each of %u boundaries", o.count);
    verdict(&g, check_states(&o, &single), text);
    case_interrupts(&o, &single, &whole);
    case_faults(&o, &single, &whole);
    case_kicks(&o, &whole);
    destroy(&o.e);
    destroy(&single);
    destroy(&whole);
    free(o.at);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2)
        die("usage: boundary DIR [16|32|64]");
    for (unsigned bits = 16; bits <= 64; bits *= 2) {
        if (argc < 3 || strtoul(argv[2], NULL, 10) == bits)
            run_guest(argv[1], bits);
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
