/* flow64.c - control flow and the stack in 64-bit mode: where execution goes, what is pushed, and
 * that nothing else changes.
 *
 * SDM 1 6.4 (calls and returns), 6.6 (ENTER, LEAVE); SDM 2: JMP, Jcc, CALL, RET, LOOP, JRCXZ, PUSH,
 * POP, PUSHF, POPF, ENTER, LEAVE; SDM 1 3.5.1 and 6.2.5 (64-bit operand size by default). `in`
 * gives all sixteen registers values whose upper halves matter. */
#include "guest64.h"

const char guest_name[] = "flow64";

static uint64_t memory[512] USER __attribute__((aligned(4096)));
static uint8_t code[8 * 4096] USER_CODE;

#define ALL_REGISTERS                                                                \
    .rax = 0x0123456789abcdef, .rcx = 0x1111222233334444, .rdx = 0x8000000000000001, \
    .rbx = 0xfedcba9876543210, .rbp = 0x5555666677778888, .rsi = 0x1000000000000000, \
    .rdi = 0xffffffff00000000, .r8 = 0x0808080808080808, .r9 = 0x9090909009090909,   \
    .r10 = 0xaaaaaaaa55555555, .r11 = 0xbbbb0000bbbb0000, .r12 = 0xc00000000000000c, \
    .r13 = 0xddddddddd, .r14 = 0xeeeeeeee00000001, .r15 = 0xffffffffffffffff

/* What `in` has must be in `out`, but for the registers in the mask of encoding numbers. */
static void kept(uint32_t changed)
{
    for (uint32_t r = 0; r < 16; r++)
        if (r != RSP && !(changed >> r & 1))
            CHECK(out.r[r], in.r[r], "register kept", r);
}

static void entry_state(void)
{
    EQ(read_cr0() & (CR0_PG | CR0_PE), CR0_PG | CR0_PE);
    EQ(read_cr4() & CR4_PAE, CR4_PAE);
    EQ(rdmsr(MSR_EFER) & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    IN(ALL_REGISTERS, .cs = pass_cs, .rflags = CF | SF);
    OK("nop");
    kept(0);
    EQ(out.cs, pass_cs);
    EQ(out.rflags, CF | SF | 2);
    EQ(out.rsp & 0xffff,
       (pass_cs == UCODE ? addr(user_stack_top) : addr(kernel_stack_top)) & 0xffff);
}

/* MOV of every register to every register, 64 and 32 bits, in one run of instructions each. */
static void moves(void)
{
    for (uint32_t wide = 0; wide < 2; wide++)
        for (uint32_t to = 0; to < 16; to++) {
            if (to == RSP)
                continue;
            for (uint32_t from = 0; from < 16; from++) {
                uint8_t *p = code + (wide * 256 + to * 16 + from) * 16;
                uint8_t bytes[] = {(uint8_t)(0x40 | wide << 3 | from >> 3 << 2 | to >> 3), 0x89,
                                   (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7)), 0xcd, DONE};
                memcpy(p, bytes, sizeof(bytes));
                IN(ALL_REGISTERS, .cs = pass_cs, .rip = HERE(p), .rsp = HERE(user_stack_top) - 64);
                go(CODE("nop"));
                CHECK(out.vector, DONE, "mov", to * 16 + from);
                CHECK(out.r[to], wide ? in.r[from] : (uint32_t)in.r[from], "mov", to * 16 + from);
                kept(1u << to);
            }
        }
}

static bool condition(uint32_t number, uint64_t flags)
{
    bool c = flags & CF, z = flags & ZF, s = flags & SF, o = flags & OFL, p = flags & PFL;
    bool value[] = {o, c, z, c || z, s, p, s != o, z || s != o};
    return value[number >> 1] != (number & 1);
}

#define EACH_CONDITION(T)                                                                          \
    {                                                                                              \
        CODE(T("o")), CODE(T("no")), CODE(T("b")), CODE(T("ae")), CODE(T("e")), CODE(T("ne")),     \
            CODE(T("be")), CODE(T("a")), CODE(T("s")), CODE(T("ns")), CODE(T("p")), CODE(T("np")), \
            CODE(T("l")), CODE(T("ge")), CODE(T("le")), CODE(T("g"))                               \
    }

/* Every condition with every combination of the flags that it can depend on, as a short and a near
 * jump, forward and backward, as SETcc and CMOVcc; flags stay as they are. */
static void conditions(void)
{
#define SHORT(cc) "mov r8d, 1; j" cc " 1f; mov r8d, 2; 1:"
#define NEAR(cc)  "jmp 2f; 1: mov r9d, 3; jmp 3f; .skip 200, 0xcc; 2: mov r9d, 4; j" cc " 1b; 3:"
#define VALUE(cc)                                                                              \
    "set" cc " r10b; set" cc " spl; set" cc " sil; set" cc " dh; cmov" cc " r11, r15; cmov" cc \
    " r12d, r14d; cmov" cc " rbx, [rip + memory]; lea r13, [rsp]; mov rsp, rbp"
    const struct snip *short_[] = EACH_CONDITION(SHORT), *near[] = EACH_CONDITION(NEAR),
                      *value[] = EACH_CONDITION(VALUE);
    memory[0] = 0x1234567800000000;
    for (uint32_t n = 0; n < 64; n++) {
        uint64_t flags = (n & 1 ? CF : 0u) | (n & 2 ? ZF : 0u) | (n & 4 ? SF : 0u) |
                         (n & 8 ? OFL : 0u) | (n & 16 ? PFL : 0u) | (n & 32 ? AF | DFL : 0u);
        for (uint32_t cc = 0; cc < 16; cc++) {
            bool holds = condition(cc, flags);
            IN(ALL_REGISTERS, .cs = pass_cs, .rflags = flags);
            OKS(short_[cc]);
            CHECK(out.r8, holds ? 1 : 2, "short jump", cc << 8 | n);
            CHECK(out.rflags, flags | 2, "flags", cc << 8 | n);
            kept(1u << R8);
            OKS(near[cc]);
            CHECK(out.r9, holds ? 3 : 4, "near jump", cc << 8 | n);
            CHECK(out.rflags, flags | 2, "flags", cc << 8 | n);
            kept(1u << R9);
            in.rsp = in.rbp = HERE(user_stack_top) - 64;
            OKS(value[cc]);
            CHECK(out.r10, (in.r10 & ~0xffull) | holds, "setcc r10b", cc << 8 | n);
            CHECK(out.r13, (in.rsp & ~0xffull) | holds, "setcc spl", cc << 8 | n);
            CHECK(out.rsi, (in.rsi & ~0xffull) | holds, "setcc sil", cc << 8 | n);
            CHECK(out.rdx, (in.rdx & ~0xff00ull) | (uint64_t)holds << 8, "setcc dh", cc << 8 | n);
            CHECK(out.r11, holds ? in.r15 : in.r11, "cmovcc r11", cc << 8 | n);
            CHECK(out.r12, (uint32_t)(holds ? in.r14 : in.r12), "cmovcc r12d", cc << 8 | n);
            CHECK(out.rbx, holds ? memory[0] : in.rbx, "cmovcc rbx", cc << 8 | n);
            CHECK(out.rflags, flags | 2, "flags", cc << 8 | n);
        }
    }
}

/* JMP and CALL by every register, and by memory through every register; in a loop. */
static void by_register(void)
{
#define JUMP(r, b) \
    "lea " r ", [rip + 1f]; jmp " r "; ud2; 1: lea " r ", [rip + 2f]; jmp " r "; ud2; 2:"
#define CALL(r, b) "lea " r ", [rip + 1f]; call " r "; 3: jmp 2f; 1: mov " r ", [rsp]; ret; 2:"
#define MEMORY(r, b)                                                               \
    "lea " r ", [rip + 1f]; mov [rip + memory + 64], " r "; lea " r                \
    ", [rip + memory - 64]; jmp [" r " + 128]; ud2; 1: lea " r                     \
    ", [rip + 2f]; mov [rip + memory], " r "; lea " r ", [rip + memory]; call [" r \
    "]; jmp 3f; 2: lea " r ", [rip + memory - 1024]; pop [" r " + 1024]; jmp [" r " + 1024]; 3:"
#define RETURN(r, b) "lea " r ", [rip + 1f]; push " r "; ret; ud2; 1: push [rsp - 8]; pop " r
    const struct snip *jump[] = EACH_REGISTER_BUT_RSP(JUMP), *call[] = EACH_REGISTER_BUT_RSP(CALL),
                      *by_memory[] = EACH_REGISTER_BUT_RSP(MEMORY),
                      *back[] = EACH_REGISTER_BUT_RSP(RETURN);
    for (uint32_t n = 0; n < 64; n++) {
        uint32_t r = n / 4;
        const struct snip *snip = (n % 4 == 0   ? jump
                                   : n % 4 == 1 ? call
                                   : n % 4 == 2 ? by_memory
                                                : back)[r];
        if (r == RSP)
            continue;
        for (int hot = 0; hot < 3; hot++) {
            IN(ALL_REGISTERS, .cs = pass_cs, .rflags = ARITH | DFL, .rsp = HERE(memory) + 2048);
            go(snip);
            CHECK(out.vector, DONE, "branch by register", n);
            CHECK(out.rsp, in.rsp, "rsp", n);
            CHECK(out.rflags, ARITH | DFL | 2, "flags", n);
            kept(1u << r);
            if (n % 4 == 2)
                CHECK(out.r[r], HERE(memory) - 1024, "base", n);
            else
                CHECK(out.r[r] - entered <= snip->end - snip->start, 1, "address of code", n);
        }
    }
}

/* Flags over every kind of transfer. */
static void flags_kept(void)
{
    static const uint64_t flags[] = {0, ARITH, CF | ZF, OFL | SF, DFL, AF | PFL | DFL, CF};
    for (uint32_t i = 0; i < COUNT(flags); i++) {
        IN(ALL_REGISTERS, .cs = pass_cs, .rflags = flags[i]);
        OK("call 1f; call 2f; lea r12, [rip + 3f]; call r12; lea r13, [rip + 4f]; jmp r13; "
           "1: ret; 2: ret 0; 3: ret; 4: mov rcx, 3; 5: call 1b; loop 5b; jrcxz 6f; ud2; "
           "6: enter 16, 0; enter 32, 1; leave; leave; push r15; pop r14; mov rax, rsp; "
           "push [rsp]; pop [rsp - 16]; lea rsp, [rsp]; mov rsp, rax; push offset 7f; ret; 7: "
           "jmp [rip + 8f]; 8: .quad 9f; 9: pushfq; pushfq; popfq; pop r11; push -1; "
           "lea rsp, [rsp + 8]; xchg rax, rcx; not rcx; movzx ecx, cl; bswap rdx; bswap rdx; nop");
        EQ(out.rflags, flags[i] | 2);
        EQ(out.r11, flags[i] | 2);
        EQ(out.r14, in.r15);
        EQ(out.rdx, in.rdx);
        EQ(out.rsp & 0xfff, 0);
    }
}

/* CALL and RET: the return address has 64 bits and is the alias's; RET n; a RET that goes elsewhere
 * than its CALL said; operands through rsp. */
static void calls(void)
{
    IN(.cs = pass_cs, .rcx = 300);
    OK("xor eax, eax; xor ebx, ebx; 1: push rcx; push rcx; call 2f; add rax, rdx; call 3f; "
       "dec rcx; jnz 1b; jmp 4f; 2: mov rdx, [rsp + 8]; ret 16; 3: add rbx, 1; ret; 4:");
    EQ(out.rax, 300 * 301 / 2);
    EQ(out.rbx, 300);
    EQ(out.rsp & 0xfff, 0);
    IN(.cs = pass_cs);
    OK("call 1f; 1: pop rax; lea rbx, [rip + 1b]; sub rbx, rax; lea rdx, [rip + 1b]");
    EQ(out.rbx, 0);
    EQ(out.rdx - entered, 5);
    IN(.cs = pass_cs, .rsp = HERE(memory) + 2048);
    /* The operand of CALL [rsp + n] is read before the push; JMP [rsp]; RET n of nearly 32 KiB. */
    OK("lea rax, [rip + 1f]; mov [rsp - 16], rax; call [rsp - 16]; ud2; 1: add qword ptr [rsp], 2; "
       "lea rbx, [rip + 2f]; push rbx; jmp [rsp]; 2: pop rbx; pop rcx; lea rdx, [rip + 1b]; "
       "sub rdx, rcx; lea r9, [rip + 3f]; push r9; mov r8, rsp; ret 0x7ff0; 3: sub rsp, 0x7ff0; "
       "lea r10, [rip + 4f]; push 77; push 78; push r10; ret 16; 4: mov r11, rsp");
    EQ(out.rdx, 0);
    EQ(out.r8, in.rsp - 8);
    EQ(out.r11, in.rsp);
    EQ(out.rsp, in.rsp);
    UNLESS_QEMU(RET_IMM)
    {
        OK("lea r9, [rip + 1f]; push r9; ret 0xfff8; 1: mov r10, rsp; sub rsp, 0xfff8");
        EQ(out.r10, in.rsp + 0xfff8);
    }
    /* Recursion: Fibonacci in r12 with callee-saved registers; Ackermann with RET 16. */
    IN(.cs = pass_cs, .r12 = 20);
    OK("call 1f; jmp 9f; 1: cmp r12, 2; jb 2f; push r12; dec r12; call 1b; mov r13, [rsp]; "
       "mov [rsp], r12; lea r12, [r13 - 2]; call 1b; pop r13; add r12, r13; 2: ret; 9:");
    EQ(out.r12, 6765);
    IN(.cs = pass_cs, .r14 = 2, .r15 = 30);
    OK("push r15; push r14; call 1f; jmp 9f; "
       "1: mov r14, [rsp + 8]; mov r15, [rsp + 16]; test r14, r14; jnz 2f; lea rax, [r15 + 1]; "
       "ret 16; 2: test r15, r15; jnz 3f; dec r14; push 1; push r14; call 1b; ret 16; "
       "3: dec r15; push r15; push r14; call 1b; mov r13, [rsp + 8]; dec r13; push rax; push r13; "
       "call 1b; ret 16; 9:");
    EQ(out.rax, 63);
    /* Two coroutines that switch stacks, so that no RET matches its CALL. */
    IN(.cs = pass_cs, .rcx = 3000, .rsi = HERE(memory) + 2048);
    OK("lea rax, [rip + 5f]; mov [rsi], rax; xor eax, eax; mov rbp, rsp; "
       "1: call 3f; add rax, 1; call 3f; add rax, 3; loop 1b; jmp 9f; "
       "3: xchg rsp, rsi; ret; 5: add rbx, 1; call 3b; add rbx, 5; call 6f; add rbx, 7; jmp 5b; "
       "6: call 3b; ret; 9: mov rsp, rbp");
    EQ(out.rax, 12000);
    EQ(out.rbx, 3000 * 13 - 7);
}

/* LOOP, LOOPE, LOOPNE and JRCXZ count with all 64 bits, with 67h with 32. */
static void loops(void)
{
    IN(.cs = pass_cs, .rcx = 1000);
    OK("1: inc r9; loop 1b");
    EQ(out.r9, 1000);
    EQ(out.rcx, 0);
    IN(.cs = pass_cs, .rcx = 0x100000000);
    OK("jrcxz 9f; inc rbx; jecxz 1f; ud2; 1: loop 2f; ud2; 2: mov r8, rcx; jecxz 9f; inc rbx; 9:");
    EQ(out.rbx, 2);
    EQ(out.r8, 0xffffffff);
    IN(.cs = pass_cs, .rcx = 0x1100000005);
    OK("1: inc r10; .byte 0x67; loop 1b"); /* ECX is written, so that the upper half clears */
    EQ(out.r10, 5);
    EQ(out.rcx, 0);
    IN(.cs = pass_cs, .rcx = 0, .r11 = 7);
    OK("1: dec r11; jz 2f; loop 1b; 2: mov r12, rcx; mov ecx, 1; loopne 3f; inc rbx; 3: mov ecx, "
       "2; "
       "cmp rcx, 1; loope 4f; inc rbx; 4: mov ecx, 2; loopne 5f; ud2; 5: jrcxz 6f; inc rbx; "
       "6: dec rcx; jrcxz 7f; ud2; 7:");
    EQ(out.r12, -6ull);
    EQ(out.rbx, 3);
}

/* Instructions at every offset over a page boundary, jumps from one page's end to others. */
static void pages(void)
{
    for (uint32_t offset = 0; offset < 24; offset++) {
        static const uint8_t body[] = {0x49, 0xbf, 1,    2,    3,    4,
                                       5,    6,    7,    8, /* movabs r15, 0807060504030201h */
                                       0x4d, 0x8d, 0x74, 0x3f, 0x11, /* lea r14, [r15 + rdi + 17] */
                                       0x75, 0x00,                   /* jnz next */
                                       0xe9, 0,    0,    0,    0,    /* jmp next */
                                       0xff, 0xc3};                  /* inc ebx */
        uint32_t page = 1 + offset % 5;
        uint8_t *p = code + page * 4096 - offset;
        memcpy(p, body, sizeof(body));
        memcpy(p + sizeof(body), (const uint8_t[]){0xff, 0xc9, 0x75, 0, 0xcd, DONE}, 6);
        p[sizeof(body) + 3] = (uint8_t)(0 - sizeof(body) - 4); /* dec ecx; jnz first */
        IN(.cs = pass_cs, .rip = HERE(p), .rcx = 5, .rdi = 0x100, .rflags = offset & 1 ? ZF : 0u);
        go(CODE("nop"));
        CHECK(out.vector, DONE, "page boundary", offset);
        CHECK(out.r15, 0x0807060504030201, "page boundary", offset);
        CHECK(out.r14, 0x0807060504030201 + 0x111, "page boundary", offset);
        CHECK(out.rbx, 5, "page boundary", offset);
    }
    /* Eight pages that jump and call to one another: in page i, inc r8+i; jmp next page; ... */
    for (uint32_t i = 0; i < 8; i++) {
        uint8_t *p = code + i * 4096 + 0x800 + i * 13;
        p[0] = 0x49, p[1] = 0xff, p[2] = (uint8_t)(0xc0 | i); /* inc r8 + i */
        if (i < 7) {
            p[3] = i & 1 ? 0xe8 : 0xe9; /* call or jmp */
            int32_t distance = 4096 + 13 - 8;
            memcpy(p + 4, &distance, 4);
            p[8] = 0xc3;
        } else {
            p[3] = 0xc3;
        }
    }
    IN(.cs = pass_cs, .rbx = HERE(code) + 0x800, .rcx = 500);
    OK("1: call rbx; loop 1b");
    for (uint32_t i = R8; i <= R15; i++)
        CHECK(out.r[i], 500, "pages that call one another", i);
}

/* Code at linear addresses that are far apart, also over a multiple of 4 GiB and of 64 GiB: CALL,
 * JMP and RET between them, RIP-relative addresses, and the addresses that are pushed. */
static void far_apart(void)
{
    static const uint64_t where[] = {0x40000000,         0xfffff000,         0xffffff000,
                                     0x123456789000,     0x7fffffffd000,     0x1fffffff000,
                                     0xffff800000000000, 0xffffc90123fff000, 0xfffffffffffe0000};
    frames_reset();
    uint64_t *root = space_new();
    uint32_t count = pass_cs == UCODE ? 6 : COUNT(where);
    for (uint32_t i = 0; i < COUNT(where); i++)
        for (uint32_t page = 0; page < 2; page++)
            map(root, where[i] + page * 4096, addr(code) + page * 4096, P | W | (i < 6 ? U : 0u));
    write_cr3(addr(root));
    /* At 4092, over the boundary: lea rax, [rip - 7] (its own address); add r9, 1; ret. And the
     * same with JMP R10 for RET at 512. */
    static const uint8_t self[] = {0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, 0x49, 0x83, 0xc1, 1};
    memcpy(code + 4092, self, sizeof(self));
    code[4092 + sizeof(self)] = 0xc3;
    memcpy(code + 512, self, sizeof(self));
    memcpy(code + 512 + sizeof(self), (const uint8_t[]){0x41, 0xff, 0xe2}, 3);
    for (uint32_t i = 0; i < count; i++) {
        IN(.cs = pass_cs, .rbx = where[i] + 4092, .rdx = where[i] + 512, .rcx = 20);
        OK("lea r10, [rip + 2f]; 1: call rbx; cmp rax, rbx; jne 3f; xor eax, eax; jmp rdx; "
           "2: cmp rax, rdx; jne 3f; add r11, 1; loop 1b; 3:");
        CHECK(out.rcx, 0, "own address", i);
        CHECK(out.r9, 40, "far code", i);
        CHECK(out.r11, 20, "far code", i);
    }
    /* A ring: each page's code at 1024 is jmp [rip + table], the table entry being set per page's
     * linear address in its register: mov rax, [rbp]; add rbp, 8; jmp rax. */
    static const uint8_t ring[] = {0x48, 0x8b, 0x45, 0x00, 0x48, 0x8d, 0x6d, 0x08, 0xff, 0xe0};
    memcpy(code + 1024, ring, sizeof(ring));
    for (uint32_t i = 0; i < 400; i++)
        memory[i] = where[i * 7 % count] + 1024;
    IN(.cs = pass_cs, .rbp = HERE(memory));
    const struct snip *end = CODE("lea r8, [rip + 1f]; mov [rbp + 3200], r8; mov rax, [rbp]; "
                                  "lea rbp, [rbp + 8]; jmp rax; ud2; 1: nop");
    OKS(end);
    EQ(out.rbp, in.rbp + 3208);
}

/* Code on the stack, and jumps to where rsp points. */
static void code_on_stack(void)
{
    IN(.cs = pass_cs, .rsp = HERE(memory) + 2048);
    /* On the stack: inc r9; ret, then inc r8; jmp r10. */
    OK("mov rax, 0x90909090c3c1ff49; push rax; call rsp; call rsp; pop rbx; jmp 1f; 1: "
       "mov rax, 0xe2ff41c0ff49; push rax; lea r10, [rip + 2f]; jmp rsp; 2: pop rbx");
    EQ(out.r9, 2);
    EQ(out.r8, 1);
    EQ(out.rsp, in.rsp);
}

static void push_and_pop(void)
{
    uint64_t *sp = memory + 256, top = HERE(memory) + 2048;
    IN(ALL_REGISTERS, .cs = pass_cs, .rsp = top);
    OK("push rax; push rcx; push rdx; push rbx; push rsp; push rbp; push rsi; push rdi; push r8; "
       "push r9; push r10; push r11; push r12; push r13; push r14; push r15");
    EQ(out.rsp, top - 128);
    for (uint32_t r = 0; r < 16; r++)
        CHECK(sp[-1 - (int)r], r == RSP ? top - 32 : in.r[r], "push", r);
    uint64_t values[16]; /* at CPL 0 the trap's frame goes where they were */
    for (uint32_t i = 0; i < 16; i++)
        values[i] = random64();
    memcpy(sp - 16, values, sizeof(values));
    in.rsp = top - 128;
    OK("pop rcx; pop rax; pop rbx; pop rdx; pop rbp; pop rdi; pop rsi; pop r15; pop r14; pop r13; "
       "pop r12; pop r11; pop r10; pop r9; pop r8");
    static const uint8_t order[] = {RCX, RAX, RBX, RDX, RBP, RDI, RSI, R15,
                                    R14, R13, R12, R11, R10, R9,  R8};
    for (uint32_t i = 0; i < COUNT(order); i++)
        CHECK(out.r[order[i]], values[i], "pop", i);
    EQ(out.rsp, top - 8);
    /* 16 bits; the stack moves by 2. */
    in.rsp = top;
    OK("push ax; push r9w; push r15w; pop r8w; pop cx; pop dx; push r12w; push r13w; push bp; "
       "push si; pop r14");
    EQ(out.r8, (in.r8 & ~0xffffull) | 0xffff);
    EQ(out.rcx, (in.rcx & ~0xffffull) | (in.r9 & 0xffff));
    EQ(out.rdx, (in.rdx & ~0xffffull) | (in.rax & 0xffff));
    EQ(out.r14, (in.r12 & 0xffff) << 48 | (in.r13 & 0xffff) << 32 | (in.rbp & 0xffff) << 16 |
                    (in.rsi & 0xffff));
    EQ(out.rsp, top);
    /* Immediates are sign-extended to 64 bits. */
    OK("push -1; push 127; push -128; push 0x7fffffff; push -0x80000000; pop rax; pop r9; pop r10; "
       "pop r11; pop r12; push 0x12345678; pop r13; .byte 0x66, 0x68, 0x34, 0x82; .byte 0x66, "
       "0x6a, "
       "0x85; pop r14w; pop r15w");
    EQ(out.rax, -0x80000000ull);
    EQ(out.r9, 0x7fffffff);
    EQ(out.r10, -128ull);
    EQ(out.r11, 127);
    EQ(out.r12, -1ull);
    EQ(out.r13, 0x12345678);
    EQ(out.r14, (in.r14 & ~0xffffull) | 0xff85);
    EQ(out.r15, (in.r15 & ~0xffffull) | 0x8234);
    EQ(out.rsp, top);
}

/* rsp as the operand or in the operand of PUSH and POP. */
static void push_and_pop_rsp(void)
{
    uint64_t *sp = memory + 256, top = HERE(memory) + 2048;
    IN(.cs = pass_cs, .rsp = top);
    OK("push rsp");
    EQ(sp[-1], top);
    EQ(out.rsp, top - 8);
    sp[0] = top - 64;
    OK("pop rsp");
    EQ(out.rsp, top - 64);
    OK("push rsp; pop rsp; push rsp; push rsp; pop rax; pop rbx");
    EQ(out.rsp, top);
    EQ(out.rax, top - 8);
    EQ(out.rbx, top);
    sp[0] = 0xabcd, sp[1] = 1, sp[2] = 2, sp[3] = 3;
    OK("pop qword ptr [rsp + 8]"); /* the address is computed with the new rsp */
    EQ(sp[2], 0xabcd);
    EQ(out.rsp, top + 8);
    OK("pop qword ptr [rsp - 8]");
    EQ(sp[0], 0xabcd);
    sp[0] = 0x7700000077;
    OK("push qword ptr [rsp]; push qword ptr [rsp + 8]; push qword ptr [rsp + 32]; pop rax; pop "
       "rbx; pop rcx");
    EQ(out.rcx, 0x7700000077);
    EQ(out.rbx, 0x7700000077);
    EQ(out.rax, sp[2]);
    OK("mov ax, 0x1234; push ax; push sp; pop bx; pop r8w; sub sp, 8; add sp, 8");
    EQ(out.rbx, (top - 2) & 0xffff);
    EQ(out.r8, 0x1234);
    EQ(out.rsp, top);
    /* Through every base and with every index. */
#define BASE(r, b) \
    "mov " r ", rsp; push [" r " + 8]; pop [" r " + 16]; push [" r "]; pop [" r " + 0x80]"
#define INDEX(r, b) "mov " r ", 2; push [rsp + " r " * 4]; pop [rsp + " r " * 8 + 8]"
    const struct snip *base[] = EACH_REGISTER_BUT_RSP(BASE),
                      *index[] = EACH_REGISTER_BUT_RSP(INDEX);
    for (uint32_t r = 0; r < 16; r++) {
        if (r == RSP)
            continue;
        for (uint32_t i = 0; i < 20; i++)
            sp[i] = random64();
        OKS(base[r]);
        CHECK(sp[2], sp[1], "through a base", r);
        CHECK(sp[16], sp[0], "through a base", r);
        CHECK(out.r[r], top, "through a base", r);
        OKS(index[r]);
        CHECK(sp[3], sp[1], "with an index", r);
        CHECK(out.rsp, top, "with an index", r);
    }
}

static void frames(void)
{
    uint64_t *sp = memory + 256, top = HERE(memory) + 2048;
    IN(.cs = pass_cs, .rsp = top, .rbp = top + 16);
    OK("enter 16, 0");
    EQ(out.rbp, top - 8);
    EQ(out.rsp, top - 24);
    EQ(sp[-1], top + 16);
    OK("enter 0x20, 1; mov rax, [rbp - 8]");
    EQ(out.rax, top - 8);
    EQ(out.rsp, top - 16 - 0x20);
    sp[1] = 0x1111, sp[0] = 0x2222;
    OK("enter 8, 3"); /* copies [rbp - 8] and [rbp - 16] */
    EQ(sp[-2], 0x1111);
    EQ(sp[-3], 0x2222);
    EQ(sp[-4], top - 8);
    EQ(out.rsp, top - 32 - 8);
    EQ(out.rbp, top - 8);
    OK("enter 8, 35; leave"); /* the level is taken modulo 32 */
    EQ(out.rsp, top);
    EQ(out.rbp, top + 16);
    sp[2] = 0x1122334455667788;
    OK("leave");
    EQ(out.rbp, 0x1122334455667788);
    EQ(out.rsp, top + 24);
    IN(.cs = pass_cs, .rcx = 200);
    OK("call 2f; jmp 9f; 2: push rbp; mov rbp, rsp; sub rsp, 48; mov [rbp - 8], rcx; mov [rsp], "
       "rcx; dec rcx; jz 3f; call 2b; 3: mov rdx, [rbp - 8]; add rax, rdx; cmp [rsp], rdx; jne 4f; "
       "inc rbx; 4: leave; ret; 9:");
    EQ(out.rax, 200 * 201 / 2);
    EQ(out.rbx, 200);
    EQ(out.rbp, 0);
}

static void push_flags(void)
{
    uint64_t *sp = memory + 256, top = HERE(memory) + 2048;
    static const uint64_t flags[] = {0, ARITH, CF, OFL | DFL, ID, ACF | SF, NT | ZF};
    for (uint32_t i = 0; i < COUNT(flags); i++) {
        IN(.cs = pass_cs, .rsp = top, .rflags = flags[i]);
        OK("pushfq; pop r9; pushfw; pop ax; pushfq");
        EQ(out.r9, flags[i] | 2);
        EQ(out.rax, (flags[i] | 2) & 0xffff);
        EQ(sp[-1], flags[i] | 2);
        EQ(out.rsp, top - 8);
        in.rflags = ARITH & ~flags[0];
        sp[0] = flags[i];
        OK("popfq; mov r10d, 5");
        EQ(out.rflags, flags[i] | 2);
        EQ(out.rsp, top + 8);
        in.rflags = ID | DFL;
        OK("mov r11, rsp; popfw; mov rsp, r11"); /* the upper half stays */
        EQ(out.rflags, (flags[i] & 0xffff) | ID | 2);
    }
    /* 32 bits cannot be pushed or popped: 66h is 16 bits, REX.W changes nothing. */
    IN(.cs = pass_cs, .rsp = top);
    OK(".byte 0x48, 0x9c; pop rax; .byte 0x48, 0x50; .byte 0x48, 0x5b; mov rcx, rsp");
    EQ(out.rcx, top);
    EQ(out.rbx, 2);
    /* Of the segment registers only FS and GS. */
    IN(.cs = pass_cs, .rsp = top, .fs = UDATA, .gs = UDATA2);
    OK("push fs; push gs; pop rax; pop rbx; push 0; pop gs; push fs; pop gs; mov ecx, gs");
    EQ(out.rax & 0xffff, UDATA2);
    EQ(out.rbx & 0xffff, UDATA);
    EQ(out.rcx, UDATA);
    EQ(out.gs, UDATA);
}

/* What does not exist in 64-bit mode (SDM 2 appendix A, table 3-1's column). */
static void not_in_64_bits(void)
{
    IN(ALL_REGISTERS, .cs = pass_cs, .rflags = CF);
    FAULT(".byte 0x06", UD, 0); /* PUSH ES */
    FAULT(".byte 0x07", UD, 0);
    FAULT(".byte 0x0e", UD, 0);
    FAULT(".byte 0x16", UD, 0);
    FAULT(".byte 0x1e", UD, 0);
    FAULT(".byte 0x1f", UD, 0);
    FAULT(".byte 0x27", UD, 0); /* DAA */
    FAULT(".byte 0x2f", UD, 0);
    FAULT(".byte 0x37", UD, 0);
    FAULT(".byte 0x3f", UD, 0);
    FAULT(".byte 0x60", UD, 0); /* PUSHA */
    FAULT(".byte 0x61", UD, 0);
    FAULT(".byte 0x82, 0xc0, 1", UD, 0);
    FAULT(".byte 0x9a, 0, 0, 0, 0, 8, 0", UD, 0); /* far CALL */
    FAULT(".byte 0xea, 0, 0, 0, 0, 8, 0", UD, 0); /* far JMP */
    FAULT(".byte 0xce", UD, 0);                   /* INTO */
    FAULT(".byte 0xd4, 10", UD, 0);               /* AAM */
    FAULT(".byte 0xd5, 10", UD, 0);
    FAULT(".byte 0xd6", UD, 0); /* SALC */
    FAULT("nop; nop;" AT ".byte 0x06", UD, 0);
    /* 40h-4Fh are prefixes, and do nothing when another prefix follows. */
    OK(".byte 0x48, 0x49, 0x89, 0xc0; .byte 0x4f, 0x90; .byte 0x40, 0x90");
    EQ(out.r8, in.rax);
    UNLESS_QEMU(REX)
    {
        OK(".byte 0x49, 0x66, 0x89, 0xc3");
        EQ(out.rbx, (in.rbx & ~0xffffull) | (in.rax & 0xffff));
    }
}

void guest_main(void)
{
    GROUP(entry_state);
    GROUP(moves);
    GROUP(conditions);
    GROUP(by_register);
    GROUP(flags_kept);
    GROUP(calls);
    GROUP(loops);
    GROUP(pages);
    GROUP(far_apart);
    GROUP(code_on_stack);
    GROUP(push_and_pop);
    GROUP(push_and_pop_rsp);
    GROUP(frames);
    GROUP(push_flags);
    GROUP(not_in_64_bits);
}
