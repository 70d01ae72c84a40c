/* cpuid.c - the CPU that guests see.
 *
 * A table per VM, made once: the host's leaves, with feature bits through cpuid.def, topology
 * reduced to one core, state components recomputed for what guests may enable, and what describes
 * the host's power, performance monitoring or caches' control left at zero. Executing CPUID takes
 * microseconds on a virtualized host, so the host's leaves are read once a process, and guests are
 * answered from the table. Some answers depend on the vCPU: OSXSAVE, SYSCALL, the APIC id, and the
 * sizes of the XSAVE area for the current XCR0.
 *
 * SMAP is virtualized, but a guest gets it only by "+smap". Its kernel would then run STAC and CLAC
 * around every access to user memory, and each of them is a change of mode: it leaves the code
 * cache, and the accesses between them go through another view. What SMAP guards against, a kernel
 * led astray into user memory, is a defect of the guest that concerns nobody else: no isolation
 * between guest and host depends on it. SMEP costs nothing and is offered.
 *
 * The hypervisor leaves are those of KVM's paravirtual interface at 40000000h, with its clock
 * (kvmclock.c) and nothing else of it, so that guests read the time without an exit and need not
 * measure the TSC; 40000010h has the frequencies, as VMware's does. Our own name is at 40000100h.
 *
 * Thread: building is for one thread a table; mon_cpuid() only reads it. */
#include "monitor/cpu/cpu.h"

#include "runtime/rt.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum reg { EAX, EBX, ECX, EDX };
enum offer { HOST, BASE, OURS, ASKED, APIC, NEVER };

struct feature {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t reg, bit, offer;
};
static const struct feature features[] = {
#define F(name, leaf, subleaf, reg, bit, offer) {#name, leaf, subleaf, reg, bit, offer},
#include "monitor/cpu/cpuid.def"
#undef F
};
#define FEATURES (sizeof(features) / sizeof(features[0]))

#define MAX_BASIC       0x16u
#define MAX_EXTENDED    0x80000008u
#define HYPERVISOR      0x40000000u
#define HYPERVISOR_LAST 0x40000010u
#define OUR_NAME        0x40000100u
#define KVM_FEATURES    0x40000001u

/* Linux' uapi/asm/kvm_para.h */
#define KVM_CLOCKSOURCE        (1u << 0) /* MSRs 11h and 12h */
#define KVM_NOP_IO_DELAY       (1u << 1) /* no need to write port 80h */
#define KVM_CLOCKSOURCE2       (1u << 3) /* MSRs 4B564D00h and 4B564D01h */
#define KVM_CLOCKSOURCE_STABLE (1u << 24)

#define CRYSTAL_KHZ 25000u

#define CPUID_APIC (1u << 9) /* leaf 1, EDX; AMD's 80000001h has it again */

#define XCR0_LEGACY 0x3u
#define XCR0_AVX    0x4u
#define XCR0_AVX512 0xe0u

/* ---- the host ---- */

static struct {
    struct mon_cpuid_entry entry[64];
    unsigned count;
    uint64_t tsc_khz;
} host;
static pthread_once_t host_once = PTHREAD_ONCE_INIT;

static struct mon_cpuid_entry host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct mon_cpuid_entry e = {.leaf = leaf, .subleaf = subleaf};
    __cpuid_count(leaf, subleaf, e.eax, e.ebx, e.ecx, e.edx);
    return e;
}

static struct mon_cpuid_entry *host_read(uint32_t leaf, uint32_t subleaf)
{
    struct mon_cpuid_entry *e = &host.entry[host.count++];
    *e = host_cpuid(leaf, subleaf);
    return e;
}

/* kHz from crystal and ratio (leaf 15h), from a hypervisor that says so, or 0. */
static uint64_t tsc_khz_reported(uint32_t max_basic)
{
    if (max_basic >= 0x15) {
        struct mon_cpuid_entry e = host_cpuid(0x15, 0);
        if (e.eax && e.ebx && e.ecx)
            return (uint64_t)e.ecx * e.ebx / e.eax / 1000;
    }
    if (!(host_cpuid(1, 0).ecx >> 31))
        return 0;
    uint32_t last = host_cpuid(HYPERVISOR, 0).eax;
    if (last < HYPERVISOR_LAST || last > HYPERVISOR + 0xff)
        return 0;
    return host_cpuid(HYPERVISOR_LAST, 0).eax;
}

/* One reading of both clocks: of several, the one that took the shortest time. */
static void read_clocks(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = ~0ull;
    for (unsigned n = 0; n < 16; n++) {
        uint64_t before = __builtin_ia32_rdtsc(), now = rt_os_now_ns();
        uint64_t after = __builtin_ia32_rdtsc();
        if (after - before >= best)
            continue;
        best = after - before;
        *tsc = before + best / 2;
        *ns = now;
    }
}

#define CALIBRATION_NS 20000000u

static uint64_t tsc_khz_measured(void)
{
    uint64_t tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;
    read_clocks(&tsc0, &ns0);
    while (rt_os_now_ns() - ns0 < CALIBRATION_NS)
        ;
    read_clocks(&tsc1, &ns1);
    return (tsc1 - tsc0) * 1000000 / (ns1 - ns0);
}

static void read_caches(void)
{
    for (uint32_t n = 0; n < 6 && (host_read(4, n)->eax & 31); n++)
        ;
}

static void host_init(void)
{
    uint32_t max = host_read(0, 0)->eax;

    for (uint32_t leaf = 1; leaf <= 2 && leaf <= max; leaf++)
        host_read(leaf, 0);
    if (max >= 4)
        read_caches();
    for (uint32_t n = 0; max >= 7 && n < 2; n++)
        host_read(7, n);
    for (uint32_t n = 0; max >= 0xd && n < 8; n++)
        host_read(0xd, n);
    uint32_t max_extended = host_read(0x80000000, 0)->eax;
    for (uint32_t leaf = 0x80000001; leaf <= max_extended && leaf <= MAX_EXTENDED; leaf++)
        host_read(leaf, 0);
    host.tsc_khz = tsc_khz_reported(max);
    if (!host.tsc_khz)
        host.tsc_khz = tsc_khz_measured();
}

static struct mon_cpuid_entry host_get(uint32_t leaf, uint32_t subleaf)
{
    for (unsigned n = 0; n < host.count; n++)
        if (host.entry[n].leaf == leaf && host.entry[n].subleaf == subleaf)
            return host.entry[n];
    return (struct mon_cpuid_entry){.leaf = leaf, .subleaf = subleaf};
}

/* ---- the table ---- */

static uint32_t *reg_of(struct mon_cpuid_entry *e, unsigned reg)
{
    uint32_t *regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};
    return regs[reg];
}

static struct mon_cpuid_entry *find(const struct mon_cpuid *table, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned n = 0; n < table->count; n++) {
        const struct mon_cpuid_entry *e = &table->entry[n];
        if (e->leaf == leaf && (!e->has_subleaf || e->subleaf == subleaf))
            return (struct mon_cpuid_entry *)e;
    }
    return NULL;
}

static struct mon_cpuid_entry *add(struct mon_cpuid *table, struct mon_cpuid_entry e,
                                   bool has_subleaf)
{
    struct mon_cpuid_entry *slot = &table->entry[table->count++];
    RT_ASSERT(table->count <= sizeof(table->entry) / sizeof(table->entry[0]));
    *slot = e;
    slot->has_subleaf = has_subleaf;
    return slot;
}

static bool has(const struct mon_cpuid *table, const char *name)
{
    for (unsigned n = 0; n < FEATURES; n++) {
        const struct feature *f = &features[n];
        if (strcmp(f->name, name))
            continue;
        struct mon_cpuid_entry *e = find(table, f->leaf, f->subleaf);
        return e && (*reg_of(e, f->reg) >> f->bit & 1);
    }
    return false;
}

static void set(struct mon_cpuid *table, const struct feature *f, bool on)
{
    struct mon_cpuid_entry *e = find(table, f->leaf, f->subleaf);
    if (!e)
        return;
    uint32_t *reg = reg_of(e, f->reg);
    *reg = on ? *reg | 1u << f->bit : *reg & ~(1u << f->bit);
}

static bool host_has(const struct feature *f)
{
    struct mon_cpuid_entry e = host_get(f->leaf, f->subleaf);
    return *reg_of(&e, f->reg) >> f->bit & 1;
}

static bool is_available(const struct mon_cpuid *table, const struct feature *f)
{
    if (f->offer == NEVER)
        return false;
    if (f->offer == APIC)
        return table->local_apic;
    return f->offer == OURS || host_has(f);
}

/* ---- building: leaves ---- */

static bool vendor_is_intel(void)
{
    struct mon_cpuid_entry e = host_get(0, 0);
    return e.ebx == 0x756e6547 && e.edx == 0x49656e69 && e.ecx == 0x6c65746e;
}

static void add_basic(struct mon_cpuid *table)
{
    struct mon_cpuid_entry e = host_get(0, 0);
    /* Intel's leaves 15h and 16h are made here; elsewhere they do not exist. */
    table->max_basic = vendor_is_intel() ? MAX_BASIC : e.eax < 0xd ? e.eax : 0xd;
    e.eax = table->max_basic;
    add(table, e, false);
    e = host_get(1, 0);
    e.ebx = (e.ebx & 0xff00) | 1u << 16;
    e.ecx = e.edx = 0;
    add(table, e, false);
    add(table, host_get(2, 0), false);
    for (uint32_t n = 0; n < 5 && ((e = host_get(4, n)).eax & 31); n++) {
        e.eax &= 0x3fff; /* one core, one thread */
        add(table, e, true);
    }
    if (table->max_basic >= 6)
        add(table, (struct mon_cpuid_entry){.leaf = 6}, false);
    for (uint32_t n = 0; n < 2; n++)
        add(table, (struct mon_cpuid_entry){.leaf = 7, .subleaf = n, .eax = n == 0}, true);
}

/* One thread in one core in one package. */
static void add_topology(struct mon_cpuid *table)
{
    add(table, (struct mon_cpuid_entry){.leaf = 0xb, .ebx = 1, .ecx = 1 << 8}, true);
    add(table, (struct mon_cpuid_entry){.leaf = 0xb, .subleaf = 1, .ebx = 1, .ecx = 2 << 8 | 1},
        true);
}

/* A crystal near 25 MHz, as Intel's usual ones are, and its ratio to the TSC that gives the TSC's
 * frequency to the kHz; Linux multiplies in 32 bits, which bounds the ratio. If there is none, 1
 * MHz gives all digits too, but is a coarse clock for the APIC's timer. */
static bool ratio_for(uint64_t khz, uint64_t crystal, uint32_t *ebx, uint32_t *eax)
{
    for (uint64_t n = 1; khz * n + crystal < UINT32_MAX; n++) {
        uint64_t up = (khz * n + crystal - 1) / crystal;
        if (up * crystal / n == khz) {
            *ebx = (uint32_t)up;
            *eax = (uint32_t)n;
            return true;
        }
    }
    return false;
}

static void choose_crystal(struct mon_cpuid *table, uint32_t *ebx, uint32_t *eax)
{
    for (uint32_t khz = CRYSTAL_KHZ; khz > CRYSTAL_KHZ / 2; khz--) {
        if (ratio_for(table->tsc_khz, khz, ebx, eax)) {
            table->apic_khz = khz;
            return;
        }
    }
    table->apic_khz = 1000;
    *ebx = (uint32_t)table->tsc_khz;
    *eax = 1000;
}

static void add_frequency(struct mon_cpuid *table)
{
    uint32_t mhz = (uint32_t)(table->tsc_khz + 500) / 1000;
    struct mon_cpuid_entry e = {.leaf = 0x15};
    choose_crystal(table, &e.ebx, &e.eax);
    e.ecx = table->apic_khz * 1000;
    if (table->max_basic < 0x16)
        return;
    add(table, e, false);
    add(table, (struct mon_cpuid_entry){.leaf = 0x16, .eax = mhz, .ebx = mhz, .ecx = 100}, false);
}

static void add_hypervisor(struct mon_cpuid *table)
{
    struct mon_cpuid_entry e = {.leaf = HYPERVISOR, .eax = HYPERVISOR_LAST};
    memcpy(&e.ebx, "KVMK", 4);
    memcpy(&e.ecx, "VMKV", 4);
    memcpy(&e.edx, "M\0\0", 4);
    add(table, e, false);
    add(table,
        (struct mon_cpuid_entry){.leaf = KVM_FEATURES,
                                 .eax = KVM_CLOCKSOURCE | KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 |
                                        KVM_CLOCKSOURCE_STABLE},
        false);
    add(table,
        (struct mon_cpuid_entry){
            .leaf = HYPERVISOR_LAST, .eax = (uint32_t)table->tsc_khz, .ebx = table->apic_khz},
        false);
    e = (struct mon_cpuid_entry){.leaf = OUR_NAME, .eax = OUR_NAME};
    memcpy(&e.ebx, "novt", 4);
    e.ecx = e.edx = e.ebx;
    add(table, e, false);
}

static void add_extended(struct mon_cpuid *table)
{
    struct mon_cpuid_entry e = host_get(0x80000000, 0);
    table->max_ext = e.eax < MAX_EXTENDED ? e.eax : MAX_EXTENDED;
    e.eax = table->max_ext;
    add(table, e, false);
    for (uint32_t leaf = 0x80000001; leaf <= table->max_ext; leaf++) {
        e = host_get(leaf, 0);
        if (leaf == 0x80000001)
            e.ecx = e.edx = 0;
        if (leaf >= 0x80000007)
            e.ebx = e.ecx = e.edx = 0;
        if (leaf == 0x80000007)
            e.eax = 0;
        if (leaf == 0x80000008) /* 48 bits of linear address: la57 is not offered */
            e.eax = (e.eax & 0xff) | 48 << 8;
        add(table, e, false);
    }
}

/* ---- building: features ---- */

static bool is_apic(const char *name)
{
    return !strcmp(name, "x2apic") || !strcmp(name, "tsc_deadline_timer") || !strcmp(name, "arat");
}

/* Useless without the state that the other enables (SDM 1-13.3, 1-14.3, 1-15.2). */
static bool needs(const char *name, const char *other)
{
    static const char *const with_avx[] = {"avx2",       "fma",      "f16c",   "vaes",
                                           "vpclmulqdq", "avx_vnni", "avx512f"};
    static const char *const with_lm[] = {"syscall", "pdpe1gb", "lahf_lm", "fsgsbase"};
    if (!strcmp(other, "lm")) {
        for (unsigned n = 0; n < sizeof(with_lm) / sizeof(with_lm[0]); n++)
            if (!strcmp(name, with_lm[n]))
                return true;
        return false;
    }
    if (!strcmp(other, "avx512f"))
        return !strncmp(name, "avx512", 6) && strcmp(name, "avx512f");
    if (!strcmp(other, "apic"))
        return is_apic(name);
    if (!strcmp(other, "xsave"))
        return !strcmp(name, "avx") || !strncmp(name, "xsave", 5) || !strcmp(name, "xgetbv1");
    for (unsigned n = 0; n < sizeof(with_avx) / sizeof(with_avx[0]); n++)
        if (!strcmp(name, with_avx[n]))
            return true;
    return false;
}

static void drop_dependents(struct mon_cpuid *table)
{
    static const char *const roots[] = {"xsave", "avx", "avx512f", "lm", "apic"};
    for (unsigned r = 0; r < sizeof(roots) / sizeof(roots[0]); r++) {
        if (has(table, roots[r]))
            continue;
        for (unsigned n = 0; n < FEATURES; n++)
            if (strcmp(features[n].name, roots[r]) && needs(features[n].name, roots[r]))
                set(table, &features[n], false);
    }
}

/* "+name" or "-name" */
static int apply_word(struct mon_cpuid *table, const char *word, size_t len, char *err,
                      size_t err_len)
{
    const struct feature *f = NULL;
    for (unsigned n = 0; n < FEATURES && len > 1; n++)
        if (strlen(features[n].name) == len - 1 && !memcmp(features[n].name, word + 1, len - 1))
            f = &features[n];
    if (!f || (*word != '+' && *word != '-')) {
        snprintf(err, err_len,
                 "CPU model: \"%.*s\" is not +NAME or -NAME with a flag's name as in /proc/cpuinfo",
                 (int)len, word);
        return NOVT_E_INVAL;
    }
    if (*word == '+' && !is_available(table, f)) {
        snprintf(err, err_len, "CPU model: %s cannot be offered: %s", f->name,
                 f->offer == NEVER  ? "novt does not virtualize it"
                 : f->offer == APIC ? "there is no local APIC"
                                    : "this host's CPU does not have it");
        return NOVT_E_INVAL;
    }
    set(table, f, *word == '+');
    return NOVT_OK;
}

static int apply_model(struct mon_cpuid *table, const char *model, char *err, size_t err_len)
{
    size_t len = strcspn(model, ",");
    bool base = len == 4 && !memcmp(model, "base", 4);
    if (!base && !(len == 4 && !memcmp(model, "host", 4))) {
        snprintf(err, err_len, "CPU model \"%.*s\" is unknown: use host or base", (int)len, model);
        return NOVT_E_INVAL;
    }
    for (unsigned n = 0; n < FEATURES; n++) {
        const struct feature *f = &features[n];
        bool wanted =
            base ? f->offer == BASE || f->offer == OURS || f->offer == APIC : f->offer != ASKED;
        set(table, f, wanted && is_available(table, f));
    }
    for (model += len; *model; model += len) {
        model++;
        len = strcspn(model, ",");
        int rc = apply_word(table, model, len, err, err_len);
        if (rc != NOVT_OK)
            return rc;
    }
    return NOVT_OK;
}

/* ---- building: state components (SDM 1-13.2) ---- */

static uint32_t area_size(const struct mon_cpuid *table, uint64_t xcr0, bool compact)
{
    uint32_t size = 576;
    for (unsigned n = 2; n < 63; n++) {
        const struct mon_cpuid_entry *e = xcr0 >> n & 1 ? find(table, 0xd, n) : NULL;
        if (!e)
            continue;
        if (!compact) {
            size = e->ebx + e->eax > size ? e->ebx + e->eax : size;
            continue;
        }
        if (e->ecx & 2)
            size = (size + 63) & ~63u;
        size += e->eax;
    }
    return size;
}

/* After features are final. Subleaf 1 has feature bits and was added before. */
static void add_components(struct mon_cpuid *table)
{
    uint64_t allowed = XCR0_LEGACY;
    if (!has(table, "xsave"))
        return;
    if (has(table, "avx"))
        allowed |= XCR0_AVX;
    if (has(table, "avx512f"))
        allowed |= XCR0_AVX512;
    allowed &= rt_fpu_mask();
    table->xcr0_allowed = allowed;
    for (unsigned n = 2; n < 8; n++) {
        struct mon_cpuid_entry e = host_get(0xd, n);
        e.ecx &= 2;
        e.edx = 0;
        if (allowed >> n & 1)
            add(table, e, true);
    }
    struct mon_cpuid_entry *e = find(table, 0xd, 0);
    e->eax = (uint32_t)allowed;
    e->edx = (uint32_t)(allowed >> 32);
    e->ecx = area_size(table, allowed, false);
}

/* AMD's CPUs repeat leaf 1's flags in the extended leaf. */
static void repeat_flags(struct mon_cpuid *table)
{
    struct mon_cpuid_entry *extended = find(table, 0x80000001, 0);
    if (extended && !vendor_is_intel())
        extended->edx |= find(table, 1, 0)->edx & 0x0183f3ff;
}

static void summarise(struct mon_cpuid *table)
{
    const struct mon_cpuid_entry *sizes = find(table, 0x80000008, 0);
    table->has_nx = has(table, "nx");
    table->has_smep = has(table, "smep");
    table->has_smap = has(table, "smap");
    table->has_umip = has(table, "umip");
    table->has_pcid = has(table, "pcid");
    table->has_la57 = has(table, "la57");
    table->has_1g = has(table, "pdpe1gb");
    table->has_fsgsbase = has(table, "fsgsbase");
    table->has_long = has(table, "lm");
    table->has_apic = has(table, "apic");
    table->has_x2apic = has(table, "x2apic");
    table->has_deadline = has(table, "tsc_deadline_timer");
    table->intel = vendor_is_intel();
    table->zero_selectors = has(table, "zero_fcs_fds");
    table->exceptions_data = has(table, "fdp_excptn_only");
    for (unsigned n = 2; n < 8; n++) {
        const struct mon_cpuid_entry *e = find(table, 0xd, n);
        table->component[n].size = e ? (uint16_t)e->eax : 0;
        table->component[n].offset = e ? (uint16_t)e->ebx : 0;
        table->component[n].aligned = e && e->ecx & 2;
    }
    table->phys_bits = sizes ? (uint8_t)sizes->eax : 36;
}

int mon_cpuid_build(struct mon_cpuid *table, const char *model, bool local_apic, char *err,
                    size_t err_len)
{
    pthread_once(&host_once, host_init);
    memset(table, 0, sizeof(*table));
    table->tsc_khz = host.tsc_khz;
    table->local_apic = local_apic;
    add_basic(table);
    if (table->max_basic >= 0xd)
        for (uint32_t n = 0; n < 2; n++)
            add(table, (struct mon_cpuid_entry){.leaf = 0xd, .subleaf = n}, true);
    if (table->max_basic >= 0xb)
        add_topology(table);
    add_frequency(table);
    add_hypervisor(table);
    add_extended(table);
    int rc = apply_model(table, model ? model : "host", err, err_len);
    if (rc != NOVT_OK)
        return rc;
    drop_dependents(table);
    add_components(table);
    repeat_flags(table);
    summarise(table);
    return NOVT_OK;
}

/* ---- answering ---- */

/* Beyond the last leaf of a range Intel's CPUs answer as for the last basic leaf. */
static uint32_t leaf_in_range(const struct mon_cpuid *table, uint32_t leaf)
{
    if (leaf <= table->max_basic || (leaf >= 0x80000000 && leaf <= table->max_ext) ||
        (leaf >= HYPERVISOR && leaf <= HYPERVISOR_LAST) || leaf == OUR_NAME)
        return leaf;
    return table->max_basic;
}

void mon_cpuid(struct mon_vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct mon_cpuid *table = mon_vm_cpuid(v);
    leaf = leaf_in_range(table, leaf);
    const struct mon_cpuid_entry *e = find(table, leaf, subleaf);

    out[EAX] = e ? e->eax : 0;
    out[EBX] = e ? e->ebx : 0;
    out[ECX] = e ? e->ecx : 0;
    out[EDX] = e ? e->edx : 0;
    if (leaf == 0x80000001 && table->intel && !mon_code64(v)) {
        out[EDX] &= ~(1u << 11); /* SYSCALL: Intel's CPUs show it in 64-bit mode (SDM 2 CPUID) */
    } else if (leaf == 0x80000001 && !(v->msr.apic_base & MON_APIC_ENABLED)) {
        out[EDX] &= ~CPUID_APIC;
    } else if (leaf == 1) {
        out[EBX] |= v->id << 24;
        if (v->cr4 & MON_CR4_OSXSAVE)
            out[ECX] |= 1u << 27;
        if (!(v->msr.apic_base & MON_APIC_ENABLED))
            out[EDX] &= ~CPUID_APIC;
    } else if (leaf == 0xb) {
        if (!e)
            out[ECX] = subleaf & 0xff;
        out[EDX] = v->id;
    } else if (leaf == 0xd && e && subleaf < 2 && table->xcr0_allowed) {
        out[EBX] = area_size(table, v->xcr0, subleaf == 1);
        if (subleaf == 1 && !(out[EAX] & 0xa))
            out[EBX] = 0;
    }
}
