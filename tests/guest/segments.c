/* segments.c - segmentation: limits, types, bases, 16-bit segments, far transfers, gates and tasks.
 *
 * SDM 3A 3.4.5 (descriptors), 5.3 (limits, expand-down), 5.4 (types), 5.6 and 5.8 (privilege, call
 * gates, stack switch, conforming code), 5.8.6 (returns null segments), 7.2-7.5 (tasks: busy bit, NT,
 * link, T), 21 (mixing 16-bit and 32-bit code); SDM 2: CALL, JMP, RET, IRET, INT, each "Operation". */
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
    static const struct limit_case segments[] = {
        {0x7ff, 0x4f3}, {0xffe, 0x0f3}, {1, 0xcf3}, {0x7ff, 0x4f7}, {0x7ff, 0x0f7}, {0, 0x4f3}, {0x800, 0xcf7}, {0x7ff, 0x4f2}};
    static const uint8_t sizes[] = {1, 2, 4, 8};
    /* Read and write of each size at FS:ESI; also by string and stack. */
    const struct snip *reads[] = {CODE("mov al, fs:[esi]"), CODE("mov ax, fs:[esi]"), CODE("mov eax, fs:[esi]"), CODE("fld qword ptr fs:[esi]; fstp st(0)")};
    const struct snip *writes[] = {CODE("mov fs:[esi], al"), CODE("add word ptr fs:[esi], 1"), CODE("mov fs:[esi], eax"), CODE("cmpxchg8b fs:[esi]")};
    go(CODE("fninit"));
    for (size_t n = 0; n < COUNT(segments); n++) {
        bool down = segments[n].attr & 4, big = segments[n].attr & 0x400, pages = segments[n].attr & 0x800;
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
                        check(out.vector, DONE, "inside the limit", __FILE__, (int)n);
                    } else {
                        fault(snip, GP, 0, __FILE__, (int)n);
                    }
                }
            }
        if (!down || big)
            continue;
        for (uint32_t offset = 0xfffa; offset < 0x10003; offset++) { /* the upper bound of a small expand-down segment */
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
    IN(.cs = UCODE, .ds = S0 | 3, .es = S0 | 3, .gs = S0 | 3, .esi = 0xfd, .edi = 0x100, .ebx = 0xff, .eax = 1);
    FAULT("mov ecx, [esi]", GP, 0);
    FAULT("mov ecx, es:[esi]", GP, 0);
    FAULT("mov ecx, gs:[esi + 3]", GP, 0);
    FAULT("lodsd", GP, 0);
    FAULT("stosb", GP, 0);
    FAULT("xlat", GP, 0);
    FAULT("mov al, ds:[0x100]", GP, 0);
    FAULT("push dword ptr [esi]", GP, 0);
    FAULT("bts dword ptr [ebx - 3], edi; nop", GP, 0);
    FAULT("bt [esi], ax", GP, 0);
    FAULT("jmp dword ptr [esi]", GP, 0);
    FAULT("les ecx, [esi - 2]", GP, 0);
    FAULT("fnstenv [esi - 24]", GP, 0);
    OK("mov cl, [esi]; mov cx, [esi + 1]; lea edx, [esi + 100]; mov ecx, [esi - 1]; xor eax, eax; bt [esi - 1], eax");
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
    OK("push 3; pop ds; lea eax, [esi]; nop dword ptr [esi]; mov ebx, ss:[esi]; mov ecx, 0; rep lodsb");
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
        IN(.cs = UCODE, .fs = S0 | 3, .gs = S0 | 3, .ds = S0 | 3, .es = S0 | 3, .esi = addr(memory) - base, .ebx = 5, .eax = 9,
           .edi = addr(memory) + 128 - base);
        OK("mov eax, [esi + 4]; add eax, fs:[esi + ebx * 4]; mov gs:[esi], eax; movsd; mov ecx, es:[edi]; push dword ptr [esi]; pop edx; "
           "lock xadd [esi + 8], ebx; inc word ptr [esi + 16]");
        EQ(out.eax, 0x06060606);
        EQ(memory[0], 0x06060606);
        EQ(memory[32], 0x06060606);
        EQ(out.ecx, 33 * 0x01010101);
        EQ(out.edx, 0x01010101);
        EQ(out.ebx, 3 * 0x01010101);
        EQ(memory[3], 3 * 0x01010101 + 5);
        EQ(memory[5] & 0xffff, 0x0506);
        IN(.cs = UCODE, .ds = S0 | 3, .esi = addr(memory) + 16 - base, .eax = 0x22, .ebx = addr(memory) - base);
        OK("fninit; fld dword ptr [esi]; fstp dword ptr [esi + 4]; mov cl, [ebx + 8]; mov ch, [ebx + 9]; mov [ebx + 12], ah; "
           "bts dword ptr [ebx], 31; cmp dword ptr [ebx + 16], 0x04040404; setne dl; xlat; mov edi, [ebx + esi * 1 - 16 + 0]; nop; sub esi, 16");
        EQ(out.esi, addr(memory) - base);
        /* The stack in a segment with a base. */
        IN(.cs = UCODE, .ss = S0 | 3, .esp = addr(memory) + 128 - base, .eax = 0x77, .ecx = 30);
        OK("1: push eax; call 2f; pop edx; loop 1b; jmp 3f; 2: mov ebp, esp; inc dword ptr [ebp + 4]; mov ebx, [esp]; ret; 3:");
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
    OK("1: mov fs, eax; add edx, fs:[0]; mov fs, ebx; add edi, fs:[0]; xchg eax, ebx; xchg eax, ebx; loop 1b");
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
        const struct snip *snip = CODE("mov ecx, 50; 1: call 2f; loop 1b; jmp 3f; 2: inc eax; ret; 3: mov ebx, [esp]; mov edx, cs:[0]");
        uint32_t size = snip->end + 2 - snip->start;
        gdt_set(S0, snip->start, size - 1, kinds[k].attr);
        IN(.cs = S0 | kinds[k].sel, .eip = 0, .esp = (k ? addr(user_stack_top) : addr(kernel_stack_top)) - 64);
        in.eip = 0x1; /* a zero means the flat address: enter by a jump over nothing */
        gdt_set(S0, snip->start - 1, size, kinds[k].attr);
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
        UNLESS_QEMU(LIMITS) {
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
    IN(.cs = UCODE, .ss = S0 | 3, .esp = 0xabcd0004, .eax = 0x11223344, .ebp = 0x55660010);
    OK("push eax; push ax; pushw 0x7788; push eax; mov ecx, esp; pop edx; pop bx; lea esi, [esp]");
    EQ(out.ecx, 0xabcdfff8);
    EQ(*(uint32_t *)(base + 0), 0x11223344);
    EQ(*(uint16_t *)(base + 0xfffe), 0x3344);
    EQ(*(uint16_t *)(base + 0xfffc), 0x7788);
    EQ(out.edx, 0x11223344);
    EQ(out.ebx, 0x7788);
    EQ(out.esi, 0xabcdfffe);
    EQ(out.esp, 0xabcdfffe);
    EQ(out.ss, S0 | 3);
    in.esp = 0x9999fffe;
    OK("push eax; pop cx; pop dx; mov edi, esp");
    EQ(out.edi, 0x9999fffe);
    in.esp = 0x12340100;
    OK("call 1f; jmp 2f; 1: mov ecx, esp; ret 2; 2: mov edx, esp; enter 8, 0; mov ebx, ebp; mov esi, esp; leave; pushad; popad; pushfd; popfd");
    EQ(out.ecx, 0x123400fc);
    EQ(out.edx, 0x12340102);
    EQ(out.ebx, 0x556600fe); /* only BP is written by ENTER? see below */
    EQ(out.esi, 0x123400f6);
    EQ(out.esp, 0x12340102);
    in.esp = 0x12340000, in.ecx = 40;
    OK("1: push ecx; call 2f; pop eax; loop 1b; jmp 3f; 2: add edx, [esp + 4 - 0x12340000]; push eax; pop eax; ret; 3:");
    EQ(out.vector, DONE);
}

/* 16-bit code: default sizes, prefixes the other way round, IP wraps. Bytes, so that the assembler's
 * idea of sizes is out of the way. */
static void code_16(void)
{
    static const uint8_t bytes[] = {
        0xb8, 0x34, 0x12,                   /* mov ax, 1234h */
        0x66, 0xb9, 0x78, 0x56, 0x34, 0x12, /* mov ecx, 12345678h */
        0x8b, 0x1e, 0x10, 0x00,             /* mov bx, [10h] */
        0x67, 0x8b, 0x96, 0x10, 0, 0, 0,    /* mov dx, [esi + 10h] */
        0x66, 0x03, 0x40, 0x02,             /* add eax, [bx + si + 2] */
        0xe8, 0x06, 0x00,                   /* call +6 */
        0xe2, 0xfe,                         /* loop . (CX) */
        0x66, 0xcb,                         /* retfd */
        0x90, 0x90,                         /* nop; nop */
        0x50, 0x40, 0x5f, 0xc3};            /* push ax; inc ax; pop di; ret */
    memcpy(code16, bytes, sizeof(bytes));
    for (uint32_t k = 0; k < 2; k++) {
        gdt_set(S0, addr(code16), 0xffff, k ? 0x0fb : 0x09b);
        gdt_set(S1, addr(memory), 0xff, 0x0f3);
        for (uint32_t i = 0; i < 64; i++)
            memory[i] = 0;
        memory[4] = 0x00abcdef & 0xffff0020;
        memory[9] = 0x01000000;
        IN(.cs = both[k], .eax = 0x99990000, .ebx = 0x88880000, .edx = 0x77770000, .esi = 0, .edi = 0x66660000, .ebp = S1 | 3,
           .esp = (k ? addr(user_stack_top) : addr(kernel_stack_top)) - 64);
        memory[8] = 0x02000000;
        OK("mov ds, ebp; mov ebp, esp; push cs; push offset 1f; .byte 0x9a; .long 0; .word 0x40; 1:");
        if (out.vector != DONE) {
            EQ(out.vector, DONE);
            continue;
        }
        EQ(out.ecx & 0xffff, 0);
        EQ(out.ecx >> 16, 0x1234);
        EQ(out.ebx, 0x88880020);
        EQ(out.edx, 0x77770020);
        EQ(out.edi >> 16, 0x6666);
    }
}

/* Direct far JMP and CALL to every kind of descriptor; SDM 2 JMP "Operation". */
static void far_transfers(void)
{
    const struct snip *jump = CODE(".byte 0xff, 0x2e; ud2; 1:"), *call = CODE(".byte 0xff, 0x1e; ud2; 1:");
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t type = 0; type < 32; type++) {
            bool system = type < 16;
            if (system && (1 << type & (1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12)))
                continue; /* tasks and gates: below */
            for (uint32_t n = 0; n < 16; n++) {
                uint32_t dpl = n & 1 ? 3 : 0, rpl = n & 2 ? 3 : 0, present = n & 4 ? 0x80 : 0, cpl = c ? 3 : 0;
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
                check(out.vector, vector, "far transfer", __FILE__, (int)(type * 100 + n));
                if (vector == DONE) {
                    EQ(out.cs, S0 | cpl);
                    EQ(gdt[S0 >> 3] >> 40 & 1, 1); /* accessed */
                } else {
                    EQ(out.error, S0);
                    EQ(out.eip, snip->start);
                }
            }
        }
}
