/* long.h - 64-bit code: registers, operands and emitters; private to translator/.
 *
 * Guest r9, r10 and r11 live in rt_cpu.gpr, so that the host's are free: H9 holds values, H10
 * addresses, H11 deltas; tr_long.r11 says which one, if it is worth keeping. An instruction that
 * names one of the guest's three gets H9 (or another that is free) in its place, loaded before and
 * stored after. */
#ifndef NOVT_TRANSLATOR_LONG_H
#define NOVT_TRANSLATOR_LONG_H

#include "translator/emit.h"

#define H9           9u
#define H10          10u
#define H11          11u
#define RSP          4u
#define SPILLED(reg) ((reg) >= 9 && (reg) <= 11)
#define GPR(n)       tr_state(offsetof(struct rt_cpu, gpr) + (n)*8u)

/* A host register gets another value: what was known of it is not so any more. */
static inline void l_lose(struct tr_block *t, unsigned reg)
{
    if (reg == H10)
        t->lng.r10.base = -1;
    if (reg == H11)
        t->lng.r11 = -1;
}
/* mov %fs:state, %reg and back, 64 bits */
static inline void l_load(struct tr_block *t, unsigned reg, uint32_t state)
{
    l_lose(t, reg);
    e_state(t, reg >= 8 ? 0x4c : 0x48, 0x8b, reg, state);
}
static inline void l_store(struct tr_block *t, unsigned reg, uint32_t state)
{
    e_state(t, reg >= 8 ? 0x4c : 0x48, 0x89, reg, state);
}
/* movzbl %fs:state, %reg (ecx, or one from r8d up), and movb $value, %fs:state */
static inline void l_load_byte(struct tr_block *t, unsigned reg, uint32_t state)
{
    l_lose(t, reg);
    e1(t, 0x64);
    if (reg >= 8)
        e1(t, 0x44);
    e4(t, 0x0f, 0xb6, 0x04 | (reg & 7) << 3, 0x25);
    e32(t, state);
}
static inline void l_store_byte(struct tr_block *t, uint32_t state, unsigned value)
{
    e4(t, 0x64, 0xc6, 0x04, 0x25);
    e32(t, state);
    e1(t, value);
}
/* mov %from, %to, 64 bits */
static inline void l_mov(struct tr_block *t, unsigned to, unsigned from)
{
    l_lose(t, to);
    e3(t, 0x48 | (from >= 8 ? 4u : 0) | (to >= 8 ? 1u : 0), 0x89,
       0xc0 | (from & 7) << 3 | (to & 7));
}
/* The shortest lea disp(base,index,scale), %dst, of 64 bits if wide, else 32; base and index may be
 * -1. */
void l_lea_scaled(struct tr_block *t, unsigned dst, int base, int index, unsigned scale,
                  int32_t disp, bool wide);
/* lea disp(%base,%index), %dst */
static inline void l_lea(struct tr_block *t, unsigned dst, unsigned base, unsigned index,
                         int32_t disp)
{
    l_lea_scaled(t, dst, (int)base, (int)index, 1, disp, true);
}
/* The shortest load of a 64-bit constant. */
void l_const(struct tr_block *t, unsigned reg, uint64_t value);
/* The same for a linear address in the guest's code or relative to it (negative: minus). */
void l_const_pc(struct tr_block *t, unsigned reg, uint64_t value, bool minus);
/* delta of the slot that the address in from lies in, into to: 3 instructions, no flags */
void l_delta(struct tr_block *t, unsigned to, unsigned from);
/* The guest's rsp into reg. */
void l_rsp_get(struct tr_block *t, unsigned reg);
/* The guest's rsp from reg (H9): uses H10 and H11. */
void l_rsp_set(struct tr_block *t, unsigned reg);
/* The host's rsp has been made with the delta in H11; loses it. */
void l_rsp_moved(struct tr_block *t);

/* Where a memory operand has been put: base and index registers of host code. */
struct l_operand {
    uint8_t base, index;
    bool has_index;
    int32_t disp;
};

/* Makes the host address of instruction i's memory operand. Uses H10 and H11. False: callout. */
bool l_operand(struct tr_block *t, unsigned i, struct l_operand *o);
/* The guest's effective address, without segment base, into dst: 64 bits, or if not wide 32. Uses
 * H10 and H11. */
void l_effective_address(struct tr_block *t, unsigned i, unsigned dst, bool wide);
/* A base, perhaps an index, and a displacement that a check of their sum serves, or rsp's delta;
 * and the same without an index. */
#define L_NEAR (1 << 20)
bool l_near(const struct tr_insn *insn);
bool l_near_base(const struct tr_insn *insn);
/* BT, BTS, BTR, BTC of memory with a register: at an address of their own. */
static inline bool l_is_far_bit(const struct tr_insn *insn)
{
    return insn->encoding == TR_ENC_LEGACY && insn->map == 1 && (insn->opcode & 0xe7) == 0xa3 &&
           insn->has_mem;
}
/* ModRM, SIB and displacement of an operand beside register reg, and the REX bits for it. */
void l_emit_operand(struct tr_block *t, unsigned reg, const struct l_operand *o, bool evex);
unsigned l_operand_rex(unsigned reg, const struct l_operand *o);
/* The register that holds guest register n for an address, loading it into spare if need be. */
int l_address_register(struct tr_block *t, int n, unsigned spare);
/* What class to make instruction i's access for, or L_MIXED: guess, unless it was wrong before. */
#define L_MIXED 4u
unsigned l_class_for(const struct tr_block *t, unsigned i, unsigned guess);
/* long_guess.c: of what class addresses are likely to be. At the block's start, and behind each
 * instruction; base + index. */
void l_guess_begin(struct tr_block *t);
void l_guess_after(struct tr_block *t, unsigned i);
unsigned l_sum_class(const struct tr_block *t, unsigned i);
/* The check that the slot of the address in reg is at home in class: uses r9. */
void l_check(struct tr_block *t, unsigned reg, unsigned class);
/* The delta of class into r11. */
void l_class_delta(struct tr_block *t, unsigned class);
/* Adds a small constant to a register, and nothing else: that does not lead away from a slot by
 * more than its guards allow. */
bool l_keeps_near(const struct tr_insn *insn);
/* Loads i's 64-bit r/m operand (register or memory) into H9. */
bool l_load_rm(struct tr_block *t, unsigned i);
/* op reg, operand; opcode one byte; rex_w: 64 bits */
void l_access(struct tr_block *t, unsigned opcode, unsigned reg, const struct l_operand *o,
              bool rex_w);

/* i's base, which is near, with its delta; for gathers too. */
struct l_operand l_near_operand(struct tr_block *t, unsigned i);

bool l_copy(struct tr_block *t, unsigned i);
bool l_gather(struct tr_block *t, unsigned i);
bool l_push(struct tr_block *t, unsigned i);
bool l_pop(struct tr_block *t, unsigned i);
bool l_leave(struct tr_block *t, unsigned i);
bool l_string(struct tr_block *t, unsigned i);
bool l_cli(struct tr_block *t, unsigned i);
bool l_sti(struct tr_block *t, unsigned i);
bool l_pushf(struct tr_block *t, unsigned i);
bool l_popf(struct tr_block *t, unsigned i);
bool l_rdtsc(struct tr_block *t, unsigned i);
bool l_jcc(struct tr_block *t, unsigned i);
bool l_jmp_rel(struct tr_block *t, unsigned i);
bool l_jmp_ind(struct tr_block *t, unsigned i);
bool l_call_rel(struct tr_block *t, unsigned i);
bool l_call_ind(struct tr_block *t, unsigned i);
bool l_ret(struct tr_block *t, unsigned i);
bool l_loop(struct tr_block *t, unsigned i);

bool l_swapgs(struct tr_block *t, unsigned i);
bool l_syscall(struct tr_block *t, unsigned i);
bool l_sysret(struct tr_block *t, unsigned i);
/* The stubs that SYSCALL and SYSRET jump to. */
/* jump_table's victims, for the pc in r9; miss: none of them. */
void l_emit_probe(struct tr_block *t, struct cc_probe *probe, const uint8_t *miss);
void l_emit_syscall(struct tr_block *t, const struct tr_stubs *stubs);
void l_emit_sysret(struct tr_block *t, const struct tr_stubs *stubs);

/* long_front.c: behind the entry of a block that is no loop; what is known at this point, for
 * cc_site.known; cc.skip(). */
void l_front(struct tr_block *t);
uint32_t l_known(const struct tr_block *t);
unsigned l_skip(const uint8_t *entry, uint32_t known);
/* Whether insn certainly accesses memory by its ModRM operand. */
bool l_always_accesses(const struct tr_insn *insn);

/* long_loop.c: behind the entry; in front of branch i (false: callout); whether instruction i's
 * base, or sum of base and index, was checked in front of the loop. */
bool l_loop_begin(struct tr_block *t);
bool l_loop_back(struct tr_block *t, unsigned i);
bool l_loop_has(const struct tr_block *t, unsigned i, unsigned class);

/* What translate.c needs in 64-bit code. */
void l_begin(struct tr_block *t);
void l_after(struct tr_block *t, unsigned i);
/* These registers have other values: what was known of them is not so any more. */
void l_forget(struct tr_block *t, uint16_t registers);
void l_entry(struct tr_block *t, bool collided);
void l_goto(struct tr_block *t, uint64_t pc, bool may_link);
void l_leave_to(struct tr_block *t, uint64_t pc, const uint8_t *stub);
void l_popf_tail(struct tr_block *t, const struct tr_tail *tail);
void l_count(struct tr_block *t, unsigned n);

#endif
