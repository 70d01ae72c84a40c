/* long_front.c - 64-bit code: what blocks find out first, and what branches know already.
 *
 * A block's first accesses through registers that nothing has been added to but constants are
 * checked in front of its instructions, behind the load of their class's delta:
 *
 *     mov    %fs:class_delta, %r11
 *     rorx   $20, %base, %r9; movzbl %gs:CHECK(%r9d), %r9d        up to MAX_CHECKS of them
 *
 * Most branches come from where some of this is known. So a link leads behind what its branch knows
 * (cc.skip): the delta that is in r11, and the registers that have been checked for that class and
 * through which memory has been accessed since the block's entry. The latter keeps constants from
 * adding up over many blocks: the access would have met a guard.
 *
 * Only accesses in front of the first branch are checked here, so that a check that fails does so
 * for an access that is going to happen, unless something else faults before it.
 *
 * In turns with native, the least of five: hash_table 1.32 -> 1.23, strings 1.38 -> 1.31, six
 * integer programs 1.28 -> 1.25; gcc -O2 no difference, as two thirds of its blocks begin with no
 * access. */
#include "translator/long.h"

#define MAX_CHECKS 4
#define DELTA_SIZE 9
#define RORX_SIZE  6
#define CHECK_SIZE 16
/* What is known: a bit for each register, their class, which is that of the delta in r11 too. */
#define CLASS_SHIFT 16
#define HAS_DELTA   (1u << 18)

/* Whether i accesses memory through its base alone, and that can be checked in front. */
static bool suits(const struct tr_block *t, unsigned i, uint16_t written)
{
    const struct tr_insn *insn = &t->insn[i];

    return l_near_base(insn) && l_always_accesses(insn) && insn->base != (int)RSP &&
           !SPILLED((unsigned)insn->base) && !tr_is_far_segment(insn->seg) &&
           !(written >> insn->base & 1);
}

/* The first access decides the class. */
static void check(struct tr_block *t, unsigned base, unsigned class)
{
    l_class_delta(t, class);
    if (t->lng.checked >> base & 1)
        return;
    l_check(t, base, class);
    t->lng.class_of[base] = (uint8_t) class;
    t->lng.checked |= (uint16_t)(1u << base);
}

void l_front(struct tr_block *t)
{
    uint16_t written = 0;
    unsigned n = 0;

    if (!cc_front_suits(t->rq->cc, t->rq->gpa))
        return;
    for (unsigned i = 0; i < t->ninsns && t->insn[i].cls != TR_BRANCH && n < MAX_CHECKS; i++) {
        const struct tr_insn *insn = &t->insn[i];
        if (suits(t, i, written)) {
            unsigned class = l_class_for(t, i, t->lng.class_of[insn->base]);
            if (class != L_MIXED && (t->lng.r11 < 0 || t->lng.r11 == (int)class)) {
                check(t, (unsigned)insn->base, class);
                n++;
            }
        }
        if (!l_keeps_near(insn))
            written |= insn->regs_written;
    }
}

uint32_t l_known(const struct tr_block *t)
{
    unsigned class = (unsigned)t->lng.r11;
    uint32_t known = class << CLASS_SHIFT | HAS_DELTA;

    if (t->lng.r11 < 0)
        return 0;
    for (unsigned n = 0; n < 16; n++) {
        if (n != RSP && !SPILLED(n) && (t->lng.checked & t->lng.touched) >> n & 1 &&
            t->lng.class_of[n] == class)
            known |= 1u << n;
    }
    return known;
}

/* The class of a load of a delta into r11 at hpc, or -1. */
static int delta_class(const uint8_t *hpc)
{
    static const uint8_t load[] = {0x64, 0x4c, 0x8b, 0x1c, 0x25};
    uint32_t first = tr_state(offsetof(struct rt_cpu, class_delta)), state;

    __builtin_memcpy(&state, hpc + sizeof(load), 4);
    if (__builtin_memcmp(hpc, load, sizeof(load)) != 0 || state - first >= 32)
        return -1;
    return (int)(state - first) / 8;
}

int tr_checked_register(const uint8_t *hpc)
{
    const uint8_t *rorx = hpc - RORX_SIZE;
    int reg = (rorx[4] & 7) | (rorx[1] & 0x20 ? 0 : 8);

    if (rorx[0] != 0xc4 || (rorx[1] | 0x20) != 0x63 || rorx[2] != 0xfb || rorx[3] != 0xf0 ||
        (rorx[4] & 0xf8) != 0xc8 || rorx[5] != 20 || SPILLED((unsigned)reg))
        return -1;
    return reg;
}

/* The register of a check that begins at hpc, and its class; -1: none begins there. */
static int check_at(const uint8_t *hpc, unsigned *class)
{
    return tr_is_check(hpc + RORX_SIZE, class) ? tr_checked_register(hpc + RORX_SIZE) : -1;
}

unsigned l_skip(const uint8_t *entry, uint32_t known)
{
    const uint8_t *hpc = entry;
    unsigned class = known >> CLASS_SHIFT & 3, of = 0;
    int reg;

    if (!(known & HAS_DELTA))
        return 0;
    if (delta_class(hpc) == (int)class)
        hpc += DELTA_SIZE;
    while ((reg = check_at(hpc, &of)) >= 0 && of == class && known >> reg & 1)
        hpc += CHECK_SIZE;
    return (unsigned)(hpc - entry);
}
