/* The embedder's handler (novt_vcpu_set_handler()): an exit that it deals with is as one after
 * which novt_vcpu_run() was called again. */
#include "tests/unit/engine_guest.h"

TestSuite(cpu_handler, .timeout = 30);

static struct engine_guest g;
static unsigned calls;
static uint64_t rip_seen;
static uint8_t xmm0_seen[16];

static struct novt_regs regs(void)
{
    struct novt_regs r;
    novt_vcpu_get_regs(g.vcpu, &r);
    return r;
}

static bool answer(void *opaque, struct novt_run *run)
{
    if (run->exit_reason != NOVT_EXIT_IO && run->exit_reason != NOVT_EXIT_MMIO)
        return false;
    calls++;
    rip_seen = regs().rip;
    if (run->exit_reason == NOVT_EXIT_MMIO)
        run->mmio.data[0] = *(uint8_t *)opaque;
    else
        run->io.data = *(uint8_t *)opaque;
    return true;
}

static const uint32_t ways[] = {0, NOVT_HANDLER_KEEPS_STATE};

static void start(const void *code, size_t len, novt_exit_handler *handler, void *opaque,
                  uint32_t flags)
{
    calls = 0;
    engine_guest_create(&g, 0, code, len);
    cr_assert_eq(novt_vcpu_set_handler(g.vcpu, handler, opaque, flags), NOVT_OK);
}

Test(cpu_handler, answers_without_an_exit)
{
    /* mov ecx, 100; 1: in al, 0x80; loop 1b; hlt */
    static const uint8_t code[] = {0xb9, 100, 0, 0, 0, 0xe4, 0x80, 0xe2, 0xfc, 0xf4};
    uint8_t value = 0x5a;

    for (unsigned n = 0; n < 2; n++) {
        start(code, sizeof(code), answer, &value, ways[n]);
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        cr_assert_eq(calls, 100);
        cr_assert_eq(rip_seen, GUEST_CODE + 5, "the state is that before the instruction");
        cr_assert_eq(regs().gpr[NOVT_RAX] & 0xff, value);
        engine_guest_destroy(&g);
    }
}

Test(cpu_handler, answers_device_memory)
{
    /* mov ecx, 100; 1: mov al, [0x200000]; loop 1b; hlt */
    static const uint8_t code[] = {0xb9, 100, 0, 0, 0, 0xa0, 0, 0, 0x20, 0, 0xe2, 0xf9, 0xf4};
    uint8_t value = 0xa5;

    for (unsigned n = 0; n < 2; n++) {
        start(code, sizeof(code), answer, &value, ways[n]);
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        cr_assert_eq(calls, 100);
        cr_assert_eq(regs().gpr[NOVT_RAX] & 0xff, value);
        engine_guest_destroy(&g);
    }
}

static bool refuse(void *opaque, struct novt_run *run)
{
    (void)opaque;
    calls += run->exit_reason == NOVT_EXIT_IO;
    return false;
}

Test(cpu_handler, what_it_refuses_is_an_exit)
{
    static const uint8_t code[] = {0xe4, 0x80, 0xf4}; /* in al, 0x80; hlt */

    for (unsigned n = 0; n < 2; n++) {
        start(code, sizeof(code), refuse, NULL, ways[n]);
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_IO);
        cr_assert_eq(calls, 1);
        cr_assert_eq(regs().rip, GUEST_CODE);
        g.run->io.data = 7;
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        cr_assert_eq(regs().gpr[NOVT_RAX] & 0xff, 7);
        engine_guest_destroy(&g);
    }
}

/* One half of a misaligned access, and the port of REP INS, but not the memory. */
static bool answer_a_part(void *opaque, struct novt_run *run)
{
    (void)opaque;
    if (run->exit_reason == NOVT_EXIT_IO)
        run->io.data = 0x40 + calls;
    else if (run->exit_reason != NOVT_EXIT_MMIO || run->mmio.gpa >= 0x200004)
        return false;
    else
        run->mmio.data[0] = run->mmio.data[1] = 0x11;
    calls++;
    return true;
}

Test(cpu_handler, answers_a_part_of_an_instruction)
{
    static const uint8_t load[] = {0xa1, 2, 0, 0x20, 0, 0xf4}; /* mov eax, [0x200002]; hlt */

    for (unsigned n = 0; n < 2; n++) {
        start(load, sizeof(load), answer_a_part, NULL, ways[n]);
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_MMIO);
        cr_assert_eq(calls, 1);
        cr_assert_eq(g.run->mmio.gpa, 0x200004);
        cr_assert_eq(regs().rip, GUEST_CODE);
        g.run->mmio.data[0] = g.run->mmio.data[1] = 0x22;
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        cr_assert_eq(calls, 1, "what was answered is not asked again");
        cr_assert_eq(regs().gpr[NOVT_RAX], 0x22221111);
        engine_guest_destroy(&g);
    }
}

Test(cpu_handler, answers_a_part_of_an_iteration)
{
    /* mov edi, 0x200004; mov ecx, 3; mov edx, 0x80; rep insb; hlt */
    static const uint8_t code[] = {0xbf, 4,    0,    0x20, 0, 0xb9, 3,    0,    0,
                                   0,    0xba, 0x80, 0,    0, 0,    0xf3, 0x6c, 0xf4};

    for (unsigned n = 0; n < 2; n++) {
        start(code, sizeof(code), answer_a_part, NULL, ways[n]);
        for (unsigned i = 0; i < 3; i++) {
            cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_MMIO);
            cr_assert_eq(calls, i + 1);
            cr_assert_eq(g.run->mmio.gpa, 0x200004 + i);
            cr_assert_eq(g.run->mmio.data[0], 0x40 + i);
        }
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        cr_assert_eq(calls, 3);
        cr_assert_eq(regs().gpr[NOVT_RCX], 0);
        engine_guest_destroy(&g);
    }
}

/* As after an exit: the instruction is not completed. */
static bool go_elsewhere(void *opaque, struct novt_run *run)
{
    struct novt_regs r = regs();

    (void)opaque;
    if (run->exit_reason != NOVT_EXIT_IO)
        return false;
    run->io.data = 7;
    r.rip = GUEST_CODE + 16;
    return novt_vcpu_set_regs(g.vcpu, &r) == NOVT_OK;
}

Test(cpu_handler, may_set_registers)
{
    /* in al, 0x80; ud2 ... mov bl, 1; hlt */
    static const uint8_t code[20] = {0xe4, 0x80, 0x0f, 0x0b, [16] = 0xb3, 1, 0xf4};

    start(code, sizeof(code), go_elsewhere, NULL, 0);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(regs().gpr[NOVT_RAX] & 0xff, 0x11);
    cr_assert_eq(regs().gpr[NOVT_RBX] & 0xff, 1);
    engine_guest_destroy(&g);
}

/* mov ecx, 50; movups xmm0, [data]; 1: in al, 0x80; loop 1b; movups [data + 16], xmm0; hlt */
static const uint8_t with_xmm0[] = {0xb9, 50,   0,    0,    0,    0x0f, 0x10, 0x05,
                                    0,    0x90, 0,    0,    0xe4, 0x80, 0xe2, 0xfc,
                                    0x0f, 0x11, 0x05, 0x10, 0x90, 0,    0,    0xf4};

static bool spoil_vectors(void *opaque, struct novt_run *run)
{
    (void)opaque;
    if (run->exit_reason != NOVT_EXIT_IO)
        return false;
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tfldz" : : : "xmm0");
    __asm__ volatile("fninit");
    return true;
}

static bool look_at_vectors(void *opaque, struct novt_run *run)
{
    static uint8_t area[4096];

    (void)opaque;
    if (run->exit_reason != NOVT_EXIT_IO)
        return false;
    cr_assert_eq(novt_vcpu_get_xsave(g.vcpu, area, sizeof(area)), NOVT_OK);
    memcpy(xmm0_seen, area + 160, 16);
    return true;
}

static void run_with_xmm0(novt_exit_handler *handler, uint32_t flags)
{
    start(with_xmm0, sizeof(with_xmm0), handler, NULL, flags);
    memcpy(g.ram + GUEST_DATA, "0123456789abcdef", 16);
    cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
    cr_assert_eq(memcmp(g.ram + GUEST_DATA, g.ram + GUEST_DATA + 16, 16), 0);
    engine_guest_destroy(&g);
}

Test(cpu_handler, may_use_vector_registers)
{
    run_with_xmm0(spoil_vectors, 0);
}

Test(cpu_handler, sees_vector_state)
{
    run_with_xmm0(look_at_vectors, 0);
    cr_assert_eq(memcmp(xmm0_seen, "0123456789abcdef", 16), 0);
    memset(xmm0_seen, 0, sizeof(xmm0_seen));
    run_with_xmm0(look_at_vectors, NOVT_HANDLER_KEEPS_VECTORS);
    cr_assert_eq(memcmp(xmm0_seen, "0123456789abcdef", 16), 0);
}

/* An interrupt for each window that opens, from a handler that never leaves. */
static bool inject(void *opaque, struct novt_run *run)
{
    (void)opaque;
    if (run->exit_reason == NOVT_EXIT_IO) {
        run->request_interrupt_window = 1;
        return true;
    }
    if (run->exit_reason != NOVT_EXIT_IRQ_WINDOW)
        return false;
    calls++;
    cr_assert_eq(run->ready_for_interrupt, 1);
    run->request_interrupt_window = 0;
    return novt_vcpu_interrupt(g.vcpu, 0x20) == NOVT_OK;
}

/* ID, because it harms nobody. */
Test(cpu_handler, the_callers_flags_are_not_the_guests)
{
    static const uint8_t code[] = {0x9c, 0x58, 0xf4}; /* pushf; pop eax; hlt */
    uint64_t flags = __builtin_ia32_readeflags_u64();

    engine_guest_create(&g, 0, code, sizeof(code));
    __builtin_ia32_writeeflags_u64(flags ^ 1u << 21);
    unsigned reason = engine_guest_run(&g);
    __builtin_ia32_writeeflags_u64(flags);
    cr_assert_eq(reason, NOVT_EXIT_HLT);
    cr_assert_eq(regs().gpr[NOVT_RAX], 2);
    engine_guest_destroy(&g);
}

Test(cpu_handler, injects_interrupts)
{
    /* out 0x80, al; sti; nop; cli; hlt ... the handler: inc bl; iret */
    static const uint8_t code[36] = {0xe6, 0x80, 0xfb, 0x90, 0xfa, 0xf4, [32] = 0xfe, 0xc3, 0xcf};
    const uint64_t gate = 0x00008e0000080000 | (GUEST_CODE + 32), flat = 0x00cf9b000000ffff;
    struct novt_sregs s;

    for (unsigned n = 0; n < 2; n++) {
        start(code, sizeof(code), inject, NULL, ways[n]);
        memcpy(g.ram + 0x3000 + 8 * 0x20, &gate, 8);
        memcpy(g.ram + 0x2000 + 8, &flat, 8);
        novt_vcpu_get_sregs(g.vcpu, &s);
        s.idt = (struct novt_dtable){0x3000, 0x7ff};
        s.gdt = (struct novt_dtable){0x2000, 0xff};
        cr_assert_eq(novt_vcpu_set_sregs(g.vcpu, &s), 0);
        cr_assert_eq(engine_guest_run(&g), NOVT_EXIT_HLT);
        cr_assert_eq(calls, 1);
        cr_assert_eq(regs().gpr[NOVT_RBX] & 0xff, 0x45, "the interrupt handler ran once");
        engine_guest_destroy(&g);
    }
}

Test(cpu_handler, flags_are_checked)
{
    static const uint8_t code[] = {0xf4};

    start(code, sizeof(code), NULL, NULL, 0);
    cr_assert_eq(novt_vcpu_set_handler(g.vcpu, refuse, NULL, 4), NOVT_E_INVAL);
    engine_guest_destroy(&g);
}
