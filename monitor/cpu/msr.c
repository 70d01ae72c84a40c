/* msr.c - model-specific registers: a table row each, and the few that act.
 *
 * A row says where the value is (in struct mon_msrs, or nowhere: then it is constant), which bits
 * software may set, and what kind of value it must be. An index without a row raises #GP(0), as
 * does any other bit (SDM 2 WRMSR). Registers for which CPUID announces nothing are not here, but
 * for those that kernels touch without asking.
 *
 * IA32_ARCH_CAPABILITIES tells the guest that it needs no work against speculation: its kernel's
 * pages are not in its user windows, and what leaks between host processes is the host's to stop.
 * IBRS_ALL ("enhanced IBRS") is what keeps kernels from building retpolines, so SPEC_CTRL takes
 * the bits that then get written.
 *
 * The local APIC's registers have no rows: where the embedder has one, accesses are its exits, and
 * writes of IA32_APIC_BASE are shown to it when they are valid.
 *
 * Thread: the vCPU's own; mon_msr_get() and mon_msr_set() when it does not run. */
#include "monitor/cpu/cpu.h"

/* SDM 4-2.1, IA32_ARCH_CAPABILITIES */
#define CAP_RDCL_NO        (1ull << 0)
#define CAP_IBRS_ALL       (1ull << 1)
#define CAP_SKIP_L1DFL     (1ull << 3)
#define CAP_SSB_NO         (1ull << 4)
#define CAP_MDS_NO         (1ull << 5)
#define CAP_PSCHANGE_MC_NO (1ull << 6)
#define CAP_TAA_NO         (1ull << 8)
#define CAP_SBDR_SSDP_NO   (1ull << 13)
#define CAP_FBSDP_NO       (1ull << 14)
#define CAP_PSDP_NO        (1ull << 15)
#define CAP_BHI_NO         (1ull << 20)
#define CAP_PBRSB_NO       (1ull << 24)
#define CAP_GDS_NO         (1ull << 26)
#define CAP_RFDS_NO        (1ull << 27)
#define CAP_ITS_NO         (1ull << 62)
#define ARCH_CAPABILITIES                                                                         \
    (CAP_RDCL_NO | CAP_IBRS_ALL | CAP_SKIP_L1DFL | CAP_SSB_NO | CAP_MDS_NO | CAP_PSCHANGE_MC_NO | \
     CAP_TAA_NO | CAP_SBDR_SSDP_NO | CAP_FBSDP_NO | CAP_PSDP_NO | CAP_BHI_NO | CAP_PBRSB_NO |     \
     CAP_GDS_NO | CAP_RFDS_NO | CAP_ITS_NO)

#define MTRR_COUNT 8u
/* Variable count, fixed ranges, write-combining. */
#define MTRRCAP (MTRR_COUNT | 1u << 8 | 1u << 10)

/* MISC_ENABLE: fast strings; branch trace and precise event sampling unavailable. */
#define MISC_ENABLE_RESET (1u << 0 | 1u << 11 | 1u << 12)
#define MISC_ENABLE_BITS  (1u << 0 | 1u << 3 | 1u << 7 | 1u << 16 | 1u << 18 | 1u << 22)

enum index {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_TSC_ADJUST = 0x3b,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
    MSR_EFER = 0xc0000080,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
    MSR_KVM_WALL_CLOCK_OLD = 0x11, /* Linux' Documentation/virt/kvm/x86/msr.rst */
    MSR_KVM_SYSTEM_TIME_OLD = 0x12,
    MSR_KVM_WALL_CLOCK = 0x4b564d00,
    MSR_KVM_SYSTEM_TIME = 0x4b564d01,
};

enum kind {
    PLAIN,     /* the bits of mask, the others zero */
    READ_ONLY, /* writing raises #GP(0) */
    IGNORED,   /* bits of mask may be written, and are forgotten */
    CANONICAL, /* an address */
    WIDE,      /* the same as PLAIN, exists with long mode only */
    WIDE_ADDR, /* an address, and the same */
    MEMORY_TYPES,
    MTRR_BASE,
    MTRR_MASK,
    SPECIAL, /* msr_read() and msr_write() have a case */
};

#define NOWHERE 0xffffu

struct row {
    uint32_t index;
    uint16_t offset; /* in struct mon_msrs, or NOWHERE */
    uint8_t kind;
    uint64_t mask; /* PLAIN, WIDE, IGNORED: what may be written; READ_ONLY and NOWHERE: the value */
};

#define IN(field) offsetof(struct mon_msrs, field)
#define ALL       (~0ull)
#define FIXED(i, at)                         \
    {                                        \
        i, IN(mtrr_fix[at]), MEMORY_TYPES, 0 \
    }
#define VARIABLE(n)                                              \
    {0x200 + 2 * (n), IN(mtrr_var[2 * (n)]), MTRR_BASE, 0},      \
    {                                                            \
        0x201 + 2 * (n), IN(mtrr_var[2 * (n) + 1]), MTRR_MASK, 0 \
    }

static const struct row rows[] = {
    {MSR_TSC, NOWHERE, SPECIAL, 0},
    {MSR_KVM_WALL_CLOCK_OLD, IN(kvm_wall_clock), SPECIAL, 0},
    {MSR_KVM_SYSTEM_TIME_OLD, IN(kvm_system_time), SPECIAL, 0},
    {0x17, NOWHERE, READ_ONLY, 0}, /* PLATFORM_ID */
    {MSR_APIC_BASE, IN(apic_base), PLAIN, 0xfffff900},
    {0x2a, NOWHERE, READ_ONLY, 0}, /* EBL_CR_POWERON */
    {0x3a, NOWHERE, READ_ONLY, 1}, /* FEATURE_CONTROL: locked */
    {MSR_TSC_ADJUST, IN(tsc_adjust), SPECIAL, 0},
    {0x48, IN(spec_ctrl), PLAIN, 7}, /* SPEC_CTRL */
    {0x79, NOWHERE, IGNORED, ALL},   /* BIOS_UPDT_TRIG */
    {0x8b, NOWHERE, IGNORED, ALL},   /* BIOS_SIGN_ID, see special_value() */
    {MSR_PLATFORM_INFO, NOWHERE, SPECIAL, 0},
    {0xfe, NOWHERE, READ_ONLY, MTRRCAP},
    {0x10a, NOWHERE, READ_ONLY, ARCH_CAPABILITIES},
    {0x174, IN(sysenter_cs), PLAIN, 0xffffffff},
    {0x175, IN(sysenter_esp), CANONICAL, 0},
    {0x176, IN(sysenter_eip), CANONICAL, 0},
    {0x179, NOWHERE, READ_ONLY, 0}, /* MCG_CAP: no banks */
    {0x17a, IN(mcg_status), PLAIN, 7},
    {0x198, NOWHERE, READ_ONLY, 0},                    /* PERF_STATUS */
    {0x1a0, IN(misc_enable), PLAIN, MISC_ENABLE_BITS}, /* MISC_ENABLE */
    {0x1d9, NOWHERE, IGNORED, 3},                      /* DEBUGCTL: no LBR, no BTF */
    VARIABLE(0),
    VARIABLE(1),
    VARIABLE(2),
    VARIABLE(3),
    VARIABLE(4),
    VARIABLE(5),
    VARIABLE(6),
    VARIABLE(7),
    FIXED(0x250, 0),
    FIXED(0x258, 1),
    FIXED(0x259, 2),
    FIXED(0x268, 3),
    FIXED(0x269, 4),
    FIXED(0x26a, 5),
    FIXED(0x26b, 6),
    FIXED(0x26c, 7),
    FIXED(0x26d, 8),
    FIXED(0x26e, 9),
    FIXED(0x26f, 10),
    {0x277, IN(pat), MEMORY_TYPES, 0},
    {0x2ff, IN(mtrr_def), PLAIN, 0xcff},
    {0xda0, NOWHERE, IGNORED, 0}, /* XSS: no supervisor state */
    {MSR_EFER, NOWHERE, SPECIAL, 0},
    {0xc0000081, IN(star), WIDE, ALL},
    {0xc0000082, IN(lstar), WIDE_ADDR, 0},
    {0xc0000083, IN(cstar), WIDE_ADDR, 0},
    {0xc0000084, IN(fmask), WIDE, 0xffffffff},
    {MSR_FS_BASE, NOWHERE, SPECIAL, 0},
    {MSR_GS_BASE, NOWHERE, SPECIAL, 0},
    {0xc0000102, IN(kernel_gs_base), WIDE_ADDR, 0},
    {0xc0000103, IN(tsc_aux), PLAIN, 0xffffffff},
    {0xc0010015, NOWHERE, IGNORED, ALL}, /* AMD's HWCR */
    {MSR_KVM_WALL_CLOCK, IN(kvm_wall_clock), SPECIAL, 0},
    {MSR_KVM_SYSTEM_TIME, IN(kvm_system_time), SPECIAL, 0},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const struct row *row_of(uint32_t index)
{
    for (unsigned n = 0; n < ROWS; n++)
        if (rows[n].index == index)
            return &rows[n];
    return NULL;
}

static uint64_t *field_of(struct mon_vcpu *v, const struct row *row)
{
    return row->offset == NOWHERE ? NULL : (uint64_t *)((uint8_t *)&v->msr + row->offset);
}

static bool exists(const struct mon_vcpu *v, const struct row *row)
{
    bool wide = row->kind == WIDE || row->kind == WIDE_ADDR || row->index == MSR_FS_BASE ||
                row->index == MSR_GS_BASE;
    return !wide || mon_vm_cpuid(v)->has_long;
}

/* ---- reading ---- */

static uint64_t tsc(const struct mon_vcpu *v)
{
    return __builtin_ia32_rdtsc() + v->cpu->tsc_offset;
}

static uint64_t special_value(struct mon_vcpu *v, const struct row *row)
{
    switch (row->index) {
    case MSR_TSC:
        return tsc(v);
    case MSR_PLATFORM_INFO: /* ratio to 100 MHz */
        return (mon_vm_cpuid(v)->tsc_khz / 100000 & 0xff) << 8;
    case MSR_EFER:
        return v->efer;
    case MSR_FS_BASE:
        return v->seg[NOVT_FS].base;
    default:
        return v->seg[NOVT_GS].base;
    }
}

static uint64_t read_row(struct mon_vcpu *v, const struct row *row)
{
    uint64_t *field = field_of(v, row);
    if (field)
        return *field;
    if (row->kind == SPECIAL)
        return special_value(v, row);
    if (row->index == 0x8b) /* revision 1, in the upper half */
        return 1ull << 32;
    return row->kind == READ_ONLY ? row->mask : 0;
}

/* Whether the register is the local APIC's, and exists in its current mode. */
static bool is_apics(const struct mon_vcpu *v, uint32_t index)
{
    const struct mon_cpuid *id = mon_vm_cpuid(v);
    if (index == MSR_TSC_DEADLINE)
        return id->has_deadline;
    return index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST && id->has_x2apic &&
           v->msr.apic_base & MON_APIC_X2;
}

enum mon_rc mon_rdmsr(struct mon_vcpu *v, uint32_t index, uint64_t *value)
{
    if (is_apics(v, index))
        return mon_msr_exit(v, index, false, value);
    const struct row *row = row_of(index);
    if (!row || !exists(v, row))
        return mon_raise_error(v, MON_GP, 0);
    *value = read_row(v, row);
    return MON_OK;
}

/* ---- what may be written ---- */

/* Eight memory types (SDM 3-11.11.2.1); UC- (7) in the PAT only. */
static bool are_memory_types(uint64_t value, bool pat)
{
    for (unsigned n = 0; n < 8; n++) {
        unsigned type = value >> (8 * n) & 0xff;
        if (type > (pat ? 7 : 6) || type == 2 || type == 3)
            return false;
    }
    return true;
}

static bool is_writable(struct mon_vcpu *v, const struct row *row, uint64_t value)
{
    uint64_t physical = (1ull << mon_vm_cpuid(v)->phys_bits) - 1;
    switch (row->kind) {
    case READ_ONLY:
        return false;
    case PLAIN:
    case WIDE:
    case IGNORED: {
        const uint64_t *field = field_of(v, row);
        uint64_t kept = field && row->kind != IGNORED ? *field & ~row->mask : 0;
        return !(value & ~row->mask & ~kept);
    }
    case CANONICAL:
    case WIDE_ADDR:
        return tr_is_canonical(value);
    case MEMORY_TYPES:
        return are_memory_types(value, row->index == 0x277);
    case MTRR_BASE:
        return !(value & ~((physical & ~0xfffull) | 0xff)) && are_memory_types(value & 0xff, false);
    case MTRR_MASK:
        return !(value & ~((physical & ~0xfffull) | 0x800));
    default:
        return true;
    }
}

/* ---- writing ---- */

static bool efer_is_valid(struct mon_vcpu *v, uint64_t value)
{
    uint64_t allowed = 0;
    if (mon_vm_cpuid(v)->has_nx)
        allowed |= MON_EFER_NXE;
    if (mon_vm_cpuid(v)->has_long)
        allowed |= MON_EFER_SCE | MON_EFER_LME | MON_EFER_LMA;
    if (value & ~allowed)
        return false;
    /* Long mode is enabled and disabled with paging off (SDM 3-10.8.5). */
    return !((value ^ v->efer) & MON_EFER_LME) || !(v->cr0 & MON_CR0_PG);
}

static bool efer_write(struct mon_vcpu *v, uint64_t value)
{
    if (!efer_is_valid(v, value))
        return false;
    value = (value & ~(uint64_t)MON_EFER_LMA) | (v->efer & MON_EFER_LMA); /* LMA: read-only */
    uint64_t changed = value ^ v->efer;
    v->efer = value;
    if (changed)
        v->mode_changed = true;
    if (changed & MON_EFER_NXE) {
        mon_view_flush(v, true);
    }
    return true;
}

static bool base_write(struct mon_vcpu *v, unsigned seg, uint64_t value)
{
    if (!tr_is_canonical(value))
        return false;
    v->seg[seg].base = value;
    mon_seg_changed(v, seg);
    return true;
}

/* Writing either of TSC and TSC_ADJUST moves the other by as much (SDM 3-17.17.3). */
static bool tsc_shift(struct mon_vcpu *v, uint64_t delta)
{
    v->cpu->tsc_offset += delta;
    v->msr.tsc_adjust += delta;
    v->tsc_moved = delta && mon_vm_cpuid(v)->has_apic;
    mon_kvmclock_time(v);
    return true;
}

static bool write_special(struct mon_vcpu *v, const struct row *row, uint64_t value)
{
    switch (row->index) {
    case MSR_TSC:
        return tsc_shift(v, value - tsc(v));
    case MSR_TSC_ADJUST:
        return tsc_shift(v, value - v->msr.tsc_adjust);
    case MSR_EFER:
        return efer_write(v, value);
    case MSR_FS_BASE:
        return base_write(v, NOVT_FS, value);
    case MSR_GS_BASE:
        return base_write(v, NOVT_GS, value);
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_OLD:
        v->msr.kvm_wall_clock = value;
        mon_kvmclock_wall(v);
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_OLD:
        v->msr.kvm_system_time = value;
        mon_kvmclock_time(v);
        return true;
    default:
        return false; /* PLATFORM_INFO */
    }
}

/* What prepare_sides() has read (mode.c). */
static bool is_for_system_calls(const struct row *row)
{
    return row->kind == WIDE || row->kind == WIDE_ADDR ||
           (row->index >= 0x174 && row->index <= 0x176);
}

static bool write_row(struct mon_vcpu *v, const struct row *row, uint64_t value)
{
    if (row->kind == SPECIAL)
        return write_special(v, row, value);
    if (!is_writable(v, row, value))
        return false;
    uint64_t *field = field_of(v, row);
    if (field)
        *field = value;
    if (is_for_system_calls(row))
        v->mode_changed = true;
    return true;
}

/* SDM 3-10.12.5, figure 10-27: x2APIC mode is entered from xAPIC mode, and left by disabling. */
static bool apic_base_is_valid(struct mon_vcpu *v, uint64_t value)
{
    const struct mon_cpuid *id = mon_vm_cpuid(v);
    uint64_t allowed = ((1ull << id->phys_bits) - 1) & ~0xfffull;
    uint64_t old = v->msr.apic_base;
    allowed |= MON_APIC_BSP | MON_APIC_ENABLED | (id->has_x2apic ? MON_APIC_X2 : 0);
    if (value & ~allowed)
        return false;
    if (value & MON_APIC_X2)
        return value & MON_APIC_ENABLED && old & MON_APIC_ENABLED;
    return !(value & MON_APIC_ENABLED && old & MON_APIC_X2);
}

static enum mon_rc apic_base_write(struct mon_vcpu *v, uint64_t value)
{
    if (!apic_base_is_valid(v, value))
        return mon_raise_error(v, MON_GP, 0);
    enum mon_rc rc = mon_msr_exit(v, MSR_APIC_BASE, true, &value);
    if (rc == MON_OK)
        v->msr.apic_base = value;
    return rc;
}

enum mon_rc mon_wrmsr(struct mon_vcpu *v, uint32_t index, uint64_t value)
{
    if (is_apics(v, index))
        return mon_msr_exit(v, index, true, &value);
    if (index == MSR_APIC_BASE && mon_vm_cpuid(v)->has_apic)
        return apic_base_write(v, value);
    const struct row *row = row_of(index);
    if (!row || !exists(v, row) || !write_row(v, row, value))
        return mon_raise_error(v, MON_GP, 0);
    return MON_OK;
}

/* ---- the embedder's access ---- */

bool mon_msr_get(struct mon_vcpu *v, uint32_t index, uint64_t *value)
{
    const struct row *row = row_of(index);
    if (!row)
        return false;
    *value = read_row(v, row);
    return true;
}

/* Restoring a state: what the guest cannot write is accepted and dropped, and EFER comes with its
 * LMA bit. */
bool mon_msr_set(struct mon_vcpu *v, uint32_t index, uint64_t value)
{
    const struct row *row = row_of(index);
    if (!row)
        return false;
    uint64_t *field = field_of(v, row);
    if (index == MSR_TSC) {
        v->cpu->tsc_offset += value - tsc(v);
    } else if (index == MSR_EFER) {
        v->efer = value;
        v->mode_changed = true;
    } else if (field) {
        *field = value;
    } else if (row->kind == SPECIAL) {
        write_special(v, row, value);
    }
    if (row->index == MSR_TSC_ADJUST || field == &v->msr.kvm_system_time)
        mon_kvmclock_time(v);
    return true;
}

static bool is_state(const struct row *row)
{
    return row->offset != NOWHERE || (row->kind == SPECIAL && row->index != MSR_PLATFORM_INFO);
}

size_t mon_msr_list(uint32_t *index, size_t n)
{
    size_t count = 0;
    for (unsigned r = 0; r < ROWS; r++) {
        if (!is_state(&rows[r]))
            continue;
        if (count < n)
            index[count] = rows[r].index;
        count++;
    }
    return count;
}

/* ---- RESET (SDM 3-10.1.1, table 10-1) ---- */

static void reset_segments(struct mon_vcpu *v)
{
    for (unsigned seg = 0; seg < 6; seg++)
        v->seg[seg] = (struct novt_segment){.limit = 0xffff, .attr = 0x93};
    v->seg[NOVT_CS].base = 0xffff0000;
    v->seg[NOVT_CS].selector = 0xf000;
    v->seg[NOVT_CS].attr = 0x9b;
    v->tr = (struct novt_segment){.limit = 0xffff, .attr = 0x8b};
    v->ldt = (struct novt_segment){.limit = 0xffff, .attr = 0x82};
    v->gdt = v->idt = (struct novt_dtable){.limit = 0xffff};
}

static void reset_msrs(struct mon_vcpu *v)
{
    v->msr = (struct mon_msrs){
        .pat = 0x0007040600070406,
        .misc_enable = MISC_ENABLE_RESET,
        .apic_base = 0xfee00000 | (v->id == 0 ? MON_APIC_BSP : 0) |
                     (mon_vm_cpuid(v)->has_apic ? MON_APIC_ENABLED : 0),
    };
}

/* XSAVE image: header "all initial", and the two control words that are not zero. */
static void reset_vector_state(struct rt_cpu *cpu)
{
    uint8_t *area = cpu->xsave;
    if (!area)
        return;
    for (unsigned n = 0; n < 576; n++)
        area[n] = 0;
    area[0] = 0x7f; /* FCW 037fh */
    area[1] = 0x03;
    area[24] = 0x80; /* MXCSR 1f80h */
    area[25] = 0x1f;
    cpu->fpu_live = 0;
}

void mon_cpu_reset(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = v->cpu;
    uint32_t signature[4];

    for (unsigned n = 0; n < 16; n++)
        cpu->gpr[n] = 0;
    for (unsigned n = 0; n < 8; n++)
        v->dr[n] = 0;
    v->cr0 = MON_CR0_CD | MON_CR0_NW | MON_CR0_ET;
    v->cr2 = v->cr3 = v->cr4 = v->cr8 = v->efer = 0;
    v->xcr0 = 1;
    v->dr[6] = 0xffff0ff0;
    v->dr[7] = 0x400;
    mon_cpuid(v, 1, 0, signature);
    cpu->gpr[RT_DX] = signature[0];
    cpu->rip = 0xfff0;
    cpu->rflags = 2;
    cpu->cpl = 0;
    cpu->tsc_offset = 0 - __builtin_ia32_rdtsc();
    reset_segments(v);
    reset_msrs(v);
    reset_vector_state(cpu);
    v->shadow = v->shadow_ss = v->halted = v->injected = false;
    v->mc_pending = v->nmi_pending = v->nmi_blocked = false;
    v->tsc_moved = false;
    v->run.cr8 = 0;
    v->debug_held = 0;
    v->mode_changed = true;
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_changed(v, seg);
}
