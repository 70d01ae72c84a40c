/* escape.h - a small VM in which hostile code runs, one experiment after another.
 *
 * Guest-physical layout, identity-mapped, and mapped again at the ends of the address space:
 *
 *   1000h GDT   2000h IDT   4000h TSS   5000h handlers (HLT each)   8000h stack top of CPL 0
 *   10000h page tables   40000h stack and data of the experiment   100000h code   800000h end
 *
 * An exception ends in a handler's HLT, that is in an exit; the next experiment starts from a state
 * that is made anew. */
#ifndef NOVT_TESTS_ESCAPE_H
#define NOVT_TESTS_ESCAPE_H

#include "include/novt.h"

#include <stdatomic.h>

#define GDT       0x1000u
#define IDT       0x2000u
#define TSS       0x4000u
#define HANDLERS  0x5000u
#define STACK0    0x8000u
#define TABLES    0x10000u
#define DATA      0x40000u
#define CODE      0x100000u
#define CODE_SIZE 0x40000u
#define RAM_SIZE  0x800000u

/* What an experiment runs in. */
enum mode {
    MODE_REAL,
    MODE_FLAT,  /* 32-bit, no paging */
    MODE_PAGED, /* 32-bit, two levels */
    MODE_PAE,
    MODE_LONG,
    MODE_COMPAT, /* 32-bit code in long mode */
    MODE_COUNT
};

struct machine {
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    struct novt_run *run;
    uint8_t *ram;
    int fd;
    enum mode mode;
    bool user;
    bool clean; /* tables are as they should be */
    _Atomic uint64_t experiment;
    _Atomic bool overdue; /* its time is over */
    uint64_t seed;
    /* What became of the experiments. */
    uint64_t halts, ios, mmios, kicks, shutdowns, internals;
};

/* machine.c */
bool machine_create(struct machine *m, uint64_t flags, const char *cpu);
void machine_destroy(struct machine *m);
/* Fresh tables and registers, execution at rip. */
bool machine_prepare(struct machine *m, enum mode mode, bool user, uint64_t rip);
/* Runs until the experiment is over. False when the monitor failed. */
bool machine_run(struct machine *m);
const char *mode_name(enum mode mode);

/* generate.c: what is put at CODE, and in registers and tables. */
enum kind {
    KIND_BYTES,    /* random bytes */
    KIND_FORMS,    /* memory operands of every form, registers at boundaries */
    KIND_BRANCHES, /* to data, into instructions, to unmapped and non-canonical addresses */
    KIND_PREFIXES, /* up to 20 prefixes before an instruction */
    KIND_CROSSING, /* across a page whose successor is absent or changes */
    KIND_TABLES,   /* descriptors and page tables that point at themselves and outside RAM */
    KIND_SYSTEM,   /* privileged instructions with random operands */
    KIND_COUNT
};
const char *kind_name(enum kind kind);
void generate(struct machine *m, enum kind kind, uint64_t number);
uint64_t next_random(uint64_t *seed);

/* drift.c: prints its DRIFT_ROWS rows; returns how many failed. */
#define DRIFT_ROWS 4u
unsigned drift_test(struct machine *m);

/* watch.c: whether anything got out. Each prints what is wrong and returns false. */
bool watch_start(void);
bool watch_canaries(void);
bool watch_maps(void);
bool watch_guards(void);
bool watch_leaks(const struct machine *m);
bool watch_registers(const struct machine *m);
struct usage {
    uint64_t anonymous, mappings, descriptors;
};
struct usage watch_usage(void);

#endif
