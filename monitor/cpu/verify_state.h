/* verify_state.h - what verify.c knows about one vCPU; private to verify*.c.
 *
 *   verify.c         the trial, the run, and what follows from them
 *   verify_report.c  comparing two states, and putting a difference into words */
#ifndef NOVT_MONITOR_CPU_VERIFY_STATE_H
#define NOVT_MONITOR_CPU_VERIFY_STATE_H

#include "monitor/cpu/step.h"
#include "monitor/cpu/verify.h"

#define MAX_INSNS 32   /* of a block: repeating a trial stays cheap */
#define PLANS     8192 /* blocks whose decoded instructions are kept */
#define PAGES     1024 /* that one block may write */
#define MARKS     2048 /* accessed and dirty bits set on the way */
#define COUNTERS  (1u << 16)
#define FIRST     256 /* runs of a block that are all compared */
#define EVERY     61  /* of the later ones, one of so many */
#define XSAVE_MAX 4096
#define PAGE_SIZE 4096u

/* A block's instructions. */
struct plan {
    uint64_t flushes; /* cc.flushes when it was made */
    uint32_t block;   /* CC_NONE: unused */
    uint32_t len;     /* bytes, the same as the block's when all could be decoded */
    unsigned ninsns;  /* that the slow path can execute and undo */
    bool vector;      /* some touch vector state */
    uint16_t at[MAX_INSNS + 1];
    struct tr_insn insn[MAX_INSNS];
    uint8_t bytes[MAX_INSNS * 15];
};

/* Architectural state that blocks change, apart from memory. */
struct state {
    uint64_t gpr[16], rip, rflags;
    struct step_x87 x87;
    uint8_t *xsave; /* valid when the plan has vector instructions */
};

struct page {
    uint64_t gpa;
    uint8_t *host;
    uint8_t before[PAGE_SIZE], after[PAGE_SIZE], run[PAGE_SIZE];
};

enum phase { IDLE, TRIAL, RUN };

/* Why the trial ended. */
enum ending {
    AT_END,   /* at the block's end, or a branch was taken */
    AT_LIMIT, /* the rest cannot be repeated, or was not wanted */
    AT_FAULT, /* the next instruction raises an exception */
    AT_EXIT,  /* the next instruction needs the embedder */
    AT_CODE,  /* the next instruction writes translated code */
    TOO_MUCH, /* the next instruction may write more than is kept */
};

struct mon_verify {
    enum phase phase;
    bool armed; /* a trial waits for its run */
    bool wrote_code;
    bool marking; /* the next write sets accessed or dirty bits */
    const struct plan *plan;
    enum ending ending;
    unsigned done; /* instructions that the trial completed */
    struct state before, trial, run;
    struct mon_exception exc; /* of AT_FAULT */
    unsigned npages, nmarks;
    struct {
        uint64_t gpa;
        uint32_t bits, entry; /* of its low half, before */
    } mark[MARKS];
    uint64_t compared, skipped;
    size_t xsave_size;
    uint64_t flushes; /* cc.flushes at which counting began */
    uint32_t *runs;   /* of blocks, by index */
    struct plan *plans;
    struct page *pages;
    uint8_t *areas;
};

/* Names what differs, or NULL. Flags in dead are about to be overwritten. */
const char *verify_registers(const struct mon_vcpu *v, const struct state *a, const struct state *b,
                             uint64_t dead);
const char *verify_vectors(const struct mon_vcpu *v, const uint8_t *a, const uint8_t *b);
/* The first page whose bytes are not as the trial left them, and where in it. */
const struct page *verify_memory(const struct mon_verify *y, unsigned *at);
/* A line for the log, whatever the mask. */
void verify_say(struct mon_vcpu *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Everything that is known about the last run. */
void verify_report(struct mon_vcpu *v);

static inline const struct cc_block *verify_block(const struct mon_vcpu *v)
{
    return &v->vm->cc.blocks[v->verify->plan->block];
}

#endif
