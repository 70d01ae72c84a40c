/* ctl.c - control registers, debug registers, XCR0, and who may change which bit of RFLAGS.
 *
 * Each write is checked as a whole and then committed, with the consequences: PDPTEs are loaded
 * again where SDM 3-4.4.1 says so, long mode is entered and left with CR0.PG (3-10.8.5), what a TLB
 * would drop is told to the views, and mode_changed is set for the run loop.
 * Which bits of CR4 and XCR0 exist follows from the VM's CPUID table.
 *
 * Context: the vCPU's thread. */
#include "monitor/cpu/prot.h"

/* ---- CR0 ---- */

#define CR0_WRITABLE                                                                            \
    (MON_CR0_PE | MON_CR0_MP | MON_CR0_EM | MON_CR0_TS | MON_CR0_NE | MON_CR0_WP | MON_CR0_AM | \
     MON_CR0_NW | MON_CR0_CD | MON_CR0_PG)
#define CR0_PDPTE (MON_CR0_CD | MON_CR0_NW | MON_CR0_PG)
#define CR4_PDPTE (MON_CR4_PAE | MON_CR4_PGE | MON_CR4_PSE | MON_CR4_SMEP)

/* PAE paging will be in use with these values (SDM 3-4.1.1). */
static bool is_pae_paging(const struct mon_vcpu *v, uint64_t cr0, uint64_t cr4)
{
    return cr0 & MON_CR0_PG && cr4 & MON_CR4_PAE && !(v->efer & MON_EFER_LME);
}

/* Entering long mode: paging is switched on with EFER.LME set (SDM 3-10.8.5). */
static bool long_mode_may_begin(const struct mon_vcpu *v)
{
    unsigned tss = v->tr.attr & MON_ATTR_TYPE;
    return v->cr4 & MON_CR4_PAE && !(v->seg[NOVT_CS].attr & MON_ATTR_L) && tss != MON_TYPE_TSS16 &&
           tss != MON_TYPE_TSS16_BUSY;
}

static bool cr0_is_valid(const struct mon_vcpu *v, uint64_t value)
{
    uint64_t on = value & ~v->cr0, off = v->cr0 & ~value;
    if (value >> 32 || (value & MON_CR0_PG && !(value & MON_CR0_PE)) ||
        (value & MON_CR0_NW && !(value & MON_CR0_CD)))
        return false;
    if (on & MON_CR0_PG && v->efer & MON_EFER_LME && !long_mode_may_begin(v))
        return false;
    if (off & MON_CR0_PG && (mon_code64(v) || v->cr4 & MON_CR4_PCIDE))
        return false;
    return true;
}

static enum mon_rc cr0_write(struct mon_vcpu *v, uint64_t value)
{
    enum mon_rc rc;
    if (!cr0_is_valid(v, value))
        return mon_raise_error(v, MON_GP, 0);
    value = (value & CR0_WRITABLE) | MON_CR0_ET;
    uint64_t changed = value ^ v->cr0;
    if (changed & CR0_PDPTE && is_pae_paging(v, value, v->cr4) && (rc = mon_pdpte_load(v, v->cr3)))
        return rc;

    v->cr0 = value;
    if (changed)
        v->mode_changed = true;
    if (changed & MON_CR0_PG && v->efer & MON_EFER_LME)
        v->efer = value & MON_CR0_PG ? v->efer | MON_EFER_LMA : v->efer & ~(uint64_t)MON_EFER_LMA;
    if (changed & (MON_CR0_PG | MON_CR0_WP)) {
        mon_view_flush(v, true);
    }
    if (changed & MON_CR0_PE)
        for (unsigned seg = 0; seg < 6; seg++)
            mon_seg_changed(v, seg);
    return MON_OK;
}

/* ---- CR3 ---- */

static enum mon_rc cr3_write(struct mon_vcpu *v, uint64_t value)
{
    bool keep = false; /* bit 63 with PCIDs: this PCID's translations stay (SDM 3-4.10.4.1) */
    enum mon_rc rc;
    if (mon_long(v)) {
        if (v->cr4 & MON_CR4_PCIDE) {
            keep = value >> 63;
            value &= ~((uint64_t)1 << 63);
        }
        if (value >> mon_vm_cpuid(v)->phys_bits)
            return mon_raise_error(v, MON_GP, 0);
    } else {
        value = (uint32_t)value;
    }
    if (is_pae_paging(v, v->cr0, v->cr4) && (rc = mon_pdpte_load(v, value)))
        return rc;

    v->cr3 = value;
    mon_view_cr3(v, keep);
    return MON_OK;
}

/* ---- CR4 ---- */

struct feature {
    uint8_t bit; /* of the CPUID register */
    uint32_t cr4;
};

static uint64_t features_allow(uint32_t reg, const struct feature *f, unsigned n)
{
    uint64_t allowed = 0;
    for (unsigned i = 0; i < n; i++)
        if (reg >> f[i].bit & 1)
            allowed |= f[i].cr4;
    return allowed;
}
#define FEATURES_ALLOW(reg, table) features_allow(reg, table, sizeof(table) / sizeof((table)[0]))

/* CR4 bits that the VM's CPUID announces (SDM 2 CPUID, leaves 1 and 7). */
static uint64_t cr4_allowed(struct mon_vcpu *v)
{
    static const struct feature leaf1_edx[] = {
        {1, MON_CR4_VME | MON_CR4_PVI},
        {2, MON_CR4_DE},
        {3, MON_CR4_PSE},
        {4, MON_CR4_TSD},
        {6, MON_CR4_PAE},
        {7, MON_CR4_MCE},
        {13, MON_CR4_PGE},
        {24, MON_CR4_OSFXSR},
        {25, MON_CR4_OSXMMEXCPT},
    };
    static const struct feature leaf1_ecx[] = {{17, MON_CR4_PCIDE}, {26, MON_CR4_OSXSAVE}};
    static const struct feature leaf7_ebx[] = {
        {0, MON_CR4_FSGSBASE}, {7, MON_CR4_SMEP}, {20, MON_CR4_SMAP}};
    static const struct feature leaf7_ecx[] = {{2, MON_CR4_UMIP}, {16, MON_CR4_LA57}};
    const struct mon_cpuid *id = mon_vm_cpuid(v);
    uint64_t allowed = MON_CR4_PCE;
    uint32_t r[4];
    mon_cpuid(v, 1, 0, r);
    allowed |= FEATURES_ALLOW(r[3], leaf1_edx) | FEATURES_ALLOW(r[2], leaf1_ecx);
    if (id->max_basic >= 7) {
        mon_cpuid(v, 7, 0, r);
        allowed |= FEATURES_ALLOW(r[1], leaf7_ebx) | FEATURES_ALLOW(r[2], leaf7_ecx);
    }
    return allowed;
}

static bool cr4_is_valid(struct mon_vcpu *v, uint64_t value)
{
    uint64_t changed = value ^ v->cr4, on = value & ~v->cr4;
    if (value & ~cr4_allowed(v))
        return false;
    if (mon_long(v) && (!(value & MON_CR4_PAE) || changed & MON_CR4_LA57))
        return false;
    if (on & MON_CR4_PCIDE && (!mon_long(v) || v->cr3 & 0xfff))
        return false;
    return true;
}

#define CR4_PAGING                                                                           \
    (MON_CR4_PSE | MON_CR4_PAE | MON_CR4_PGE | MON_CR4_PCIDE | MON_CR4_SMEP | MON_CR4_SMAP | \
     MON_CR4_LA57)

static enum mon_rc cr4_write(struct mon_vcpu *v, uint64_t value)
{
    uint64_t changed = value ^ v->cr4;
    enum mon_rc rc;
    if (!cr4_is_valid(v, value))
        return mon_raise_error(v, MON_GP, 0);
    if (changed & CR4_PDPTE && is_pae_paging(v, v->cr0, value) && (rc = mon_pdpte_load(v, v->cr3)))
        return rc;

    v->cr4 = value;
    if (changed)
        v->mode_changed = true;
    if (changed & CR4_PAGING) {
        mon_view_flush(v, true);
    }
    return MON_OK;
}

/* ---- MOV CR ---- */

static enum mon_rc cr8_write(struct mon_vcpu *v, uint64_t value)
{
    if (value >> 4)
        return mon_raise_error(v, MON_GP, 0);
    v->cr8 = value;
    return MON_OK;
}

static void log_cr(struct mon_vcpu *v, unsigned cr, uint64_t value)
{
    mon_log(v, NOVT_LOG_PAGING, "cr%u %08llx -> %08llx at %08llx", cr,
            (unsigned long long)mon_cr_read(v, cr), (unsigned long long)value,
            (unsigned long long)v->cpu->rip);
}

enum mon_rc mon_cr_write(struct mon_vcpu *v, unsigned cr, uint64_t value)
{
    if (v->cpu->cpl)
        return mon_raise_error(v, MON_GP, 0);
    if (mon_log_on(v, NOVT_LOG_PAGING))
        log_cr(v, cr, value);
    switch (cr) {
    case 0:
        return cr0_write(v, value);
    case 2:
        v->cr2 = value;
        return MON_OK;
    case 3:
        return cr3_write(v, value);
    case 4:
        return cr4_write(v, value);
    case 8:
        return cr8_write(v, value);
    default:
        return mon_raise(v, MON_UD);
    }
}

uint64_t mon_cr_read(const struct mon_vcpu *v, unsigned cr)
{
    switch (cr) {
    case 0:
        return v->cr0;
    case 2:
        return v->cr2;
    case 3:
        return v->cr3;
    case 4:
        return v->cr4;
    case 8:
        return v->cr8;
    default:
        return 0;
    }
}

/* ---- Debug registers (SDM 3-18.2) ---- */

#define DR6_FIXED    0xffff0ff0u
#define DR6_WRITABLE 0x0000e00fu
#define DR6_BD       ((uint64_t)1 << 13)
#define DR7_FIXED    0x00000400u
#define DR7_WRITABLE 0xffff23ffu
#define DR7_GD       ((uint64_t)1 << 13)

/* Common checks of MOV to and from DR; 4 and 5 become 6 and 7 (SDM 3-18.2.2). */
static enum mon_rc dr_check(struct mon_vcpu *v, unsigned *dr)
{
    if (*dr > 7 || ((*dr == 4 || *dr == 5) && v->cr4 & MON_CR4_DE))
        return mon_raise(v, MON_UD);
    if (v->cpu->cpl)
        return mon_raise_error(v, MON_GP, 0);
    if (v->dr[7] & DR7_GD) {
        mon_raise(v, MON_DB);
        v->exc.dr6 = DR6_BD;
        return MON_FAULT;
    }
    if (*dr == 4 || *dr == 5)
        *dr += 2;
    return MON_OK;
}

enum mon_rc mon_dr_write(struct mon_vcpu *v, unsigned dr, uint64_t value)
{
    enum mon_rc rc = dr_check(v, &dr);
    if (rc)
        return rc;
    if (dr < 4) {
        v->dr[dr] = value;
    } else {
        if (value >> 32)
            return mon_raise_error(v, MON_GP, 0);
        v->dr[dr] =
            dr == 6 ? (value & DR6_WRITABLE) | DR6_FIXED : (value & DR7_WRITABLE) | DR7_FIXED;
    }
    if (dr != 6)
        v->mode_changed = true;
    return MON_OK;
}

enum mon_rc mon_dr_read(struct mon_vcpu *v, unsigned dr, uint64_t *value)
{
    enum mon_rc rc = dr_check(v, &dr);
    if (rc)
        return rc;
    *value = v->dr[dr];
    return MON_OK;
}

/* ---- XCR0 (SDM 1-13.3) ---- */

#define XCR0_X87    ((uint64_t)1 << 0)
#define XCR0_SSE    ((uint64_t)1 << 1)
#define XCR0_AVX    ((uint64_t)1 << 2)
#define XCR0_MPX    ((uint64_t)3 << 3)
#define XCR0_AVX512 ((uint64_t)7 << 5)
#define XCR0_AMX    ((uint64_t)3 << 17)

static bool all_or_none(uint64_t value, uint64_t bits)
{
    return !(value & bits) || (value & bits) == bits;
}

static bool xcr0_is_valid(const struct mon_vcpu *v, uint64_t value)
{
    if (!(value & XCR0_X87) || value & ~mon_vm_cpuid(v)->xcr0_allowed)
        return false;
    if ((value & XCR0_AVX && !(value & XCR0_SSE)) || (value & XCR0_AVX512 && !(value & XCR0_AVX)))
        return false;
    return all_or_none(value, XCR0_MPX) && all_or_none(value, XCR0_AVX512) &&
           all_or_none(value, XCR0_AMX);
}

enum mon_rc mon_xsetbv(struct mon_vcpu *v, uint32_t index, uint64_t value)
{
    if (!(v->cr4 & MON_CR4_OSXSAVE))
        return mon_raise(v, MON_UD);
    if (v->cpu->cpl || index || !xcr0_is_valid(v, value))
        return mon_raise_error(v, MON_GP, 0);
    if (v->xcr0 != value)
        v->mode_changed = true;
    v->xcr0 = value;
    return MON_OK;
}

/* ---- RFLAGS ---- */

/* Bits that POPF or IRET may change (SDM 2 POPF, table 4-15, and IRET). */
static uint64_t flags_writable(const struct mon_vcpu *v, unsigned opsize, bool from_iret)
{
    unsigned cpl = v->cpu->cpl, iopl = (unsigned)(v->cpu->rflags >> 12) & 3;
    uint64_t mask = RT_ARITH | RT_TF | RT_DF | RT_NT;
    if (opsize > 16)
        mask |= RT_AC | RT_ID | (from_iret ? RT_RF : 0);
    if (cpl <= iopl || !mon_protected(v))
        mask |= RT_IF;
    if (cpl == 0)
        mask |= RT_IOPL | (opsize > 16 && from_iret && mon_protected(v) ? RT_VIF | RT_VIP : 0);
    return mask;
}

void mon_flags_write(struct mon_vcpu *v, uint64_t value, unsigned opsize, bool from_iret)
{
    uint64_t old = v->cpu->rflags, mask = flags_writable(v, opsize, from_iret);
    if (mon_v86(v) && (old & RT_IOPL) != RT_IOPL) { /* CR4.VME: VIF takes IF's place */
        mask |= RT_VIF;
        value = (value & ~(uint64_t)RT_VIF) | (value & RT_IF ? RT_VIF : 0);
    }
    v->cpu->rflags = ((old & ~mask) | (value & mask) | 2) & ~(uint64_t)(from_iret ? 0 : RT_RF);
    if ((v->cpu->rflags ^ old) & (RT_TF | RT_AC | RT_IOPL))
        v->mode_changed = true;
}
