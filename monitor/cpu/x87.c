/* x87.c - pointers to the last x87 instruction and its operand (SDM 1-8.1.8).
 *
 * The CPU notes where it found the instruction, in the code cache or in native code (native.c), and
 * what the operand's address was, in a window or the slow path's buffer; the opcode that it notes
 * has the ModRM of the translation. What the guest reads are its own instruction's, found in time:
 *
 *   FIP   by the block's rows          before the code cache is flushed
 *   FDP   by the view with the window  before a view lets its window go
 *   FOP   by the guest's bytes at FIP  the same
 *
 * mon_x87_settle() does that in the parked state, and remembers what it has put there, as does
 * whatever loads an image: such values are the guest's, whatever they look like. FDP and FOP are
 * those of an earlier instruction where the CPU notes them for unmasked exceptions only
 * (CPUID.7.EBX[6]); then they are the last instruction's if FOP fits it.
 *
 * Context: the vCPU's thread, not in signal handlers, where the state is the signal frame's. */
#include "monitor/cpu/step.h"
#include "monitor/cpu/vm.h"

#include "runtime/native.h"

#include <string.h>

#define FSW_ES 0x80

static uint16_t opcode_of(const struct tr_insn *insn)
{
    return (uint16_t)((insn->opcode & 7u) << 8 | insn->bytes[insn->modrm_at]);
}

/* FLDCW, FNSTCW, FNSTSW, FNCLEX, FNINIT and what is NOP beside these. */
static bool is_control(const struct tr_insn *insn)
{
    unsigned modrm = insn->bytes[insn->modrm_at], reg = modrm >> 3 & 7;

    if (!insn->has_mem)
        return (insn->opcode == 0xdb && reg == 4) || (insn->opcode == 0xdf && modrm == 0xe0);
    return (insn->opcode == 0xd9 && (reg == 5 || reg == 7)) || (insn->opcode == 0xdd && reg == 7);
}

/* Whether the instruction that has just run, its state parked, is one that FDP and FOP are of. */
static bool notes_data(const struct mon_vcpu *v)
{
    const uint8_t *area = v->cpu->xsave;

    return !mon_vm_cpuid(v)->exceptions_data ||
           ((step_get64(area + AREA_HEADER) & 1u << STEP_X87) && area[AREA_FSW] & FSW_ES);
}

/* Instructions other than control ones leave their address in FIP. */
void step_x87_note(struct mon_vcpu *v, const struct tr_insn *insn)
{
    struct step_x87 *x87 = &v->native->x87;

    if (!step_is_x87(insn) || is_control(insn))
        return;
    x87->pc = v->cpu->rip;
    if (!notes_data(v))
        return;
    x87->opcode = opcode_of(insn);
    if (insn->has_mem)
        x87->ea = step_ea(v, insn, v->cpu->rip + insn->len);
}

/* ---- what the CPU has noted ---- */

static bool in_native(const struct mon_vcpu *v, uint64_t host)
{
    return host - (uint64_t)v->native->code_rx < NATIVE_CODE_SIZE;
}

static bool in_buffer(const struct mon_vcpu *v, uint64_t host)
{
    return host - (uint64_t)v->native->buffer < STEP_BUFFER_SIZE;
}

/* The guest's instruction at offset at of block b, from physical memory: it may not be mapped now.
 */
static bool guest_insn(struct mon_vcpu *v, const struct cc_block *b, uint64_t at,
                       struct tr_insn *insn)
{
    uint64_t gpa = b->gpa + at;
    unsigned first = 4096 - (gpa & 4095), n = first < 15 ? first : 15;
    const uint8_t *ram = mon_vm_ram(v, gpa, NULL), *ram2 = NULL;
    uint8_t bytes[15] = {0};

    if (cc_crosses(b) && n < 15)
        ram2 = mon_vm_ram(v, b->gpa2, NULL);
    if (!ram)
        return false;
    memcpy(bytes, ram, n);
    if (ram2)
        memcpy(bytes + n, ram2, 15 - n);
    return tr_decode(bytes, ram2 ? 15 : n, b->wide ? TR_MODE_64 : TR_MODE_32, insn) ==
               TR_DECODE_OK &&
           step_is_x87(insn);
}

/* Whether the CPU has noted FOP for the instruction at hpc too. */
static bool fits(const uint8_t *hpc, unsigned fop)
{
    struct tr_insn insn;

    return tr_decode(hpc, 15, TR_MODE_64, &insn) == TR_DECODE_OK && step_is_x87(&insn) &&
           opcode_of(&insn) == fop;
}

/* The guest's address for one in a window; a host address that is the guest's is what it is. */
static uint64_t guest_data(const struct mon_vcpu *v, uint64_t fdp)
{
    uint64_t gla;

    if (in_buffer(v, fdp))
        return v->native->x87.ea;
    if (mon_view_find(v, fdp, &gla))
        return gla;
    return mon_long(v) || fdp <= 0xffffffffu ? fdp : 0;
}

/* Offsets in the segment; the bases of others are 0 in translated code. */
static uint64_t without_base(const struct mon_vcpu *v, const struct tr_insn *insn, uint64_t gla)
{
    uint64_t base = insn->seg == TR_FS || insn->seg == TR_GS ? step_seg_base(v, insn->seg) : 0;

    return insn->mode == TR_MODE_64 && insn->adsize == 64 ? gla - base : (uint32_t)(gla - base);
}

static void from_cache(struct mon_vcpu *v, const uint8_t *hpc, struct step_pointers *p)
{
    const struct cc_block *b = cc_find(&v->vm->cc, hpc);
    bool own_data = p->fdp == v->native->x87.own_fdp;
    enum cc_recipe recipe;
    struct tr_insn insn;
    bool last = fits(hpc, p->fop);

    p->fip = b ? cc_guest_pc(&v->vm->cc, b, hpc, &recipe) : 0;
    if (!own_data)
        p->fdp = guest_data(v, p->fdp);
    if (!last || !b || !guest_insn(v, b, p->fip - b->pc, &insn))
        return;
    p->fop = opcode_of(&insn);
    if (!own_data && insn.has_mem)
        p->fdp = without_base(v, &insn, p->fdp);
}

static void from_native(struct mon_vcpu *v, const uint8_t *hpc, struct step_pointers *p)
{
    const struct step_x87 *x87 = &v->native->x87;

    if (fits(hpc, p->fop))
        p->fop = x87->opcode;
    if (p->fdp != x87->own_fdp)
        p->fdp = guest_data(v, p->fdp);
    p->fip = x87->pc;
}

/* ---- the parked state's ---- */

void mon_x87_own(struct mon_vcpu *v)
{
    const uint8_t *area = v->cpu->xsave;

    v->native->x87.own_fip = step_get64(area + AREA_FIP);
    v->native->x87.own_fdp = step_get64(area + AREA_FDP);
}

void step_x87_set_pointers(struct mon_vcpu *v, const struct step_pointers *p)
{
    uint8_t *area = v->cpu->xsave;
    uint16_t fop = p->fop & 0x7ff;

    memcpy(area + AREA_FOP, &fop, 2);
    memcpy(area + AREA_FIP, &p->fip, 8);
    memcpy(area + AREA_FDP, &p->fdp, 8);
    mon_x87_own(v);
}

struct step_pointers step_x87_pointers(struct mon_vcpu *v)
{
    const uint8_t *area = v->cpu->xsave;
    struct step_pointers p = {.fip = step_get64(area + AREA_FIP),
                              .fdp = step_get64(area + AREA_FDP)};
    const uint8_t *hpc = (const uint8_t *)p.fip;

    memcpy(&p.fop, area + AREA_FOP, 2);
    if (p.fip == v->native->x87.own_fip)
        p.fdp = p.fdp == v->native->x87.own_fdp ? p.fdp : guest_data(v, p.fdp);
    else if (in_native(v, p.fip))
        from_native(v, hpc, &p);
    else if (cc_contains(&v->vm->cc, hpc))
        from_cache(v, hpc, &p);
    step_x87_set_pointers(v, &p);
    if (!mon_vm_cpuid(v)->zero_selectors) {
        p.fcs = p.fip ? v->seg[NOVT_CS].selector : 0;
        p.fds = p.fdp ? v->seg[NOVT_DS].selector : 0;
    }
    return p;
}

void mon_x87_settle(struct mon_vcpu *v)
{
    rt_fpu_park(v->cpu);
    if (step_get64((const uint8_t *)v->cpu->xsave + AREA_HEADER) & 1u << STEP_X87)
        step_x87_pointers(v);
}
