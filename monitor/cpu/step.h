/* step.h - what the files of the slow path share; private to step*.c and native.c.
 *
 *   step.c         fetch, decode, what must be enabled, debug traps; the table of handlers
 *   step_copy.c    innocuous instructions: operand in, run natively, operand out
 *   step_vec.c     those that access some elements of their operand only: masks, gathers, scatters
 *   step_fpu.c     images of the vector state: FXSAVE, XSAVE, FNSAVE and their loads
 *   x87.c          pointers to the last x87 instruction
 *   step_branch.c  near branches and what leads to other privilege levels
 *   step_stack.c   pushes and pops     step_string.c  string instructions, ports
 *   step_seg.c     selectors and descriptor tables
 *   step_sys.c     control state       step_bcd.c     what only 32-bit code has
 *
 * One handler for each enum tr_op, step_NAME(v, i, next): next is the address behind the
 * instruction. A handler that completes calls step_done() or sets rip itself.
 *
 * Vector state may be live while a handler runs: it calls nothing outside the engine, or has a row
 * in step.c's table of those that want it parked in cpu->xsave. */
#ifndef NOVT_MONITOR_CPU_STEP_H
#define NOVT_MONITOR_CPU_STEP_H

#include "monitor/cpu/cpu.h"

#define OP(op) enum mon_rc step_##op(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next);
#include "translator/ops.def"
#undef OP

/* step_copy.c: MOV, MOVZX and MOVSX between a general register, or an immediate, and memory. */
bool step_is_mov(const struct tr_insn *i);
enum mon_rc step_mov(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next);

/* ---- registers ---- */

static inline uint64_t step_mask(unsigned bits)
{
    return bits >= 64 ? ~0ull : (1ull << bits) - 1;
}

static inline int64_t step_sign_extend(uint64_t value, unsigned bits)
{
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

/* AH, CH, DH, BH: byte registers 4 to 7 without a REX prefix. */
static inline bool step_is_high_byte(const struct tr_insn *i, unsigned reg, unsigned bits)
{
    return bits == 8 && !i->rex && reg >= 4 && reg < 8;
}

static inline uint64_t step_gpr(const struct mon_vcpu *v, const struct tr_insn *i, unsigned reg,
                                unsigned bits)
{
    if (step_is_high_byte(i, reg, bits))
        return v->cpu->gpr[reg - 4] >> 8 & 0xff;
    return v->cpu->gpr[reg] & step_mask(bits);
}

/* Writes the low bits of a register: 8 and 16 keep the rest, 32 clears the upper half. */
static inline void step_set_gpr(struct mon_vcpu *v, const struct tr_insn *i, unsigned reg,
                                unsigned bits, uint64_t value)
{
    uint64_t *gpr = v->cpu->gpr;
    if (step_is_high_byte(i, reg, bits))
        gpr[reg - 4] = (gpr[reg - 4] & ~0xff00ull) | (value & 0xff) << 8;
    else if (bits >= 32)
        gpr[reg] = value & step_mask(bits);
    else
        gpr[reg] = (gpr[reg] & ~step_mask(bits)) | (value & step_mask(bits));
}

/* The counter and index registers, which address size selects. */
static inline uint64_t step_reg_ad(const struct mon_vcpu *v, const struct tr_insn *i, unsigned reg)
{
    return v->cpu->gpr[reg] & step_mask(i->adsize);
}
static inline void step_set_reg_ad(struct mon_vcpu *v, const struct tr_insn *i, unsigned reg,
                                   uint64_t value)
{
    step_set_gpr(v, i, reg, i->adsize, value);
}

static inline enum mon_rc step_done(struct mon_vcpu *v, uint64_t next)
{
    v->cpu->rip = next;
    return MON_OK;
}

static inline void step_flags(struct mon_vcpu *v, uint64_t mask, uint64_t value)
{
    v->cpu->rflags = (v->cpu->rflags & ~mask) | (value & mask);
}

static inline unsigned step_iopl(const struct mon_vcpu *v)
{
    return v->cpu->rflags >> 12 & 3;
}

/* Real mode or virtual-8086 mode: instructions about selectors do not exist there. */
static inline bool step_no_selectors(const struct mon_vcpu *v)
{
    return !mon_protected(v) || mon_v86(v);
}

static inline enum mon_rc step_require_cpl0(struct mon_vcpu *v)
{
    return v->cpu->cpl ? mon_raise_error(v, MON_GP, 0) : MON_OK;
}

/* User-mode instruction prevention (SDM 3-2.5, CR4.UMIP). */
static inline enum mon_rc step_require_umip(struct mon_vcpu *v)
{
    return v->cpu->cpl && (v->cr4 & MON_CR4_UMIP) ? mon_raise_error(v, MON_GP, 0) : MON_OK;
}

/* Size in bits of an instruction whose opcode's bit 0 says byte or full operand. */
static inline unsigned step_width(const struct tr_insn *i)
{
    return i->opcode & 1 ? i->opsize : 8;
}

/* Iterations of a REP in one mon_execute(): what one page holds, so that interrupts stay prompt. */
#define STEP_REP_BUDGET 4096

/* ---- memory (step.c) ---- */

/* Effective address of the ModRM or moffs operand, truncated to the address size. */
uint64_t step_ea(const struct mon_vcpu *v, const struct tr_insn *i, uint64_t next);
/* A segment's base as addresses get it: none but FS's and GS's in 64-bit code. */
static inline uint64_t step_seg_base(const struct mon_vcpu *v, unsigned seg)
{
    return mon_code64(v) && seg != NOVT_FS && seg != NOVT_GS ? 0 : v->seg[seg].base;
}
/* Checks segment, alignment (AC) and data breakpoints; *gla is the linear address. */
enum mon_rc step_linear(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len,
                        unsigned access, uint64_t *gla);
enum mon_rc step_read(struct mon_vcpu *v, unsigned seg, uint64_t offset, void *data, unsigned len);
enum mon_rc step_write(struct mon_vcpu *v, unsigned seg, uint64_t offset, const void *data,
                       unsigned len);
/* Can it be written? */
enum mon_rc step_check_write(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len);
/* The r/m operand, register or memory, zero-extended. */
enum mon_rc step_rm_read(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, unsigned bits,
                         uint64_t *value);
enum mon_rc step_rm_write(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, unsigned bits,
                          uint64_t value);
/* Marks an iteration of a REP as done: answers of the embedder belong to the next one. */
static inline void step_commit(struct mon_vcpu *v)
{
    v->replay.done = v->replay.cursor = 0;
}
/* Records a debug breakpoint of kind rw (DR7.R/W) on [address, address + len). */
void step_breakpoints(struct mon_vcpu *v, uint64_t address, unsigned len, unsigned rw);
#define STEP_BP_WRITE 1u
#define STEP_BP_IO    2u
#define STEP_BP_READ  3u

/* ---- stack (step_stack.c) ---- */

static inline uint64_t step_sp_mask(const struct mon_vcpu *v)
{
    if (mon_code64(v))
        return ~0ull;
    return v->seg[NOVT_SS].attr & MON_ATTR_DB ? 0xffffffffu : 0xffffu;
}
static inline void step_set_sp(struct mon_vcpu *v, uint64_t value)
{
    uint64_t mask = step_sp_mask(v), *sp = &v->cpu->gpr[RT_SP];
    *sp = mask == 0xffff ? (*sp & ~mask) | (value & mask) : value & mask;
}
enum mon_rc step_push_value(struct mon_vcpu *v, uint64_t value, unsigned bits);
/* Reads bits at the top of the stack; the caller moves the stack pointer when it commits. */
enum mon_rc step_top(struct mon_vcpu *v, unsigned bits, uint64_t *value);

/* ---- near branches (step_branch.c) ---- */

/* Truncates a near target to the operand size and checks it against CS: #GP(0). */
enum mon_rc step_target(struct mon_vcpu *v, unsigned opsize, uint64_t *target);
bool step_condition(uint64_t rflags, unsigned cc);

/* ---- native execution (native.c) ---- */

#define STEP_BUFFER_SIZE 4096
/* The last x87 instruction that ran here: what FIP, FDP and FOP stand for; and what the parked
 * state has as the guest's own (x87.c). */
struct step_x87 {
    uint64_t pc, ea, own_fip, own_fdp;
    uint16_t opcode;
};
struct mon_native {
    uint8_t *code_rw, *code_rx;
    struct rt_native_frame *frame; /* the page behind the code */
    uint8_t *buffer;
    struct native_slot *slots;
    uint8_t *undo; /* a copy of parked vector state (step_copy.c) */
    size_t undo_size;
    struct step_x87 x87;
    uint32_t mxcsr_mask; /* the host's writable bits of MXCSR */
};

/* The instruction with its operands' sizes filled in (kept with its emitted code); NULL when it
 * cannot be redirected. offset: where in the buffer its operand is, so that alignment faults
 * happen as at the guest's address. Valid until the next call. */
const struct tr_insn *step_native_prepare(struct mon_vcpu *v, const struct tr_insn *insn);
enum mon_rc step_native_run(struct mon_vcpu *v, const struct tr_insn *insn, unsigned offset);

/* ---- vector state as parked (step_fpu.c) ---- */

/* Offsets in the area (SDM 1-13.4). */
#define AREA_FCW       0
#define AREA_FSW       2
#define AREA_FTW       4
#define AREA_FOP       6
#define AREA_FIP       8
#define AREA_FDP       16
#define AREA_MXCSR     24
#define AREA_ST        32
#define AREA_XMM       160
#define AREA_LEGACY    512
#define AREA_HEADER    512
#define AREA_COMPONENT 576

static inline uint64_t step_get64(const uint8_t *p)
{
    uint64_t value;
    __builtin_memcpy(&value, p, 8);
    return value;
}

enum { STEP_X87, STEP_SSE, STEP_AVX, STEP_OPMASK = 5, STEP_ZMM_HI256, STEP_HI16_ZMM };

/* Puts initial values where XSTATE_BV says "initial", so that x87 and SSE can be read as data. */
void step_fpu_normalise(struct mon_vcpu *v);
/* Size and offset (standard format) of a state component; 0 when the CPU does not have it. */
unsigned step_component(const struct mon_vcpu *v, unsigned component, unsigned *offset);
/* A component's data for writing, made valid first. */
uint8_t *step_component_data(struct mon_vcpu *v, unsigned component);
/* Changes TOP: the image has registers by their place on the stack, so they move. */
void step_x87_set_top(uint8_t *area, unsigned top);
/* Vector registers as len bytes (16, 32 or 64); writing clears what is above len. */
void step_vec_read(struct mon_vcpu *v, unsigned reg, uint8_t *data, unsigned len);
void step_vec_write(struct mon_vcpu *v, unsigned reg, const uint8_t *data, unsigned len);
uint64_t step_opmask(struct mon_vcpu *v, unsigned reg);
void step_set_opmask(struct mon_vcpu *v, unsigned reg, uint64_t value);

/* ---- pointers to the last x87 instruction (x87.c) ---- */

static inline bool step_is_x87(const struct tr_insn *i)
{
    return i->encoding == TR_ENC_LEGACY && i->map == 0 && (i->opcode & 0xf8) == 0xd8;
}

struct step_pointers {
    uint64_t fip, fdp;
    uint16_t fcs, fds, fop;
};
/* The guest's, of the parked state, which has them from now on. */
struct step_pointers step_x87_pointers(struct mon_vcpu *v);
void step_x87_set_pointers(struct mon_vcpu *v, const struct step_pointers *p);
/* insn has run natively. */
void step_x87_note(struct mon_vcpu *v, const struct tr_insn *insn);

/* ---- partial operands (step_vec.c) ---- */

/* Is i (with operands filled in) one that may leave parts of its memory operand alone? If so *bytes
 * has a bit for each byte that it accesses. */
bool step_is_partial(struct mon_vcpu *v, const struct tr_insn *i, uint64_t *bytes);
/* Where among those bytes a page fault is found first: at the lowest selected element. */
unsigned step_first_selected(struct mon_vcpu *v, const struct tr_insn *i, uint64_t bytes);
/* Whether parts that are not selected may fault without harm (SDM 2-2.8: not for permutes). */
bool step_suppresses_faults(const struct tr_insn *i);
/* Checks or transfers the bytes of the operand at seg:ea that the mask selects; data is where byte
 * 0 would be. */
enum mon_rc step_partial_check(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                               unsigned adsize);
enum mon_rc step_partial_read(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                              unsigned adsize, uint8_t *data);
enum mon_rc step_partial_write(struct mon_vcpu *v, unsigned seg, uint64_t ea, uint64_t bytes,
                               unsigned adsize, const uint8_t *data);
/* Gathers and scatters, element by element. */
enum mon_rc step_gather(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next);

/* The fields of a VEX or EVEX prefix (SDM 2-2.3.5, 2-2.7). */
struct step_vex {
    uint8_t map, pp, w, vvvv, l, reg, index_high;
};
struct step_vex step_vex_fields(const struct tr_insn *i);

#endif
