/* Page walks in every mode, rights, accessed and dirty bits, memory that is not RAM, ports. */
#include "tests/unit/cpu_machine.h"

static struct machine m;

static void setup(void)
{
    machine_create(&m);
}
static void teardown(void)
{
    machine_destroy(&m);
}
TestSuite(cpu_paging, .init = setup, .fini = teardown, .timeout = 30);

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX ((uint64_t)1 << 63)

/* ---- One mapping per mode, so that the same rows apply to all ---- */

enum mode { MODE_32, MODE_PAE, MODE_4LEVEL };
static const char *const mode_name[] = {"32-bit", "PAE", "4-level"};

#define GLA   0x00401234u /* directory entry 1 (32-bit), 2 (PAE) */
#define FRAME 0x00055000u

/* Maps GLA's page to FRAME with the leaf's flags and the upper level's flags. */
static void map(enum mode mode, uint64_t upper, uint64_t leaf)
{
    struct mon_vcpu *v = m.v;
    v->cr0 |= MON_CR0_PG;
    v->cr3 = 0;
    if (mode == MODE_32) {
        put32(&m, 4, 0x1000 | (uint32_t)upper);
        put32(&m, 0x1000 + 4, FRAME | (uint32_t)leaf);
        return;
    }
    v->cr4 |= MON_CR4_PAE;
    v->efer |= MON_EFER_NXE;
    put64(&m, 0x2000 + 2 * 8, 0x3000 | upper);
    put64(&m, 0x3000 + 8, FRAME | leaf);
    if (mode == MODE_PAE) {
        v->pdpte[0] = 0x2000 | P;
        return;
    }
    v->efer |= MON_EFER_LME | MON_EFER_LMA;
    put64(&m, 0, 0x1000 | upper);
    put64(&m, 0x1000, 0x2000 | upper);
}

static uint64_t leaf_now(enum mode mode)
{
    return mode == MODE_32 ? get32(&m, 0x1004) : get64(&m, 0x3008);
}
static uint64_t upper_now(enum mode mode)
{
    return mode == MODE_32 ? get32(&m, 4) : get64(&m, 0x2010);
}

Test(cpu_paging, without_paging_linear_is_physical)
{
    struct mon_walk w;
    ASSERT_OK(mon_walk(m.v, 0x12345678, MON_WRITE, 3, &w));
    ASSERT_HEX(w.gpa, 0x12345678);
    cr_assert(w.user && w.writable && w.exec && w.levels == 0);
}

Test(cpu_paging, every_mode_translates_and_sets_accessed_and_dirty)
{
    for (enum mode mode = MODE_32; mode <= MODE_4LEVEL; mode++) {
        struct mon_walk w;
        map(mode, P | W | U, P | W | U);
        ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 0, &w));
        ASSERT_HEX(w.gpa, FRAME | 0x234);
        cr_assert_eq(w.page_shift, 12);
        cr_assert(!w.dirty && w.user && w.writable && w.exec, "%s", mode_name[mode]);
        ASSERT_HEX(upper_now(mode) & (A | D), A);
        ASSERT_HEX(leaf_now(mode) & (A | D), A);
        ASSERT_OK(mon_walk(m.v, GLA, MON_WRITE, 3, &w));
        cr_assert(w.dirty);
        ASSERT_HEX(upper_now(mode) & (A | D), A);
        ASSERT_HEX(leaf_now(mode) & (A | D), A | D);
        cr_assert_eq(w.levels, mode == MODE_4LEVEL ? 4 : 2);
        ASSERT_HEX(w.entry[w.levels - 1], leaf_now(mode));
    }
}

/* ---- Pages that accesses remember ---- */

ParameterizedTestParameters(cpu_paging, a_changed_entry_is_noticed)
{
    static enum mode modes[] = {MODE_32, MODE_PAE, MODE_4LEVEL};
    return cr_make_param_array(enum mode, modes, 3);
}
ParameterizedTest(enum mode *mode, cpu_paging, a_changed_entry_is_noticed)
{
    uint32_t value = 0;
    map(*mode, P | W | U, P | W | U);
    put32(&m, FRAME + 0x234, 0x1111);
    put32(&m, FRAME + 0x2234, 0x2222);
    for (unsigned n = 0; n < 2; n++) {
        ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ));
        ASSERT_HEX(value, 0x1111);
    }
    map(*mode, P | W | U, (P | W | U) + 0x2000); /* another frame; nothing is flushed */
    ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ));
    ASSERT_HEX(value, 0x2222);
    map(*mode, P | W, (P | W | U) + 0x2000);
    m.v->cpu->cpl = 3;
    ASSERT_FAULT(mon_lin_read(m.v, GLA, &value, 4, MON_READ), MON_PF, 5);
    ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ | MON_SYSTEM));
    map(*mode, P | W, 0);
    ASSERT_FAULT(mon_lin_read(m.v, GLA, &value, 4, MON_READ | MON_SYSTEM), MON_PF, 0);
}

Test(cpu_paging, a_remembered_page_is_still_checked)
{
    uint32_t value = 7;
    map(MODE_32, P | W | U, P | U);
    ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ));
    ASSERT_OK(mon_lin_write(m.v, GLA, &value, 4, MON_WRITE)); /* CR0.WP is 0 */
    ASSERT_HEX(leaf_now(MODE_32) & (A | D), A | D);
    ASSERT_OK(mon_lin_write(m.v, GLA, &value, 4, MON_WRITE));
    m.v->cr0 |= MON_CR0_WP;
    ASSERT_FAULT(mon_lin_write(m.v, GLA, &value, 4, MON_WRITE), MON_PF, 3);
    m.v->cpu->cpl = 3;
    ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ));
    ASSERT_FAULT(mon_lin_write(m.v, GLA, &value, 4, MON_WRITE), MON_PF, 7);
    m.v->cpu->cpl = 0;
    m.v->cr4 |= MON_CR4_SMAP;
    ASSERT_FAULT(mon_lin_read(m.v, GLA, &value, 4, MON_READ), MON_PF, 1);
    m.v->cpu->rflags |= RT_AC;
    ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ));
    m.v->cpu->rflags &= ~(uint64_t)RT_AC;
    ASSERT_FAULT(mon_lin_read(m.v, GLA, &value, 4, MON_READ), MON_PF, 1);
}

/* The first write to a page that has been read sets the dirty bit. */
Test(cpu_paging, a_write_to_a_remembered_page_marks_it)
{
    uint32_t value = 0;
    map(MODE_PAE, P | W | U, P | W | U);
    ASSERT_OK(mon_lin_read(m.v, GLA, &value, 4, MON_READ));
    ASSERT_HEX(leaf_now(MODE_PAE) & (A | D), A);
    ASSERT_OK(mon_lin_write(m.v, GLA, &value, 4, MON_WRITE));
    ASSERT_HEX(leaf_now(MODE_PAE) & (A | D), A | D);
}

Test(cpu_paging, rom_is_remembered_for_reading_only)
{
    uint32_t value = 0x55;
    for (unsigned n = 0; n < 2; n++)
        ASSERT_OK(mon_lin_read(m.v, ROM_BASE, &value, 4, MON_READ));
    cr_assert_eq(mon_lin_write(m.v, ROM_BASE, &value, 4, MON_WRITE), MON_EXIT);
    cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_MMIO);
}

/* ---- Rights (SDM 3-4.6) ---- */

enum { WP = 1, SMEP = 2, SMAP = 4, AC = 8 };

struct rights_row {
    uint16_t upper, leaf;
    uint8_t control, access, cpl;
    int error; /* -1: allowed */
};
static struct rights_row rights[] = {
    /* user */
    {P | W | U, P | W | U, 0, MON_READ, 3, -1},
    {P | W | U, P | W | U, 0, MON_WRITE, 3, -1},
    {P | W | U, P | U, 0, MON_READ, 3, -1},
    {P | W | U, P | U, 0, MON_WRITE, 3, 7},
    {P | U, P | W | U, 0, MON_WRITE, 3, 7},
    {P | W | U, P | W, 0, MON_READ, 3, 5},
    {P | W, P | W | U, 0, MON_READ, 3, 5},
    {P | W, P | W | U, 0, MON_READ | MON_SYSTEM, 3, -1},
    {P | W | U, W | U, 0, MON_READ, 3, 4},
    {W | U, P | W | U, 0, MON_WRITE, 3, 6},
    {P | W | U, P | W | U, SMEP, MON_FETCH, 3, -1},
    {P | W | U, P | W | U, SMAP, MON_WRITE, 3, -1},
    /* supervisor: WP */
    {P | W | U, P | U, 0, MON_WRITE, 0, -1},
    {P | W | U, P | U, WP, MON_WRITE, 0, 3},
    {P | U, P | W | U, WP, MON_WRITE, 2, 3},
    {P | W | U, P | U, WP, MON_READ, 0, -1},
    {P | W | U, 0, WP, MON_WRITE, 0, 2},
    /* supervisor: SMEP */
    {P | W | U, P | W | U, 0, MON_FETCH, 0, -1},
    {P | W | U, P | W | U, SMEP, MON_FETCH, 0, 0x11},
    {P | W, P | W | U, SMEP, MON_FETCH, 0, -1},
    {P | W | U, P | W, SMEP, MON_FETCH, 0, -1},
    {P | W | U, 0, SMEP, MON_FETCH, 0, 0x10},
    /* supervisor: SMAP */
    {P | W | U, P | W | U, SMAP, MON_READ, 0, 1},
    {P | W | U, P | W | U, SMAP, MON_WRITE, 0, 3},
    {P | W | U, P | W | U, SMAP | AC, MON_READ, 0, -1},
    {P | W | U, P | W | U, SMAP | AC, MON_WRITE, 0, -1},
    {P | W | U, P | U, SMAP | AC | WP, MON_WRITE, 0, 3},
    {P | W | U, P | W | U, SMAP | AC, MON_READ | MON_SYSTEM, 0, 1},
    {P | W | U, P | W | U, SMAP | AC, MON_READ | MON_SYSTEM, 3, 1},
    {P | W, P | W | U, SMAP, MON_WRITE, 0, -1},
    {P | W | U, P | W | U, SMAP, MON_FETCH, 0, -1},
};

ParameterizedTestParameters(cpu_paging, rights_are_those_of_all_levels_and_control_bits)
{
    return cr_make_param_array(struct rights_row, rights, sizeof(rights) / sizeof(rights[0]));
}
ParameterizedTest(struct rights_row *row, cpu_paging,
                  rights_are_those_of_all_levels_and_control_bits, .timeout = 30)
{
    struct mon_walk w;
    m.v->cr0 |= row->control & WP ? MON_CR0_WP : 0;
    m.v->cr4 |= (row->control & SMEP ? MON_CR4_SMEP : 0) | (row->control & SMAP ? MON_CR4_SMAP : 0);
    m.v->cpu->rflags |= row->control & AC ? RT_AC : 0;
    for (enum mode mode = MODE_32; mode <= MODE_4LEVEL; mode++) {
        map(mode, row->upper, row->leaf);
        enum mon_rc rc = mon_walk(m.v, GLA, row->access, row->cpl, &w);
        uint32_t id = row->access == MON_FETCH && mode != MODE_32 ? 0x10 : 0;
        if (row->error < 0) {
            ASSERT_OK(rc);
            continue;
        }
        ASSERT_FAULT(rc, MON_PF, (uint32_t)row->error | id);
        ASSERT_HEX(m.v->exc.cr2, GLA);
        ASSERT_HEX(leaf_now(mode) & (A | D), 0);
    }
}

Test(cpu_paging, nx_refuses_fetches_and_is_reserved_without_nxe)
{
    struct mon_walk w;
    map(MODE_PAE, P | W | U, P | W | U | NX);
    ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 3, &w));
    cr_assert(!w.exec);
    ASSERT_FAULT(mon_walk(m.v, GLA, MON_FETCH, 3, &w), MON_PF, 0x15);
    ASSERT_FAULT(mon_walk(m.v, GLA, MON_FETCH, 0, &w), MON_PF, 0x11);
    m.v->efer &= ~(uint64_t)MON_EFER_NXE;
    ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 3, &w), MON_PF, 0xd);
    ASSERT_FAULT(mon_walk(m.v, GLA, MON_FETCH, 0, &w), MON_PF, 0x9);
}

Test(cpu_paging, physical_address_bits_beyond_the_cpus_are_reserved)
{
    struct mon_walk w;
    unsigned phys = mon_vm_cpuid(m.v)->phys_bits;
    for (enum mode mode = MODE_PAE; mode <= MODE_4LEVEL; mode++) {
        map(mode, P | W | U, P | W | U | (uint64_t)1 << phys);
        ASSERT_FAULT(mon_walk(m.v, GLA, MON_WRITE, 0, &w), MON_PF, 0xb);
        map(mode, P | W | U | (uint64_t)1 << 51, P | W | U);
        ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 3, &w), MON_PF, 0xd);
        /* bits 62:52 are ignored in 4-level entries, reserved in PAE entries */
        map(mode, P | W | U, P | W | U | (uint64_t)1 << 58);
        if (mode == MODE_PAE)
            ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 0, &w), MON_PF, 9);
        else
            ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 0, &w));
        /* not present: nothing is reserved */
        map(mode, P | W | U, (uint64_t)1 << phys);
        ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 0, &w), MON_PF, 0);
    }
}

/* ---- Large pages ---- */

Test(cpu_paging, four_mib_pages_need_pse_and_reach_beyond_4_gib)
{
    struct mon_walk w;
    m.v->cr0 |= MON_CR0_PG;
    put32(&m, 4, 0x00800000u | 3u << 13 | PS | P | W | U);
    m.v->cr4 = MON_CR4_PSE;
    ASSERT_OK(mon_walk(m.v, 0x00523456, MON_WRITE, 0, &w));
    ASSERT_HEX(w.gpa, 0x300800000u + 0x123456);
    cr_assert_eq(w.page_shift, 22);
    ASSERT_HEX(get32(&m, 4) & (A | D), A | D);
    put32(&m, 4, 0x00800000u | 1u << 21 | PS | P | W | U);
    ASSERT_FAULT(mon_walk(m.v, 0x00523456, MON_READ, 3, &w), MON_PF, 0xd);
    m.v->cr4 = 0; /* PS is ignored: a page table */
    put32(&m, 4, 0x1000u | PS | P | W | U);
    put32(&m, 0x1000 + 0x123 * 4, FRAME | P);
    ASSERT_OK(mon_walk(m.v, 0x00523456, MON_READ, 0, &w));
    ASSERT_HEX(w.gpa, FRAME | 0x456);
}

Test(cpu_paging, two_mib_and_one_gib_pages)
{
    struct mon_walk w;
    map(MODE_PAE, P, P);
    put64(&m, 0x2010, 0x00600000u | PS | P | W | U);
    ASSERT_OK(mon_walk(m.v, 0x0047f00f, MON_WRITE, 3, &w));
    ASSERT_HEX(w.gpa, 0x0067f00f);
    cr_assert_eq(w.page_shift, 21);
    put64(&m, 0x2010, 0x00602000u | PS | P | W | U);
    ASSERT_FAULT(mon_walk(m.v, 0x0047f00f, MON_READ, 0, &w), MON_PF, 9);
    map(MODE_4LEVEL, P | W, P);
    put64(&m, 0x1000, 0x40000000u | PS | P | W);
    if (mon_vm_cpuid(m.v)->has_1g) {
        ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 0, &w));
        ASSERT_HEX(w.gpa, 0x40000000u + GLA);
        cr_assert_eq(w.page_shift, 30);
    } else {
        ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 0, &w), MON_PF, 9);
    }
    put64(&m, 0, 0x1000 | PS | P | W); /* reserved in a PML4E */
    ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 0, &w), MON_PF, 9);
}

Test(cpu_paging, global_needs_pge)
{
    struct mon_walk w;
    map(MODE_32, P | W, P | W | G);
    ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 0, &w));
    cr_assert(!w.global);
    m.v->cr4 |= MON_CR4_PGE;
    ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 0, &w));
    cr_assert(w.global);
}

Test(cpu_paging, tables_outside_ram_read_as_ones_and_tables_in_rom_stay)
{
    struct mon_walk w;
    map(MODE_PAE, P | W, P | W);
    put64(&m, 0x2010, MMIO_BASE | P | W);
    ASSERT_FAULT(mon_walk(m.v, GLA, MON_READ, 0, &w), MON_PF, 9);
    uint64_t entry = FRAME | P | W;
    memcpy(m.rom + 8, &entry, 8);
    put64(&m, 0x2010, ROM_BASE | P | W);
    ASSERT_OK(mon_walk(m.v, GLA, MON_WRITE, 0, &w));
    ASSERT_HEX(w.gpa, FRAME | 0x234);
    cr_assert_eq(memcmp(m.rom + 8, &entry, 8), 0);
}

Test(cpu_paging, peek_changes_and_raises_nothing)
{
    struct mon_walk w;
    map(MODE_32, P, P);
    m.v->exc.vector = 99;
    cr_assert(mon_walk_peek(m.v, GLA, &w));
    ASSERT_HEX(w.gpa, FRAME | 0x234);
    cr_assert(!mon_walk_peek(m.v, GLA + 0x1000, &w));
    cr_assert(!mon_walk_peek(m.v, 0x80000000u, &w));
    ASSERT_HEX(leaf_now(MODE_32) & A, 0);
    cr_assert_eq(m.v->exc.vector, 99);
}

Test(cpu_paging, pdptes_are_registers_and_their_reserved_bits_are_checked)
{
    struct mon_walk w;
    map(MODE_PAE, P | W, P | W);
    put64(&m, 0x5020, 0x2000 | P);
    put64(&m, 0x5028, 0x1fe); /* not present: anything goes */
    put64(&m, 0x5030, 0);
    put64(&m, 0x5038, 0);
    ASSERT_OK(mon_pdpte_load(m.v, 0x5020));
    ASSERT_HEX(m.v->pdpte[0], 0x2001);
    put64(&m, 0x5020, 0); /* memory does not matter any more */
    ASSERT_OK(mon_walk(m.v, GLA, MON_READ, 0, &w));
    ASSERT_FAULT(mon_walk(m.v, 0x40000000u, MON_WRITE, 3, &w), MON_PF, 6);
    put64(&m, 0x5028, 0x2000 | P | W);
    ASSERT_FAULT(mon_pdpte_load(m.v, 0x5020), MON_GP, 0);
    ASSERT_HEX(m.v->pdpte[0], 0x2001);
}

/* ---- Linear memory ---- */

Test(cpu_paging, access_across_pages_checks_both_before_it_touches_one)
{
    uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    map(MODE_32, P | W | U, P | W | U);
    memset(m.ram + FRAME, 0xaa, 0x1000);
    ASSERT_FAULT(mon_lin_write(m.v, 0x401ffc, data, 8, MON_WRITE), MON_PF, 2);
    ASSERT_HEX(m.v->exc.cr2, 0x402000);
    ASSERT_HEX(get32(&m, FRAME + 0xffc), 0xaaaaaaaau);
    put32(&m, 0x1008, 0x70000 | P | W | U);
    ASSERT_OK(mon_lin_write(m.v, 0x401ffc, data, 8, MON_WRITE));
    ASSERT_HEX(get32(&m, FRAME + 0xffc), 0x04030201u);
    ASSERT_HEX(get32(&m, 0x70000), 0x08070605u);
    uint64_t back = 0;
    ASSERT_OK(mon_lin_read(m.v, 0x401ffc, &back, 8, MON_READ));
    ASSERT_HEX(back, 0x0807060504030201u);
    m.v->cpu->cpl = 3;
    put32(&m, 0x1008, 0x70000 | P | W);
    ASSERT_FAULT(mon_lin_check(m.v, 0x401fff, 2, MON_READ), MON_PF, 5);
    ASSERT_OK(mon_lin_check(m.v, 0x401fff, 2, MON_READ | MON_SYSTEM));
    ASSERT_OK(mon_lin_check(m.v, 0x401fff, 1, MON_READ));
}

Test(cpu_paging, linear_addresses_wrap_at_4_gib)
{
    uint64_t back = 0;
    m.v->cr0 |= MON_CR0_PG;
    put32(&m, 0xffc, 0x1000 | P | W);
    put32(&m, 0x1000 + 0xffc, 0x70000 | P | W);
    put32(&m, 0, 0x2000 | P | W);
    put32(&m, 0x2000, 0x71000 | P | W);
    put32(&m, 0x70ffc, 0x11111111);
    put32(&m, 0x71000, 0x22222222);
    ASSERT_OK(mon_lin_read(m.v, 0xfffffffcu, &back, 8, MON_READ));
    ASSERT_HEX(back, 0x2222222211111111u);
    ASSERT_OK(mon_lin_read(m.v, 0x100000000u, &back, 4, MON_READ));
    ASSERT_HEX((uint32_t)back, 0x22222222);
}

/* Runs one access the way the run loop does: again and again until it needs no more answers. */
static unsigned answer_reads(uint64_t gla, void *data, unsigned len, uint8_t first)
{
    for (unsigned exits = 0;; exits++) {
        m.v->replay.cursor = 0;
        enum mon_rc rc = mon_lin_read(m.v, gla, data, len, MON_READ);
        if (rc == MON_OK) {
            cr_assert_eq(m.v->replay.cursor, exits);
            m.v->replay.done = 0;
            return exits;
        }
        cr_assert_eq(rc, MON_EXIT);
        cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_MMIO);
        cr_assert(!m.v->run.mmio.write);
        uint64_t value = 0;
        for (unsigned i = 0; i < m.v->run.mmio.size; i++) {
            cr_assert_eq(m.v->run.mmio.data[i], 0xff);
            value |= (uint64_t)(uint8_t)(first + m.v->run.mmio.gpa + i) << i * 8;
        }
        m.v->replay.data[m.v->replay.done++] = value;
    }
}

struct mmio_row {
    unsigned offset, len, exits;
};
static struct mmio_row mmio_rows[] = {
    {0, 1, 1}, {0, 2, 1}, {0, 4, 1},  {0, 8, 1}, {1, 2, 2},     {2, 4, 2},
    {1, 4, 3}, {4, 8, 2}, {0, 16, 2}, {1, 8, 4}, {0xffc, 8, 2}, {0xfff, 2, 2},
};
ParameterizedTestParameters(cpu_paging, reads_outside_ram_are_aligned_pieces)
{
    return cr_make_param_array(struct mmio_row, mmio_rows,
                               sizeof(mmio_rows) / sizeof(mmio_rows[0]));
}
ParameterizedTest(struct mmio_row *row, cpu_paging, reads_outside_ram_are_aligned_pieces,
                  .timeout = 30)
{
    uint8_t data[16] = {0};
    cr_assert_eq(answer_reads(MMIO_BASE + row->offset, data, row->len, 7), row->exits);
    for (unsigned i = 0; i < row->len; i++)
        cr_assert_eq(data[i], (uint8_t)(7 + row->offset + i));
}

Test(cpu_paging, ram_is_written_after_the_last_exit)
{
    uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    map(MODE_32, P | W, P | W);
    put32(&m, 0x1008, MMIO_BASE | P | W);
    put32(&m, FRAME + 0xffc, 0);
    cr_assert_eq(mon_lin_write(m.v, 0x401ffc, data, 8, MON_WRITE), MON_EXIT);
    ASSERT_HEX(m.v->run.mmio.gpa, MMIO_BASE);
    cr_assert_eq(m.v->run.mmio.size, 4);
    cr_assert(m.v->run.mmio.write);
    cr_assert_eq(memcmp(m.v->run.mmio.data, data + 4, 4), 0);
    ASSERT_HEX(get32(&m, FRAME + 0xffc), 0);
    m.v->replay.done = 1;
    m.v->replay.cursor = 0;
    ASSERT_OK(mon_lin_write(m.v, 0x401ffc, data, 8, MON_WRITE));
    ASSERT_HEX(get32(&m, FRAME + 0xffc), 0x04030201u);
}

Test(cpu_paging, writes_to_two_pages_outside_ram_come_in_order)
{
    uint8_t data[4] = {1, 2, 3, 4};
    uint64_t gla = MMIO_BASE + 0xffe;
    cr_assert_eq(mon_lin_write(m.v, gla, data, 4, MON_WRITE), MON_EXIT);
    ASSERT_HEX(m.v->run.mmio.gpa, gla);
    cr_assert_eq(memcmp(m.v->run.mmio.data, data, 2), 0);
    m.v->replay.done = 1;
    m.v->replay.cursor = 0;
    cr_assert_eq(mon_lin_write(m.v, gla, data, 4, MON_WRITE), MON_EXIT);
    ASSERT_HEX(m.v->run.mmio.gpa, gla + 2);
    cr_assert_eq(memcmp(m.v->run.mmio.data, data + 2, 2), 0);
    m.v->replay.done = 2;
    m.v->replay.cursor = 0;
    ASSERT_OK(mon_lin_write(m.v, gla, data, 4, MON_WRITE));
}

Test(cpu_paging, copies_of_every_length_are_exact)
{
    static uint8_t data[300], back[300];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + 1);
    for (unsigned len = 1; len < 290; len++) {
        memset(m.ram + 0x40000, 0xee, 0x200);
        memset(back, 0xdd, sizeof(back));
        ASSERT_OK(mon_lin_write(m.v, 0x40001, data, len, MON_WRITE));
        ASSERT_OK(mon_lin_read(m.v, 0x40001, back, len, MON_READ));
        cr_assert_eq(memcmp(data, back, len), 0);
        cr_assert(back[len] == 0xdd && m.ram[0x40000] == 0xee && m.ram[0x40001 + len] == 0xee);
    }
}

Test(cpu_paging, rom_reads_like_ram_and_writes_exit)
{
    uint32_t x = 0;
    memcpy(m.rom + 0x20, "abcd", 4);
    ASSERT_OK(mon_lin_read(m.v, ROM_BASE + 0x20, &x, 4, MON_READ));
    ASSERT_HEX(x, 0x64636261);
    x = 0;
    cr_assert_eq(mon_lin_write(m.v, ROM_BASE + 0x20, &x, 4, MON_WRITE), MON_EXIT);
    cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_MMIO);
    ASSERT_HEX(m.v->run.mmio.gpa, ROM_BASE + 0x20);
    cr_assert_eq(memcmp(m.rom + 0x20, "abcd", 4), 0);
}

Test(cpu_paging, too_many_pieces_end_with_a_reason)
{
    static uint8_t data[4096];
    m.v->replay.done = MON_REPLAY_MAX;
    cr_assert_eq(mon_lin_read(m.v, MMIO_BASE, data, sizeof(data), MON_READ), MON_EXIT);
    cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_INTERNAL);
    cr_assert(m.v->run.fail.reason[0]);
}

/* ---- Ports ---- */

Test(cpu_paging, port_accesses_exit_once_and_are_replayed)
{
    uint32_t data = 0x12345678;
    cr_assert_eq(mon_port(m.v, 0x3f8, 1, true, &data), MON_EXIT);
    cr_assert_eq(m.v->run.exit_reason, NOVT_EXIT_IO);
    cr_assert(m.v->run.io.write && m.v->run.io.size == 1 && m.v->run.io.port == 0x3f8);
    ASSERT_HEX(m.v->run.io.data, 0x78);
    cr_assert_eq(mon_port(m.v, 0x1f0, 2, false, &data), MON_EXIT);
    ASSERT_HEX(m.v->run.io.data, 0xffff);
    m.v->replay.data[0] = 0xdeadbeef;
    m.v->replay.done = 1;
    ASSERT_OK(mon_port(m.v, 0x1f0, 2, false, &data));
    ASSERT_HEX(data, 0xbeef);
    cr_assert_eq(m.v->replay.cursor, 1);
    cr_assert_eq(mon_port(m.v, 0x1f0, 4, false, &data), MON_EXIT);
}

struct io_row {
    uint16_t port;
    uint8_t size, cpl, iopl;
    bool v86, allowed;
};
static struct io_row io_rows[] = {
    {0x3f8, 1, 0, 0, false, true},  {0x3f8, 1, 3, 3, false, true},  {0x3f8, 1, 3, 0, false, true},
    {0x3f8, 1, 3, 3, true, true},   {0x3f9, 1, 3, 0, false, false}, {0x3f9, 1, 3, 3, true, false},
    {0x3f8, 2, 3, 0, false, false}, {0x3fa, 4, 3, 0, false, true},  {0xffff, 1, 3, 0, false, true},
    {0x3ff, 2, 3, 0, false, true},
};
ParameterizedTestParameters(cpu_paging, io_rights_come_from_iopl_or_the_map)
{
    return cr_make_param_array(struct io_row, io_rows, sizeof(io_rows) / sizeof(io_rows[0]));
}
ParameterizedTest(struct io_row *row, cpu_paging, io_rights_come_from_iopl_or_the_map,
                  .timeout = 30)
{
    m.ram[TSS + 0x88 + 0x3f9 / 8] = 1 << (0x3f9 & 7);
    m.v->cpu->cpl = row->cpl;
    m.v->cpu->rflags |= (uint64_t)row->iopl << 12 | (row->v86 ? RT_VM : 0);
    if (row->allowed)
        ASSERT_OK(mon_io_check(m.v, row->port, row->size));
    else
        ASSERT_FAULT(mon_io_check(m.v, row->port, row->size), MON_GP, 0);
}

Test(cpu_paging, io_map_ends_with_the_tss)
{
    m.v->cpu->cpl = 3;
    m.v->tr.limit = 0x88 + 0x10;
    ASSERT_OK(mon_io_check(m.v, 0x7f, 1));
    ASSERT_FAULT(mon_io_check(m.v, 0x80, 1), MON_GP, 0);
    m.v->tr.attr = 0x83; /* a 16-bit TSS has no map */
    ASSERT_FAULT(mon_io_check(m.v, 0, 1), MON_GP, 0);
}
