/* stack64.c - rsp as an ordinary register: arithmetic on it, moves from and to every register, and
 * stacks in places that are far apart.
 *
 * SDM 1 6.2; SDM 2: PUSH, POP, CALL, RET, ENTER, LEAVE, MOV, XCHG, LEA. A translator may keep rsp
 * in another form than the other registers; here it is set, read, compared and multiplied in every
 * way, its value changing between linear addresses in different 4 GiB and 64 GiB regions in the
 * middle of pushes, calls and loops. */
#include "guest64.h"

const char guest_name[] = "stack64";

enum { SIZE = 8192, MIDDLE = 4096 };

static uint64_t stack[SIZE / 8] USER __attribute__((aligned(4096)));
static uint64_t slots[64] USER;

/* The stack's linear addresses; its middle lies on a multiple of 4 GiB or more in many. */
static const uint64_t views[] = {0x40000000,         0xfffff000,         0x2fffff000,
                                 0xffffff000,        0x123456789000,     0x7fffffffd000,
                                 0x7ffffff000,       0xffff800000000000, 0xffff8887fffff000,
                                 0xffffc8fffffff000, 0xfffffffffffe0000};
enum { USER_VIEWS = 7 };

static uint64_t view_count(void)
{
    return pass_cs == UCODE ? USER_VIEWS : COUNT(views);
}

static void views_map(void)
{
    frames_reset();
    uint64_t *root = space_new();
    for (uint32_t i = 0; i < COUNT(views); i++)
        for (uint32_t page = 0; page < SIZE; page += 4096)
            map(root, views[i] + page, addr(stack) + page, P | W | (i < USER_VIEWS ? U : 0u));
    write_cr3(addr(root));
    for (uint32_t i = 0; i < SIZE / 8; i++)
        stack[i] = i * 0x9e3779b97f4a7c15;
}

/* ADD, SUB, AND, OR, XOR, INC, NEG, shifts, LEA, IMUL, BSWAP of rsp. No memory is accessed. */
static void arithmetic(void)
{
    ist_all(1);
    static const uint64_t start[] = {0x601000,           0xfffffff8,         0x7fffffffff00,
                                     0xffffffff80001238, 0x123456789abcdef0, 1};
    for (uint32_t i = 0; i < COUNT(start); i++) {
        uint64_t s = start[i];
        IN(.cs = pass_cs, .rsp = s, .rax = 0x10000, .r9 = 0x5555, .r15 = 4);
#define ON_RSP(text, value) \
    OK(text);               \
    CHECK(out.rsp, value, text, i)
        ON_RSP("add rsp, 8; add rsp, 0x12345; add rsp, rax; add rsp, r9",
               s + 8 + 0x12345 + 0x10000 + 0x5555);
        ON_RSP("sub rsp, 0x80; sub rsp, -0x80; sub rsp, rax; sub rsp, r9", s - 0x10000 - 0x5555);
        ON_RSP("and rsp, -16", s & -16ull);
        ON_RSP("and rsp, -4096; or rsp, 0x18", (s & -4096ull) | 0x18);
        ON_RSP("xor rsp, rax; xor rsp, 0x7f", s ^ 0x10000 ^ 0x7f);
        ON_RSP("inc rsp; inc rsp; dec rsp", s + 1);
        ON_RSP("neg rsp; not rsp", s - 1);
        ON_RSP("lea rsp, [rsp + 0x100]; lea rsp, [rsp + rax * 2]; lea rsp, [rsp + r15 * 8 - 3]",
               s + 0x100 + 0x20000 + 32 - 3);
        ON_RSP("shl rsp, 3; shr rsp, 3", s << 3 >> 3);
        ON_RSP("rol rsp, 16; ror rsp, 8", s << 8 | s >> 56);
        ON_RSP("add esp, 1", (uint32_t)s + 1);
        ON_RSP("mov esp, esp", (uint32_t)s);
        ON_RSP("add sp, 0x10", (s & ~0xffffull) | ((s + 16) & 0xffff));
        ON_RSP("mov spl, 0x77", (s & ~0xffull) | 0x77);
        ON_RSP("inc spl", (s & ~0xffull) | ((s + 1) & 0xff));
        ON_RSP("imul rsp, rsp, 3", s * 3);
        ON_RSP("bswap rsp", __builtin_bswap64(s));
        ON_RSP("movsxd rsp, esp", (uint64_t)(int32_t)s);
        ON_RSP("movzx esp, spl", s & 0xff);
        ON_RSP("stc; adc rsp, 0; sbb rsp, r9", s + 1 - 0x5555);
        ON_RSP("stc; cmovc rsp, r9; cmovnc rsp, rax", 0x5555);
        ON_RSP("clc; cmovc rsp, r9; mov rbx, rsp; cmp rsp, rbx; sete al; test rsp, rsp; setnz ah; "
               "mov rcx, rsp",
               s);
        CHECK(out.rax, 0x10101, "rsp compared", i);
        CHECK(out.rcx, s, "rsp read", i);
        ON_RSP("xchg rsp, r9; mov r10, r9; xchg r9, rsp; xadd rsp, rax", s + 0x10000);
        CHECK(out.r10, s, "xchg", i);
        CHECK(out.rax, s, "xadd", i);
        ON_RSP("mov r8, 3; 1: add rsp, rax; lea rsp, [rsp + 8]; dec r8; jnz 1b", s + 3 * 0x10008);
        ON_RSP("movq xmm0, rsp; mov rsp, 5; movq rsp, xmm0", s);
        ON_RSP("mov r11, rsp; shld rsp, r11, 4; bts rsp, 63; btr rsp, 62; btc rsp, 0",
               ((((s << 4 | s >> 60) | 1ull << 63) & ~(1ull << 62)) ^ 1));
        CHECK(out.r11, s, "mov from rsp", i);
    }
    IN(.cs = pass_cs);
    OK("mov rax, rsp; sub rsp, 0x1000; mov rcx, rsp; sub rax, rcx; mov r8d, esp; mov r9w, sp; mov "
       "r10b, spl; lea r11, [rsp + "
       "0x1000]; lea r12, [rsp + r15 * 8 + 8]; imul r13, rsp, 2; lea r14, [rsp + rcx]; add rsp, "
       "0x1000");
    EQ(out.rax, 0x1000);
    EQ(out.r8, (uint32_t)out.rcx);
    EQ(out.r9, out.rcx & 0xffff);
    EQ(out.r10, out.rcx & 0xff);
    EQ(out.r11, out.rsp);
    EQ(out.r12, out.rcx + 8);
    EQ(out.r13, out.rcx * 2);
    EQ(out.r14, out.rcx * 2);
}

/* MOV, XCHG, LEA, ADD between rsp and every register, and to and from memory, with pushes between.
 */
static void every_register(void)
{
    views_map();
#define TO_AND_FRO(r, b)                                                                         \
    "mov " r ", rsp; push 11; sub rsp, 64; push 22; mov rsp, " r "; lea " r                      \
    ", [rsp - 128]; push 33; xchg rsp, " r "; push 44; "                                         \
    "xchg " r ", rsp; add rsp, 8; sub " r ", rsp; add rsp, " r "; push 55; sub rsp, " r          \
    "; lea rsp, [rsp + 8]; mov [rip + slots], "                                                  \
    "rsp; mov rsp, [rip + slots + 8]; push 66; mov " r ", [rip + slots]; mov rsp, " r "; sub " r \
    ", " r "; lea rsp, [rsp + " r " * 8]"
    const struct snip *code[] = EACH_REGISTER_BUT_RSP(TO_AND_FRO);
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t i = 0; r != RSP && i < view_count(); i++) {
            uint64_t middle = views[i] + MIDDLE,
                     other = views[(i + 1 + (uint32_t)rep) % view_count()] + 512;
            slots[1] = other;
            IN(.cs = pass_cs, .rsp = middle);
            OKS(code[r]);
            CHECK(out.rsp, middle, "rsp", r * 16 + i);
            CHECK(out.r[r], 0, "register", r * 16 + i);
            CHECK(stack[512 / 8 - 1], 66, "on the other stack", r * 16 + i);
            if (pass_cs != UCODE && rep / 4 != 1)
                continue; /* the frame of the closing trap overwrites the rest */
            CHECK(stack[MIDDLE / 8 - 1], 33, "slot", r * 16 + i);
            CHECK(stack[MIDDLE / 8 - 10], 22, "slot", r * 16 + i);
            CHECK(stack[MIDDLE / 8 - 17], 44, "slot", r * 16 + i);
            CHECK(stack[MIDDLE / 8 - 18], 55, "slot", r * 16 + i);
        }
}

/* One hot loop that works on two stacks in turn; CALL on one, RET on the other. */
static void switching(void)
{
    views_map();
    for (uint32_t i = 0; i < view_count(); i++)
        for (uint32_t k = 0; k < view_count(); k++) {
            if (i == k)
                continue;
            uint64_t a = views[i] + MIDDLE, b = views[k] + 1024;
            IN(.cs = pass_cs, .rsp = a, .rbx = b, .rcx = 50, .r12 = 0);
            OK("1: push rcx; push 3; xchg rsp, rbx; push rcx; call 2f; pop rdx; add r12, rdx; xchg "
               "rsp, rbx; pop r8; pop r9; "
               "add r13, r9; add r14, r8; dec rcx; jnz 1b; jmp 3f; "
               "2: mov r10, [rsp]; mov [rbx - 8], r10; mov r11, rsp; lea rsp, [rbx - 8]; lea rbp, "
               "[rip + 4f]; mov [rsp], rbp; "
               "ret; ud2; 4: mov rsp, r11; ret; 3:");
            CHECK(out.rsp, a, "rsp", i * 16 + k);
            CHECK(out.rbx, b, "the other rsp", i * 16 + k);
            CHECK(out.r12, 50 * 51 / 2, "popped", i * 16 + k);
            CHECK(out.r13, 50 * 51 / 2, "popped", i * 16 + k);
            CHECK(out.r14, 150, "popped", i * 16 + k);
        }
    /* Round robin over all of them, by MOV and POP rsp, LEAVE and LEA. */
    for (uint32_t i = 0; i < 32; i++)
        slots[i] = views[i % view_count()] + 1024 + 64 * i;
    IN(.cs = pass_cs, .rsi = HERE(slots), .rcx = 320, .rdi = 0);
    OK("mov r15, rsp; 1: mov eax, ecx; and eax, 31; mov rsp, [rsi + rax * 8]; push rcx; push rsp; "
       "pop r8; pop rbx; add rdi, rbx; "
       "mov rbp, [rsi + rax * 8]; push rbp; mov [rbp - 16], rbp; lea rbp, [rbp - 16]; leave; pop "
       "r9; sub r9, rbp; add r10, r9; "
       "push rbp; pop rsp; sub rsp, [rsi + rax * 8]; add r11, rsp; loop 1b; mov rsp, r15");
    EQ(out.rdi, 320 * 321 / 2);
    EQ(out.r10, 0);
    EQ(out.r11, 0);
}

/* Stacks that grow over a boundary, down and up, with pushes of all sizes, calls and frames. */
static void over_boundaries(void)
{
    views_map();
    for (uint32_t i = 0; i < view_count(); i++) {
        uint64_t middle = views[i] + MIDDLE;
        for (uint32_t offset = 0; offset < 16; offset += 2) {
            IN(.cs = pass_cs, .rsp = middle + 256 + offset, .rcx = 60);
            OK("mov rbp, rsp; 1: push rcx; loop 1b; mov ecx, 60; 2: pop rax; add rbx, rax; cmp "
               "rax, 1; loopne 2b; mov ecx, 59; 3: "
               "pop rax; add rbx, rax; loop 3b; cmp rsp, rbp; sete r8b");
            CHECK(out.rbx, 60 * 61 / 2, "pushes", i * 16 + offset);
            CHECK(out.r8, 1, "pushes", i * 16 + offset);
            IN(.cs = pass_cs, .rsp = middle + 200 + offset, .rcx = 40, .rax = 1);
            OK("call 1f; jmp 9f; 1: push ax; push rbp; mov rbp, rsp; sub rsp, 24; mov [rbp - 8], "
               "rcx; mov [rsp], rcx; dec rcx; jz 2f; "
               "call 1b; 2: add rdx, [rbp - 8]; add r9, [rsp]; add r10, [rsp + 16]; add rsp, 24; "
               "pop rbp; pop r11w; ret; 9:");
            CHECK(out.rdx, 40 * 41 / 2, "frames", i * 16 + offset);
            CHECK(out.r9, 40 * 41 / 2, "frames", i * 16 + offset);
            CHECK(out.r10, out.rdx, "frames", i * 16 + offset);
            CHECK(out.rsp, in.rsp, "frames", i * 16 + offset);
        }
        /* Far displacements from rsp and rbp, that leave the region. */
        stack[MIDDLE / 8 + 5] = 0x1234;
        IN(.cs = pass_cs, .r8 = middle + 40, .rcx = 20);
        OK("mov r15, rsp; 1: lea rsp, [r8 + 0x7ffffff0]; add rax, [rsp - 0x7ffffff0]; lea rsp, [r8 "
           "- 0x7ffffff0]; add rax, [rsp + "
           "0x7ffffff0]; mov rsp, 0x123456789; neg rsp; lea r9, [r8 + 0x12345679]; mov r10, "
           "0x111111110; add r9, r10; add rax, [rsp + r9]; mov "
           "rbp, r8; add rax, [rbp]; lea rsp, [rbp * 2]; neg rbp; add rax, [rsp + rbp]; loop 1b; "
           "mov rsp, r15");
        CHECK(out.rax, 0x1234 * 5 * 20, "far displacements", i);
    }
    /* A wild rsp does no harm until it is used. */
    ist_all(1);
    IN(.cs = pass_cs);
    OK("mov rbx, rsp; mov rsp, 0x1234567812345678; add rsp, 8; mov rax, rsp; mov rcx, [rip + "
       "slots]; lea rdx, [rsp - 8]; mov rsp, "
       "rbx; push rax; pop r8");
    EQ(out.r8, 0x1234567812345680);
    EQ(out.rdx, 0x1234567812345678);
    uint64_t user = pass_cs == UCODE ? 4 : 0;
    FAULT("mov rsp, 0x555555555000;" AT "push rax", PF, 2 | user);
    EQ(out.cr2, 0x555555554ff8);
    EQ(out.rsp, 0x555555555000);
    FAULT("mov rsp, 0x555555555000;" AT "pop rbx", PF, user);
    EQ(out.rsp, 0x555555555000);
    FAULT("mov rsp, 0x555555555000;" AT "ret 8", PF, user);
    EQ(out.rsp, 0x555555555000);
    FAULT("mov rsp, 0x555555555000; lea rax, [rip];" AT "call rax", PF, 2 | user);
    EQ(out.rsp, 0x555555555000);
    FAULT("mov rsp, 0x555555555000;" AT "call 1f; 1: nop", PF, 2 | user);
    EQ(out.rsp, 0x555555555000);
    FAULT("mov rbp, 0x555555555000;" AT "leave", PF, user);
    EQ(out.rbp, 0x555555555000);
    EQ(out.rsp, pass_cs == UCODE ? addr(user_stack_top) : HERE(kernel_stack_top));
    FAULT("mov rsp, 0x555555555000;" AT "pushfq", PF, 2 | user);
    FAULT("mov rsp, 0x555555555000;" AT "enter 16, 0", PF, 2 | user);
    EQ(out.rbp, 0);
    EQ(out.rsp, 0x555555555000);
}

void guest_main(void)
{
    GROUP(arithmetic);
    GROUP(every_register);
    GROUP(switching);
    GROUP(over_boundaries);
}
