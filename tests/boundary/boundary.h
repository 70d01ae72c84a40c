/* boundary.h - what the parts of the boundary test share.
 *
 *   boundary.c   the cases: the oracle in the slow path, and translated code compared with it
 *   machine.c    a guest's memory, a vCPU at its start, the state that a guest can see
 *   step.c       the engine's way into translated code, stepped through and stopped
 *   layout.h     the guest's memory map, for the guests too
 *
 * What the host cannot do ends the test (die()), what differs is reported and counted. */
#ifndef NOVT_TESTS_BOUNDARY_BOUNDARY_H
#define NOVT_TESTS_BOUNDARY_BOUNDARY_H

#include "monitor/cpu/vm.h"
#include "tests/boundary/layout.h"
#include "tests/machine.h"

#include <stdbool.h>

struct guest {
    bool wide;
    unsigned bits;
    uint8_t image[RAM_SIZE]; /* at the start: code, data, tables */
};

struct engine {
    const struct guest *guest;
    struct test_machine m;
    struct mon_vcpu *v; /* behind m.vcpu */
};

/* What a guest can see of its state. */
struct state {
    struct novt_regs regs;
    uint16_t selector[6];
    uint32_t ready; /* an interrupt would be taken */
    uint8_t vectors[416];
    uint64_t cr2;
    uint64_t tables, patched, pages[(RAM_SIZE - DATA) / 4096]; /* hashes */
};

__attribute__((noreturn)) void die(const char *what);

/* ---- machine.c ---- */

/* The image of dir/guest16.bin, guest32.bin or guest64.bin, with its tables and data. */
void load_guest(struct guest *g, const char *dir, unsigned bits);
void create(struct engine *e, const struct guest *g, uint64_t flags);
void destroy(struct engine *e);
/* Everything as at the start, but the code cache, which keeps what it has. */
void reset(struct engine *e);

void get_state(const struct engine *e, struct state *s);
bool same(const struct state *a, const struct state *b);
/* Prints what differs between two states, for the first few times. */
void report(const char *what, unsigned long at, const struct state *want, const struct state *got);
/* What the handlers have noted, for a report. */
void report_log(const struct engine *e);

/* The program has come to its end. */
bool is_done(const struct engine *e);
/* To the next exit, which has to be a kick's, an interrupt window's or the end. */
void run_on(struct engine *e);
void run_to_the_end(struct engine *e);
/* From the start, n stops. */
void run_to_boundary(struct engine *e, unsigned n);
/* The slow path up to boundary k, then translated code. */
void enter_at_boundary(struct engine *e, unsigned k);
/* Injects vector now, or as soon as the guest takes it. False: the program ended before. */
bool inject(struct engine *e, uint8_t vector);

/* ---- step.c ---- */

/* While this is set, novt_vcpu_run() ends at each boundary: as a kick does. */
extern bool stop_at_each;

/* Takes the traps of a single-stepped host. After the engine has installed its own handlers. */
void take_traps(void);
/* e is to be kicked in the entry-th time from now that it enters translated code, at the n-th host
 * instruction there. Until step_end(), which says whether that happened. */
void step_begin(struct engine *e, unsigned entry, unsigned n);
bool step_has_kicked(void);
void step_end(void);

#endif
