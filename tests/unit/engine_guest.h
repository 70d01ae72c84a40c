/* engine_guest.h - a few bytes of 32-bit code in a VM of their own: flat, paging off, CPL 0.
 *
 *   0x1000  code     0x8000  stack (top)     0x9000  data       RAM ends at 0x100000
 *
 * HLT ends a run. */
#ifndef NOVT_TESTS_UNIT_ENGINE_GUEST_H
#define NOVT_TESTS_UNIT_ENGINE_GUEST_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "monitor/cpu/vm.h"

#define GUEST_CODE  0x1000u
#define GUEST_STACK 0x8000u
#define GUEST_DATA  0x9000u
#define GUEST_SIZE  0x100000u
#define GUEST_PML4  0x20000u /* engine_guest_long_mode()'s */

struct engine_guest {
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    struct mon_vcpu *v; /* the same, from inside */
    struct novt_run *run;
    uint8_t *ram;
    int fd;
    char log[8192];
};

static inline void engine_guest_log(void *opaque, const char *line)
{
    struct engine_guest *g = opaque;
    size_t used = strlen(g->log);
    snprintf(g->log + used, sizeof(g->log) - used, "%s\n", line);
}

static inline void engine_guest_registers(struct engine_guest *g)
{
    struct novt_sregs s;
    struct novt_regs r = {.rip = GUEST_CODE, .rflags = 2};

    novt_vcpu_get_sregs(g->vcpu, &s);
    for (unsigned n = 0; n < 6; n++)
        s.seg[n] = (struct novt_segment){
            .limit = 0xffffffffu, .attr = n == NOVT_CS ? 0xc09b : 0xc093, .selector = 8};
    s.cr0 = MON_CR0_PE | MON_CR0_ET;
    s.cr4 = MON_CR4_OSFXSR;
    for (unsigned n = 0; n < 8; n++)
        r.gpr[n] = 0x11111111u * (n + 1);
    r.gpr[NOVT_RSP] = GUEST_STACK;
    cr_assert_eq(novt_vcpu_set_sregs(g->vcpu, &s), 0);
    cr_assert_eq(novt_vcpu_set_regs(g->vcpu, &r), 0);
}

static inline void engine_guest_create(struct engine_guest *g, uint64_t flags, const void *code,
                                       size_t len)
{
    struct novt_config config = {
        .size = sizeof(config), .flags = flags, .log = engine_guest_log, .log_opaque = g};
    char err[200];

    g->log[0] = 0;
    g->fd = memfd_create("guest", MFD_CLOEXEC);
    cr_assert_eq(novt_vm_create(&config, &g->vm, err, sizeof(err)), 0, "%s", err);
    cr_assert(g->fd >= 0 && ftruncate(g->fd, GUEST_SIZE) == 0);
    cr_assert_eq(novt_vm_set_memory(g->vm, 0, 0, GUEST_SIZE, g->fd, 0, 0), 0);
    g->ram = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
    cr_assert(g->ram != MAP_FAILED);
    cr_assert_eq(novt_vcpu_create(g->vm, 0, &g->vcpu), 0);
    g->run = novt_vcpu_run_area(g->vcpu);
    g->v = (void *)((uint8_t *)g->run - offsetof(struct mon_vcpu, run));
    memcpy(g->ram + GUEST_CODE, code, len);
    engine_guest_registers(g);
}

/* Entry n of the paging structure at that address. */
static inline void engine_guest_entry(struct engine_guest *g, uint32_t at, unsigned n,
                                      uint64_t entry)
{
    memcpy(g->ram + at + 8 * n, &entry, 8);
}

/* 64-bit mode at CPL 0, with the first 2 MiB at their own addresses; rights: of the entries. */
static inline void engine_guest_long_mode(struct engine_guest *g, uint64_t rights)
{
    struct novt_sregs s;

    engine_guest_entry(g, GUEST_PML4, 0, (GUEST_PML4 + 0x1000) | rights);
    engine_guest_entry(g, GUEST_PML4 + 0x1000, 0, (GUEST_PML4 + 0x2000) | rights);
    engine_guest_entry(g, GUEST_PML4 + 0x2000, 0, 0x80 | rights);
    novt_vcpu_get_sregs(g->vcpu, &s);
    s.seg[NOVT_CS].attr = 0xa09b;
    s.cr0 = MON_CR0_PE | MON_CR0_ET | MON_CR0_PG | MON_CR0_WP;
    s.cr3 = GUEST_PML4;
    s.cr4 = MON_CR4_OSFXSR | MON_CR4_PAE;
    s.efer = MON_EFER_LME | MON_EFER_LMA;
    cr_assert_eq(novt_vcpu_set_sregs(g->vcpu, &s), 0);
}

static inline void engine_guest_destroy(struct engine_guest *g)
{
    novt_vm_destroy(g->vm);
    munmap(g->ram, GUEST_SIZE);
    close(g->fd);
}

/* The sum of those statistics; names ends with NULL. */
static inline uint64_t engine_guest_count(const struct engine_guest *g, const char *const *names)
{
    struct novt_stat stats[128];
    size_t n = novt_vm_stats(g->vm, stats, 128);
    uint64_t sum = 0;

    for (; *names; names++)
        for (size_t i = 0; i < n; i++)
            sum += strcmp(stats[i].name, *names) ? 0 : stats[i].value;
    return sum;
}

/* Runs until something other than a kick ends it. */
static inline unsigned engine_guest_run(struct engine_guest *g)
{
    do {
        cr_assert_eq(novt_vcpu_run(g->vcpu), 0);
    } while (g->run->exit_reason == NOVT_EXIT_KICKED);
    return g->run->exit_reason;
}

#endif
