/* diff.h - the differential test's parts.
 *
 *   generate.c  random sequences of instructions       blob.c    sequences as one piece of code
 *   native.c    the child that runs it on the CPU      guest.c   the VM that runs it in novt
 *   diff.c      batches, comparison, shrinking, the command line */
#ifndef NOVT_TESTS_DIFF_DIFF_H
#define NOVT_TESTS_DIFF_DIFF_H

#include "tests/diff/layout.h"
#include "translator/tr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BATCH_MAX 64 /* sequences */
#define ITEMS_MAX 16 /* in a sequence */

/* ---- state ---- */

struct image {
    uint32_t gpr[8]; /* eax ecx edx ebx esp ebp esi edi */
    uint32_t eflags;
    uint32_t pad[7];
    uint8_t fx[512];       /* FXSAVE */
    uint8_t vector[8][64]; /* the low 8 registers, as wide as the CPU has them */
    uint64_t mask[8];
};

struct record {
    struct image in, out;
    uint32_t epilogue; /* where a faulting sequence goes on */
    uint32_t vector;   /* of the fault, or NO_VECTOR */
    uint32_t error, eip, cr2, eflags;
    uint32_t pad[10];
};

_Static_assert(sizeof(struct image) == IMAGE_SIZE, "layout.h");
_Static_assert(offsetof(struct record, epilogue) == REC_EPILOGUE, "layout.h");
_Static_assert(offsetof(struct record, eflags) == REC_EFLAGS, "layout.h");
_Static_assert(sizeof(struct record) * BATCH_MAX + 0x1000 <= IO_SIZE, "layout.h");

static inline uint32_t record_address(unsigned i)
{
    return IO_RECORDS + i * (uint32_t)sizeof(struct record);
}

/* ---- sequences ---- */

/* One instruction, or a few that belong together (a branch and what it needs). */
struct item {
    uint8_t bytes[32];
    uint8_t len;
    uint8_t fix_at, fix_size; /* where a target goes: 1 or 4 bytes relative, 5: 4 bytes absolute */
    uint8_t skip;             /* the target: behind this many of the following items */
};

struct sequence {
    struct item item[ITEMS_MAX];
    unsigned n;
    bool vector; /* x87, MMX, SSE or AVX state matters */
};

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

/* generate.c: lists the instruction forms that the decoder knows; call once. Returns how many. */
unsigned generate_forms(void);
/* The CPU answers #UD to form i: from now on it is chosen rarely. */
void generate_form_is_ud(unsigned i);
void generate_form(struct random *r, unsigned i, struct sequence *s);
void generate_sequence(struct random *r, struct sequence *s);
/* ac: RFLAGS.AC may be set. */
void generate_input(struct random *r, struct image *in, bool ac);
void generate_arena(struct random *r, uint8_t *arena);
void sequence_print(const struct sequence *s, uint32_t pc);

/* blob.c: code for n sequences at code (linear CODE); sets records' epilogues. Returns the bytes,
 * 0 when they do not fit. pc[i] is where sequence i itself starts. */
size_t blob_emit(const struct sequence *s, unsigned n, uint8_t *code, struct record *records,
                 uint32_t *pc);
/* How wide vector state is: 0 FXSAVE only, 1 AVX, 2 AVX-512. */
int host_vector_level(void);

/* ---- the two sides ---- */

struct side {
    uint8_t *arena;         /* ARENA_SIZE */
    struct record *records; /* BATCH_MAX */
};

/* Forks the child. 0, or -1 when this host cannot run 32-bit code (the reason is printed). The
 * memfd has CODE's bytes at PHYS_CODE. */
int native_start(int memfd, struct side *side);
/* Starts the batch in the child; waits for its end. False: the child died or hung. */
void native_begin(void);
bool native_end(void);
void native_stop(void);

struct guest_options {
    uint64_t flags;      /* enum novt_flags */
    uint64_t code_cache; /* bytes */
    uint32_t kicks;      /* a second, from another thread */
};
int guest_start(int memfd, const struct guest_options *options, struct side *side);
/* The code was changed. */
void guest_code_written(size_t len);
/* Runs the batch; false with a sentence in *why. */
bool guest_run(const char **why);
void guest_stop(void);

#endif
