/* loads.c - segment registers loaded again and again, and fast system calls, while what they depend
 * on changes.
 *
 * SDM 3A 3.4.2 and 3.4.3 (selectors, hidden parts), 3.4.5.1 (accessed bit), 5.5 and 5.6 (privilege
 * of data segments), 5.8.7 (SYSENTER, SYSEXIT), 4.10 (what a change of page tables must flush); SDM
 * 2: MOV, POP, SYSENTER, SYSEXIT, each "Operation".
 *
 * A monitor may keep what it knows of a descriptor, of CPL 0's and CPL 3's view of memory, and of
 * the MSRs: each case makes a snippet hot, changes one thing, and runs the same code again. */
#include "guest.h"

const char guest_name[] = "loads";

enum { S0 = FREE, S1 = FREE + 8, S2 = FREE + 16, HIGH = 0x1f8, HIGHER = 0x3f8 };
enum { FLAT3 = 0xcf3, FLAT0 = 0xc93, ACCESSED = 1 };

static uint32_t memory[64] USER;
static uint32_t far_pointer[2] USER;

static uint32_t accessed(uint32_t selector)
{
    return gdt[selector >> 3] >> 40 & 1;
}

/* The ways to load FS and GS; eax is the selector, edx gets the word at its base. */
static const struct snip *way(uint32_t n)
{
    switch (n) {
    case 0:
        return CODE("mov fs, eax; mov edx, fs:[0]; mov ebx, fs");
    case 1:
        return CODE("mov gs, ax; mov edx, gs:[0]; mov ebx, gs");
    case 2:
        return CODE("mov [far_pointer], eax; mov fs, [far_pointer]; mov edx, fs:[0]; mov ebx, fs");
    case 3:
        return CODE("push eax; pop fs; mov edx, fs:[0]; mov ebx, fs");
    case 4:
        return CODE("push eax; pop gs; push ebx; pop ebx; mov edx, gs:[0]; push gs; pop ebx");
    default:
        return CODE("mov [esp - 12], ax; mov gs, [esp - 12]; mov edx, gs:[0]; mov ebx, gs");
    }
}
#define WAYS 6

static void hot(const struct snip *snip, uint32_t selector, uint32_t word)
{
    IN(.eax = selector, .ecx = 0x1234, .esi = 0x5678);
    for (uint32_t i = 0; i < 5; i++) {
        go(snip);
        EQ(out.vector, DONE);
        EQ(out.edx, word);
        EQ(out.ebx & 0xffff, selector);
        EQ(out.ecx, 0x1234);
    }
}

/* What stands in the descriptor counts at each load. */
static void descriptors(void)
{
    memory[0] = 0x11111111, memory[1] = 0x22222222;
    for (uint32_t n = 0; n < WAYS; n++) {
        const struct snip *snip = way(n);
        gdt_set(S0, addr(memory), 0xfffff, FLAT3);
        hot(snip, S0 | 3, memory[0]);
        hot(snip, S0, memory[0]);
        gdt_set(S0, addr(memory) + 4, 0xfffff, FLAT3); /* the base */
        hot(snip, S0 | 3, memory[1]);
        gdt_set(S0, addr(memory), 0xfffff, FLAT3 & ~ACCESSED);
        hot(snip, S0 | 3, memory[0]);
        EQ(accessed(S0), 1);
        gdt_set(S0, addr(memory), 0xfffff, FLAT3 & ~ACCESSED); /* once more, known by now */
        hot(snip, S0 | 3, memory[0]);
        EQ(accessed(S0), 1);
        gdt_set(S0, addr(memory), 0xfffff, 0xcf1); /* read-only */
        hot(snip, S0 | 3, memory[0]);
        gdt_set(S0, addr(memory), 0xfffff, 0xcfb); /* readable code */
        hot(snip, S0 | 3, memory[0]);
        gdt_set(S0, addr(memory), 0xfffff, FLAT3 | 0x100); /* the bit for software */
        hot(snip, S0 | 3, memory[0]);
    }
}

static void limits(void)
{
    for (uint32_t n = 0; n < WAYS; n++) {
        const struct snip *snip = way(n);
        gdt_set(S0, addr(memory), 0xfffff, FLAT3);
        hot(snip, S0 | 3, memory[0]);
        gdt_set(S0, addr(memory), 3, 0x4f3);
        hot(snip, S0 | 3, memory[0]);
        gdt_set(S0, addr(memory), 2, 0x4f3);
        IN(.eax = S0 | 3);
        UNLESS_QEMU(LIMITS)
        {
            go(snip);
            EQ(out.vector, GP);
            EQ(out.error, 0);
        }
        gdt_set(S0, addr(memory), 0xfffff, FLAT3);
        hot(snip, S0 | 3, memory[0]);
    }
}

struct refusal {
    uint32_t attr, selector, vector, error;
};

/* What may not be loaded, after it could be: EIP at the load, nothing changed. */
static void refusals(void)
{
    static const struct refusal refusal[] = {
        {0xc73, S0 | 3, NP, S0}, /* not present */
        {0xc93, S0 | 3, GP, S0}, /* RPL 3, DPL 0 */
        {0xcb3, S0 | 2, GP, S0}, /* RPL 2, DPL 1 */
        {0xcf9, S0 | 3, GP, S0}, /* execute-only code */
        {0x0e2, S0 | 3, GP, S0}, /* an LDT */
        {0x000, S0 | 3, GP, S0}, /* nothing at all */
        {0xc9b, S0 | 3, GP, S0}, /* readable code, not conforming, RPL 3 */
    };
    const struct snip *move = CODE("mov fs, eax"), *pop = CODE("pop gs"),
                      *load = CODE("mov ds, ax"), *get = CODE("mov es, [ebx]");
    gdt_set(S0, addr(memory), 0xfffff, FLAT3);
    for (size_t n = 0; n < COUNT(refusal); n++) {
        uint32_t selector = refusal[n].selector;
        for (uint32_t i = 0; i < 3; i++) {
            gdt_set(S0, 0, 0xfffff, FLAT3);
            memory[8] = memory[20] = selector;
            IN(.eax = selector, .ebx = addr(&memory[20]), .esp = addr(&memory[8]),
               .eflags = CF | ZF);
            go(move);
            EQ(out.vector, DONE);
            EQ(out.fs, selector);
            go(pop);
            EQ(out.vector, DONE);
            EQ(out.gs, selector);
            EQ(out.esp, addr(&memory[9]));
            go(load);
            EQ(out.ds, selector);
            go(get);
            EQ(out.es, selector);
            gdt_set(S0, 0, 0xfffff, refusal[n].attr);
            FAULTS(move, refusal[n].vector, refusal[n].error, n);
            EQ(out.fs, KDATA);
            FAULTS(pop, refusal[n].vector, refusal[n].error, n);
            FAULTS(load, refusal[n].vector, refusal[n].error, n);
            FAULTS(get, refusal[n].vector, refusal[n].error, n);
        }
    }
}

static void null_selectors(void)
{
    const struct snip *fs = CODE("mov fs, eax; mov ebx, fs; mov fs, ecx; mov edx, fs:[esi]"),
                      *use = CODE("mov fs, eax; mov ebx, fs;" AT "mov edx, fs:[esi]"),
                      *pop = CODE("push eax; pop gs; push ecx; pop gs; mov edx, gs:[esi]"),
                      *ds = CODE("mov ds, eax; mov ebx, ds; mov ds, ecx; mov edx, [esi]");
    memory[3] = 0x33333333;
    for (uint32_t n = 0; n < 4 * 4; n++) {
        IN(.eax = n & 3, .ecx = KDATA, .esi = addr(&memory[3]));
        go(fs);
        EQ(out.vector, DONE);
        EQ(out.ebx, n & 3);
        EQ(out.edx, memory[3]);
        go(pop);
        EQ(out.edx, memory[3]);
        go(ds);
        EQ(out.ebx, n & 3);
        EQ(out.edx, memory[3]);
        UNLESS_QEMU(LIMITS)
        {
            FAULTS(use, GP, 0, n);
            EQ(out.ebx, n & 3);
            EQ(out.fs, n & 3);
        }
    }
}

/* The same code at other privilege levels. */
static void privilege(void)
{
    const struct snip *snip = CODE("mov fs, eax"), *pop = CODE("pop gs; push ecx");
    gdt_set(S0, 0, 0xfffff, 0xcbb); /* code and data of level 1 */
    gdt_set(S1, 0, 0xfffff, 0xcb3);
    for (uint32_t n = 0; n < 4; n++) {
        IN(.eax = KDATA);
        go(snip);
        EQ(out.vector, DONE);
        memory[8] = KDATA;
        in.esp = addr(&memory[8]);
        go(pop);
        EQ(out.vector, DONE);
        IN(.eax = KDATA, .cs = UCODE);
        FAULTS(snip, GP, KDATA, n);
        in.esp = addr(&memory[8]), memory[8] = KDATA;
        FAULTS(pop, GP, KDATA, n);
        IN(.eax = KDATA, .cs = S0 | 1, .ss = S1 | 1, .ds = S1 | 1, .es = S1 | 1, .fs = S1 | 1,
           .gs = S1 | 1, .esp = addr(user_stack_top));
        FAULTS(snip, GP, KDATA, n);
        in.eax = S1 | 1;
        go(snip);
        EQ(out.fs, S1 | 1);
        in.eax = UDATA;
        go(snip);
        EQ(out.fs, UDATA);
        in.esp = addr(&memory[8]), memory[8] = KDATA;
        FAULTS(pop, GP, KDATA, n);
        IN(.eax = S1 | 1);
        go(snip);
        EQ(out.fs, S1 | 1);
    }
}

/* Another GDT, a shorter one, and selectors that agree in their low byte. */
static void tables(void)
{
    static uint64_t other[GDT_ENTRIES];
    const struct snip *snip = CODE("mov fs, eax; mov edx, fs:[0]");
    const struct dtable whole = {sizeof(gdt) - 1, addr(gdt)};
    memory[0] = 0x44, memory[1] = 0x55, memory[2] = 0x66;
    gdt_set(HIGH, addr(memory), 0xfffff, FLAT3);
    gdt_set(HIGHER, addr(memory) + 4, 0xfffff, FLAT3);
    memcpy(other, gdt, sizeof(gdt));
    other[HIGH >> 3] = descriptor(addr(memory) + 8, 0xfffff, FLAT3);
    for (uint32_t n = 0; n < 4; n++) {
        IN(.eax = HIGH);
        go(snip);
        EQ(out.edx, 0x44);
        in.eax = HIGHER;
        go(snip);
        EQ(out.edx, 0x55);
        gdt_load(&(struct dtable){HIGHER - 1, addr(gdt)});
        FAULT("mov fs, eax", GP, HIGHER);
        FAULTS(CODE("mov fs, eax"), GP, HIGHER, n);
        go(snip);
        EQ(out.vector, GP);
        in.eax = HIGH;
        go(snip);
        EQ(out.edx, 0x44);
        gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(other)});
        go(snip);
        EQ(out.edx, 0x66);
        gdt_load(&whole);
        go(snip);
        EQ(out.edx, 0x44);
    }
}

/* What one register was loaded with is not what another has, though the selector is the same; LES
 * and string instructions use the whole hidden part. */
static void registers_apart(void)
{
    memory[0] = 0x1000, memory[1] = 0x2000, far_pointer[1] = UDATA;
    for (uint32_t n = 0; n < 8; n++) {
        uint32_t first = n & 1, second = !first;
        gdt_set(S0, addr(&memory[first]), 0xfffff, FLAT3);
        IN(.eax = S0, .edi = addr(gdt) + S0, .ebx = addr(&memory[second]));
        OK("mov fs, eax; mov gs, eax; mov [edi + 2], bx; mov gs, eax; mov edx, fs:[0]; mov esi, "
           "gs:[0]; mov fs, eax; mov ebp, fs:[0]");
        EQ(out.edx, memory[first]);
        EQ(out.esi, memory[second]);
        EQ(out.ebp, memory[second]);
        /* Left to the slow path at once. */
        gdt_set(S0, addr(&far_pointer[0]), 0xfffff, FLAT3);
        far_pointer[0] = 0x700 + n;
        IN(.eax = S0, .ecx = 3);
        OK("mov fs, eax; les edi, fs:[0]; mov gs, eax; mov ebx, es; xor esi, esi; lods dword ptr "
           "gs:[esi]");
        EQ(out.edi, 0x700 + n);
        EQ(out.ebx, UDATA);
        EQ(out.eax, 0x700 + n);
    }
}

/* The GDT's second page goes: a load is a read of the supervisor's, at the descriptor's address. */
static void paged_table(void)
{
    enum { ALIAS = 0x40000000, FAR = 0x1008 };
    static uint64_t big[1024] __attribute__((aligned(4096)));
    const struct snip *snip = CODE("mov fs, eax; mov gs, eax"), *pop = CODE("pop gs");
    const uint32_t page = ALIAS + 4096;
    memcpy(big, gdt, sizeof(gdt));
    big[FAR >> 3] = descriptor(0, 0xfffff, FLAT3);
    for (uint32_t user = 0; user < 2; user++) {
        frames_reset();
        uint32_t *pd = pd_new(P | W | U);
        for (uint32_t i = 0; i < 2; i++)
            pd_map(pd, ALIAS + i * 4096, addr(big) + i * 4096, P | W | (user ? U : 0));
        paging_on(pd, 0);
        gdt_load(&(struct dtable){sizeof(big) - 1, ALIAS});
        for (uint32_t n = 0; n < 5; n++) {
            memory[8] = FAR;
            IN(.eax = FAR, .ecx = 0x9999, .esp = addr(&memory[8]), .eflags = CF);
            *pd_entry(pd, page) &= ~(uint32_t)A;
            invlpg(page);
            go(snip);
            EQ(out.fs, FAR);
            EQ(out.ecx, 0x9999);
            EQ(*pd_entry(pd, page) & A, A);
            memory[8] = FAR;
            go(pop);
            EQ(out.gs, FAR);
            *pd_entry(pd, page) &= ~(uint32_t)P;
            invlpg(page);
            FAULTS(snip, PF, 0, n);
            EQ(out.cr2, ALIAS + FAR);
            memory[8] = FAR;
            FAULTS(pop, PF, 0, n);
            EQ(out.cr2, ALIAS + FAR);
            *pd_entry(pd, page) |= P;
        }
        gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
        paging_off();
    }
}

/* ---- SYSENTER and SYSEXIT ---- */

enum { MSR_CS = 0x174, MSR_ESP, MSR_EIP };

static void sysenter_to(uint32_t handler)
{
    wrmsr(MSR_CS, KCODE);
    wrmsr(MSR_ESP, addr(kernel_stack_top) - 64);
    wrmsr(MSR_EIP, handler);
}

static void sysenter_end(void)
{
    wrmsr(MSR_CS, 0);
    wrmsr(MSR_ESP, 0);
    wrmsr(MSR_EIP, 0);
}

#define CALLS "1: mov ecx, esp; lea edx, 2f; sysenter; ud2; 2: "

/* The handler changes the MSRs: the next SYSENTER has to see it. */
static void changed_msrs(void)
{
    const struct snip *handler =
        CODE("mov ebx, esp; push ecx; push edx; push eax; mov ecx, 0x175; rdmsr; add eax, 4; wrmsr;"
             "pop eax; pop edx; pop ecx; inc esi; sysexit");
    sysenter_to(handler->start);
    IN(.cs = UCODE, .edi = 40);
    OK(CALLS "dec edi; jnz 1b");
    EQ(out.esi, 40);
    EQ(out.ebx, addr(kernel_stack_top) - 64 + 39 * 4);
    EQ(out.ss, UDATA);
    /* To another handler, and to none: SYSENTER_CS = 0 in the second call. */
    handler =
        CODE("push ecx; push edx; mov ecx, 0x174; xor eax, eax; xor edx, edx; wrmsr; pop edx; "
             "pop ecx; mov ebx, cs; mov ebp, ss; inc esi; push 0x23; push ecx; push 0x202; "
             "push 0x1b; push edx; iretd");
    sysenter_to(handler->start);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    IN(.cs = UCODE, .edi = 40);
    RUN(CALLS "dec edi; jnz 1b");
    EQ(out.vector, GP);
    EQ(out.error, 0);
    EQ(out.cs, UCODE);
    EQ(out.esi, 1);
    EQ(out.ebx, KCODE);
    EQ(out.ebp, KDATA);
    /* SYSEXIT with SYSENTER_CS = 0 in the fast way's place. */
    handler = CODE("inc esi; cmp esi, 20; jne 1f; push ecx; push edx; mov ecx, 0x174; xor eax, eax;"
                   "xor edx, edx; wrmsr; pop edx; pop ecx; 1:" AT "sysexit");
    sysenter_to(handler->start);
    IN(.cs = UCODE, .edi = 40);
    RUN(CALLS "dec edi; jnz 1b");
    EQ(out.vector, GP);
    EQ(out.eip, handler->at);
    EQ(out.cs, KCODE);
    EQ(out.esi, 20);
    sysenter_end();
}

/* Flags, IF among them, and segment registers go through both ways as they are. */
static void what_stays(void)
{
    const struct snip *handler = CODE("pushfd; pop ebx; mov ebp, ds; mov eax, fs; sti; sysexit");
    sysenter_to(handler->start);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (uint32_t n = 0; n < 16; n++) {
        uint32_t flags = (n & 1 ? CF | OFL : 0u) | (n & 2 ? DFL | SF : 0u) | (n & 4 ? ID : 0u) |
                         (n & 8 ? IOPL3 : 0u) | IF;
        IN(.cs = UCODE, .edi = 20, .eflags = flags, .fs = n & 1 ? S2 | 3 : 1u);
        gdt_set(S2, addr(memory), 0xfffff, FLAT3);
        OK(CALLS "lea edi, [edi - 1]; xchg edi, ecx; jecxz 3f; xchg edi, ecx; jmp 1b; 3: pushfd; "
                 "pop esi");
        EQ(out.ebx, (flags & ~IF) | 2);
        EQ(out.esi, flags | 2);
        EQ(out.ebp, UDATA);
        EQ(out.eax, in.fs);
        EQ(out.fs, in.fs);
    }
    /* A stack and data that are not flat. */
    gdt_set(S0, addr(memory) - 0x1000, 0xfffff, FLAT3);
    gdt_set(S1, addr(memory), 63, 0x4f3);
    handler = CODE("mov ebx, ss; push 0x7777; pop ebp; sysexit");
    sysenter_to(handler->start);
    memory[0] = 0x1234;
    IN(.cs = UCODE, .ss = S0 | 3, .ds = S1 | 3, .edi = 20, .esp = 0x1000 + 40);
    OK("mov eax, ss; 1: mov ss, eax; mov ebp, esp; lea ecx, [esp]; lea edx, 2f; sysenter; ud2; 2: "
       "mov esi, ss; mov eax, 0x43; dec edi; jnz 1b; mov eax, [0]");
    EQ(out.ebx, KDATA);
    EQ(out.ebp, 0x7777);
    EQ(out.esi, UDATA);
    EQ(out.eax, 0x1234);
    EQ(out.ds, S1 | 3);
    sysenter_end();
}

/* The handler changes IOPL: CLI, STI and POPF of the program mean something else then. */
static void changed_iopl(void)
{
    const struct snip *handler = CODE("pushfd; xor dword ptr [esp], 0x3000; popfd; inc esi; sti; "
                                      "sysexit"),
                      *program = CODE(CALLS "pushfd; pop ebx; mov eax, ebx; and eax, ~0x200; "
                                            "push eax; popfd; pushfd; pop ebp; push ebx; popfd; "
                                            "test bh, 0x30; jz 3f; cli; nop; sti; nop; 3: dec edi; "
                                            "jnz 1b");
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    sysenter_to(handler->start);
    for (uint32_t n = 1; n < 24; n++) {
        IN(.cs = UCODE, .edi = n, .eflags = IF);
        go(program);
        EQ(out.vector, DONE);
        EQ(out.esi, n);
        EQ(out.ebx & (IOPL3 | IF), n & 1 ? IOPL3 | IF : IF);
        EQ(out.ebp & (IOPL3 | IF), n & 1 ? IOPL3 : IF);
    }
    sysenter_end();
}

/* The handler changes the page tables behind the program. */
static void changed_pages(void)
{
    enum { LIN = 0x40000000 };
    const struct snip *by_invlpg =
                          CODE("xor dword ptr [ebp], 0x1000; invlpg [0x40000000]; sysexit"),
                      *by_cr3 = CODE("xor dword ptr [ebp], 0x1000; mov eax, cr3; mov cr3, eax; "
                                     "sysexit"),
                      *by_root = CODE("mov eax, cr3; xor eax, ebp; mov cr3, eax; sysexit");
    for (uint32_t n = 0; n < 3; n++) {
        frames_reset();
        uint32_t *two = frame_new(), *one;
        do { /* two frames, of which the address of one has bit 12 set and the other's not */
            one = two;
            two = frame_new();
        } while ((addr(one) ^ addr(two)) != 0x1000);
        uint32_t *pd = pd_new(P | W | U), *other = pd_new(P | W | U);
        one[0] = 0x111, two[0] = 0x222;
        pd_map(pd, LIN, addr(one), P | W | U | (n ? 0 : G));
        pd_map(other, LIN, addr(two), P | W | U);
        paging_on(pd, n ? 0 : CR4_PGE);
        sysenter_to((n == 0 ? by_invlpg : n == 1 ? by_cr3 : by_root)->start);
        IN(.cs = UCODE, .edi = 41,
           .ebp = n == 2 ? addr(pd) ^ addr(other) : addr(pd_entry(pd, LIN)));
        OK(CALLS "mov eax, [0x40000000]; add esi, eax; dec edi; jnz 1b; mov ebx, [0x40000000]");
        EQ(out.esi, 21 * 0x222 + 20 * 0x111);
        EQ(out.ebx, 0x222);
        paging_off();
    }
    sysenter_end();
}

/* Single-step from user mode into the handler: SYSENTER leaves TF. */
static uint32_t steps, step_cs;

static bool note_step(struct frame *frame)
{
    if (frame->vector != DB)
        return false;
    steps++;
    step_cs = frame->cs & 0xffff;
    frame->eflags &= ~TF;
    return true;
}

static void stepped(void)
{
    const struct snip *handler = CODE("inc esi; sysexit");
    sysenter_to(handler->start);
    steps = 0;
    trap_hook = note_step;
    IN(.cs = UCODE, .edi = 20);
    OK(CALLS "cmp edi, 10; jne 3f; mov ecx, esp; lea edx, 3f; pushfd; or dword ptr [esp], 0x100; "
             "popfd; sysenter; ud2; 3: dec edi; jnz 1b");
    trap_hook = 0;
    EQ(out.esi, 21);
    EQ(steps, 1);
    EQ(step_cs, KCODE);
    sysenter_end();
}

void guest_main(void)
{
    GROUP(descriptors);
    GROUP(limits);
    GROUP(refusals);
    GROUP(null_selectors);
    GROUP(privilege);
    GROUP(tables);
    GROUP(registers_apart);
    GROUP(paged_table);
    if (!(cpuid(1, 0).edx >> 11 & 1))
        return;
    GROUP(changed_msrs);
    GROUP(what_stays);
    GROUP(changed_iopl);
    GROUP(changed_pages);
    GROUP(stepped);
}
