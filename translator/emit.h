/* emit.h - bytes of host code; private to translator/.
 *
 * Encodings are written out by hand: each emitter is one instruction or one fixed sequence, and its
 * name says which. Host registers are numbers 0 to 15; a memory operand is either the guest's own
 * (copy.c) or one of two fixed shapes: %fs:state and %gs:disp(%rsp). */
#ifndef NOVT_TRANSLATOR_EMIT_H
#define NOVT_TRANSLATOR_EMIT_H

#include "codecache/cc.h"
#include "runtime/rt.h"
#include "translator/tr.h"

#define TR_MAX_INSNS  64
#define TR_MAX_ROWS   (2 * TR_MAX_INSNS) /* string instructions have two */
#define TR_MAX_SITES  (TR_MAX_INSNS + 2)
#define TR_MAX_TAILS  (2 * TR_MAX_INSNS + 1) /* POPF has two; and the way on at the end */
#define TR_MAX_RELOCS (8 * TR_MAX_INSNS)
#define TR_MAX_HOST   (40 * 1024) /* bytes that one block may need, records included */

/* Code behind the block's straight line: where its side exits lead. */
enum tr_tail_kind { TR_TAIL_TABLE, TR_TAIL_CALLOUT, TR_TAIL_POPF };

struct tr_tail {
    uint8_t kind;
    uint8_t *field; /* rel32 to fill in (writable view) */
    uint64_t pc;    /* where the guest goes */
    uint16_t insn;  /* index of the instruction */
    uint32_t known; /* 64-bit code: l_known() of the branch */
};

/* base + index * scale, index -1: none; its slot is at home in a class */
struct tr_sum {
    int8_t base, index;
    uint8_t scale, class;
};
#define TR_MAX_SUMS 6

/* What 64-bit code knows of addresses at this point (long_operand.c). */
struct tr_long {
    struct tr_sum r10;    /* what is in r10; base -1: nothing of the kind */
    int8_t r11;           /* the class whose delta is in r11, or -1 */
    uint16_t checked;     /* registers whose slot is known to be at home in their class */
    uint16_t touched;     /* registers through which memory has been accessed since the entry */
    uint8_t class_of[16]; /* what class each register's value is taken for */
    struct tr_loop {      /* long_loop.c */
        unsigned end;     /* the instruction behind the last branch back; 0: there is none */
        struct tr_sum sum[TR_MAX_SUMS]; /* checked in front */
        unsigned nsums;
    } loop;
};

/* 64-bit code: values that the registers probably have here (long_guess.c). */
struct tr_values {
    uint64_t of[16];
    uint16_t known;
};

/* A block in the making. The arrays come last and start as they are: only what the counts in front
 * of them say is there. */
struct tr_block {
    const struct tr_request *rq;
    unsigned ninsns;
    unsigned end;      /* guest bytes */
    bool crossing;     /* a single instruction over two pages */
    bool next_crosses; /* the instruction behind the block does: no link to it */
    bool movable;      /* all constants that follow from pc have 64 bits and are in reloc */
    int behind;        /* 32-bit code: words that esp has still to be moved by (stack.c) */
    uint8_t *base, *p; /* writable view */
    unsigned nmap, nsites, ntails, nrelocs;
    struct tr_long lng; /* 64-bit code: what is known here */
    struct tr_values values;

    struct tr_insn insn[TR_MAX_INSNS];
    uint16_t at[TR_MAX_INSNS];     /* offsets from pc */
    uint32_t record[TR_MAX_INSNS]; /* offset of the callout record, or 0 */
    struct cc_map map[TR_MAX_ROWS];
    struct cc_site site[TR_MAX_SITES];
    struct tr_tail tail[TR_MAX_TAILS];
    struct cc_reloc reloc[TR_MAX_RELOCS];
};

static inline void e1(struct tr_block *t, unsigned b)
{
    *t->p++ = (uint8_t)b;
}
static inline void e2(struct tr_block *t, unsigned b0, unsigned b1)
{
    e1(t, b0);
    e1(t, b1);
}
static inline void e3(struct tr_block *t, unsigned b0, unsigned b1, unsigned b2)
{
    e2(t, b0, b1);
    e1(t, b2);
}
static inline void e4(struct tr_block *t, unsigned b0, unsigned b1, unsigned b2, unsigned b3)
{
    e2(t, b0, b1);
    e2(t, b2, b3);
}
static inline void e32(struct tr_block *t, uint32_t v)
{
    __builtin_memcpy(t->p, &v, 4);
    t->p += 4;
}
static inline uint8_t *tr_rx(const struct tr_block *t, const uint8_t *rw)
{
    return t->rq->cc->rx + (rw - t->rq->cc->rw);
}
/* The rel32 at field (writable view) leads to target (executable view). */
static inline void tr_patch(const struct tr_block *t, uint8_t *field, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (tr_rx(t, field) + 4));
    __builtin_memcpy(field, &rel, 4);
}
/* The constant that has just been emitted, at the last size bytes, follows from where the block is.
 */
static inline void tr_reloc(struct tr_block *t, enum cc_reloc_kind kind, unsigned size)
{
    if (!t->movable)
        return;
    if (t->nrelocs == TR_MAX_RELOCS)
        t->movable = false;
    else
        t->reloc[t->nrelocs++] =
            (struct cc_reloc){.at = (uint16_t)(t->p - t->base - size), .kind = (uint16_t)kind};
}
/* To code outside the block. */
static inline void e_jmp(struct tr_block *t, const uint8_t *target)
{
    e1(t, 0xe9);
    e32(t, 0);
    tr_reloc(t, CC_RELOC_AWAY, 4);
    tr_patch(t, t->p - 4, target);
}

/* Displacement of a field of rt_cpu from %fs. */
static inline uint32_t tr_state(size_t offset)
{
    return (uint32_t)(rt_cpu_offset() + (intptr_t)offset);
}
#define STATE(field) tr_state(offsetof(struct rt_cpu, field))

/* op reg, %fs:state; opcode one byte, rex 0 or a REX byte */
static inline void e_state(struct tr_block *t, unsigned rex, unsigned opcode, unsigned reg,
                           uint32_t state)
{
    e1(t, 0x64);
    if (rex)
        e1(t, rex);
    e3(t, opcode, 0x04 | (reg & 7) << 3, 0x25);
    e32(t, state);
}
/* 64-bit code: what cc_index() says, without flags; movzwl %pc, %index where PEXT is slow. Both
 * registers are r8 to r15. The mask is a constant, as loads are what indirect jumps are short of:
 * vm_goto 4.4 -> 4.1 times native. */
static inline void e_index(struct tr_block *t, unsigned pc, unsigned index)
{
    if (t->rq->cc->index_mask == 0xffff) {
        e4(t, 0x45, 0x0f, 0xb7, 0xc0 | (index & 7) << 3 | (pc & 7));
        return;
    }
    e2(t, 0x41, 0xb8 | (index & 7)); /* mov $mask, %index; pext %index, %pc, %index */
    e32(t, t->rq->cc->index_mask);
    e4(t, 0xc4, 0x42, 0x02 | (~pc & 15) << 3, 0xf5);
    e1(t, 0xc0 | (index & 7) << 3 | (index & 7));
}
/* mov $imm, %r8d (or r9d) */
static inline void e_mov_r8d(struct tr_block *t, uint32_t imm)
{
    e2(t, 0x41, 0xb8);
    e32(t, imm);
}
static inline void e_mov_r9d(struct tr_block *t, uint32_t imm)
{
    e2(t, 0x41, 0xb9);
    e32(t, imm);
}
/* lea disp8(%rsp), %esp */
static inline void e_lea_esp(struct tr_block *t, int disp)
{
    if (disp >= -128 && disp <= 127) {
        e4(t, 0x8d, 0x64, 0x24, (uint8_t)disp);
    } else {
        e3(t, 0x8d, 0xa4, 0x24);
        e32(t, (uint32_t)disp);
    }
}
/* op reg, %gs:disp8(%rsp): the guest's stack, disp from the guest's esp; size 2 or 4 */
static inline void e_stack(struct tr_block *t, unsigned opcode, unsigned reg, int disp,
                           unsigned size)
{
    disp += 4 * t->behind;
    e1(t, 0x65);
    if (size == 2)
        e1(t, 0x66);
    if (reg >= 8)
        e1(t, 0x44);
    e3(t, opcode, (disp ? 0x44 : 0x04) | (reg & 7) << 3, 0x24);
    if (disp)
        e1(t, (uint8_t)disp);
}

/* translate.c */
/* What C gets of instruction i when it is left to it: into r9, 64-bit code r10. */
void tr_record_address(struct tr_block *t, unsigned i);
void tr_map(struct tr_block *t, unsigned i, enum cc_recipe recipe);
/* The rel32 at field (writable view) leads to pc, in this page or far: the block there when it is
 * linked. */
void tr_site_add(struct tr_block *t, uint8_t *field, uint64_t pc, bool far);
void tr_tail_add(struct tr_block *t, enum tr_tail_kind kind, uint8_t *field, uint64_t pc,
                 unsigned insn);

/* Emitters: each emits instruction i of t. True: done. False: it must be a callout. */
bool tr_copy(struct tr_block *t, unsigned i);
bool tr_xlat(struct tr_block *t, unsigned i);
bool tr_push(struct tr_block *t, unsigned i);
bool tr_pop(struct tr_block *t, unsigned i);
bool tr_leave(struct tr_block *t, unsigned i);
bool tr_push_sreg(struct tr_block *t, unsigned i);
bool tr_mov_from_sreg(struct tr_block *t, unsigned i);
bool tr_string(struct tr_block *t, unsigned i);
bool tr_cli(struct tr_block *t, unsigned i);
bool tr_sti(struct tr_block *t, unsigned i);
bool tr_pushf(struct tr_block *t, unsigned i);
bool tr_popf(struct tr_block *t, unsigned i);
void tr_popf_tail(struct tr_block *t, const struct tr_tail *tail);
bool tr_rdtsc(struct tr_block *t, unsigned i);
bool tr_rdtscp(struct tr_block *t, unsigned i);
bool tr_jcc(struct tr_block *t, unsigned i);
bool tr_jmp_rel(struct tr_block *t, unsigned i);
bool tr_jmp_ind(struct tr_block *t, unsigned i);
bool tr_call_rel(struct tr_block *t, unsigned i);
bool tr_call_ind(struct tr_block *t, unsigned i);
bool tr_ret(struct tr_block *t, unsigned i);
bool tr_loop(struct tr_block *t, unsigned i);
bool tr_mov_to_sreg(struct tr_block *t, unsigned i);
bool tr_pop_sreg(struct tr_block *t, unsigned i);
bool tr_sysenter(struct tr_block *t, unsigned i);
bool tr_sysexit(struct tr_block *t, unsigned i);
/* system.c: whether a load of a segment register can stay in the cache; the stubs. */
bool tr_loads_segment(const struct tr_block *t, const struct tr_insn *insn);
void tr_emit_sysenter(struct tr_block *t, const struct tr_stubs *stubs);
void tr_emit_sysexit(struct tr_block *t, const struct tr_stubs *stubs);

/* stack.c: moves esp by what it is behind and bytes more; does so in front of an instruction that
 * may not find it behind. */
void tr_stack_move(struct tr_block *t, int bytes);
void tr_stack_before(struct tr_block *t, const struct tr_insn *insn);
/* branch.c: continue at pc from here; at the pc in r8d. */
void tr_goto(struct tr_block *t, uint64_t pc, bool may_link);
void tr_table_jump(struct tr_block *t);
/* copy.c: loads the 32-bit memory (or register) operand of i into host register r8 or above. */
bool tr_load_operand(struct tr_block *t, unsigned i, unsigned host_reg);
/* copy.c: the word on the stack to the memory operand of i, as POP does; esp stays. */
bool tr_pop_operand(struct tr_block *t, unsigned i);
/* The same for 16 bits, which are zero-extended. */
bool tr_load_selector(struct tr_block *t, unsigned i, unsigned host_reg);

static inline uint64_t tr_pc_of(const struct tr_block *t, unsigned i)
{
    return t->rq->pc + t->at[i];
}
static inline uint64_t tr_next_of(const struct tr_block *t, unsigned i)
{
    return (uint32_t)(tr_pc_of(t, i) + t->insn[i].len);
}

#endif
