/* step_string.c - string instructions, and ports.
 *
 * A REP is a loop of iterations that each commit (SDM 2 REP): the index and count registers say how
 * far it is, rip stays until the count is used up. One call does at most v->rep_budget of them, 1
 * for mon_step(), and within a page of RAM does many at once: the bulk functions below take what
 * both operands' pages, segments and the budget allow, and leave the rest to single iterations,
 * which know every rule.
 *
 * An exit to the embedder in the middle loses nothing: completed iterations are committed, and
 * v->replay belongs to the one under way. */
#include "monitor/cpu/step.h"

/* One string instruction under execution. A copy: writing RAM may drop the translation that the
 * decoded instruction belongs to. */
struct string {
    struct tr_insn i;
    unsigned size;    /* of an element in bytes */
    uint64_t at_most; /* iterations in this step of the loop */
};

/* Does 1 to at_most iterations; *n says how many. */
typedef enum mon_rc string_iteration(struct mon_vcpu *v, const struct string *s, uint64_t *n);

static void advance(struct mon_vcpu *v, const struct string *s, unsigned reg, uint64_t n)
{
    uint64_t delta = n * s->size, at = v->cpu->gpr[reg];
    step_set_reg_ad(v, &s->i, reg, v->cpu->rflags & RT_DF ? at - delta : at + delta);
}

static uint64_t source(const struct mon_vcpu *v, const struct string *s)
{
    return step_reg_ad(v, &s->i, RT_SI);
}
static uint64_t destination(const struct mon_vcpu *v, const struct string *s)
{
    return step_reg_ad(v, &s->i, RT_DI);
}

/* CMPS and SCAS stop on ZF; the others never. */
static bool stops(const struct mon_vcpu *v, const struct tr_insn *i)
{
    bool compares = (i->opcode & 0xf6) == 0xa6, zf = v->cpu->rflags & RT_ZF;
    return compares && zf != (i->rep == 0xf3);
}

/* A count of zero, or a fault in the first iteration, with 32-bit addresses in 64-bit code: the
 * registers are written all the same, by MOVS and STOS also the indexes (compared with a processor;
 * the manual does not say). */
static void truncate_registers(struct mon_vcpu *v, const struct tr_insn *i)
{
    if (i->mode != TR_MODE_64 || i->adsize != 32)
        return;
    step_set_reg_ad(v, i, RT_CX, v->cpu->gpr[RT_CX]);
    if (i->op == TR_OP_movs)
        step_set_reg_ad(v, i, RT_SI, v->cpu->gpr[RT_SI]);
    if (i->op == TR_OP_movs || i->op == TR_OP_stos)
        step_set_reg_ad(v, i, RT_DI, v->cpu->gpr[RT_DI]);
}

static enum mon_rc repeat(struct mon_vcpu *v, const struct tr_insn *insn, uint64_t next,
                          string_iteration *iterate)
{
    struct string s = {.i = *insn};
    uint64_t flags = v->cpu->rflags, count, n = 0, budget = v->dr[7] & 0xff ? 1 : v->rep_budget;
    enum mon_rc rc;

    s.size = insn->opcode & 1 ? insn->opsize / 8 : 1;
    if (s.size > 4 && (insn->opcode & 0xfc) == 0x6c) /* no 64-bit ports */
        s.size = 4;
    s.at_most = 1;
    if (!s.i.rep) {
        rc = iterate(v, &s, &n);
        return rc == MON_OK ? step_done(v, next) : rc;
    }
    count = step_reg_ad(v, &s.i, RT_CX);
    if (!count)
        truncate_registers(v, &s.i);
    while (count && budget) {
        s.at_most = count < budget ? count : budget;
        rc = iterate(v, &s, &n);
        if (rc == MON_FAULT) { /* the flags at a fault are those from before (SDM 2 REP) */
            v->cpu->rflags = flags;
            truncate_registers(v, &s.i);
        }
        if (rc != MON_OK)
            return rc;
        step_commit(v);
        count -= n;
        budget -= n;
        step_set_reg_ad(v, &s.i, RT_CX, count);
        if (stops(v, &s.i))
            return step_done(v, next);
    }
    if (!count)
        return step_done(v, next);
    v->cpu->rflags = flags; /* they change when the instruction ends (compared with a processor) */
    return MON_OK;
}

/* ---- bulk: a run of elements in one page of RAM ---- */

struct span {
    uint8_t *host;
    uint64_t gpa;
    uint64_t len; /* bytes */
};

static bool bulk_is_possible(const struct mon_vcpu *v, const struct string *s)
{
    if (s->at_most < 2 || (v->cpu->rflags & RT_DF) || (v->dr[7] & 0xff))
        return false;
    return !(v->cpu->rflags & RT_AC) || v->cpu->cpl != 3 || !(v->cr0 & MON_CR0_AM);
}

/* RAM from seg:offset to the end of its page, of whole elements; false when there is less than one
 * or the checks want to be made one by one. */
static bool find_span(struct mon_vcpu *v, const struct string *s, unsigned seg, uint64_t offset,
                      unsigned access, struct span *span)
{
    struct mon_walk walk;
    uint64_t gla, len = s->at_most * s->size;
    bool writable;

    if (len > 4096)
        len = 4096;
    if (offset + len - 1 > step_mask(s->i.adsize) || offset + len < offset)
        return false;
    if (mon_seg_linear(v, seg, offset, (unsigned)len, access, &gla) != MON_OK)
        return false;
    if (len > 4096 - (gla & 4095))
        len = 4096 - (gla & 4095);
    if (len < s->size || mon_walk(v, gla, access, v->cpu->cpl, &walk) != MON_OK)
        return false;
    span->host = mon_vm_ram(v, walk.gpa, &writable);
    span->gpa = walk.gpa;
    span->len = len;
    return span->host && (writable || !(access & MON_WRITE));
}

static uint64_t elements(const struct string *s, uint64_t bytes)
{
    return s->size == 1 ? bytes : bytes / s->size;
}

/* ---- MOVS, STOS, LODS ---- */

/* The CPU's own REP MOVS has the element order that overlapping operands make visible. */
static void host_movs(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
    switch (size) {
    case 1:
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    case 2:
        __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    case 4:
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    default:
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    }
}

static void host_stos(uint8_t *to, uint64_t value, uint64_t n, unsigned size)
{
    switch (size) {
    case 1:
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    case 2:
        __asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    }
}

static uint64_t movs_bulk(struct mon_vcpu *v, const struct string *s)
{
    struct span from, to;
    if (!bulk_is_possible(v, s) || !find_span(v, s, s->i.seg, source(v, s), MON_READ, &from) ||
        !find_span(v, s, NOVT_ES, destination(v, s), MON_WRITE, &to))
        return 0;
    uint64_t n = elements(s, from.len < to.len ? from.len : to.len);
    host_movs(to.host, from.host, n, s->size);
    mon_vm_wrote(v, to.gpa, (unsigned)(n * s->size));
    return n;
}

static enum mon_rc movs(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    uint64_t value = 0;
    *n = movs_bulk(v, s);
    if (!*n) {
        enum mon_rc rc = step_read(v, s->i.seg, source(v, s), &value, s->size);
        if (rc == MON_OK)
            rc = step_write(v, NOVT_ES, destination(v, s), &value, s->size);
        if (rc != MON_OK)
            return rc;
        *n = 1;
    }
    advance(v, s, RT_SI, *n);
    advance(v, s, RT_DI, *n);
    return MON_OK;
}

static enum mon_rc stos(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    struct span to;
    if (bulk_is_possible(v, s) && find_span(v, s, NOVT_ES, destination(v, s), MON_WRITE, &to)) {
        *n = elements(s, to.len);
        host_stos(to.host, v->cpu->gpr[RT_AX], *n, s->size);
        mon_vm_wrote(v, to.gpa, (unsigned)(*n * s->size));
    } else {
        enum mon_rc rc = step_write(v, NOVT_ES, destination(v, s), &v->cpu->gpr[RT_AX], s->size);
        if (rc != MON_OK)
            return rc;
        *n = 1;
    }
    advance(v, s, RT_DI, *n);
    return MON_OK;
}

static enum mon_rc lods(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    uint64_t value = 0;
    enum mon_rc rc = step_read(v, s->i.seg, source(v, s), &value, s->size);
    if (rc != MON_OK)
        return rc;
    *n = 1;
    step_set_gpr(v, &s->i, RT_AX, s->size * 8, value);
    advance(v, s, RT_SI, 1);
    return MON_OK;
}

/* ---- SCAS, CMPS ---- */

/* The flags of a - b. */
static void compare(struct mon_vcpu *v, uint64_t a, uint64_t b, unsigned bits)
{
    uint64_t r = (a - b) & step_mask(bits), top = 1ull << (bits - 1), flags = 0;
    if (a < b)
        flags |= RT_CF;
    if (!(__builtin_popcount((uint8_t)r) & 1))
        flags |= RT_PF;
    if ((a ^ b ^ r) & 0x10)
        flags |= RT_AF;
    if (!r)
        flags |= RT_ZF;
    if (r & top)
        flags |= RT_SF;
    if ((a ^ b) & (a ^ r) & top)
        flags |= RT_OF;
    step_flags(v, RT_ARITH, flags);
}

static enum mon_rc scas(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    uint64_t value = 0;
    unsigned bits = s->size * 8;
    enum mon_rc rc = step_read(v, NOVT_ES, destination(v, s), &value, s->size);
    if (rc != MON_OK)
        return rc;
    *n = 1;
    compare(v, v->cpu->gpr[RT_AX] & step_mask(bits), value, bits);
    advance(v, s, RT_DI, 1);
    return MON_OK;
}

static enum mon_rc cmps(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    uint64_t a = 0, b = 0;
    /* The CPU reads the destination first. */
    enum mon_rc rc = step_read(v, NOVT_ES, destination(v, s), &b, s->size);
    if (rc == MON_OK)
        rc = step_read(v, s->i.seg, source(v, s), &a, s->size);
    if (rc != MON_OK)
        return rc;
    *n = 1;
    compare(v, a, b, s->size * 8);
    advance(v, s, RT_SI, 1);
    advance(v, s, RT_DI, 1);
    return MON_OK;
}

/* ---- ports ---- */

static unsigned port_size(unsigned bytes)
{
    return bytes > 4 ? 4 : bytes;
}

static enum mon_rc check_port(struct mon_vcpu *v, uint16_t port, unsigned size)
{
    enum mon_rc rc = mon_io_check(v, port, size);
    if (rc == MON_OK && (v->dr[7] & 0xff) && (v->cr4 & MON_CR4_DE))
        step_breakpoints(v, port, size, STEP_BP_IO);
    return rc;
}

/* The destination is checked before the port is read: what a device gives must not be lost. */
static enum mon_rc ins(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    uint16_t port = (uint16_t)v->cpu->gpr[RT_DX];
    uint32_t data = 0;
    enum mon_rc rc = check_port(v, port, s->size);
    if (rc == MON_OK)
        rc = step_check_write(v, NOVT_ES, destination(v, s), s->size);
    if (rc == MON_OK)
        rc = mon_port(v, port, s->size, false, &data);
    if (rc == MON_OK)
        rc = step_write(v, NOVT_ES, destination(v, s), &data, s->size);
    if (rc != MON_OK)
        return rc;
    *n = 1;
    advance(v, s, RT_DI, 1);
    return MON_OK;
}

static enum mon_rc outs(struct mon_vcpu *v, const struct string *s, uint64_t *n)
{
    uint16_t port = (uint16_t)v->cpu->gpr[RT_DX];
    uint32_t data = 0;
    enum mon_rc rc = check_port(v, port, s->size);
    if (rc == MON_OK)
        rc = step_read(v, s->i.seg, source(v, s), &data, s->size);
    if (rc == MON_OK)
        rc = mon_port(v, port, s->size, true, &data);
    if (rc != MON_OK)
        return rc;
    *n = 1;
    advance(v, s, RT_SI, 1);
    return MON_OK;
}

static uint16_t port_of(const struct mon_vcpu *v, const struct tr_insn *i)
{
    return i->imm_size ? (uint8_t)i->imm : (uint16_t)v->cpu->gpr[RT_DX];
}

enum mon_rc step_in(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned size = port_size(step_width(i) / 8);
    uint32_t data = 0;
    enum mon_rc rc = check_port(v, port_of(v, i), size);
    if (rc == MON_OK)
        rc = mon_port(v, port_of(v, i), size, false, &data);
    if (rc != MON_OK)
        return rc;
    step_set_gpr(v, i, RT_AX, size * 8, data);
    return step_done(v, next);
}

enum mon_rc step_out(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    unsigned size = port_size(step_width(i) / 8);
    uint32_t data = (uint32_t)v->cpu->gpr[RT_AX];
    enum mon_rc rc = check_port(v, port_of(v, i), size);
    if (rc == MON_OK)
        rc = mon_port(v, port_of(v, i), size, true, &data);
    return rc == MON_OK ? step_done(v, next) : rc;
}

/* ---- handlers ---- */

/* The port is checked even when the count is zero. */
static enum mon_rc repeat_port(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                               string_iteration *iterate)
{
    unsigned size = port_size(i->opcode & 1 ? i->opsize / 8 : 1);
    enum mon_rc rc = i->rep ? mon_io_check(v, (uint16_t)v->cpu->gpr[RT_DX], size) : MON_OK;
    return rc == MON_OK ? repeat(v, i, next, iterate) : rc;
}

enum mon_rc step_movs(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat(v, i, next, movs);
}
enum mon_rc step_stos(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat(v, i, next, stos);
}
enum mon_rc step_lods(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat(v, i, next, lods);
}
enum mon_rc step_scas(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat(v, i, next, scas);
}
enum mon_rc step_cmps(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat(v, i, next, cmps);
}
enum mon_rc step_ins(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat_port(v, i, next, ins);
}
enum mon_rc step_outs(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return repeat_port(v, i, next, outs);
}
