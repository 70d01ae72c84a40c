/* cpu_machine.h - a small protected-mode machine for the tests of monitor/cpu: a real VM whose
 * vCPU's privileged state the test sets by hand and on which it calls the monitor's functions
 * directly, without running translated code.
 *
 *   0x00000  page directory       0x10000  GDT        0x14000  16-bit TSS
 *   0x01000  page tables          0x11000  IDT        0x20000  stacks, up to 0x30000
 *   0x05000  scratch tables       0x12000  TSS        0x40000  scratch
 *                                 0x13000  second TSS
 *
 *   RAM ends at 0x200000; ROM is at 0xf0000000 (64 KiB); everything else is the embedder's. */
#ifndef NOVT_TESTS_UNIT_CPU_MACHINE_H
#define NOVT_TESTS_UNIT_CPU_MACHINE_H

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "monitor/cpu/cpu.h"

#define RAM_SIZE  0x200000u
#define ROM_BASE  0xf0000000u
#define MMIO_BASE 0xd0000000u
#define GDT       0x10000u
#define IDT       0x11000u
#define TSS       0x12000u
#define TSS_LIMIT (0x68u + 32 + 8192) /* with both maps and the byte of ones behind */
#define TSS_2     0x13000u
#define TSS_16    0x14000u
#define LDT       0x15000u
#define STACK0    0x24000u /* tops */
#define STACK1    0x25000u
#define STACK3    0x28000u
#define HANDLER   0x00050000u

/* Selectors in the GDT that machine_segments() builds. */
enum {
    SEL_CODE0 = 0x08,
    SEL_DATA0 = 0x10,
    SEL_CODE3 = 0x18 | 3,
    SEL_DATA3 = 0x20 | 3,
    SEL_TSS = 0x28,
    SEL_LDT = 0x30,
    SEL_CODE0_16 = 0x38,
    SEL_DATA0_16 = 0x40,
    SEL_CONFORMING = 0x48,
    SEL_ABSENT = 0x50,
    SEL_READ_ONLY = 0x58,
    SEL_EXEC_ONLY = 0x60,
    SEL_GATE32 = 0x68,
    SEL_GATE16 = 0x70,
    SEL_TASK_GATE = 0x78,
    SEL_TSS_2 = 0x80,
    SEL_TSS_16 = 0x88,
    SEL_CODE1 = 0x90,
    SEL_DATA1 = 0x98,
    SEL_DOWN = 0xa0,
    SEL_SMALL = 0xa8,
    SEL_DATA3_16 = 0xb0 | 3,
    SEL_CODE64 = 0xb8,
    SEL_SMALL_CODE = 0xc0,
    SEL_CODE64_3 = 0xc8 | 3,
    GDT_LIMIT = 0xff,
};

struct machine {
    struct novt_vm *vm;
    struct mon_vcpu *v;
    uint8_t *ram, *rom;
};

static inline uint8_t *machine_memory(struct novt_vm *vm, uint32_t slot, uint64_t gpa, size_t size,
                                      uint32_t flags)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);
    cr_assert(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    cr_assert_eq(novt_vm_set_memory(vm, slot, gpa, size, fd, 0, flags), 0);
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    close(fd);
    return p;
}

static inline void put64(struct machine *m, uint64_t gpa, uint64_t x)
{
    memcpy(m->ram + gpa, &x, 8);
}
static inline void put32(struct machine *m, uint64_t gpa, uint32_t x)
{
    memcpy(m->ram + gpa, &x, 4);
}
static inline void put16(struct machine *m, uint64_t gpa, uint16_t x)
{
    memcpy(m->ram + gpa, &x, 2);
}
static inline uint64_t get64(const struct machine *m, uint64_t gpa)
{
    uint64_t x;
    memcpy(&x, m->ram + gpa, 8);
    return x;
}
static inline uint32_t get32(const struct machine *m, uint64_t gpa)
{
    return (uint32_t)get64(m, gpa);
}
static inline uint16_t get16(const struct machine *m, uint64_t gpa)
{
    return (uint16_t)get64(m, gpa);
}

/* attr as in struct novt_segment; limit in units of the granularity. */
static inline uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffffu) | (uint64_t)(base & 0xffffffu) << 16 | (uint64_t)attr << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}
/* attr: type, DPL, present. */
static inline uint64_t gate(uint16_t selector, uint32_t offset, uint32_t attr, unsigned params)
{
    return (offset & 0xffffu) | (uint64_t)selector << 16 | (uint64_t)params << 32 |
           (uint64_t)attr << 40 | (uint64_t)(offset >> 16) << 48;
}
static inline void set_descriptor(struct machine *m, unsigned selector, uint64_t desc)
{
    put64(m, GDT + (selector & 0xfff8u), desc);
}

static inline void machine_gdt(struct machine *m)
{
    set_descriptor(m, SEL_CODE0, descriptor(0, 0xfffff, 0xc09b));
    set_descriptor(m, SEL_DATA0, descriptor(0, 0xfffff, 0xc093));
    set_descriptor(m, SEL_CODE3, descriptor(0, 0xfffff, 0xc0fb));
    set_descriptor(m, SEL_DATA3, descriptor(0, 0xfffff, 0xc0f3));
    set_descriptor(m, SEL_TSS, descriptor(TSS, TSS_LIMIT, 0x008b));
    set_descriptor(m, SEL_LDT, descriptor(LDT, 0xff, 0x0082));
    set_descriptor(m, SEL_CODE0_16, descriptor(0, 0xffff, 0x009b));
    set_descriptor(m, SEL_DATA0_16, descriptor(0x20000, 0xffff, 0x0093));
    set_descriptor(m, SEL_CONFORMING, descriptor(0, 0xfffff, 0xc09f));
    set_descriptor(m, SEL_ABSENT, descriptor(0, 0xfffff, 0xc013));
    set_descriptor(m, SEL_READ_ONLY, descriptor(0, 0xfffff, 0xc091));
    set_descriptor(m, SEL_EXEC_ONLY, descriptor(0, 0xfffff, 0xc099));
    set_descriptor(m, SEL_GATE32, gate(SEL_CODE0, HANDLER, 0xec, 2));
    set_descriptor(m, SEL_GATE16, gate(SEL_CODE0, 0x1234, 0xe4, 1));
    set_descriptor(m, SEL_TASK_GATE, gate(SEL_TSS_2, 0, 0xe5, 0));
    set_descriptor(m, SEL_TSS_2, descriptor(TSS_2, 0x67, 0x00e9));
    set_descriptor(m, SEL_TSS_16, descriptor(TSS_16, 0x2b, 0x0081));
    set_descriptor(m, SEL_CODE1, descriptor(0, 0xfffff, 0xc0bb));
    set_descriptor(m, SEL_DATA1, descriptor(0, 0xfffff, 0xc0b3));
    set_descriptor(m, SEL_DOWN, descriptor(0x40000, 0x0fff, 0x0097));
    set_descriptor(m, SEL_SMALL, descriptor(0x40000, 0x0fff, 0x4093));
    set_descriptor(m, SEL_DATA3_16, descriptor(0x20000, 0xffff, 0x00f3));
    set_descriptor(m, SEL_CODE64, descriptor(0, 0xfffff, 0xa09b));
    set_descriptor(m, SEL_SMALL_CODE, descriptor(0, 0xff, 0x409b));
    set_descriptor(m, SEL_CODE64_3, descriptor(0, 0xfffff, 0xa0fb));
}

static inline void machine_seg(struct mon_vcpu *v, unsigned seg, uint16_t selector, uint32_t attr)
{
    v->seg[seg] = (struct novt_segment){.limit = 0xffffffffu, .attr = attr, .selector = selector};
}

/* Protected mode, paging off, flat, at the given privilege level (0 or 3), interrupts on. */
static inline void machine_level(struct machine *m, unsigned cpl)
{
    struct mon_vcpu *v = m->v;
    v->cpu->cpl = (uint8_t)cpl;
    for (unsigned seg = 0; seg < 6; seg++)
        machine_seg(v, seg, cpl ? SEL_DATA3 : SEL_DATA0, cpl ? 0xc0f3 : 0xc093);
    machine_seg(v, NOVT_CS, cpl ? SEL_CODE3 : SEL_CODE0, cpl ? 0xc0fb : 0xc09b);
    v->cpu->gpr[RT_SP] = cpl ? STACK3 : STACK0 - 0x100;
    v->cpu->rip = cpl ? 0x60000 : 0x61000;
    v->cpu->rflags = RT_IF | 2;
}

/* Long mode with paging: RAM at 0 and again at HIGH, MMIO_BASE at both; 64-bit or compatibility
 * code at the given privilege level. */
#define HIGH 0xffff800000000000ull
static inline void machine_long(struct machine *m, unsigned cpl, bool wide)
{
    struct mon_vcpu *v = m->v;
    put64(m, 0, 0x1000 | 7);
    put64(m, (HIGH >> 39 & 511) * 8, 0x1000 | 7);
    put64(m, 0x1000, 0x2000 | 7);
    put64(m, 0x1000 + (MMIO_BASE >> 30) * 8, 0x4000 | 7);
    put64(m, 0x2000, 0x3000 | 7);
    for (unsigned n = 0; n < 512; n++)
        put64(m, 0x3000 + 8 * n, n << 12 | 7);
    put64(m, 0x4000 + (MMIO_BASE >> 21 & 511) * 8, MMIO_BASE | 0x87);
    machine_level(m, cpl);
    v->cr3 = 0;
    v->cr4 |= MON_CR4_PAE;
    v->efer = MON_EFER_LME | MON_EFER_LMA | MON_EFER_SCE | MON_EFER_NXE;
    v->cr0 |= MON_CR0_PG | MON_CR0_WP;
    if (wide)
        machine_seg(v, NOVT_CS, cpl ? SEL_CODE64_3 : SEL_CODE64, cpl ? 0xa0fb : 0xa09b);
}

static inline void machine_create(struct machine *m)
{
    struct novt_config config = {.size = sizeof(config)};
    struct novt_vcpu *vcpu;
    char err[200];
    cr_assert_eq(novt_vm_create(&config, &m->vm, err, sizeof(err)), 0, "%s", err);
    m->ram = machine_memory(m->vm, 0, 0, RAM_SIZE, 0);
    m->rom = machine_memory(m->vm, 1, ROM_BASE, 0x10000, NOVT_MEM_READONLY);
    cr_assert_eq(novt_vcpu_create(m->vm, 0, &vcpu), 0);
    struct mon_vcpu *v =
        (void *)((uint8_t *)novt_vcpu_run_area(vcpu) - offsetof(struct mon_vcpu, run));
    m->v = v;
    v->cr0 = MON_CR0_PE | MON_CR0_ET;
    v->cr3 = v->cr4 = v->efer = 0;
    v->dr[6] = 0xffff0ff0u;
    v->dr[7] = 0x400;
    v->gdt = (struct novt_dtable){GDT, GDT_LIMIT};
    v->idt = (struct novt_dtable){IDT, 0x7ff};
    v->tr = (struct novt_segment){TSS, TSS_LIMIT, 0x8b, SEL_TSS};
    v->ldt = (struct novt_segment){.attr = MON_ATTR_UNUSABLE};
    machine_gdt(m);
    put32(m, TSS + 4, STACK0);
    put32(m, TSS + 8, SEL_DATA0);
    put32(m, TSS + 12, STACK1);
    put32(m, TSS + 16, SEL_DATA1 | 1);
    put16(m, TSS + 0x66, 0x88); /* the I/O map, behind the redirection map at 0x68 */
    machine_level(m, 0);
    v->mode_changed = false;
}

static inline void machine_destroy(struct machine *m)
{
    novt_vm_destroy(m->vm);
    munmap(m->ram, RAM_SIZE);
    munmap(m->rom, 0x10000);
}

static inline void set_idt(struct machine *m, unsigned vector, uint64_t entry)
{
    put64(m, IDT + vector * 8, entry);
}

/* rc must be MON_FAULT with this exception. */
#define ASSERT_FAULT(rc_, vector_, error_)                                             \
    do {                                                                               \
        enum mon_rc rc__ = (rc_);                                                      \
        cr_assert_eq(rc__, MON_FAULT, "rc %d", rc__);                                  \
        cr_assert_eq(m.v->exc.vector, (vector_), "vector %u(%#x)", m.v->exc.vector,    \
                     m.v->exc.error);                                                  \
        cr_assert_eq(m.v->exc.error, (uint32_t)(error_), "error %#x", m.v->exc.error); \
    } while (0)
#define ASSERT_OK(rc_)                                                                             \
    do {                                                                                           \
        enum mon_rc rc__ = (rc_);                                                                  \
        cr_assert_eq(rc__, MON_OK, "rc %d vector %u(%#x)", rc__, m.v->exc.vector, m.v->exc.error); \
    } while (0)
#define ASSERT_HEX(actual_, expected_)                                                      \
    do {                                                                                    \
        uint64_t a__ = (actual_), e__ = (expected_);                                        \
        cr_assert_eq(a__, e__, "%s is %#llx, not %#llx", #actual_, (unsigned long long)a__, \
                     (unsigned long long)e__);                                              \
    } while (0)

#endif
