/* step.c - the slow path: one guest instruction, in any mode, every access checked in software.
 *
 * It serves three masters: callouts from translated code (mon_execute), code that is not worth
 * translating or cannot be (single-stepping, debug breakpoints, MMIO; mon_step), and lockstep
 * checking, for which it is the reference. It has no second implementation of the instruction set:
 * what is innocuous runs on the CPU (step_copy.c, native.c).
 *
 * Order of events in mon_step (SDM 3-6.9, table 6-2):
 *
 *   instruction breakpoints -> fetch (limit, page faults) -> decode (#UD, #GP for length)
 *     -> LOCK -> what must be enabled (#UD, #NM) -> the handler -> debug traps
 *
 * Handlers check first and commit last. An access that the embedder has to answer ends the attempt
 * with MON_EXIT; the next attempt finds the answer in v->replay.
 *
 * Thread: the vCPU's own. mon_step() parks vector state, as Zydis uses vector registers;
 * mon_execute() does so only for the handlers that need it. */
#include "monitor/cpu/step.h"

#include "runtime/rt.h"

typedef enum mon_rc step_handler(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next);

static step_handler *const handlers[TR_OP_COUNT] = {
#define OP(op) [TR_OP_##op] = step_##op,
#include "translator/ops.def"
#undef OP
};

/* Handlers that look at vector state, or call memcpy() or the like. All others leave it live, those
 * too that map and unmap: the engine is compiled for general registers, and of the C library they
 * reach nothing but system calls. A callout costs no XSAVE. */
static const bool parks[TR_OP_COUNT] = {
    [TR_OP_copy] = true,    [TR_OP_wait] = true,   [TR_OP_maskmov] = true, [TR_OP_fxsave] = true,
    [TR_OP_fxrstor] = true, [TR_OP_xsave] = true,  [TR_OP_xsavec] = true,  [TR_OP_xsaveopt] = true,
    [TR_OP_xsaves] = true,  [TR_OP_xrstor] = true, [TR_OP_xrstors] = true, [TR_OP_fnstenv] = true,
    [TR_OP_fnsave] = true,  [TR_OP_fldenv] = true, [TR_OP_frstor] = true,  [TR_OP_xgetbv] = true,
};

/* ---- memory operands ---- */

uint64_t step_ea(const struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint64_t ea = (uint64_t)i->disp;
    if (i->base == 16)
        ea += next;
    else if (i->base >= 0)
        ea += v->cpu->gpr[i->base];
    if (i->index >= 0 && !i->vsib)
        ea += v->cpu->gpr[i->index] * i->scale;
    return ea & step_mask(i->adsize);
}

void step_breakpoints(struct mon_vcpu *v, uint64_t address, unsigned len, unsigned rw)
{
    static const uint8_t sizes[] = {1, 2, 8, 4};
    uint64_t dr7 = v->dr[7];

    for (unsigned n = 0; n < 4; n++) {
        unsigned type = dr7 >> (16 + 4 * n) & 3, size = sizes[dr7 >> (18 + 4 * n) & 3];
        uint64_t start = v->dr[n] & ~(uint64_t)(size - 1);
        bool matches = type == rw || (type == STEP_BP_READ && rw == STEP_BP_WRITE);
        if ((dr7 >> (2 * n) & 3) && matches && address < start + size && start < address + len)
            v->debug_hits |= 1u << n;
    }
}

/* Alignment checking (SDM 3-6.15, interrupt 17). Operands beyond 8 bytes have rules of their own,
 * which the CPU applies when the instruction runs. */
static bool access_is_misaligned(const struct mon_vcpu *v, uint64_t gla, unsigned len)
{
    if (!(v->cpu->rflags & RT_AC) || v->cpu->cpl != 3 || !(v->cr0 & MON_CR0_AM))
        return false;
    unsigned align = len == 10 ? 8 : len;
    return (align == 2 || align == 4 || align == 8) && (gla & (align - 1));
}

enum mon_rc step_linear(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len,
                        unsigned access, uint64_t *gla)
{
    enum mon_rc rc = mon_seg_linear(v, seg, offset, len, access, gla);
    if (rc != MON_OK)
        return rc;
    if (access_is_misaligned(v, *gla, len))
        return mon_raise_error(v, MON_AC, 0);
    if (v->dr[7] & 0xff)
        step_breakpoints(v, *gla, len, access & MON_WRITE ? STEP_BP_WRITE : STEP_BP_READ);
    return MON_OK;
}

enum mon_rc step_read(struct mon_vcpu *v, unsigned seg, uint64_t offset, void *data, unsigned len)
{
    uint64_t gla;
    enum mon_rc rc = step_linear(v, seg, offset, len, MON_READ, &gla);
    return rc == MON_OK ? mon_lin_read(v, gla, data, len, MON_READ) : rc;
}

enum mon_rc step_write(struct mon_vcpu *v, unsigned seg, uint64_t offset, const void *data,
                       unsigned len)
{
    uint64_t gla;
    enum mon_rc rc = step_linear(v, seg, offset, len, MON_WRITE, &gla);
    return rc == MON_OK ? mon_lin_write(v, gla, data, len, MON_WRITE) : rc;
}

enum mon_rc step_check_write(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len)
{
    uint64_t gla;
    enum mon_rc rc = step_linear(v, seg, offset, len, MON_WRITE, &gla);
    return rc == MON_OK ? mon_lin_check(v, gla, len, MON_WRITE) : rc;
}

enum mon_rc step_rm_read(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, unsigned bits,
                         uint64_t *value)
{
    *value = 0;
    if (i->has_mem)
        return step_read(v, i->seg, step_ea(v, i, next), value, bits / 8);
    *value = step_gpr(v, i, i->rm, bits);
    return MON_OK;
}

enum mon_rc step_rm_write(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, unsigned bits,
                          uint64_t value)
{
    if (i->has_mem)
        return step_write(v, i->seg, step_ea(v, i, next), &value, bits / 8);
    step_set_gpr(v, i, i->rm, bits, value);
    return MON_OK;
}

/* ---- what must be enabled ---- */

static enum mon_rc check_sse(struct mon_vcpu *v, bool enabled)
{
    if (!enabled)
        return mon_raise(v, MON_UD);
    return v->cr0 & MON_CR0_TS ? mon_raise(v, MON_NM) : MON_OK;
}

static enum mon_rc check_avx(struct mon_vcpu *v, uint64_t components)
{
    return check_sse(v, (v->cr4 & MON_CR4_OSXSAVE) && (v->xcr0 & components) == components);
}

/* SDM 2-2.4 (exception classes), 3-2.5 (CR0.EM, CR0.TS), 1-13.3 (XCR0). */
static enum mon_rc check_feature(struct mon_vcpu *v, const struct tr_insn *i)
{
    switch ((enum tr_feature)i->feature) {
    case TR_F_NONE:
        return MON_OK;
    case TR_F_X87:
        return v->cr0 & (MON_CR0_EM | MON_CR0_TS) ? mon_raise(v, MON_NM) : MON_OK;
    case TR_F_WAIT:
        return (v->cr0 & MON_CR0_MP) && (v->cr0 & MON_CR0_TS) ? mon_raise(v, MON_NM) : MON_OK;
    case TR_F_MMX:
        return check_sse(v, !(v->cr0 & MON_CR0_EM));
    case TR_F_SSE:
        return check_sse(v, !(v->cr0 & MON_CR0_EM) && (v->cr4 & MON_CR4_OSFXSR));
    case TR_F_AVX:
        return check_avx(v, 0x6);
    case TR_F_AVX512:
        return check_avx(v, 0xe6);
    }
    return mon_raise(v, MON_UD);
}

/* SDM 2 LOCK: a memory destination, and one of these. */
static bool lock_is_legal(const struct tr_insn *i)
{
    unsigned op = i->opcode, reg = i->reg & 7;
    if (!i->has_mem || i->encoding != TR_ENC_LEGACY)
        return false;
    if (i->map == 1)
        return op == 0xab || op == 0xb3 || op == 0xbb || (op & 0xfe) == 0xb0 ||
               (op & 0xfe) == 0xc0 || (op == 0xba && reg >= 5) || (op == 0xc7 && reg == 1);
    if (i->map != 0)
        return false;
    return (op < 0x38 && (op & 7) < 2) || (op >= 0x80 && op <= 0x83 && reg != 7) ||
           (op & 0xfe) == 0x86 || ((op & 0xfe) == 0xf6 && (reg == 2 || reg == 3)) ||
           ((op & 0xfe) == 0xfe && reg < 2);
}

static void log_instruction(struct mon_vcpu *v, const struct tr_insn *i)
{
    char text[96];
    tr_format(i, v->cpu->rip, text, sizeof(text));
    mon_log(v, NOVT_LOG_STEP, "step %04x:%llx %s", v->seg[NOVT_CS].selector,
            (unsigned long long)v->cpu->rip, text);
}

/* Everything between decoding and debug traps. */
static enum mon_rc run_handler(struct mon_vcpu *v, const struct tr_insn *i)
{
    struct rt_cpu *cpu = v->cpu;
    bool logged = mon_log_on(v, NOVT_LOG_STEP), mov = i->op == TR_OP_copy && step_is_mov(i);
    enum mon_rc rc;

    if (cpu->fpu_live && (logged || (parks[i->op] && !mov)))
        rt_fpu_park(cpu);
    if (logged)
        log_instruction(v, i);
    if (i->lock && !lock_is_legal(i))
        return mon_raise(v, MON_UD);
    /* VEX and EVEX do not exist in real and virtual-8086 mode (SDM 2-2.3.1). */
    if (i->encoding != TR_ENC_LEGACY && step_no_selectors(v))
        return mon_raise(v, MON_UD);
    if (i->feature != TR_F_NONE && (rc = check_feature(v, i)) != MON_OK)
        return rc;
    uint64_t next = cpu->rip + i->len;
    return (mov ? step_mov : handlers[i->op])(v, i, i->mode == TR_MODE_64 ? next : (uint32_t)next);
}

/* Between iterations of a REP, traps and interrupts push RF = 1 (SDM 3-17.3.1.1). */
static void mark_unfinished(struct rt_cpu *cpu, uint8_t rep, uint64_t rip)
{
    if (rep && cpu->rip == rip)
        cpu->rflags |= RT_RF;
}

enum mon_rc mon_execute(struct mon_vcpu *v, const struct tr_insn *insn)
{
    bool shadow = v->shadow, shadow_ss = v->shadow_ss;
    uint64_t rip = v->cpu->rip;
    uint8_t rep = insn->rep; /* writing RAM may drop the translation that insn belongs to */

    v->shadow = v->shadow_ss = false;
    v->rep_budget = STEP_REP_BUDGET;
    v->debug_hits = 0;
    v->replay.cursor = 0;
    enum mon_rc rc = run_handler(v, insn);
    if (rc != MON_EXIT)
        step_commit(v);
    if (rc == MON_OK) {
        mark_unfinished(v->cpu, rep, rip);
    } else {
        v->shadow = shadow;
        v->shadow_ss = shadow_ss;
    }
    return rc;
}

/* ---- fetch ---- */

static enum tr_mode code_mode(const struct mon_vcpu *v)
{
    if (mon_code64(v))
        return TR_MODE_64;
    return v->seg[NOVT_CS].attr & MON_ATTR_DB ? TR_MODE_32 : TR_MODE_16;
}

#define LAST_LOW 0x7fffffffffffu /* of the lower canonical half */

/* The linear address of rip, and how many bytes CS or the hole in the middle of the address space
 * allows from there (at most 15). */
static enum mon_rc code_window(struct mon_vcpu *v, uint64_t *gla, unsigned *len)
{
    uint64_t rip = v->cpu->rip, limit = v->seg[NOVT_CS].limit;

    *len = 15;
    if (mon_code64(v)) {
        *gla = rip;
        if (rip <= LAST_LOW && LAST_LOW - rip < 14)
            *len = (unsigned)(LAST_LOW - rip) + 1;
        return step_sign_extend(rip, 48) == (int64_t)rip ? MON_OK : mon_raise_error(v, MON_GP, 0);
    }
    if (rip > limit)
        return mon_raise_error(v, MON_GP, 0);
    if (limit - rip < 14)
        *len = (unsigned)(limit - rip) + 1;
    *gla = (uint32_t)(v->seg[NOVT_CS].base + rip);
    return MON_OK;
}

/* Reads no further than decoding needs: the next page may be absent, or not code's to read. */
static enum mon_rc fetch(struct mon_vcpu *v, uint64_t gla, unsigned allowed, struct tr_insn *insn)
{
    uint8_t bytes[16];
    unsigned in_page = 4096 - (unsigned)(gla & 4095);
    unsigned len = allowed < in_page ? allowed : in_page;
    enum mon_rc rc = mon_lin_read(v, gla, bytes, len, MON_FETCH);

    if (rc != MON_OK)
        return rc;
    enum tr_decode_status status = tr_decode(bytes, len, code_mode(v), insn);
    if (status == TR_DECODE_SHORT && len < allowed) {
        uint64_t rest = gla + len;
        if (!mon_code64(v))
            rest = (uint32_t)rest;
        rc = mon_lin_read(v, rest, bytes + len, allowed - len, MON_FETCH);
        if (rc != MON_OK)
            return rc;
        status = tr_decode(bytes, allowed, code_mode(v), insn);
    }
    if (status == TR_DECODE_OK)
        return MON_OK;
    /* SHORT: it goes on beyond CS's limit, or into the hole. */
    return status == TR_DECODE_UD ? mon_raise(v, MON_UD) : mon_raise_error(v, MON_GP, 0);
}

/* ---- debug exceptions (SDM 3-17.2, 3-17.3) ---- */

static enum mon_rc raise_debug(struct mon_vcpu *v, uint64_t dr6, bool trap)
{
    enum mon_rc rc = mon_raise(v, MON_DB);
    v->exc.dr6 = dr6;
    v->exc.trap = trap;
    return rc;
}

static enum mon_rc check_code_breakpoints(struct mon_vcpu *v, uint64_t gla)
{
    uint64_t dr7 = v->dr[7], hits = 0;
    if (!(dr7 & 0xff) || (v->cpu->rflags & RT_RF) || v->shadow_ss)
        return MON_OK;
    for (unsigned n = 0; n < 4; n++)
        if ((dr7 >> (2 * n) & 3) && !(dr7 >> (16 + 4 * n) & 3) && v->dr[n] == gla)
            hits |= 1u << n;
    return hits ? raise_debug(v, hits, false) : MON_OK;
}

/* These enter a handler with TF clear and owe no trap for themselves. */
static bool op_clears_tf(unsigned op)
{
    return op == TR_OP_int || op == TR_OP_int1 || op == TR_OP_int3 || op == TR_OP_into ||
           op == TR_OP_syscall;
}

static enum mon_rc debug_traps(struct mon_vcpu *v, unsigned op, bool tf, uint32_t held)
{
    uint32_t hits = v->debug_hits | held;
    if (op_clears_tf(op) && !(v->cpu->rflags & RT_TF))
        tf = false;
    if (v->shadow_ss) { /* MOV SS holds traps back until after the next instruction */
        v->debug_held = hits;
        return MON_OK;
    }
    if (!tf && !hits)
        return MON_OK;
    v->halted = false;
    return raise_debug(v, hits | (tf ? 1u << 14 : 0), true);
}

/* ---- one instruction ---- */

static enum mon_rc step_fetched(struct mon_vcpu *v, const struct tr_insn *insn)
{
    struct rt_cpu *cpu = v->cpu;
    bool shadow = v->shadow, shadow_ss = v->shadow_ss;
    uint64_t tf = cpu->rflags & RT_TF, rf = cpu->rflags & RT_RF, rip = cpu->rip;
    uint32_t held = v->debug_held;
    uint8_t rep = insn->rep;
    uint16_t op = insn->op;

    if (op == TR_OP_refused) /* callouts from translated code are counted by run.c */
        v->callouts[op]++;
    v->shadow = v->shadow_ss = false;
    /* Fetching took answers of the embedder: then only one iteration may follow them. */
    v->rep_budget = 1;
    cpu->rflags &= ~(uint64_t)RT_RF;
    enum mon_rc rc = run_handler(v, insn);
    if (rc != MON_EXIT)
        step_commit(v);
    if (rc != MON_OK) {
        cpu->rflags |= rf;
        v->shadow = shadow;
        v->shadow_ss = shadow_ss;
        return rc;
    }
    mark_unfinished(cpu, rep, rip);
    v->debug_held = 0;
    return debug_traps(v, op, tf, held);
}

enum mon_rc mon_step(struct mon_vcpu *v)
{
    struct tr_insn insn;
    uint64_t gla = 0;
    unsigned allowed = 0;
    enum mon_rc rc;

    if (v->cpu->fpu_live)
        rt_fpu_park(v->cpu);
    v->replay.cursor = 0;
    v->debug_hits = 0;
    rc = code_window(v, &gla, &allowed);
    if (rc == MON_OK)
        rc = check_code_breakpoints(v, gla);
    if (rc == MON_OK)
        rc = fetch(v, gla, allowed, &insn);
    if (rc == MON_OK)
        return step_fetched(v, &insn);
    if (rc != MON_EXIT)
        step_commit(v);
    return rc;
}
