/* segments.c - segmentation: limits, types, bases, 16-bit segments, far transfers, gates and tasks.
 *
 * SDM 3A 3.4.5 (descriptors), 5.3 (limits, expand-down), 5.4 (types), 5.6 and 5.8 (privilege, call
 * gates, stack switch, conforming code), 5.8.6 (returns null segments), 7.2-7.5 (tasks: busy bit,
 * NT, link, T), 21 (mixing 16-bit and 32-bit code); SDM 2: CALL, JMP, RET, IRET, INT, each
 * "Operation". */
#include "guest.h"

const char guest_name[] = "segments";

enum { S0 = FREE, S1 = FREE + 8, S2 = FREE + 16, S3 = FREE + 24, TASK = FREE + 32 };

static uint8_t buffer[4 * 4096] USER __attribute__((aligned(4096)));
static uint32_t memory[64] USER;
static uint8_t code16[4096] USER_CODE;
static struct tss task;
static const uint32_t both[] = {0, UCODE};

/* Is [offset, offset + size) inside? SDM 3A 5.3. */
static bool inside(uint32_t offset, uint32_t size, uint32_t limit, bool down, bool big)
{
    uint64_t last = (uint64_t)offset + size - 1;
    if (!down)
        return last <= limit;
    return offset > limit && last <= (big ? 0xffffffffu : 0xffff);
}

struct limit_case {
    uint32_t limit, attr; /* as for gdt_set */
};

static void limits(void)
{
    static const struct limit_case segments[] = {{0x7ff, 0x4f3}, {0xffe, 0x0f3}, {1, 0xcf3},
                                                 {0x7ff, 0x4f7}, {0x7ff, 0x0f7}, {0, 0x4f3},
                                                 {0x800, 0xcf7}, {0x7ff, 0x4f2}};
    static const uint8_t sizes[] = {1, 2, 4, 8};
    /* Read and write of each size at FS:ESI; also by string and stack. */
    const struct snip *reads[] = {CODE("mov al, fs:[esi]"), CODE("mov ax, fs:[esi]"),
                                  CODE("mov eax, fs:[esi]"),
                                  CODE("fld qword ptr fs:[esi]; fstp st(0)")};
    const struct snip *writes[] = {CODE("mov fs:[esi], al"), CODE("add word ptr fs:[esi], 1"),
                                   CODE("mov fs:[esi], eax"), CODE("cmpxchg8b fs:[esi]")};
    go(CODE("fninit"));
    for (size_t n = 0; n < COUNT(segments); n++) {
        bool down = segments[n].attr & 4, big = segments[n].attr & 0x400,
             pages = segments[n].attr & 0x800;
        uint32_t limit = pages ? segments[n].limit << 12 | 0xfff : segments[n].limit;
        /* The base puts the interesting offsets into the buffer. */
        uint32_t base = addr(buffer) + 4096 - (limit & ~0xfffu);
        gdt_set(S0, base, segments[n].limit, segments[n].attr);
        for (uint32_t s = 0; s < 4; s++)
            for (int32_t delta = -9; delta <= 9; delta++) {
                uint32_t offset = limit + (uint32_t)delta;
                bool ok = inside(offset, sizes[s], limit, down, big);
                for (uint32_t w = 0; w < 2; w++) {
                    IN(.cs = UCODE, .fs = S0 | 3, .esi = offset);
                    const struct snip *snip = w ? writes[s] : reads[s];
                    if (ok) {
                        go(snip);
                        CHECK(out.vector, DONE, "inside the limit", n);
                    } else {
                        FAULTS(snip, GP, 0, n);
                    }
                }
            }
        if (!down || big)
            continue;
        for (uint32_t offset = 0xfffa; offset < 0x10003;
             offset++) { /* the upper bound of a small expand-down segment */
            gdt_set(S0, addr(buffer) - 0xe000, segments[n].limit, segments[n].attr);
            IN(.cs = UCODE, .fs = S0 | 3, .esi = offset);
            if (offset + 3 <= 0xffff)
                OK("mov eax, fs:[esi]");
            else
                FAULT("mov eax, fs:[esi]", GP, 0);
        }
    }
    /* Every register, and every way to get at memory without a ModRM byte. */
    gdt_set(S0, addr(buffer), 0xff, 0x4f3);
    IN(.cs = UCODE, .ds = S0 | 3, .es = S0 | 3, .gs = S0 | 3, .esi = 0xfd, .edi = 0x100,
       .ebx = 0xff, .eax = 1);
    FAULT("mov ecx, [esi]", GP, 0);
    FAULT("mov ecx, es:[esi]", GP, 0);
    FAULT("mov ecx, gs:[esi + 3]", GP, 0);
    FAULT("lodsd", GP, 0);
    FAULT("stosb", GP, 0);
    FAULT("xlat", GP, 0);
    FAULT("mov al, ds:[0x100]", GP, 0);
    FAULT("push dword ptr [esi]", GP, 0);
    FAULT("bts dword ptr [ebx - 3], edi; nop", GP, 0);
    FAULT("bt [esi + 2], ax", GP, 0);
    FAULT("jmp dword ptr [esi]", GP, 0);
    FAULT("les ecx, [esi - 2]", GP, 0);
    FAULT("fnstenv [esi - 24]", GP, 0);
    OK("mov cl, [esi]; mov cx, [esi + 1]; lea edx, [esi + 100]; mov ecx, [esi - 1]; xor eax, eax; "
       "bt [esi - 1], eax");
    /* A REP that runs out of its segment has done what was inside. */
    IN(.cs = UCODE, .es = S0 | 3, .edi = 0xf0, .ecx = 10, .eax = 0x5a5a5a5a);
    RUN("rep stosd");
    EQ(out.vector, GP);
    EQ(out.ecx, 6);
    EQ(out.edi, 0x100);
    IN(.cs = UCODE, .ds = S0 | 3, .esi = 0x3, .ecx = 10, .eflags = DFL);
    RUN("rep lodsb");
    EQ(out.vector, GP);
    EQ(out.ecx, 6);
    EQ(out.esi, 0xffffffff);
    /* The stack segment: #SS(0). EBP- and ESP-based operands use it. */
    gdt_set(S1, addr(buffer), 0xff, 0x4f3);
    IN(.cs = UCODE, .ss = S1 | 3, .esp = 2, .ebp = 0xfd, .esi = 0xfd);
    FAULT("push eax", SS, 0);
    FAULT("call 1f; 1:", SS, 0);
    FAULT("pushad", SS, 0);
    FAULT("mov eax, [ebp]", SS, 0);
    FAULT("mov [ebp + 3], ax", SS, 0);
    FAULT("inc dword ptr ss:[esi]", SS, 0);
    FAULT("enter 4, 0", SS, 0);
    in.esp = 0xfe;
    FAULT("pop eax", SS, 0);
    FAULT("ret", SS, 0);
    FAULT("popad", SS, 0);
    FAULT("leave", SS, 0);
    OK("pop ax; mov al, [ebp + 2]; mov ax, [ebp + 1]; mov eax, ds:[ebp + 0x100000]");
}

static void types(void)
{
    gdt_set(S0, 0, 0xfffff, 0xcf1); /* read-only data */
    gdt_set(S1, 0, 0xfffff, 0xcf9); /* execute-only */
    gdt_set(S2, 0, 0xfffff, 0xcfb); /* readable code */
    IN(.cs = UCODE, .fs = S0 | 3, .gs = S2 | 3, .esi = addr(memory), .edi = addr(memory));
    OK("mov eax, fs:[esi]; mov eax, gs:[esi]; mov eax, cs:[esi]; lods dword ptr cs:[esi]");
    FAULT("mov fs:[esi], eax", GP, 0);
    FAULT("inc byte ptr gs:[esi]", GP, 0);
    FAULT("mov cs:[esi], eax", GP, 0);
    FAULT("xchg cs:[esi], al", GP, 0);
    in.es = S0 | 3;
    FAULT("stosb", GP, 0);
    FAULT("movsd", GP, 0);
    OK("scasd; cmpsb");
    in.es = 0, in.ebx = S1 | 3;
    FAULT("mov ds, ebx", GP, S1);
    FAULT("push ebx;" AT "pop es", GP, S1);
    in.cs = S1 | 3; /* run in it: fetching is allowed, reading is not */
    OK("mov eax, [esi]; push eax; pop ecx");
    FAULT("mov eax, cs:[esi]", GP, 0);
    FAULT("cmp byte ptr cs:[esi], 3", GP, 0);
    /* Null selectors may be loaded, but not used. */
    IN(.cs = UCODE, .esi = addr(memory), .edi = addr(memory));
    OK("xor ebx, ebx; mov fs, ebx; mov gs, bx; push 3; pop es; mov ecx, es");
    EQ(out.ecx, 3);
    FAULT("xor ebx, ebx; mov fs, ebx;" AT "mov eax, fs:[esi]", GP, 0);
    FAULT("push 1; pop es;" AT "stosb", GP, 0);
    FAULT("push 2; pop ds;" AT "inc dword ptr [esi]", GP, 0);
    FAULT("mov ebx, 3; mov ds, ebx;" AT "lodsb", GP, 0);
    OK("push 3; pop ds; lea eax, [esi]; nop dword ptr [esi]; mov ebx, ss:[esi]; mov ecx, 0; rep "
       "lodsb");
}

/* Bases, with offsets that wrap modulo 2^32: a 4 GiB segment at any base reaches everything. */
static void bases(void)
{
    static const uint32_t base_values[] = {0x1000, 0x80000000, 0xfffff000, 0xc0000000, 0x123456};
    for (size_t n = 0; n < COUNT(base_values); n++) {
        uint32_t base = base_values[n];
        for (uint32_t i = 0; i < 64; i++)
            memory[i] = i * 0x01010101;
        gdt_set(S0, base, 0xfffff, 0xcf3);
        IN(.cs = UCODE, .fs = S0 | 3, .gs = S0 | 3, .ds = S0 | 3, .es = S0 | 3,
           .esi = addr(memory) - base, .ebx = 5, .eax = 9, .edi = addr(memory) + 128 - base);
        OK("mov eax, [esi + 4]; add eax, fs:[esi + ebx * 4]; mov gs:[esi], eax; movsd; mov ecx, "
           "es:[edi]; push dword ptr [esi]; pop edx; "
           "lock xadd [esi + 8], ebx; inc word ptr [esi + 16]");
        EQ(out.eax, 0x06060606);
        EQ(memory[0], 0x06060606);
        EQ(memory[32], 0x06060606);
        EQ(out.ecx, 33 * 0x01010101);
        EQ(out.edx, 0x01010101);
        EQ(out.ebx, 3 * 0x01010101);
        EQ(memory[3], 3 * 0x01010101 + 5);
        EQ(memory[5] & 0xffff, 0x0506);
        IN(.cs = UCODE, .ds = S0 | 3, .esi = addr(memory) + 16 - base, .eax = 0x22,
           .ebx = addr(memory) - base);
        OK("fninit; fld dword ptr [esi]; fstp dword ptr [esi + 4]; mov cl, [ebx + 8]; mov ch, [ebx "
           "+ 9]; mov [ebx + 12], ah; "
           "bts dword ptr [ebx], 31; cmp dword ptr [ebx + 16], 0x04040404; setne dl; xlat; mov "
           "edi, [ebx + esi * 1 - 16 + 0]; nop; sub esi, 16");
        EQ(out.esi, addr(memory) - base);
        /* The stack in a segment with a base. */
        IN(.cs = UCODE, .ss = S0 | 3, .esp = addr(memory) + 128 - base, .eax = 0x77, .ecx = 30);
        OK("1: push eax; call 2f; pop edx; loop 1b; jmp 3f; 2: mov ebp, esp; inc dword ptr [ebp + "
           "4]; mov ebx, [esp]; ret; 3:");
        EQ(out.edx, 0x78);
        EQ(out.esp, addr(memory) + 128 - base);
        EQ(memory[31], 0x78);
        EQ(memory[30], out.ebx);
        /* Changed under a hot loop: the same code with another base each time. */
        memory[0] = 0x100 + n;
        gdt_set(S0, addr(memory) + 4 * n, 0xfffff, 0xcf3);
        IN(.cs = UCODE, .fs = S0 | 3, .esi = 0 - 4 * (uint32_t)n, .ecx = 20);
        OK("1: mov eax, fs:[esi]; loop 1b");
        EQ(out.eax, 0x100 + n);
    }
    /* Reloaded inside the loop. */
    gdt_set(S0, addr(memory), 0xfffff, 0xcf3);
    gdt_set(S1, addr(memory) + 4, 0xfffff, 0xcf3);
    memory[0] = 3, memory[1] = 5;
    IN(.cs = UCODE, .eax = S0 | 3, .ebx = S1 | 3, .ecx = 500);
    OK("1: mov fs, eax; add edx, fs:[0]; mov fs, ebx; add edi, fs:[0]; xchg eax, ebx; xchg eax, "
       "ebx; loop 1b");
    EQ(out.edx, 1500);
    EQ(out.edi, 2500);
    /* A descriptor changed in memory counts with the next load only. */
    IN(.eax = S0, .esi = addr(gdt) + S0, .ebx = addr(memory) + 4);
    gdt_set(S0, addr(memory), 0xfffff, 0xc93);
    OK("mov fs, eax; mov [esi + 2], bx; mov ecx, fs:[0]; mov fs, eax; mov edx, fs:[0]");
    EQ(out.ecx, 3);
    EQ(out.edx, 5);
}

/* Code in a segment with a base and a limit. */
static void code_segments(void)
{
    static const struct {
        uint32_t attr, sel;
    } kinds[] = {{0x49b, 0}, {0x4fb, 3}};
    for (uint32_t k = 0; k < 2; k++) {
        const struct snip *snip = CODE("mov ecx, 50; 1: call 2f; loop 1b; jmp 3f; 2: inc eax; ret; "
                                       "3: mov ebx, [esp]; mov edx, cs:[0]");
        uint32_t size = snip->end + 2 - snip->start;
        gdt_set(S0, snip->start - 1, size, kinds[k].attr); /* the snippet is at offset 1 */
        IN(.cs = S0 | kinds[k].sel, .eip = 1,
           .esp = (k ? addr(user_stack_top) : addr(kernel_stack_top)) - 64);
        go(snip);
        EQ(out.vector, DONE);
        EQ(out.eax, 50);
        EQ(out.cs, S0 | kinds[k].sel);
        EQ(out.eip, size + 1);
        EQ(out.edx, *(uint32_t *)(snip->start - 1));
        /* Falling and jumping over the limit. */
        snip = CODE("nop; nop; nop; inc eax; inc eax");
        gdt_set(S0, snip->start - 1, 4, kinds[k].attr);
        go(snip);
        UNLESS_QEMU(LIMITS)
        {
            EQ(out.vector, GP);
            EQ(out.error, 0);
            EQ(out.eip, 5);
            EQ(out.eax, 1);
            snip = CODE("jmp 1f; nop; nop; 1: nop");
            gdt_set(S0, snip->start - 1, 4, kinds[k].attr);
            go(snip);
            EQ(out.vector, GP);
            EQ(out.eip, 1); /* the jump faults, not its target */
            snip = CODE("mov eax, 77; jmp eax");
            gdt_set(S0, snip->start - 1, 20, kinds[k].attr);
            go(snip);
            EQ(out.vector, GP);
            EQ(out.eip, 6);
            snip = CODE("call 1f; nop; nop; 1: nop");
            gdt_set(S0, snip->start - 1, 6, kinds[k].attr);
            go(snip);
            EQ(out.vector, GP);
            EQ(out.eip, 1);
            EQ(out.esp, in.esp);
            snip = CODE("push 0x100; ret");
            gdt_set(S0, snip->start - 1, 20, kinds[k].attr);
            go(snip);
            EQ(out.vector, GP);
            EQ(out.eip, 6);
            EQ(out.esp, in.esp - 4);
            snip = CODE("inc eax; mov ecx, 5"); /* an instruction across the limit */
            gdt_set(S0, snip->start - 1, 4, kinds[k].attr);
            go(snip);
            EQ(out.vector, GP);
            EQ(out.eip, 2);
        }
    }
    /* The same linear code under two segments with different bases: EIP differs. */
    const struct snip *snip = CODE("call 1f; 1: pop eax; mov ecx, 1");
    for (uint32_t n = 1; n < 20; n++) {
        gdt_set(S0, snip->start - n * 16, 0xfffff, 0xcfb);
        IN(.cs = S0 | 3, .eip = n * 16);
        go(snip);
        EQ(out.eax, n * 16 + 5);
    }
}

/* SS.B = 0: SP is used, wraps at 64 KiB, and ESP's upper half stays. */
static void stack_16(void)
{
    uint32_t base = 0x20000; /* low RAM; 64 KiB */
    gdt_set(S0, base, 0xffff, 0x0f3);
    IN(.cs = UCODE, .ss = S0 | 3, .esp = 0x4444, .eax = 0x11223344, .ebp = 0x55660010);
    OK("mov esp, 0xabcd0004; push eax; push ax; pushw 0x7788; push eax; mov ecx, esp; pop edx; pop "
       "bx; lea esi, [esp]");
    EQ(out.ecx, 0xabcdfff8);
    EQ(*(uint32_t *)(base + 0), 0x11223344);
    EQ(*(uint16_t *)(base + 0xfffe), 0x3344);
    EQ(*(uint16_t *)(base + 0xfffc), 0x7788);
    EQ(out.edx, 0x11223344);
    EQ(out.ebx, 0x7788);
    EQ(out.esi, 0xabcdfffe);
    EQ(out.esp, 0xabcdfffe);
    EQ(out.ss, S0 | 3);
    OK("mov esp, 0x9999fffe; push eax; pop cx; pop dx; mov edi, esp");
    EQ(out.edi, 0x9999fffe);
    OK("mov esp, 0x12340100; call 1f; jmp 2f; 1: mov ecx, esp; ret 2; 2: mov edx, esp; enter 8, 0; "
       "mov ebx, ebp; mov esi, esp; leave; "
       "pushad; popad; pushfd; popfd");
    EQ(out.ecx, 0x123400fc);
    EQ(out.edx, 0x12340102);
    EQ(out.ebx, 0x123400fe); /* all of EBP, also on a 16-bit stack (measured on hardware) */
    EQ(out.esi, 0x123400f6);
    EQ(out.esp, 0x12340102);
    in.ecx = 40;
    OK("mov esp, 0x12340000; 1: push ecx; call 2f; pop eax; loop 1b; jmp 3f; 2: add edx, [esp + 4 "
       "- 0x12340000]; push eax; pop eax; "
       "ret; 3:");
    EQ(out.edx, 820);
    UNLESS_QEMU(LIMITS)
    FAULT("mov esp, 2;" AT "push eax", SS, 0); /* FFFEh to 10001h does not wrap */
    /* IRET to a 16-bit stack writes SP only: the upper half is what the kernel's ESP had there. */
    OK("mov eax, esp");
    EQ(out.eax, (run_esp & 0xffff0000) | 0x4444);
}

/* 16-bit code: default sizes, prefixes the other way round, IP wraps. Bytes, so that the
 * assembler's idea of sizes is out of the way. */
static void code_16(void)
{
    static const uint8_t bytes[] = {0xb8, 0x34, 0x12,                      /* mov ax, 1234h */
                                    0x66, 0xb9, 0x78, 0x56, 0x34, 0x12,    /* mov ecx, 12345678h */
                                    0x8b, 0x1e, 0x10, 0x00,                /* mov bx, [10h] */
                                    0x67, 0x8b, 0x96, 0x10, 0,    0,    0, /* mov dx, [esi + 10h] */
                                    0x66, 0x03, 0x40, 0x02,  /* add eax, [bx + si + 2] */
                                    0xe8, 0x06, 0x00,        /* call +6 */
                                    0xe2, 0xfe,              /* loop . (CX) */
                                    0x66, 0xcb,              /* retfd */
                                    0x90, 0x90,              /* nop; nop */
                                    0x50, 0x40, 0x5f, 0xc3}; /* push ax; inc ax; pop di; ret */
    for (uint32_t k = 0; k < 2; k++) {
        memcpy(code16, bytes, sizeof(bytes));
        gdt_set(S0, addr(code16), 0xffff, k ? 0x0fb : 0x09b);
        gdt_set(S1, addr(memory), 0xff, 0x0f3);
        for (uint32_t i = 0; i < 64; i++)
            memory[i] = 0;
        memory[4] = 0x20;       /* [10h] */
        memory[8] = 0x02000000; /* [22h] is 0200h */
        IN(.cs = both[k], .eax = 0x99990000, .ebx = 0x88880000, .edx = 0x77770000, .esi = 0,
           .edi = 0x66660000, .ebp = S1 | 3,
           .esp = (k ? addr(user_stack_top) : addr(kernel_stack_top)) - 64);
        OK("mov ds, ebp; .byte 0x9a; .long 0; .word 0x40");
        EQ(out.eax, 0x99991435);
        EQ(out.ebx, 0x88880020);
        EQ(out.ecx, 0x12340000);
        EQ(out.edx, 0x77770020);
        EQ(out.edi, 0x66661434);
        EQ(out.esp, in.esp);
        /* IP wraps at 64 KiB for a jump; the saved EIP has 16 bits. */
        code16[0] = 0xeb, code16[1] = 0xfe - 4; /* jmp -4: to FFFEh, beyond the limit */
        gdt_set(S0, addr(code16), 0xfff, k ? 0x0fb : 0x09b);
        IN(.cs = both[k]);
        UNLESS_QEMU(LIMITS)
        {
            RUN(".byte 0x9a; .long 0; .word 0x40");
            EQ(out.vector, GP);
            EQ(out.eip, 0);
            EQ(out.cs, S0 | (k ? 3 : 0));
        }
    }
}

/* Direct far JMP and CALL to every kind of descriptor; SDM 2 JMP "Operation". */
static void far_transfers(void)
{
    const struct snip *jump = CODE(".byte 0xff, 0x2e; ud2; 1:"),
                      *call = CODE(".byte 0xff, 0x1e; ud2; 1:");
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t type = 0; type < 32; type++) {
            bool system = type < 16;
            if (system &&
                (1 << type & (1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12)))
                continue; /* tasks and gates: below */
            for (uint32_t n = 0; n < 16; n++) {
                uint32_t dpl = n & 1 ? 3 : 0, rpl = n & 2 ? 3 : 0, present = n & 4 ? 0x80 : 0,
                         cpl = c ? 3 : 0;
                const struct snip *snip = n & 8 ? call : jump;
                gdt_set(S0, 0, 0xfffff, 0xc00 | present | dpl << 5 | type);
                memory[0] = snip->start + 4, memory[1] = S0 | rpl;
                bool code = !system && (type & 8), conforming = type & 4;
                uint32_t vector = DONE;
                if (!code || (conforming ? dpl > cpl : rpl > cpl || dpl != cpl))
                    vector = GP;
                else if (!present)
                    vector = NP;
                IN(.cs = both[c], .esi = addr(memory));
                go(snip);
                CHECK(out.vector, vector, "far transfer", (type * 100 + n));
                if (vector == DONE) {
                    EQ(out.cs, S0 | cpl);
                    UNLESS_QEMU(ACCESSED) EQ(gdt[S0 >> 3] >> 40 & 1, 1);
                } else {
                    EQ(out.error, S0);
                    EQ(out.eip, snip->start);
                }
            }
        }
}

/* RETF and IRET to every code segment; to an outer level they change the stack and null segments.
 */
static void far_returns(void)
{
    static const uint8_t code_types[] = {0x1b, 0x1f, 0x13};
    const struct snip *retf = CODE("push eax; push ebx; push edx; push ecx; retf; ud2; 1:");
    const struct snip *iret =
        CODE("push eax; push ebx; push 0x202; push edx; push ecx; iretd; ud2; 1:");
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t n = 0; n < 3 * 16; n++) {
            uint32_t type = code_types[n / 16], dpl = n & 1 ? 3 : 0, rpl = n & 2 ? 3 : 0,
                     present = n & 4 ? 0x80 : 0, cpl = c ? 3 : 0;
            const struct snip *snip = n & 8 ? iret : retf;
            gdt_set(S0, 0, 0xfffff, 0xc00 | present | dpl << 5 | type);
            uint32_t vector = DONE;
            if (rpl < cpl || type == 0x13 || (type == 0x1f ? dpl > rpl : dpl != rpl))
                vector = GP;
            else if (!present)
                vector = NP;
            outb(0x21, 0xff);
            outb(0xa1, 0xff);
            IN(.cs = both[c], .eax = UDATA, .ebx = addr(user_stack_top) - 256, .edx = S0 | rpl,
               .ecx = snip->end, .fs = c ? 0u : KDATA);
            go(snip);
            CHECK(out.vector, vector, "far return", n);
            if (vector != DONE) {
                EQ(out.error, S0);
                continue;
            }
            EQ(out.cs, S0 | rpl);
            if (rpl > cpl) {
                EQ(out.esp, addr(user_stack_top) - 256);
                EQ(out.ss, UDATA);
                EQ(out.ds, 0); /* DPL 0 data is not for CPL 3: SDM 3A 5.8.6 */
                EQ(out.fs, 0);
            }
        }
    /* RETF n to an outer level takes n from both stacks. */
    IN(.ebx = addr(user_stack_top) - 256, .esi = addr(kernel_stack_top) - 64);
    OK("push 0x23; push ebx; push 11; push 22; push 0x1b; push offset 1f; retf 8; ud2; 1: mov eax, "
       "esp");
    EQ(out.eax, addr(user_stack_top) - 256 + 8);
    EQ(out.cs, UCODE);
    /* Bad stacks. */
    static const struct {
        uint32_t ss, vector, error;
    } stacks[] = {{0, GP, 0},
                  {KDATA, GP, KDATA},
                  {KDATA | 3, GP, KDATA},
                  {UCODE, GP, UCODE & ~3u},
                  {UDATA & ~3u, GP, UDATA & ~3u},
                  {GDT_ENTRIES * 8 | 3, GP, GDT_ENTRIES * 8}};
    for (size_t i = 0; i < COUNT(stacks); i++) {
        IN(.eax = stacks[i].ss);
        FAULT("push eax; push 0; push 0x1b; push 0;" AT "retf", stacks[i].vector, stacks[i].error);
        FAULT("push eax; push 0; push 2; push 0x1b; push 0;" AT "iretd", stacks[i].vector,
              stacks[i].error);
    }
    gdt_set(S1, 0, 0xfffff, 0xc73); /* not present */
    IN(.eax = S1 | 3);
    UNLESS_QEMU(ACCESSED) FAULT("push eax; push 0; push 0x1b; push 0;" AT "retf", SS, S1);
    RUN("push eax; push 0; push 2; push 0x1b; push 0; iretd");
    EQ(out.vector == SS || out.vector == NP,
       1); /* SDM 2 IRET: #SS in "Operation", #NP in the list */
    EQ(out.error, S1);
    FAULT("push 0; push 0;" AT "retf", GP, 0);
    FAULT("push 2; push 0; push 0;" AT "iretd", GP, 0);
    IN(.cs = UCODE);
    FAULT("push 8; push 0;" AT "retf", GP, 8);
    /* User data segments survive, conforming code too. */
    gdt_set(S2, 0, 0xfffff, 0xc9f);
    IN(.eax = UDATA, .ebx = S2, .ecx = addr(user_stack_top) - 64);
    OK("mov es, eax; mov fs, ebx; push eax; push ecx; push 0x1b; push offset 1f; retf; 1: mov edx, "
       "es; mov esi, fs; mov edi, ds");
    EQ(out.edx, UDATA);
    EQ(out.esi, S2);
    EQ(out.edi, 0);
}

/* Call gates, 32-bit and 16-bit: SDM 3A 5.8.3 to 5.8.5. */
static void call_gates(void)
{
    const struct snip *target = CODE("mov eax, cs; mov ebx, ss; mov ecx, [esp]; mov edx, [esp + "
                                     "4]; mov esi, [esp + 8]; mov edi, [esp + 12]; mov ebp, esp");
    const struct snip *call = CODE("push 0x111; push 0x222; .byte 0x9a; .long 0; .word 0x43;" AT);
    /* CPL 3 to 0: a new stack with SS, ESP, two parameters, CS, EIP. */
    gdt[S0 >> 3] = call_gate(KCODE, target->start, 0xec, 2);
    IN(.cs = UCODE, .esp = addr(user_stack_top) - 64);
    go(call);
    EQ(out.vector, DONE);
    EQ(out.cs, KCODE);
    EQ(out.eax, KCODE);
    EQ(out.ebx, KDATA);
    EQ(out.ecx, call->at);
    EQ(out.edx, UCODE);
    EQ(out.esi, 0x222);
    EQ(out.edi, 0x111);
    EQ(out.ebp, tss.esp0 - 24);
    EQ(*(uint32_t *)(tss.esp0 - 4), UDATA);
    EQ(*(uint32_t *)(tss.esp0 - 8), addr(user_stack_top) - 72);
    /* Same level: no new stack, parameters stay where they are. */
    IN(.esp = addr(kernel_stack_top) - 64);
    go(CODE("push 0x111; push 0x222; .byte 0x9a; .long 0; .word 0x40;" AT));
    EQ(out.vector, DONE);
    EQ(out.edx, KCODE);
    EQ(out.esi, 0x222);
    EQ(out.ebp, addr(kernel_stack_top) - 64 - 16);
    /* The round trip, hot; RETF 8 takes the parameters from both stacks. */
    const struct snip *body = CODE("mov eax, [esp + 8]; add eax, [esp + 12]; add ebx, eax; retf 8");
    gdt[S0 >> 3] = call_gate(KCODE, body->start, 0xec, 2);
    IN(.cs = UCODE, .ecx = 300, .esp = addr(user_stack_top) - 64);
    OK("1: push 3; push 4; .byte 0x9a; .long 0; .word 0x43; loop 1b");
    EQ(out.ebx, 2100);
    EQ(out.esp, in.esp);
    EQ(out.cs, UCODE);
    EQ(out.ss, UDATA);
    EQ(out.ds, UDATA);
    /* JMP through a gate: same level only; to conforming code from anywhere. */
    IN(.cs = UCODE);
    FAULT(".byte 0xea; .long 0; .word 0x43", GP, KCODE);
    gdt[S0 >> 3] = call_gate(KCODE, target->start, 0x8c, 0);
    IN();
    OK(".byte 0xea; .long 0; .word 0x40");
    EQ(out.eax, KCODE);
    gdt_set(S1, 0, 0xfffff, 0xc9f); /* conforming, DPL 0 */
    gdt[S0 >> 3] = call_gate(S1, target->start, 0xec, 0);
    IN(.cs = UCODE, .esp = addr(user_stack_top) - 64);
    OK(".byte 0xea; .long 0; .word 0x43");
    EQ(out.eax, S1 | 3);
    EQ(out.ebx, UDATA);
    OK(".byte 0x9a; .long 0; .word 0x43");
    EQ(out.edx, UCODE);
    /* Errors: the gate's own, then the code segment's. */
    gdt_set(S2, 0, 0xfffff, 0xc1b);
    static const struct {
        uint32_t selector, attr, vector, error;
    } bad[] = {{KCODE, 0x8c, GP, S0},
               {KCODE, 0xac, GP, S0},
               {KCODE, 0x6c, NP, S0},
               {0, 0xec, GP, 0},
               {KDATA, 0xec, GP, KDATA},
               {S2, 0xec, NP, S2},
               {GDT_ENTRIES * 8, 0xec, GP, GDT_ENTRIES * 8},
               {TSS, 0xec, GP, TSS}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        gdt[S0 >> 3] = call_gate((uint16_t)bad[i].selector, target->start, bad[i].attr, 0);
        IN(.cs = UCODE);
        FAULTS(CODE(".byte 0x9a; .long 0; .word 0x43"), bad[i].vector, bad[i].error, i);
    }
    gdt[S0 >> 3] = call_gate(KCODE, target->start, 0xcc, 0); /* DPL 2 */
    IN(.cs = UCODE);
    FAULT(".byte 0x9a; .long 0; .word 0x40", GP, S0);
    /* A 16-bit gate pushes words, and gives a 16-bit offset. */
    uint8_t *low = (uint8_t *)0x5000;
    memcpy(low,
           (const uint8_t[]){0x89, 0xe5, 0x66, 0x8b, 0x04, 0x24, 0x66, 0x8b, 0x5c, 0x24, 0x02, 0x66,
                             0x8b, 0x4c, 0x24, 0x04, 0xcd, DONE},
           18);
    uint32_t upper = 0; /* of the offset: does not count */
    UNLESS_QEMU(GATE_16) upper = 0xabcd0000;
    gdt[S0 >> 3] = call_gate(KCODE, upper | 0x5000, 0xe4, 1);
    IN(.cs = UCODE, .esp = addr(user_stack_top) - 64);
    OK("pushw 0x789; .byte 0x9a; .long 0; .word 0x43;" AT); /* mov ebp, esp; mov ax, [esp]; mov bx,
                                                               [esp + 2]; mov cx, [esp + 4] */
    EQ(out.ebx, UCODE);
    EQ(out.ecx, 0x789);
    EQ(out.ebp, tss.esp0 - 10);
    EQ(*(uint16_t *)(tss.esp0 - 4), (addr(user_stack_top) - 66) & 0xffff);
    EQ(*(uint16_t *)(tss.esp0 - 2), UDATA);
}

/* 16-bit interrupt and trap gates: words on the stack. The handler is a copy below 64 KiB. */
static void gates_16(void)
{
    uint8_t *low = (uint8_t *)0x5000;
    /* mov ebp, esp; mov ax, [esp]; mov bx, [esp + 2]; pushfd; pop ecx; iretw */
    memcpy(low,
           (const uint8_t[]){0x89, 0xe5, 0x66, 0x8b, 0x04, 0x24, 0x66, 0x8b, 0x5c, 0x24, 0x02, 0x9c,
                             0x59, 0x66, 0xcf},
           15);
    /* int 50h; int FFh at 5100h */
    memcpy(low + 0x100, (const uint8_t[]){0xcd, 0x50, 0xcd, DONE}, 4);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (uint32_t n = 0; n < 2; n++) {
        idt[0x50] = call_gate(KCODE, 0x5000, n ? 0xe7 : 0xe6, 0);
        IN(.eip = 0x5100, .esp = addr(kernel_stack_top) - 64, .eflags = IF | CF | ID);
        RUN("nop");
        EQ(out.vector, DONE);
        EQ(out.eax, 0x5102);
        EQ(out.ebx, KCODE);
        EQ(out.ebp, addr(kernel_stack_top) - 64 - 6);
        EQ(out.ecx, (n ? IF : 0) | CF | ID | 2);
        EQ(out.esp, addr(kernel_stack_top) - 64);
        EQ(out.eflags, IF | CF | ID | 2);
    }
    gate_restore(0x50);
}

static void task_new(const struct snip *snip, uint32_t cpl)
{
    memset(&task, 0, sizeof(task));
    task.eip = snip->start;
    task.eflags = 2;
    task.cs = cpl ? UCODE : KCODE;
    task.ss = task.ds = task.es = task.fs = task.gs = cpl ? UDATA : KDATA;
    task.esp = addr(cpl ? user_stack_top : kernel_stack_top) - 1024;
    task.esp0 = addr(trap_stack_top);
    task.ss0 = KDATA;
    task.iomap = 104;
    task.eax = 0xaaaaaaaa;
    task.ebp = 0xbbbbbbbb;
    gdt_set(TASK, addr(&task), 103, 0x089);
}

/* Back to the main TSS, whatever happened. */
static void task_end(void)
{
    gdt_unbusy(TSS);
    __asm__ volatile("ltr %w0; clts" : : "r"(TSS));
    gdt_unbusy(TASK);
}

#define BUSY(selector) (gdt[(selector) >> 3] >> 41 & 1)

static void task_switches(void)
{
    const struct snip *landing = CODE("mov ebx, cr0; str ecx; pushfd; pop edx; mov esi, [esp]");
    /* JMP to a TSS: no NT, no link, the old one is not busy any more. */
    const struct snip *jump = CODE("stc; .byte 0xea; .long 0; .word 0x60;" AT);
    task_new(landing, 0);
    task.link = 0xdddd;
    IN(.edi = 0x1234, .esi = 0x5678);
    go(jump);
    EQ(out.vector, DONE);
    EQ(out.ebx & CR0_TS, CR0_TS);
    EQ(out.ecx, TASK);
    EQ(out.edx & NT, 0);
    EQ(out.eax, 0xaaaaaaaa);
    EQ(out.ebp, 0xbbbbbbbb);
    EQ(BUSY(TASK), 1);
    EQ(BUSY(TSS), 0);
    EQ(task.link, 0xdddd);
    EQ(tss.eip, jump->at);
    EQ(tss.edi, 0x1234);
    EQ(tss.esi, 0x5678);
    EQ(tss.eflags & (CF | NT), CF);
    EQ(tss.cs & 0xffff, KCODE);
    EQ(tss.ss & 0xffff, KDATA);
    task_end();
    /* CALL: link, NT, both busy. */
    const struct snip *call = CODE(".byte 0x9a; .long 0; .word 0x60;" AT);
    task_new(landing, 0);
    IN();
    go(call);
    EQ(out.vector, DONE);
    EQ(out.edx & NT, NT);
    EQ(task.link & 0xffff, TSS);
    EQ(BUSY(TASK), 1);
    EQ(BUSY(TSS), 1);
    EQ(tss.eip, call->at);
    EQ(tss.eflags & NT, 0);
    task_end();
}

/* Round trips: through task gates, by IRET, by interrupts and faults. */
static void task_returns(void)
{
    const struct snip *landing = CODE("pushfd; pop edx; mov esi, [esp]");
    /* To a task at CPL 3, and through a task gate from CPL 3. */
    gdt[S0 >> 3] = call_gate(TASK, 0, 0xe5, 0);
    task_new(CODE("mov ebx, cs; mov ecx, ss"), 3);
    IN(.cs = UCODE);
    OK(".byte 0x9a; .long 0; .word 0x43");
    EQ(out.ebx, UCODE);
    EQ(out.ecx, UDATA);
    EQ(out.cs, UCODE);
    EQ(out.esp, task.esp);
    EQ(tss.cs & 0xffff, UCODE);
    EQ(tss.esp, addr(user_stack_top));
    task_end();
    /* CALL and IRET, hot: the task resumes behind its IRET each time. */
    task_new(CODE("1: inc dword ptr [memory]; add ebp, 2; iretd; jmp 1b"), 0);
    memory[0] = 0;
    task.ebp = 0;
    IN(.ecx = 200, .ebx = 0x77);
    OK("1: .byte 0x9a; .long 0; .word 0x60; loop 1b; str eax; clts");
    EQ(memory[0], 200);
    EQ(task.ebp, 400);
    EQ(out.ebx, 0x77);
    EQ(out.eax, TSS);
    EQ(out.eflags & NT, 0);
    EQ(BUSY(TASK), 0);
    EQ(task.eflags & NT, 0);
    task_end();
    /* An interrupt through a task gate; IRET returns; a fault's error code is on the new stack. */
    idt[0x50] = call_gate(TASK, 0, 0xe5, 0);
    task_new(CODE("1: inc dword ptr [memory]; iretd; jmp 1b"), 0);
    memory[0] = 0;
    IN(.cs = UCODE, .ecx = 50, .eflags = IF | CF);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    OK("1: int 0x50; loop 1b");
    EQ(memory[0], 50);
    EQ(out.eflags & (IF | CF | NT), IF | CF);
    task_end();
    gate_restore(0x50);
    idt[GP] = call_gate(TASK, 0, 0x85, 0);
    task_new(landing, 0);
    IN(.cs = UCODE);
    OK("mov eax, 0x3f8; nop; mov ds, eax"); /* an empty descriptor */
    EQ(out.esi, 0x3f8);
    EQ(out.edx & NT, NT);
    EQ(task.link & 0xffff, TSS);
    EQ(tss.cs & 0xffff, UCODE);
    task_end();
    gate_restore(GP);
}

/* The T flag, and a double fault on an unusable stack. */
static void task_faults(void)
{
    const struct snip *landing = CODE("mov esi, [esp]");
    const struct snip *jump = CODE(".byte 0xea; .long 0; .word 0x60");
    /* The T flag: #DB before the first instruction of the new task, DR6.BT. */
    UNLESS_QEMU(TASK)
    {
        task_new(landing, 0);
        task.trap = 1;
        write_dr6(0xffff0ff0);
        IN();
        go(jump);
        EQ(out.vector, DB);
        EQ(out.eip, landing->start);
        EQ(out.dr6 & 0x8000, 0x8000);
        write_dr6(0xffff0ff0);
        task_end();
    }
    /* A double fault at CPL 0 with an unusable stack: through a task gate it can be handled. */
    idt[DF] = call_gate(TASK, 0, 0x85, 0);
    gdt_set(S1, addr(buffer), 0x0f, 0x493);
    task_new(landing, 0);
    IN(.eax = S1);
    UNLESS_QEMU(LIMITS)
    {
        OK("mov ss, eax; mov esp, 2; push eax");
        EQ(out.esi, 0); /* #DF's error code */
        EQ(tss.ss & 0xffff, S1);
        EQ(tss.esp, 2);
        task_end();
    }
    gate_restore(DF);
}

static void task_errors(void)
{
    const struct snip *landing = CODE("nop");
    const struct snip *jump = CODE(".byte 0xea; .long 0; .word 0x60"),
                      *call = CODE(".byte 0x9a; .long 0; .word 0x60");
    task_new(landing, 0);
    gdt_set(TASK, addr(&task), 103, 0x08b); /* busy */
    IN();
    FAULTS(jump, GP, TASK, 0);
    FAULTS(call, GP, TASK, 0);
    gdt_set(TASK, addr(&task), 103, 0x009); /* not present */
    FAULTS(jump, NP, TASK, 0);
    gdt_set(TASK, addr(&task), 102, 0x089); /* too small: 67h is needed */
    FAULTS(jump, TS, TASK, 0);
    gdt_set(TASK, addr(&task), 103, 0x089);
    IN(.cs = UCODE); /* a TSS of DPL 0 */
    FAULTS(jump, GP, TASK, 0);
    gdt[S0 >> 3] = call_gate(TASK, 0, 0x85, 0); /* a task gate of DPL 0 */
    FAULT(".byte 0x9a; .long 0; .word 0x43", GP, S0);
    gdt[S0 >> 3] = call_gate(TASK, 0, 0x65, 0);
    FAULT(".byte 0x9a; .long 0; .word 0x43", NP, S0);
    gdt[S0 >> 3] = call_gate(KCODE, 0, 0xe5, 0);
    FAULT(".byte 0x9a; .long 0; .word 0x43", GP, KCODE);
    /* IRET with NT, but the link is no busy TSS. */
    task_new(landing, 0);
    tss.link = TASK;
    IN(.eflags = NT);
    FAULT("iretd", TS, TASK);
    tss.link = KDATA;
    FAULT("iretd", TS, KDATA);
    tss.link = 0;
    FAULT("iretd", TS, 0);
    /* Bad state in the new TSS faults in the new task: #TS with the selector. */
    static const struct {
        uint32_t ss, cs, ds, vector, error;
    } bad[] = {{0, KCODE, KDATA, TS, 0},         {KCODE, KCODE, KDATA, TS, KCODE},
               {KDATA, KDATA, KDATA, TS, KDATA}, {KDATA, 0, KDATA, TS, 0},
               {KDATA, KCODE, TSS, TS, TSS},     {UDATA, KCODE, KDATA, TS, UDATA & ~3u}};
    UNLESS_QEMU(TASK) for (size_t i = 0; i < COUNT(bad); i++)
    {
        task_new(landing, 0);
        task.ss = bad[i].ss, task.cs = bad[i].cs, task.ds = bad[i].ds;
        idt[TS] = call_gate(S1, 0, 0x85,
                            0); /* the handler is a task of its own, so that it has a stack */
        static struct tss handler;
        const struct snip *code = CODE("mov eax, [esp]; str ebx");
        memset(&handler, 0, sizeof(handler));
        handler.eip = code->start, handler.eflags = 2, handler.cs = KCODE, handler.iomap = 104;
        handler.ss = handler.ds = handler.es = handler.fs = handler.gs = KDATA;
        handler.esp = addr(kernel_stack_top) - 2048;
        gdt_set(S1, addr(&handler), 103, 0x089);
        IN();
        go(jump);
        CHECK(out.vector, DONE, "#TS through a task gate", i);
        CHECK(out.eax & 0xffff, bad[i].error, "#TS error code", i);
        CHECK(handler.link & 0xffff, TASK, "the fault is in the new task", i);
        task_end();
        gate_restore(TS);
    }
}

/* A bad stack in the TSS makes an inter-privilege call #TS. */
static void bad_ring0_stack(void)
{
    gdt[S0 >> 3] = call_gate(KCODE, CODE("nop")->start, 0xec, 0);
    static const struct {
        uint32_t ss0, error;
    } bad[] = {{0, 0}, {UDATA, UDATA & ~3u}, {KCODE, KCODE}, {GDT_ENTRIES * 8, GDT_ENTRIES * 8}};
    /* #TS itself needs a usable stack: its gate is a task gate. */
    for (size_t i = 0; i < COUNT(bad); i++) {
        task_new(CODE("mov eax, [esp]; mov dword ptr [tss + 8], 0x10"), 0);
        idt[TS] = call_gate(TASK, 0, 0x85, 0);
        tss.ss0 = bad[i].ss0;
        IN(.cs = UCODE);
        OK(".byte 0x9a; .long 0; .word 0x43");
        CHECK(out.eax & 0xffff, bad[i].error, "#TS error code", i);
        EQ(tss.cs & 0xffff, UCODE);
        tss.ss0 = KDATA;
        task_end();
        gate_restore(TS);
    }
}

/* Local descriptors. */
static void ldt(void)
{
    static uint64_t table[4];
    table[1] = descriptor(addr(memory), 0xfffff, 0xcf3);
    table[2] = descriptor(0, 0xfffff, 0xcfb);
    gdt_set(LDT, addr(table), sizeof(table) - 1, 0x082);
    __asm__ volatile("lldt %w0" : : "r"(LDT));
    memory[1] = 0x4242;
    IN(.cs = UCODE, .eax = 0xf, .ebx = 0x27, .ecx = 0x17);
    OK("mov fs, eax; mov edx, fs:[4]; lar esi, eax; lsl edi, ecx");
    EQ(out.edx, 0x4242);
    EQ(out.esi & 0xf0ffff, 0xc0f300);
    EQ(out.edi, 0xffffffff);
    FAULT("mov fs, ebx", GP, 0x24); /* past the limit; the error code has TI */
    in.cs = 0x17;
    OK("mov eax, cs; call 1f; jmp 2f; 1: ret; 2:");
    EQ(out.eax, 0x17);
    EQ(out.cs, 0x17);
    __asm__ volatile("lldt %w0" : : "r"(0));
}

void guest_main(void)
{
    UNLESS_QEMU(LIMITS) GROUP(limits);
    UNLESS_QEMU(LIMITS) GROUP(types);
    GROUP(bases);
    GROUP(code_segments);
    GROUP(stack_16);
    GROUP(code_16);
    GROUP(far_transfers);
    GROUP(far_returns);
    GROUP(call_gates);
    GROUP(gates_16);
    GROUP(task_switches);
    GROUP(task_returns);
    GROUP(task_faults);
    GROUP(task_errors);
    UNLESS_QEMU(TASK) GROUP(bad_ring0_stack);
    GROUP(ldt);
}
