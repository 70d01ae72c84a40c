/* compare.c - what must be equal after a round.
 *
 * Registers, flags, vector state, fault records and the arena, bit for bit; only the x87
 * instruction and data pointers are not compared, nor error codes and CR2 where the vector has
 * none. Translated code and the slow path are held to the same: what is excused has a line in
 * scope_of() or is_gap(). */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* Linux tells a process that pages from here on are present, whether they are or not. */
#define HOST_TASK_END 0x7ffffffff000

static bool error_matters(uint64_t vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void print_number(const char *side, const uint8_t *bytes, unsigned n)
{
    printf(" %s ", side);
    while (n-- > 0)
        printf("%02x", bytes[n]);
}

static bool bytes_equal(const char *name, int index, const void *a, const void *b, unsigned n,
                        bool say)
{
    if (!memcmp(a, b, n))
        return true;
    if (say) {
        printf(index < 0 ? "  %s:" : "  %s%d:", name, index);
        print_number("native", a, n);
        print_number(n > 10 ? "\n      novt  " : "novt", b, n);
        printf("\n");
    }
    return false;
}

/* ---- what is compared ---- */

/* What is compared at a fault. */
#define HARNESS 0x550000000000 /* from here on the kernel maps what has no place of its own */

struct scope {
    uint32_t cr2_slack; /* which of an operand's absent bytes is found first */
    bool gap;           /* memory may differ from here on: see is_gap() */
};

static const struct scope everything = {0, false};

static bool wraps(const struct tr_insn *insn, const uint64_t *gpr)
{
    uint64_t ea = (uint32_t)insn->disp;

    if (insn->cls == TR_STRING)
        ea = gpr[RT_SI];
    if (insn->base >= 0)
        ea += gpr[insn->base];
    if (insn->index >= 0)
        ea += gpr[insn->index] * insn->scale;
    return (uint32_t)ea > 0xffffffffu - 64;
}

/* An access beyond 4 GiB with a base "may or may not" fault (SDM 3-5.3). #AC and #GP:
 * misaligned operands that reach into addresses that are not canonical, or that FXRSTOR wants
 * aligned. Masked operands that reach there may fault for a page first. */
static bool is_gap(const struct record *a, const struct record *b, const struct tr_insn *insn)
{
    bool segment = a->vector == 13 || a->vector == 12;

    if (a->vector == 17 && (b->vector == 13 || b->vector == 12))
        return true;
    if (long_mode() && segment && b->vector == 14 && b->cr2 >> 8 == 0x7fffffffff)
        return true;
    if (long_mode())
        return false;
    return segment && tr_is_far_segment(insn->seg) && wraps(insn, a->out.gpr);
}

/* Modulo the arena's size, so at its end too. */
static uint16_t arena_offset(uint64_t address)
{
    return (uint16_t)(address - (address >> 33 == SPAN >> 33 ? SPAN & 0xffff : 0));
}

/* A repeated MOVS between two mappings of the same bytes, closer than what the CPU reads ahead: it
 * looks for overlaps by linear addresses. */
static bool copies_to_alias(const struct record *a, const struct tr_insn *insn)
{
    uint64_t from = a->out.gpr[RT_SI], to = a->out.gpr[RT_DI];

    return long_mode() && insn->op == TR_OP_movs && insn->rep && from >> 16 != to >> 16 &&
           (uint16_t)(arena_offset(from) - arena_offset(to) + 256) < 512;
}

/* Random addresses meet what the native child has mapped for itself (its stack, its libraries; this
 * process' are the same), and reads it where a guest has nothing. */
static bool read_the_harness(const struct record *a, const struct record *b)
{
    unsigned char resident;
    bool both = a->vector == b->vector && a->rip == b->rip && a->cr2 == b->cr2;

    return long_mode() && !both && b->vector == 14 && b->cr2 >= HARNESS && b->cr2 < HOST_TASK_END &&
           mincore((void *)(b->cr2 & ~4095ull), 4096, &resident) == 0;
}

bool compare_strictly;

static struct scope scope_of(const struct comparison *c, unsigned i)
{
    const struct record *a = &c->native->records[i], *b = &c->guest->records[i];
    struct scope scope = everything;
    struct tr_insn insn;

    scope.gap = !compare_strictly && read_the_harness(a, b);
    if (compare_strictly || a->vector == NO_VECTOR || a->rip - c->base >= ROUTINES ||
        tr_decode(c->code + (a->rip - c->base), 15, diff_mode, &insn) != TR_DECODE_OK)
        return scope;
    tr_decode_operands(&insn);
    if (insn.encoding == TR_ENC_EVEX &&
        insn.evex_aaa) /* the CPU's assists take them in some order */
        scope.cr2_slack = 511;
    scope.gap |= is_gap(a, b, &insn) || copies_to_alias(a, &insn);
    return scope;
}

/* ---- registers ---- */

static uint64_t gpr_mask(void)
{
    return long_mode() ? ~0ull : 0xffffffff;
}

static bool gprs_equal(const struct image *a, const struct image *b, bool say)
{
    static const char names[][4] = {"ax", "cx", "dx",  "bx",  "sp",  "bp",  "si",  "di",
                                    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    bool flags = a->rflags == b->rflags, equal = flags;

    for (unsigned i = 0; i < gpr_count(); i++) {
        if (!((a->gpr[i] ^ b->gpr[i]) & gpr_mask()))
            continue;
        equal = false;
        if (say)
            printf("  %s: native %llx, novt %llx\n", names[i], (unsigned long long)a->gpr[i],
                   (unsigned long long)b->gpr[i]);
    }
    if (!flags && say)
        printf("  flags: native %llx, novt %llx\n", (unsigned long long)a->rflags,
               (unsigned long long)b->rflags);
    return equal;
}

static bool x87_equal(const struct image *a, const struct image *b, bool say)
{
    bool equal = bytes_equal("status", -1, a->fx + 2, b->fx + 2, 2, say);

    equal &= bytes_equal("tag", -1, a->fx + 4, b->fx + 4, 1, say);
    for (unsigned i = 0; i < 8; i++) {
        unsigned st = 32 + 16 * i;
        equal &= bytes_equal("st", (int)i, a->fx + st, b->fx + st, 10, say);
    }
    return equal;
}

static bool vector_registers_equal(const struct image *a, const struct image *b, bool say)
{
    int level = host_vector_level();
    unsigned xmms = gpr_count(), size = level == 2 ? 64 : 32;
    bool equal = true;

    for (unsigned i = 0; i < xmms; i++)
        equal &= bytes_equal("xmm", (int)i, a->fx + 160 + 16 * i, b->fx + 160 + 16 * i, 16, say);
    for (unsigned i = 0; level && i < vector_count(level); i++)
        equal &= bytes_equal("zmm", (int)i, a->vector[i], b->vector[i], size, say);
    for (unsigned i = 0; level == 2 && i < 8; i++)
        equal &= bytes_equal("k", (int)i, &a->mask[i], &b->mask[i], 8, say);
    return equal;
}

/* FOP, FIP, FCS, FDP and FDS are not compared. */
static bool vectors_equal(const struct image *a, const struct image *b, bool say)
{
    bool equal = bytes_equal("control", -1, a->fx, b->fx, 2, say);

    equal &= bytes_equal("mxcsr", -1, a->fx + 24, b->fx + 24, 4, say);
    equal &= x87_equal(a, b, say);
    equal &= vector_registers_equal(a, b, say);
    return equal;
}

/* ---- faults ---- */

/* What the host does not tell: whether a kernel's page is present; a page of the batch's may be
 * absent there until it is used. */
static bool error_equal(const struct record *a, const struct record *b)
{
    uint64_t differ = a->error ^ b->error;
    bool kernels = long_mode() ? a->cr2 >= HOST_TASK_END
                               : a->cr2 >= KERNEL32 && a->cr2 < (uint64_t)KERNEL32 + KERNEL_END;

    if (a->vector == 14 && (kernels || (uint32_t)a->cr2 - CODE < CODE_SIZE))
        differ &= ~1ull;
    return !error_matters(a->vector) || !differ;
}

/* In 32 bits, where operands may wrap, unless they have to be equal. */
static bool addresses_near(uint64_t a, uint64_t b, uint32_t slack)
{
    return a == b || (slack && (uint32_t)(a - b) + slack <= 2 * slack);
}

static bool faults_equal(const struct record *a, const struct record *b, struct scope scope)
{
    if (a->vector != b->vector || a->vector == NO_VECTOR)
        return a->vector == b->vector;
    return a->rip == b->rip && a->rflags == b->rflags && error_equal(a, b) &&
           (a->vector != 14 || addresses_near(a->cr2, b->cr2, scope.cr2_slack));
}

static void print_fault(const char *side, const struct record *r)
{
    printf("  fault: %s %llu error %llx rip %llx cr2 %llx flags %llx\n", side,
           (unsigned long long)r->vector, (unsigned long long)r->error, (unsigned long long)r->rip,
           (unsigned long long)r->cr2, (unsigned long long)r->rflags);
}

bool records_equal(const struct comparison *c, unsigned i, bool vector, bool say)
{
    const struct record *a = &c->native->records[i], *b = &c->guest->records[i];
    struct scope scope = scope_of(c, i);
    bool fault = faults_equal(a, b, scope);
    bool equal = gprs_equal(&a->out, &b->out, say) && fault;

    if (vector)
        equal &= vectors_equal(&a->out, &b->out, say);
    if (!fault && say) {
        print_fault("native", a);
        print_fault("novt  ", b);
    }
    return equal;
}

bool arenas_equal(const struct comparison *c, bool say)
{
    const uint8_t *a = c->native->arena, *b = c->guest->arena;
    unsigned said = 0;

    if (!memcmp(a, b, ARENA_SIZE))
        return true;
    for (unsigned i = 0; say && i < ARENA_SIZE && said < 16; i++) {
        if (a[i] != b[i]) {
            printf("  memory %04x of the arena: native %02x, novt %02x\n", i, a[i], b[i]);
            said++;
        }
    }
    return false;
}

/* ---- single steps ---- */

unsigned steps_noted(const struct side *side)
{
    return (unsigned)((*next_step(side) - STEPS) / sizeof(struct step));
}

static uint64_t steps_untold;

uint64_t steps_without_cause(void)
{
    return steps_untold;
}

/* On a loaded virtual machine the host's signal for a step says once in a while that nothing caused
 * it; run again it says TRAP_TRACE. Counted: diff.c has the limit. */
static bool dr6_equal(const struct step *a, const struct step *b)
{
    bool untold = a->dr6 == DR6_CLEAR && (uint32_t)b->dr6 == DR6_STEP;

    steps_untold += untold;
    return untold || !((a->dr6 ^ b->dr6) & gpr_mask());
}

static bool step_equal(const struct step *a, const struct step *b)
{
    const uint64_t noted = gpr_mask(); /* 32-bit handlers leave the upper halves alone */
    uint64_t differ = (a->record ^ b->record) | (a->rip ^ b->rip) | (a->rflags ^ b->rflags);
    bool equal = !(differ & noted) && dr6_equal(a, b);

    for (unsigned i = 0; i < gpr_count(); i++)
        equal &= !((a->gpr[i] ^ b->gpr[i]) & gpr_mask());
    return equal;
}

static void print_step(const char *side, const struct step *s)
{
    printf("    %s rip %llx flags %llx dr6 %llx, registers", side, (unsigned long long)s->rip,
           (unsigned long long)s->rflags, (unsigned long long)s->dr6);
    for (unsigned i = 0; i < gpr_count(); i++)
        printf(" %llx", (unsigned long long)(s->gpr[i] & gpr_mask()));
    printf("\n");
}

bool steps_equal(const struct comparison *c, bool say)
{
    const struct step *a = c->native->steps, *b = c->guest->steps;
    unsigned n = steps_noted(c->native), m = steps_noted(c->guest), i = 0;

    while (i < n && i < m && step_equal(&a[i], &b[i]))
        i++;
    if (i == n && i == m)
        return true;
    if (say) {
        printf("  single steps: native %u, novt %u; step %u differs\n", n, m, i);
        if (i < n)
            print_step("native", &a[i]);
        if (i < m)
            print_step("novt  ", &b[i]);
    }
    return false;
}

enum outcome compare(const struct comparison *c, const struct sequence *s, unsigned n, bool say)
{
    bool equal = true;

    for (unsigned i = 0; i < n; i++)
        equal &= records_equal(c, i, s[i].vector, say);
    if (c->steps)
        equal &= steps_equal(c, say);
    if (arenas_equal(c, say) && equal)
        return EQUAL;
    for (unsigned i = 0; i < n; i++) {
        if (scope_of(c, i).gap)
            return GAP;
    }
    return DIFFERENT;
}
