/* The CPU that guests see: CPUID models, answers that depend on state, and MSRs. */
#include "tests/unit/cpu_machine.h"

#include <cpuid.h>
#include <time.h>

static struct machine m;

static void setup(void)
{
    machine_create(&m);
}
static void teardown(void)
{
    machine_destroy(&m);
}
TestSuite(cpu_cpuid, .init = setup, .fini = teardown, .timeout = 30);
TestSuite(cpu_msr, .init = setup, .fini = teardown, .timeout = 30);

#define ROWS(type, rows) cr_make_param_array(type, rows, sizeof(rows) / sizeof((rows)[0]))

enum { EAX, EBX, ECX, EDX };

static uint32_t guest(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
    uint32_t out[4];
    mon_cpuid(m.v, leaf, subleaf, out);
    return out[reg];
}
static uint32_t host(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
    uint32_t out[4];
    __cpuid_count(leaf, subleaf, out[EAX], out[EBX], out[ECX], out[EDX]);
    return out[reg];
}

/* ---- features ---- */

struct bit_row {
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
};
static struct bit_row hidden[] = {
    {1, 0, EDX, 9},          /* APIC */
    {1, 0, EDX, 28},         /* HTT */
    {1, 0, ECX, 3},          /* MONITOR */
    {1, 0, ECX, 5},          /* VMX */
    {1, 0, ECX, 21},         /* x2APIC */
    {1, 0, ECX, 24},         /* TSC deadline */
    {7, 0, EBX, 4},          /* HLE */
    {7, 0, EBX, 11},         /* RTM */
    {7, 0, EBX, 14},         /* MPX */
    {7, 0, EBX, 25},         /* PT */
    {7, 0, ECX, 3},          /* PKU */
    {7, 0, ECX, 7},          /* CET shadow stacks */
    {7, 0, ECX, 16},         /* LA57 */
    {7, 0, EDX, 16},         /* TSXLDTRK */
    {7, 0, EDX, 20},         /* CET IBT */
    {7, 0, EDX, 24},         /* AMX */
    {7, 0, EDX, 26},         /* IBRS, IBPB */
    {7, 0, EBX, 20},         /* SMAP: only when asked for */
    {0x80000001, 0, ECX, 2}, /* SVM */
};
ParameterizedTestParameters(cpu_cpuid, what_is_not_virtualized_is_hidden)
{
    return ROWS(struct bit_row, hidden);
}
ParameterizedTest(struct bit_row *row, cpu_cpuid, what_is_not_virtualized_is_hidden)
{
    cr_assert(!(guest(row->leaf, row->subleaf, row->reg) >> row->bit & 1));
}

static struct bit_row passed[] = {
    {1, 0, EDX, 0},           {1, 0, EDX, 26},          {1, 0, ECX, 0},
    {1, 0, ECX, 9},           {1, 0, ECX, 20},          {1, 0, ECX, 23},
    {1, 0, ECX, 28},          {7, 0, EBX, 5},           {7, 0, EBX, 8},
    {7, 0, EBX, 16},          {7, 0, EBX, 29},          {7, 0, ECX, 9},
    {7, 1, EAX, 4},           {0xd, 1, EAX, 1},         {0x80000001, 0, EDX, 20},
    {0x80000001, 0, EDX, 29}, {0x80000001, 0, EDX, 27}, {0x80000001, 0, EDX, 26},
    {0x80000001, 0, ECX, 0},  {1, 0, ECX, 13},          {7, 0, EBX, 7},
};
ParameterizedTestParameters(cpu_cpuid, instruction_sets_are_the_hosts)
{
    return ROWS(struct bit_row, passed);
}
ParameterizedTest(struct bit_row *row, cpu_cpuid, instruction_sets_are_the_hosts)
{
    cr_assert_eq(guest(row->leaf, row->subleaf, row->reg) >> row->bit & 1,
                 host(row->leaf, row->subleaf, row->reg) >> row->bit & 1);
}

/* No bit is offered that the host lacks, but those that the monitor provides itself. */
Test(cpu_cpuid, nothing_is_offered_that_the_host_lacks)
{
    cr_assert_eq(guest(1, 0, EDX) & ~host(1, 0, EDX), 0);
    cr_assert_eq(guest(1, 0, ECX) & ~host(1, 0, ECX) & ~(1u << 31), 0);
    cr_assert_eq(guest(7, 0, EBX) & ~host(7, 0, EBX) & ~2u, 0);
    cr_assert_eq(guest(7, 0, ECX) & ~host(7, 0, ECX), 0);
    cr_assert_eq(guest(7, 0, EDX) & ~host(7, 0, EDX) & ~(1u << 29), 0);
}

Test(cpu_cpuid, brand_string_is_the_hosts)
{
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++)
        for (unsigned reg = EAX; reg <= EDX; reg++)
            cr_assert_eq(guest(leaf, 0, reg), host(leaf, 0, reg));
}

/* Intel's CPUs show SYSCALL only where it works. */
Test(cpu_cpuid, syscall_is_seen_from_64_bit_code)
{
    if (!mon_vm_cpuid(m.v)->intel)
        return;
    cr_assert(!(guest(0x80000001, 0, EDX) >> 11 & 1));
    machine_long(&m, 0, true);
    cr_assert_eq(guest(0x80000001, 0, EDX) >> 11 & 1, host(0x80000001, 0, EDX) >> 11 & 1);
    cr_assert_eq(guest(0x80000008, 0, EAX) >> 8 & 0xff, 48);
}

/* ---- models ---- */

static struct mon_cpuid table;
static char err[200];

static uint32_t in_table(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
    for (unsigned n = 0; n < table.count; n++) {
        const struct mon_cpuid_entry *e = &table.entry[n];
        if (e->leaf == leaf && (!e->has_subleaf || e->subleaf == subleaf))
            return (const uint32_t[]){e->eax, e->ebx, e->ecx, e->edx}[reg];
    }
    return 0;
}

Test(cpu_cpuid, base_is_sse4_without_avx)
{
    cr_assert_eq(mon_cpuid_build(&table, "base", false, err, sizeof(err)), 0);
    cr_assert(in_table(1, 0, ECX) >> 20 & 1);
    cr_assert(!(in_table(1, 0, ECX) >> 28 & 1));
    cr_assert_eq(table.xcr0_allowed, 0);
    cr_assert(table.has_nx);
}

Test(cpu_cpuid, a_name_takes_away_what_depends_on_it)
{
    cr_assert_eq(mon_cpuid_build(&table, "host,-avx", false, err, sizeof(err)), 0);
    cr_assert(!(in_table(1, 0, ECX) >> 28 & 1));
    cr_assert(!(in_table(7, 0, EBX) >> 5 & 1), "avx2");
    cr_assert(!(in_table(7, 0, EBX) >> 16 & 1), "avx512f");
    cr_assert(!(in_table(7, 0, EBX) >> 30 & 1), "avx512bw");
    cr_assert_eq(table.xcr0_allowed, host(1, 0, ECX) >> 26 & 1 ? 3 : 0);
}

Test(cpu_cpuid, smap_can_be_asked_for)
{
    cr_assert_eq(mon_cpuid_build(&table, "host", false, err, sizeof(err)), 0);
    cr_assert(!table.has_smap);
    if (!(host(7, 0, EBX) >> 20 & 1))
        return;
    cr_assert_eq(mon_cpuid_build(&table, "host,+smap", false, err, sizeof(err)), 0);
    cr_assert(table.has_smap && in_table(7, 0, EBX) >> 20 & 1);
}

Test(cpu_cpuid, without_long_mode_nothing_of_it_is_left)
{
    cr_assert_eq(mon_cpuid_build(&table, "host,-lm", false, err, sizeof(err)), 0);
    cr_assert(!table.has_long && !table.has_1g && !table.has_fsgsbase);
    cr_assert_eq(in_table(0x80000001, 0, EDX) & (1u << 29 | 1u << 26 | 1u << 11), 0);
    cr_assert_eq(in_table(0x80000001, 0, ECX) & 1, 0);
}

struct model_row {
    char model[32], message[40];
};
static struct model_row bad_models[] = {
    {"fast", "fast"},
    {"host,avx", "\"avx\""},
    {"host,+vmx", "vmx"},
    {"host,-nonsense", "nonsense"},
    {"base,+la57", "does not virtualize"},
    {"", "unknown"},
};
ParameterizedTestParameters(cpu_cpuid, bad_models_are_refused_by_name)
{
    return ROWS(struct model_row, bad_models);
}
ParameterizedTest(struct model_row *row, cpu_cpuid, bad_models_are_refused_by_name)
{
    cr_assert_eq(mon_cpuid_build(&table, row->model, false, err, sizeof(err)), NOVT_E_INVAL);
    cr_assert(strstr(err, row->message), "%s", err);
}

/* ---- answers that depend on the vCPU ---- */

Test(cpu_cpuid, osxsave_reflects_cr4)
{
    m.v->cr4 &= ~(uint64_t)MON_CR4_OSXSAVE;
    cr_assert(!(guest(1, 0, ECX) >> 27 & 1));
    m.v->cr4 |= MON_CR4_OSXSAVE;
    cr_assert(guest(1, 0, ECX) >> 27 & 1);
}

Test(cpu_cpuid, area_sizes_follow_xcr0)
{
    m.v->xcr0 = 1;
    cr_assert_eq(guest(0xd, 0, EBX), 576);
    m.v->xcr0 = 7;
    cr_assert_eq(guest(0xd, 0, EBX), 576 + 256);
    cr_assert_eq(guest(0xd, 1, EBX), 576 + 256);
    m.v->xcr0 = mon_vm_cpuid(m.v)->xcr0_allowed;
    cr_assert_eq(guest(0xd, 0, EBX), guest(0xd, 0, ECX));
    cr_assert_eq(guest(0xd, 0, EAX), (uint32_t)m.v->xcr0);
    cr_assert(guest(0xd, 1, EBX) <= guest(0xd, 0, EBX));
    cr_assert_eq(guest(0xd, 17, EAX), 0);
}

Test(cpu_cpuid, one_core_in_every_leaf)
{
    cr_assert_eq(guest(1, 0, EBX) >> 16 & 0xff, 1);
    cr_assert_eq(guest(4, 0, EAX) >> 14, 0);
    cr_assert_eq(guest(0xb, 0, EBX), 1);
    cr_assert_eq(guest(0xb, 1, EBX), 1);
    cr_assert_eq(guest(0xb, 2, EBX), 0);
    cr_assert_eq(guest(0xb, 2, ECX), 2);
}

Test(cpu_cpuid, frequency_is_told_three_ways_and_is_true)
{
    uint64_t khz = mon_vm_cpuid(m.v)->tsc_khz;
    struct timespec wait = {.tv_nsec = 50000000}, before, after;

    cr_assert_eq(guest(0x40000010, 0, EAX), khz);
    if (guest(0, 0, EAX) >= 0x16) {
        cr_assert_eq(
            (uint64_t)guest(0x15, 0, ECX) * guest(0x15, 0, EBX) / guest(0x15, 0, EAX) / 1000, khz);
        cr_assert_eq(guest(0x15, 0, ECX), mon_vm_cpuid(m.v)->apic_khz * 1000);
        cr_assert_eq(guest(0x15, 0, ECX) / 1000 * (uint32_t)guest(0x15, 0, EBX) /
                         guest(0x15, 0, EAX),
                     khz, "in 32 bits, as Linux calculates");
        cr_assert(guest(0x16, 0, EAX) >= khz / 1000 && guest(0x16, 0, EAX) <= khz / 1000 + 1);
    }
    clock_gettime(CLOCK_MONOTONIC_RAW, &before);
    uint64_t tsc = __builtin_ia32_rdtsc();
    nanosleep(&wait, NULL);
    tsc = __builtin_ia32_rdtsc() - tsc;
    clock_gettime(CLOCK_MONOTONIC_RAW, &after);
    double ms = (double)(after.tv_sec - before.tv_sec) * 1e3 +
                (double)(after.tv_nsec - before.tv_nsec) / 1e6;
    double measured = (double)tsc / ms;
    cr_assert(measured > (double)khz * 0.98 && measured < (double)khz * 1.02, "%f, not %llu",
              measured, (unsigned long long)khz);
}

/* KVM's clock, and nothing else of its interface; our own name behind it. */
Test(cpu_cpuid, hypervisor_leaves_are_kvms_and_ours)
{
    uint32_t signature[3] = {guest(0x40000000, 0, EBX), guest(0x40000000, 0, ECX),
                             guest(0x40000000, 0, EDX)};
    cr_assert(!memcmp(signature, "KVMKVMKVM\0\0", 12));
    cr_assert_eq(guest(0x40000000, 0, EAX), 0x40000010);
    cr_assert_eq(guest(0x40000001, 0, EAX), 0x0100000b);
    cr_assert_eq(guest(0x40000001, 0, EDX), 0);
    cr_assert_eq(guest(0x40000010, 0, EBX), mon_vm_cpuid(m.v)->apic_khz);
    uint32_t name[3] = {guest(0x40000100, 0, EBX), guest(0x40000100, 0, ECX),
                        guest(0x40000100, 0, EDX)};
    cr_assert(!memcmp(name, "novtnovtnovt", 12));
    cr_assert(guest(1, 0, ECX) >> 31);
}

Test(cpu_cpuid, leaves_beyond_the_last_answer_as_it_does)
{
    uint32_t last = guest(0, 0, EAX);
    cr_assert_eq(guest(last + 1, 0, EAX), guest(last, 0, EAX));
    cr_assert_eq(guest(0xa, 0, EAX), 0);
    cr_assert_eq(guest(6, 0, EAX), 0);
}

/* ---- the local APIC, which the embedder may have ---- */

Test(cpu_cpuid, a_local_apic_is_the_embedders)
{
    cr_assert_eq(mon_cpuid_build(&table, "base", true, err, sizeof(err)), 0);
    cr_assert(table.has_apic && table.has_x2apic && table.has_deadline);
    cr_assert(in_table(1, 0, EDX) >> 9 & 1);
    cr_assert(in_table(1, 0, ECX) >> 21 & 1);
    cr_assert(in_table(1, 0, ECX) >> 24 & 1);
    cr_assert(in_table(6, 0, EAX) >> 2 & 1, "ARAT");
    cr_assert_eq(mon_cpuid_build(&table, "host,-x2apic", true, err, sizeof(err)), 0);
    cr_assert(table.has_apic && !table.has_x2apic && table.has_deadline);
    cr_assert_eq(mon_cpuid_build(&table, "host,-apic", true, err, sizeof(err)), 0);
    cr_assert(!table.has_apic && !table.has_x2apic && !table.has_deadline);
    cr_assert(!(in_table(1, 0, ECX) >> 21 & 1) && !in_table(6, 0, EAX));
    cr_assert_eq(mon_cpuid_build(&table, "host,+x2apic", false, err, sizeof(err)), NOVT_E_INVAL);
    cr_assert(strstr(err, "there is no local APIC"), "%s", err);
}

/* ---- MSRs ---- */

#define IA32_TSC          0x10u
#define IA32_TSC_ADJUST   0x3bu
#define IA32_ARCH_CAPS    0x10au
#define IA32_SYSENTER_EIP 0x176u
#define IA32_PAT          0x277u
#define IA32_EFER         0xc0000080u

static uint64_t rdmsr(uint32_t index)
{
    uint64_t value = 0;
    ASSERT_OK(mon_rdmsr(m.v, index, &value));
    return value;
}

Test(cpu_msr, unknown_ones_fault)
{
    uint64_t value;
    ASSERT_FAULT(mon_rdmsr(m.v, 0x12345, &value), MON_GP, 0);
    ASSERT_FAULT(mon_wrmsr(m.v, 0x12345, 0), MON_GP, 0);
    ASSERT_OK(mon_rdmsr(m.v, 0xc0000082, &value)); /* LSTAR */
    ((struct mon_cpuid *)mon_vm_cpuid(m.v))->has_long = false;
    ASSERT_FAULT(mon_rdmsr(m.v, 0xc0000082, &value), MON_GP, 0);
    ASSERT_FAULT(mon_wrmsr(m.v, IA32_EFER, MON_EFER_LME), MON_GP, 0);
    cr_assert(!mon_msr_get(m.v, 0x12345, &value));
}

struct write_row {
    uint32_t index;
    uint64_t value;
    bool allowed;
};
static struct write_row writes[] = {
    {0x174, 0x60, true},
    {0x174, 1ull << 32, false},
    {IA32_SYSENTER_EIP, 0xc1000000, true},
    {IA32_SYSENTER_EIP, 1ull << 47, false},
    {IA32_PAT, 0x0007050600070106, true},
    {IA32_PAT, 0x02, false},
    {IA32_PAT, 0x08, false},
    {IA32_ARCH_CAPS, 0, false},
    {0x200, 0x6, true},
    {0x200, 0x3, false},
    {0x201, 0xf00000800, true},
    {0x201, 0x400, false},
    {0x250, 0x0606060606060606, true},
    {0x250, 0x07, false},
    {0x2ff, 0xc06, true},
    {0x1a0, 0x1801, true},
    {0x1a0, 1ull << 40, false},
    {0x48, 1, true},
    {0x48, 0x1000, false},
    {0xda0, 0, true},
    {0xda0, 0x100, false},
    {IA32_EFER, 0x800, true},
    {IA32_EFER, MON_EFER_LME | MON_EFER_SCE, true},
    {IA32_EFER, 0x200, false},
    {0xc0000081, 0x0023001000000000, true},
    {0xc0000082, 0xffffffff81000000, true},
    {0xc0000082, 1ull << 47, false},
    {0xc0000084, 0x47700, true},
    {0xc0000084, 1ull << 32, false},
    {0xc0000100, 0x7fffffffffff, true},
    {0xc0000101, 1ull << 63, false},
    {0xc0000102, 0xffff888000000000, true},
    {0xc0000102, 0x0001000000000000, false},
    {IA32_EFER, 0x2, false},
};
ParameterizedTestParameters(cpu_msr, writes_are_checked)
{
    return ROWS(struct write_row, writes);
}
ParameterizedTest(struct write_row *row, cpu_msr, writes_are_checked)
{
    uint64_t before = rdmsr(row->index);
    if (!row->allowed) {
        ASSERT_FAULT(mon_wrmsr(m.v, row->index, row->value), MON_GP, 0);
        ASSERT_HEX(rdmsr(row->index), before);
        return;
    }
    ASSERT_OK(mon_wrmsr(m.v, row->index, row->value));
    ASSERT_HEX(rdmsr(row->index), row->value);
}

Test(cpu_msr, no_work_against_speculation_is_needed)
{
    uint64_t caps = rdmsr(IA32_ARCH_CAPS);
    cr_assert(caps & 1, "Meltdown");
    cr_assert(caps >> 1 & 1, "retpolines");
    cr_assert(caps >> 5 & 1, "MDS");
    cr_assert(caps >> 8 & 1, "TAA");
    cr_assert(caps >> 4 & 1, "SSB");
}

Test(cpu_msr, writing_the_tsc_moves_tsc_adjust)
{
    uint64_t adjust = rdmsr(IA32_TSC_ADJUST);
    uint64_t now = rdmsr(IA32_TSC);
    ASSERT_OK(mon_wrmsr(m.v, IA32_TSC, now + 1000000000000));
    cr_assert(rdmsr(IA32_TSC) - now - 1000000000000 < 1000000000);
    uint64_t moved = rdmsr(IA32_TSC_ADJUST) - adjust;
    cr_assert(moved <= 1000000000000 && moved > 999000000000, "%llu", (unsigned long long)moved);
    ASSERT_OK(mon_wrmsr(m.v, IA32_TSC_ADJUST, adjust));
    cr_assert(rdmsr(IA32_TSC) - now < 1000000000);
}

Test(cpu_msr, nxe_changes_the_address_space)
{
    ASSERT_OK(mon_wrmsr(m.v, IA32_EFER, MON_EFER_NXE));
    cr_assert(m.v->mode_changed);
}

Test(cpu_msr, the_list_saves_and_restores_every_state)
{
    uint32_t index[128];
    size_t n = mon_msr_list(index, 128);
    cr_assert(n > 30 && n <= 128);
    cr_assert_eq(mon_msr_list(NULL, 0), n);
    ASSERT_OK(mon_wrmsr(m.v, 0x174, 0x60));
    for (size_t i = 0; i < n; i++) {
        uint64_t value;
        cr_assert(mon_msr_get(m.v, index[i], &value));
        cr_assert(mon_msr_set(m.v, index[i], value));
    }
    ASSERT_HEX(rdmsr(0x174), 0x60);
}

/* ---- RESET ---- */

Test(cpu_msr, reset_is_as_in_the_manual)
{
    struct mon_vcpu *v = m.v;
    mon_cpu_reset(v);
    ASSERT_HEX(v->cpu->rip, 0xfff0);
    ASSERT_HEX(v->seg[NOVT_CS].base, 0xffff0000);
    ASSERT_HEX(v->seg[NOVT_CS].selector, 0xf000);
    ASSERT_HEX(v->cr0, 0x60000010);
    ASSERT_HEX(v->cpu->rflags, 2);
    ASSERT_HEX(v->cpu->gpr[RT_DX], host(1, 0, EAX));
    ASSERT_HEX(v->dr[6], 0xffff0ff0);
    ASSERT_HEX(v->dr[7], 0x400);
    ASSERT_HEX(v->idt.limit, 0xffff);
    ASSERT_HEX(rdmsr(IA32_PAT), 0x0007040600070406);
}
