/* step_copy.c - innocuous instructions: the operand comes in through the checked path, the
 * instruction runs on the CPU (native.c), the operand goes out again.
 *
 * Order: check (for write, if it writes), read, run, write. The run may fault and then has changed
 * nothing; after it only an exit to the embedder can come in the way (MMIO), and registers are put
 * back for the second attempt.
 *
 * Locked operations on RAM stay atomic for other vCPUs: the instruction runs on a copy, and a
 * compare-exchange of the operand's width publishes the result if nobody was faster. Locked
 * operations that cross a page, or on MMIO, are not atomic. */
#include "monitor/cpu/step.h"

#include <string.h>

/* What an attempt may change and an exit has to undo. */
struct undo {
    uint64_t gpr[16], rflags;
    bool vector;
};

static void undo_save(struct undo *undo, const struct mon_vcpu *v)
{
    for (unsigned n = 0; n < 16; n++)
        undo->gpr[n] = v->cpu->gpr[n];
    undo->rflags = v->cpu->rflags;
    undo->vector = false;
}

static void undo_restore(const struct undo *undo, struct mon_vcpu *v)
{
    for (unsigned n = 0; n < 16; n++)
        v->cpu->gpr[n] = undo->gpr[n];
    v->cpu->rflags = undo->rflags;
    if (undo->vector)
        memcpy(v->cpu->xsave, v->native->undo, v->native->undo_size);
}

/* ---- what kind of instruction it is ---- */

/* BT, BTS, BTR, BTC with the bit offset in a register: it reaches beyond the operand. */
static bool has_bit_offset(const struct tr_insn *i)
{
    return i->has_mem && i->encoding == TR_ENC_LEGACY && i->map == 1 && (i->opcode & 0xe7) == 0xa3;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: checked like the load of a byte (SDM 2 CLFLUSH). */
static bool is_cache_line_flush(const struct tr_insn *i)
{
    return i->has_mem && i->encoding == TR_ENC_LEGACY && i->map == 1 && i->opcode == 0xae &&
           ((i->reg & 7) == 7 || ((i->reg & 7) == 6 && i->prefix66));
}

static bool is_locked(const struct tr_insn *i)
{
    bool xchg = i->encoding == TR_ENC_LEGACY && i->map == 0 && (i->opcode & 0xfe) == 0x86;
    return i->mem_write && (i->lock || xchg);
}

/* ---- the operand's address ---- */

static uint64_t operand_ea(const struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t ea = step_ea(v, i, next);
    if (!has_bit_offset(i))
        return ea;
    int64_t bit = step_sign_extend(v->cpu->gpr[i->reg], i->opsize);
    int64_t unit = bit >> (i->opsize == 16 ? 4 : i->opsize == 32 ? 5 : 6);
    return (ea + (uint64_t)(unit * (i->opsize / 8))) & step_mask(i->adsize);
}

/* Runs the instruction on the buffer; a bit offset is reduced to one inside the operand. */
static enum mon_rc run(struct mon_vcpu *v, const struct tr_insn *i, unsigned offset)
{
    if (!has_bit_offset(i))
        return step_native_run(v, i, offset);
    uint64_t *reg = &v->cpu->gpr[i->reg], saved = *reg;
    *reg &= i->opsize - 1u;
    enum mon_rc rc = step_native_run(v, i, offset);
    *reg = saved;
    return rc;
}

/* Where in a cache line the operand lies, for those that may demand alignment. */
static unsigned operand_offset(const struct tr_insn *i, uint64_t gla)
{
    return i->touches_vector || i->mem_size >= 16 ? (unsigned)gla & 63 : 0;
}

/* ---- locked operations ---- */

#define CAS(name, type, insn)                                            \
    static bool name(uint8_t *p, const uint8_t *old, const uint8_t *new) \
    {                                                                    \
        type expected, desired;                                          \
        bool done;                                                       \
        memcpy(&expected, old, sizeof(type));                            \
        memcpy(&desired, new, sizeof(type));                             \
        __asm__ volatile("lock " insn " %[desired], (%[p])"              \
                         : "=@ccz"(done), "+a"(expected)                 \
                         : [p] "r"(p), [desired] "q"(desired)            \
                         : "memory");                                    \
        return done;                                                     \
    }
CAS(cas8, uint8_t, "cmpxchgb")
CAS(cas16, uint16_t, "cmpxchgw")
CAS(cas32, uint32_t, "cmpxchgl")
CAS(cas64, uint64_t, "cmpxchgq")

static bool cas128(uint8_t *p, const uint8_t *old, const uint8_t *new)
{
    uint64_t e[2], d[2];
    bool done;
    memcpy(e, old, 16);
    memcpy(d, new, 16);
    __asm__ volatile("lock cmpxchg16b (%[p])"
                     : "=@ccz"(done), "+a"(e[0]), "+d"(e[1])
                     : [p] "r"(p), "b"(d[0]), "c"(d[1])
                     : "memory");
    return done;
}

static bool compare_exchange(uint8_t *p, const uint8_t *old, const uint8_t *new, unsigned len)
{
    switch (len) {
    case 1:
        return cas8(p, old, new);
    case 2:
        return cas16(p, old, new);
    case 4:
        return cas32(p, old, new);
    case 8:
        return cas64(p, old, new);
    default:
        return cas128(p, old, new);
    }
}

/* The RAM behind a whole operand, writable by this instruction; NULL: do it the other way. */
static uint8_t *operand_ram(struct mon_vcpu *v, uint64_t gla, unsigned len, uint64_t *gpa)
{
    struct mon_walk walk;
    bool writable;
    if ((gla & 4095) + len > 4096 || mon_walk(v, gla, MON_WRITE, v->cpu->cpl, &walk) != MON_OK)
        return NULL;
    uint8_t *ram = mon_vm_ram(v, walk.gpa, &writable);
    *gpa = walk.gpa;
    return ram && writable ? ram : NULL;
}

static enum mon_rc run_locked(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                              uint8_t *ram, uint64_t gpa)
{
    unsigned len = i->mem_size, offset = operand_offset(i, gpa);
    uint8_t *buffer = v->native->buffer + offset, old[16];
    struct undo undo;

    /* cmpxchg16b would fault here where the guest's instruction has to. */
    if (len == 16 && (offset & 15))
        return mon_raise_error(v, MON_GP, 0);
    undo_save(&undo, v);
    for (;;) {
        memcpy(old, ram, len);
        memcpy(buffer, old, len);
        enum mon_rc rc = run(v, i, offset);
        if (rc != MON_OK)
            return rc;
        if (compare_exchange(ram, old, buffer, len))
            break;
        undo_restore(&undo, v);
    }
    mon_vm_wrote(v, gpa, len);
    return step_done(v, next);
}

/* ---- operands in memory ---- */

/* An x87 store pops: if its write has to go to the embedder, the stack must be put back. */
static void undo_save_vector(struct undo *undo, struct mon_vcpu *v, const struct tr_insn *i,
                             uint64_t gla)
{
    uint64_t gpa;
    if (!step_is_x87(i) || operand_ram(v, gla, i->mem_size, &gpa))
        return;
    memcpy(v->native->undo, v->cpu->xsave, v->native->undo_size);
    undo->vector = true;
}

/* Stores touch the selected bytes only. Loads take the whole operand where that is possible. */
static enum mon_rc partial_in(struct mon_vcpu *v, const struct tr_insn *i, uint64_t ea,
                              uint64_t bytes, uint8_t *data)
{
    uint64_t gla;
    if (i->mem_write && !step_suppresses_faults(i)) /* VEXTRACT */
        return step_check_write(v, i->seg, ea, i->mem_size);
    if (i->mem_write)
        return step_partial_check(v, i->seg, ea, bytes, i->adsize);
    enum mon_rc rc = mon_seg_linear(v, i->seg, ea, i->mem_size, MON_READ, &gla);
    if (rc == MON_OK)
        rc = mon_lin_read(v, gla, data, i->mem_size, MON_READ);
    if (rc != MON_FAULT || !step_suppresses_faults(i))
        return rc;
    memset(data, 0, i->mem_size);
    if (bytes) {
        uint64_t first = 1ull << step_first_selected(v, i, bytes);
        rc = step_partial_read(v, i->seg, ea, first, i->adsize, data);
        if (rc != MON_OK)
            return rc;
    }
    return step_partial_read(v, i->seg, ea, bytes, i->adsize, data);
}

/* An unmasked invalid operation, overflow or underflow keeps an x87 store from storing (SDM 1-8.5);
 * FNSTCW and FNSTSW always do. Asked after it has run. */
static bool x87_has_stored(const struct mon_vcpu *v, const struct tr_insn *i)
{
    const uint8_t *area = v->cpu->xsave;
    uint16_t control[2]; /* FCW, FSW */
    bool plain = (i->opcode == 0xd9 || i->opcode == 0xdd) && (i->reg & 7) == 7;
    if (!step_is_x87(i) || !i->mem_write || plain || !(area[AREA_HEADER] & 1u << STEP_X87))
        return true; /* the last: XSTATE_BV says that x87 is in its initial state */
    memcpy(control, area, sizeof(control));
    return !(control[1] & ~control[0] & 0x19);
}

/* FSTP and FBSTP of 80 bits store 64 and then 16: the first may have been done when the second
 * faults. data: what the instruction stores. */
static void store_mantissa(struct mon_vcpu *v, const struct tr_insn *i, uint64_t ea,
                           const uint8_t *data)
{
    uint64_t gla, gpa;
    uint8_t *ram;

    if (!step_is_x87(i) || !i->mem_write || i->mem_size != 10 ||
        step_linear(v, i->seg, ea, 8, MON_WRITE, &gla) != MON_OK)
        return;
    ram = operand_ram(v, gla, 8, &gpa);
    if (!ram)
        return;
    memcpy(ram, data, 8);
    mon_vm_wrote(v, gpa, 8);
}

/* #UD, a pending #MF and #GP for alignment come before the operand's own fault, #XM before a
 * store's, and what else a store does to the vector state: run on nothing and see. MON_OK: it is an
 * x87 store that stores nothing, and has run. */
static enum mon_rc other_fault(struct mon_vcpu *v, const struct tr_insn *i, uint64_t ea,
                               unsigned offset)
{
    struct mon_exception found = v->exc;
    struct undo undo;

    if (!i->touches_vector && i->mem_size < 16) /* CMPXCHG16B */
        return MON_FAULT;
    undo_save(&undo, v);
    undo.vector = true;
    memcpy(v->native->undo, v->cpu->xsave, v->native->undo_size);
    memset(v->native->buffer + offset, 0, i->mem_size);
    enum mon_rc rc = run(v, i, offset);
    if (rc == MON_FAULT && (v->exc.vector == MON_UD || v->exc.vector == MON_GP ||
                            v->exc.vector == MON_MF || (v->exc.vector == MON_XM && !i->mem_read)))
        return rc;
    if (rc == MON_OK && !x87_has_stored(v, i))
        return MON_OK;
    if (rc == MON_OK)
        store_mantissa(v, i, ea, v->native->buffer + offset);
    bool is_store = i->mem_write && !i->mem_read;
    if (is_store && !step_is_x87(i) && i->feature != TR_F_MMX) /* VCVTPS2PH: MXCSR */
        undo.vector = false;
    undo_restore(&undo, v);
    if (is_store && i->feature == TR_F_MMX)
        step_x87_set_top(step_component_data(v, STEP_X87), 0);
    v->exc = found;
    return MON_FAULT;
}

static enum mon_rc run_partial(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                               uint64_t bytes)
{
    uint64_t ea = step_ea(v, i, next);
    unsigned offset = (unsigned)(step_seg_base(v, i->seg) + ea) & 63;
    uint8_t *data = v->native->buffer + offset;

    enum mon_rc rc = partial_in(v, i, ea, bytes, data);
    if (rc == MON_FAULT)
        return other_fault(v, i, ea, offset);
    if (rc == MON_OK)
        rc = step_native_run(v, i, offset);
    if (rc == MON_OK && i->mem_write)
        rc = step_partial_write(v, i->seg, ea, bytes, i->adsize, data);
    return rc == MON_OK ? step_done(v, next) : rc;
}

static enum mon_rc run_on_memory(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned len = i->mem_size, access = i->mem_write ? MON_WRITE : MON_READ;
    uint64_t ea = operand_ea(v, i, next), gla, gpa;
    struct undo undo;
    enum mon_rc rc = step_linear(v, i->seg, ea, len, access, &gla);

    if (rc == MON_FAULT) {
        rc = other_fault(v, i, ea, operand_offset(i, ea));
        return rc == MON_OK ? step_done(v, next) : rc;
    }
    if (is_locked(i)) {
        uint8_t *ram = operand_ram(v, gla, len, &gpa);
        if (ram)
            return run_locked(v, i, next, ram, gpa);
    }
    unsigned offset = operand_offset(i, gla);
    uint8_t *buffer = v->native->buffer + offset;
    rc = i->mem_read ? mon_lin_read(v, gla, buffer, len, access)
                     : mon_lin_check(v, gla, len, access);
    if (rc == MON_FAULT) {
        rc = other_fault(v, i, ea, offset);
        return rc == MON_OK ? step_done(v, next) : rc;
    }
    if (rc != MON_OK)
        return rc;
    if (!i->mem_write) {
        rc = run(v, i, offset);
        return rc == MON_OK ? step_done(v, next) : rc;
    }
    undo_save(&undo, v);
    undo_save_vector(&undo, v, i, gla);
    rc = run(v, i, offset);
    if (rc != MON_OK)
        return rc;
    if (x87_has_stored(v, i))
        rc = mon_lin_write(v, gla, buffer, len, MON_WRITE);
    if (rc == MON_OK)
        return step_done(v, next);
    undo_restore(&undo, v);
    return rc;
}

/* ---- moves: the accesses that devices get, without parking and loading vector state ---- */

enum mov_form { MOV_NONE, MOV_STORE, MOV_STORE_IMM, MOV_LOAD, MOV_LOAD_ZX, MOV_LOAD_SX };

static enum mov_form mov_form(const struct tr_insn *i)
{
    unsigned opcode = i->map << 8 | i->opcode;

    if (i->encoding != TR_ENC_LEGACY || i->map > 1 || i->lock)
        return MOV_NONE;
    switch (opcode & ~1u) {
    case 0xa0:
        return MOV_LOAD;
    case 0xa2:
        return MOV_STORE;
    case 0x88:
        return i->has_mem ? MOV_STORE : MOV_NONE;
    case 0x8a:
        return i->has_mem ? MOV_LOAD : MOV_NONE;
    case 0xc6:
        return i->has_mem && !(i->reg & 7) ? MOV_STORE_IMM : MOV_NONE;
    case 0x1b6:
        return i->has_mem ? MOV_LOAD_ZX : MOV_NONE;
    case 0x1be:
        return i->has_mem ? MOV_LOAD_SX : MOV_NONE;
    default:
        return MOV_NONE;
    }
}

bool step_is_mov(const struct tr_insn *i)
{
    return mov_form(i) != MOV_NONE;
}

enum mon_rc step_mov(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mov_form form = mov_form(i);
    bool extends = form == MOV_LOAD_ZX || form == MOV_LOAD_SX;
    unsigned width = extends ? (i->opcode & 1 ? 16 : 8) : step_width(i);
    unsigned reg = i->has_mem ? i->reg : RT_AX; /* a moffs operand goes with the accumulator */
    uint64_t ea = step_ea(v, i, next), value = 0;
    enum mon_rc rc;

    if (form == MOV_STORE || form == MOV_STORE_IMM) {
        value = form == MOV_STORE ? step_gpr(v, i, reg, width) : (uint64_t)i->imm;
        rc = step_write(v, i->seg, ea, &value, width / 8);
        return rc == MON_OK ? step_done(v, next) : rc;
    }
    rc = step_read(v, i->seg, ea, &value, width / 8);
    if (rc != MON_OK)
        return rc;
    if (form == MOV_LOAD_SX)
        value = (uint64_t)step_sign_extend(value, width);
    step_set_gpr(v, i, reg, extends ? i->opsize : width, value);
    return step_done(v, next);
}

/* ---- handlers ---- */

enum mon_rc step_copy(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t bytes;

    if (i->encoding == TR_ENC_LEGACY && i->map == 0 && i->opcode == 0x8d) { /* LEA */
        step_set_gpr(v, i, i->reg, i->opsize, step_ea(v, i, next));
        return step_done(v, next);
    }
    if (tr_is_hint(i))
        return step_done(v, next);
    if (is_cache_line_flush(i)) {
        uint8_t byte;
        enum mon_rc rc = step_read(v, i->seg, step_ea(v, i, next), &byte, 1);
        return rc == MON_OK ? step_done(v, next) : rc;
    }
    if (i->vsib)
        return step_gather(v, i, next);
    i = step_native_prepare(v, i);
    if (i->mem_size > STEP_BUFFER_SIZE)
        return step_refused(v, i, next);
    if (i->mem_size && (i->mem_read || i->mem_write)) {
        if (step_is_partial(v, i, &bytes))
            return run_partial(v, i, next, bytes);
        return run_on_memory(v, i, next);
    }
    enum mon_rc rc = step_native_run(v, i, 0);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_wait(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return step_copy(v, i, next);
}

enum mon_rc step_nop(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    return step_done(v, next);
}

enum mon_rc step_xlat(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t ea = v->cpu->gpr[RT_BX] + (v->cpu->gpr[RT_AX] & 0xff);
    uint8_t value;
    enum mon_rc rc = step_read(v, i->seg, ea & step_mask(i->adsize), &value, 1);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, RT_AX, 8, value);
    return step_done(v, next);
}

/* Both addresses are checked before a byte moves (SDM 2 MOVDIR64B). */
enum mon_rc step_movdir64b(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint8_t data[64];
    uint64_t gla;
    enum mon_rc rc = step_read(v, i->seg, step_ea(v, i, next), data, sizeof(data));
    if (rc == MON_OK)
        rc = step_linear(v, NOVT_ES, step_reg_ad(v, i, i->reg), sizeof(data), MON_WRITE, &gla);
    if (rc == MON_OK && (gla & 63))
        rc = mon_raise_error(v, MON_GP, 0);
    if (rc == MON_OK)
        rc = mon_lin_write(v, gla, data, sizeof(data), MON_WRITE);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_ud(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    (void)i;
    (void)next;
    return mon_raise(v, MON_UD);
}

enum mon_rc step_absent(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return step_ud(v, i, next);
}

enum mon_rc step_refused(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return step_ud(v, i, next);
}
