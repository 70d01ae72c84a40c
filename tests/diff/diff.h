/* diff.h - the differential test's parts.
 *
 *   forms.c     instruction forms and their bytes      generate.c  sequences of instructions
 *   input.c     random numbers, registers, memory      blob.c      sequences as one piece of code
 *   native.c    the child that runs it on the CPU      guest.c     the VM that runs it in novt
 *   compare.c   what must be equal                     diff.c      batches, shrinking, options */
#ifndef NOVT_TESTS_DIFF_DIFF_H
#define NOVT_TESTS_DIFF_DIFF_H

#include "tests/diff/layout.h"
#include "translator/tr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BATCH_MAX 64 /* sequences */
#define ITEMS_MAX 16 /* in a sequence */

/* Of the code under test; set once, before everything else. */
extern enum tr_mode diff_mode;

static inline bool long_mode(void)
{
    return diff_mode == TR_MODE_64;
}

/* ---- state ---- */

/* 32- and 16-bit code leaves alone what it does not have. */
struct image {
    uint64_t gpr[16]; /* in encoding order */
    uint64_t rflags;
    uint64_t pad[7];
    uint8_t fx[512];        /* FXSAVE */
    uint8_t vector[32][64]; /* as wide as the CPU has them */
    uint64_t mask[8];
};

struct record {
    struct image in, out;
    uint64_t epilogue; /* where a faulting sequence goes on */
    uint64_t rip, cr2, rflags;
    uint64_t vector; /* of the fault, or NO_VECTOR */
    uint64_t error;
    uint64_t steps; /* how many more may be noted */
    uint64_t pad[1];
};

/* The state in which an instruction's single-step trap found it. */
struct step {
    uint64_t record; /* of which sequence: its address */
    uint64_t rip, rflags, dr6;
    uint64_t gpr[16];
};

_Static_assert(sizeof(struct image) == IMAGE_SIZE, "layout.h");
_Static_assert(offsetof(struct record, epilogue) == REC_EPILOGUE, "layout.h");
_Static_assert(offsetof(struct record, error) == REC_ERROR, "layout.h");
_Static_assert(offsetof(struct record, steps) == REC_STEPS, "layout.h");
_Static_assert(offsetof(struct step, gpr) == STEP_GPR, "layout.h");
_Static_assert(sizeof(struct step) == STEP_SIZE, "layout.h");
_Static_assert(sizeof(struct step) * STEPS_MAX * BATCH_MAX <= STEPS_SIZE, "layout.h");
_Static_assert(sizeof(struct record) * BATCH_MAX + 0x1000 <= IO_SIZE, "layout.h");

static inline uint32_t record_address(unsigned i)
{
    return IO_RECORDS + i * (uint32_t)sizeof(struct record);
}

static inline unsigned gpr_count(void)
{
    return long_mode() ? 16 : 8;
}

static inline unsigned vector_count(int level)
{
    return !long_mode() ? 8 : level == 2 ? 32 : 16;
}

/* ---- sequences ---- */

/* One instruction, or a few that belong together (a branch and what it needs). */
struct item {
    uint8_t bytes[48];
    uint8_t len;
    uint8_t fix_at, fix_size; /* where a target goes: 1, 2 or 4 bytes relative, 5: 4 bytes absolute,
                                 6: 2 bytes absolute, 8: 8 bytes absolute */
    uint8_t skip;             /* the target: behind this many of the following items */
    uint8_t rip_at, rip_end;  /* a RIP-relative displacement, which is an address so far, and the
                                 end of its instruction; 0: none */
};

struct sequence {
    struct item item[ITEMS_MAX];
    unsigned n;
    bool vector; /* x87, MMX, SSE or AVX state matters */
    bool bases;  /* changes the bases of FS or GS */
};

/* Never two of these in one expression without an order: each compiler would have its own tests. */
struct random {
    uint64_t s[2];
};
void random_seed(struct random *r, uint64_t seed, uint64_t stream);
uint64_t random_64(struct random *r);
static inline uint32_t random_below(struct random *r, uint32_t n)
{
    return (uint32_t)((random_64(r) >> 32) * n >> 32);
}
static inline bool one_in(struct random *r, uint32_t n)
{
    return random_below(r, n) == 0;
}

uint32_t random_32(struct random *r);
/* Numbers that are edges of something, or small, or random. */
uint64_t interesting(struct random *r);
uint64_t arena_pointer(struct random *r);

/* ---- forms.c ---- */

/* Lists of forms by what they need. */
enum flavour { INTEGER, X87, MMX, SSE, AVX, AVX512, FLAVOURS };

/* Lists the instruction forms that the decoder knows, of each opcode trying enough candidates to
 * find them all: takes seconds. mnemonic: only those with that name. Call once. Returns how many.
 */
unsigned forms_list(const char *mnemonic);
/* The CPU answers #UD to form i: from now on it is chosen rarely. */
void form_set_ud(unsigned i);
bool flavour_is_there(unsigned flavour);
/* An instruction of form i, or of a random form; false when none was found. */
bool form_instruction(struct random *r, unsigned i, struct tr_insn *insn);
bool form_pick(struct random *r, unsigned flavour, struct tr_insn *insn);
bool insn_is_vector(const struct tr_insn *insn);
/* Rows of the policy table that are copies and exist in this mode; how many of them no instruction
 * was generated of so far, which are printed. */
unsigned forms_missing(unsigned *rows);
/* General registers that the bytes overwrite, one bit each. */
unsigned registers_written(const uint8_t *bytes, unsigned len);

/* ---- generate.c ---- */

void generate_form(struct random *r, unsigned i, struct sequence *s);
void generate_sequence(struct random *r, struct sequence *s);
void sequence_print(const struct sequence *s, uint64_t pc);

/* ---- input.c ---- */

/* The registers that hold pointers into the arena, mostly, in this mode. */
unsigned pointer_registers(const uint8_t **regs);
/* vector: what is not for integer code alone. step: RFLAGS.TF is set. */
void generate_input(struct random *r, struct image *in, bool vector, bool step);
void generate_arena(struct random *r, uint8_t *arena);

/* ---- blob.c ---- */

/* The routines behind all batches; once, code as for blob_emit(). Returns the bytes. */
size_t blob_routines(uint8_t *code);
/* Code for n sequences at code (linear address base); sets records' epilogues. Returns the bytes, 0
 * when they do not fit. pc[i] is where sequence i itself starts. */
size_t blob_emit(const struct sequence *s, unsigned n, uint8_t *code, uint64_t base,
                 struct record *records, uint64_t *pc);
/* How wide vector state is: 0 FXSAVE only, 1 AVX, 2 AVX-512. */
int host_vector_level(void);

/* ---- the two sides ---- */

struct side {
    uint8_t *arena;         /* ARENA_SIZE */
    struct record *records; /* BATCH_MAX */
    struct step *steps;
};

/* IO_STEP, in the control page in front of the records. */
static inline uint64_t *next_step(const struct side *side)
{
    return (uint64_t *)(void *)((uint8_t *)side->records - (IO_RECORDS - IO_STEP));
}

/* Forks the child. 0, or -1 when this host cannot run 32-bit code (the reason is printed). The
 * memfd has CODE's bytes at PHYS_CODE. */
int native_start(int memfd, struct side *side);
/* Starts the batch at code's linear address start in the child; waits for its end. False: the child
 * died or hung. */
void native_begin(uint64_t start);
bool native_end(void);
void native_stop(void);

struct guest_options {
    uint64_t flags;      /* enum novt_flags */
    uint64_t code_cache; /* bytes */
    uint32_t kicks;      /* a second, from another thread, each with an interrupt */
};
int guest_start(int memfd, const struct guest_options *options, struct side *side);
/* The code was changed. */
void guest_code_written(size_t at, size_t len);
/* Runs the batch at start; false with a sentence in *why. */
bool guest_run(uint64_t start, const char **why);
void guest_stop(void);
/* How many interrupts have been injected so far. */
uint64_t guest_interrupts(void);

/* ---- compare.c ---- */

/* EQUAL to GAP; GAP: something that novt is known not to do happened; what follows is not
 * comparable. */
enum outcome { EQUAL, DIFFERENT, BROKEN, GAP };

/* Compares what both sides left of n sequences; prints differences when say is set. interpret: the
 * slow path ran everything. steps: single steps were noted. code: the batch's bytes, which lie at
 * base. */
struct comparison {
    const struct side *native, *guest;
    const uint8_t *code;
    uint64_t base;
    bool interpret, steps;
};
/* Set: nothing is excused. */
extern bool compare_strictly;
enum outcome compare(const struct comparison *c, const struct sequence *s, unsigned n, bool say);
bool records_equal(const struct comparison *c, unsigned i, bool vector, bool say);
bool arenas_equal(const struct comparison *c, bool say);
bool steps_equal(const struct comparison *c, bool say);
/* How many steps the host gave no cause for, so far. */
uint64_t steps_without_cause(void);
/* How many steps a side noted. */
unsigned steps_noted(const struct side *side);

#endif
