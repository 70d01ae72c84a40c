/* smc64.c - self-modifying 64-bit code: an instruction that was written is the one that runs.
 *
 * SDM 3A 8.1.3 asks the program for a jump or a serializing instruction between the store and the
 * use; every processor since the P6 goes further and snoops its pipeline (SDM 3A 11.6), so that the
 * very next instruction is the new one. Both are required here, through the same linear address.
 * Writing through an alias of the page - the direct map, as kernels do - is followed by a jump and
 * IRETQ or CPUID.
 *
 * Code is generated into `page`, run, changed, and run again, many times, so that it was translated
 * and chained before it is changed. */
#include "guest64.h"

const char guest_name[] = "smc64";

static uint8_t page[5 * 4096] USER_CODE;

static uint8_t *emit(uint8_t *p, const void *bytes, uint32_t n)
{
    memcpy(p, bytes, n);
    return p + n;
}

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

/* movabs rax, value; ret */
enum { CONSTANT_SIZE = 11 };
static void constant(uint8_t *at, uint64_t value)
{
    emit(at, BYTES(0x48, 0xb8));
    memcpy(at + 2, &value, 8);
    at[10] = 0xc3;
}

/* The store's own block: the instruction right behind, one later, and the store's own successor in
 * a loop. */
static void own_block(void)
{
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t r = i & 15;
        /* 49h or 48h, FFh, C0h + r: INC r64. */
        IN(.rbx = 0x48 + (r >> 3), .r9 = 0xc0 + (r & 7), .cs = pass_cs);
        if (r == RSP)
            continue;
        OK("mov byte ptr [rip + 1f], bl; mov byte ptr [rip + 1f + 2], r9b; 1: inc rax");
        CHECK(out.r[r], in.r[r] + 1, "register by prefix", r);
        IN(.rax = i * 0x0101010101010101, .cs = pass_cs);
        OK("mov [rip + 1f + 2], rax; 1: movabs rcx, 0x1122334455667788; mov [rip + 2f + 2], rcx; "
           "nop; nop; 2: movabs r15, 0x1122334455667788");
        EQ(out.rcx, in.rax);
        EQ(out.r15, in.rax);
        in.rax = i * 0x01010101;
        OK("mov dword ptr [rip + 1f + 4], eax; lea rbx, [rax + rax]; 1: lea rdx, [rbx + r8 + "
           "0x12345678]; 2: jmp 3f; 3:");
        EQ(out.rdx, (uint64_t)(int32_t)in.rax + in.rax * 2);
        in.rbx = i & 1 ? 0x75 : 0x74, in.rflags = ZF; /* JNE or JE */
        OK("mov byte ptr [rip + 1f], bl; 1: je 2f; mov ecx, 1; jmp 3f; 2: mov ecx, 2; 3:");
        EQ(out.rcx, i & 1 ? 1 : 2);
        in.rbx = i & 1 ? 0 : 5; /* the displacement of a jump that was already taken */
        OK("mov byte ptr [rip + 1f + 1], bl; 1: jmp 2f; 2: mov ecx, 7; mov edx, 8");
        EQ(out.rcx, i & 1 ? 7 : 0);
        EQ(out.rdx, 8);
        in.rbx = i * 8, in.rsi = HERE(page); /* the displacement of a RIP-relative load */
        OK("mov dword ptr [rip + 1f + 3], ebx; 1: lea rdx, [rip + 0x12345678]; 2: lea r8, [rip + "
           "2b]");
        EQ(out.rdx - out.r8, in.rbx);
    }
}

/* A store that turns what is behind it into something that faults, with the precise RIP. */
static void into_faults(void)
{
    IN(.cs = pass_cs);
    FAULT("mov word ptr [rip + 1f], 0x0b0f; nop;" AT "1: mov eax, 1; mov ecx, 2", UD, 0);
    FAULT("xor ebx, ebx; mov dword ptr [rip + 1f], 0x90f3f748;" AT "1: inc eax; inc eax", DE,
          0); /* DIV RBX */
    OK("mov rax, [rip + 1f]; mov rbx, 0x9090909090909090; mov [rip + 1f], rbx; mov [rip + 1f], "
       "rax; 1: movabs rcx, 0x123456789a");
    EQ(out.rcx, 0x123456789a); /* and back */
    /* The second half of a store over the end of the code before it is executed. */
    FAULT("mov eax, 0x0b0f9090; mov [rip + 1f - 2], eax; nop; nop;" AT "1: mov eax, ebx", UD, 0);
    IN(.cs = pass_cs, .rsi = 0x55500000000);
    FAULT("mov word ptr [rip + 1f], 0x8b48; mov byte ptr [rip + 1f + 2], 6; nop;" AT
          "1: nop; nop; nop",
          PF, pass_cs == UCODE ? 4 : 0);
    EQ(out.cr2, in.rsi); /* mov rax, [rsi] */
}

/* An immediate in a loop's body changes at every iteration. */
static void loop_immediate(void)
{
    IN(.rcx = 1500, .cs = pass_cs);
    OK("xor edx, edx; 1: add rdx, 1; .byte 0x48, 0xb8; 2: .quad 0; add rbx, rax; mov [rip + 2b], "
       "rdx; loop 1b; mov qword ptr [rip + 2b], 0");
    EQ(out.rbx, 1499 * 1500 / 2);
    IN(.rcx = 1500, .cs = pass_cs);
    OK("xor edx, edx; 1: lea rdx, [rdx + 1]; mov [rip + 2f + 1], edx; jmp 2f; 2: mov eax, 0; add "
       "rbx, rax; dec rcx; jnz 1b");
    EQ(out.rbx, 1500 * 1501 / 2);
    IN(.rcx = 2000, .cs = pass_cs); /* the loop's back edge is written with what it is */
    OK("1: inc rax; mov byte ptr [rip + 2f], 0x75; dec rcx; 2: jnz 1b");
    EQ(out.rax, 2000);
    IN(.rcx = 2000, .cs = pass_cs, .r12 = 1); /* the REX prefix changes: INC EBX, INC R11D */
    OK("1: mov eax, ecx; and eax, 1; or eax, 0x40; mov [rip + 2f], al; nop; 2: rex inc ebx; loop "
       "1b");
    EQ(out.rbx, 1000);
    EQ(out.r11, 1000);
}

/* Functions in the same page as the writer, in another page, across a page boundary. */
static void other_blocks(void)
{
    static const uint32_t places[] = {64,       4096 + 64, 4096 - 1,     4096 - 2,
                                      4096 - 3, 4096 - 4,  4096 - 5,     4096 - 7,
                                      4096 - 9, 4096 - 10, 2 * 4096 - 11};
    for (uint32_t n = 0; n < COUNT(places); n++) {
        uint8_t *f = page + places[n];
        constant(f, 1);
        /* Writer: mov [rsi + 2], rax; call f; add rbx, rax; lea rax, [rcx + 17]; loop. */
        uint32_t rel = (uint32_t)(addr(f) - (addr(page) + 4 + 5));
        uint8_t *p = emit(page, BYTES(0x48, 0x89, 0x46, 0x02, 0xe8));
        p = emit(p, &rel, 4);
        p = emit(p, BYTES(0x48, 0x01, 0xc3, 0x48, 0x8d, 0x41, 0x11, 0xe2));
        *p = (uint8_t)(addr(page) - (addr(p) + 1));
        emit(p + 1, BYTES(0xcd, DONE));
        for (uint64_t times = 1; times < 200; times += 66) {
            IN(.rax = 1000, .rcx = times, .rsi = HERE(f), .rip = HERE(page), .cs = pass_cs);
            go(CODE("nop"));
            uint64_t want = 1000;
            for (uint64_t c = times; c > 1; c--)
                want += c + 17;
            CHECK(out.rbx, want, "sum of patched results", n);
            CHECK(out.vector, DONE, "other block", n);
        }
        /* From C: each byte of the immediate and the register that it is moved to. */
        for (uint32_t i = 0; i < 32; i++) {
            constant(f, 0x1111111111111111 * (i & 7));
            f[2 + (i & 7)] = (uint8_t)i;
            f[0] = i & 8 ? 0x49 : 0x48; /* R8 for RAX */
            uint64_t value;
            memcpy(&value, f + 2, 8);
            IN(.rsi = HERE(f), .cs = pass_cs);
            OK("call rsi; call rsi; mov edx, 1; call rsi");
            CHECK(i & 8 ? out.r8 : out.rax, value, "patched byte", n);
            CHECK(i & 8 ? out.rax : out.r8, 0, "patched prefix", n);
        }
    }
}

/* A function comes in by REP MOVS or is erased by REP STOS over a hot one. */
static void by_string(void)
{
    static uint8_t versions[3][64] USER;
    for (uint32_t v = 0; v < 3; v++) {
        memset(versions[v], 0x90, 64);
        constant(versions[v] + 20 + v * 3, v + 1);
    }
    for (uint32_t i = 0; i < 30; i++) {
        uint64_t at = HERE(page) + 4096 - 32;
        IN(.rsi = HERE(versions[i % 3]), .rdi = at, .rcx = 64, .r15 = at, .cs = pass_cs);
        if (i & 1)
            OK("rep movsb; call r15; call r15");
        else
            OK("mov ecx, 8; rep movsq; call r15");
        EQ(out.rax, i % 3 + 1);
        /* 20 times INC R8D (41h FFh C0h), built by a loop of stores; then RET. */
        IN(.rcx = 20, .rdi = at, .r15 = at, .cs = pass_cs);
        OK("1: mov dword ptr [rdi], 0xc3c0ff41; add rdi, 3; loop 1b; call r15; mov [r15], r8");
        EQ(out.r8, 20);
        IN(.rax = 0x90, .rcx = 40, .rdi = at, .r15 = at, .cs = pass_cs);
        OK("rep stosb; mov byte ptr [rdi], 0xc3; call r15; xor eax, eax");
        EQ(out.rcx, 0);
    }
    /* REP MOVS over itself: the remaining iterations run, then the new code behind it. */
    uint8_t *p = page + 128;
    static uint8_t image[16] USER = {0xf3, 0xa4, 0xff, 0xc1, 0xff, 0xc1, 0xcd, DONE};
    emit(p, BYTES(0xf3, 0xa4, 0xff, 0xc0, 0xff, 0xc0, 0xcd, DONE));
    IN(.rsi = HERE(image), .rdi = HERE(p), .rcx = 8, .rip = HERE(p), .cs = pass_cs);
    go(CODE("nop"));
    EQ(out.rcx, 2);
    EQ(out.rax, 0);
    EQ(out.rdi, HERE(p) + 8);
}

/* The same frame at several linear addresses: run at one, written at another, then a jump and
 * CPUID. */
static void by_alias(void)
{
    static const uint64_t where[] = {0x50000000, 0x100000000 - 4096, 0x123456789000,
                                     0xffffc90000000000};
    frames_reset();
    uint64_t *root = space_new();
    for (uint32_t k = 0; k < COUNT(where); k++)
        for (uint32_t i = 0; i < 2 * 4096; i += 4096)
            map(root, where[k] + i, addr(page) + i, P | (k == 1 ? 0 : W) | (k < 3 ? U : 0));
    write_cr3(addr(root));
    static const uint32_t places[] = {0, 100, 4086, 4090, 4093};
    for (uint32_t n = 0; n < COUNT(places); n++) {
        constant(page + places[n], 0);
        for (uint32_t i = 1; i < 24; i++) {
            IN(.r12 = i * 0x123456789, .r13 = where[pass_cs == UCODE ? 0 : 3] + places[n],
               .r14 = where[1] + places[n], .r15 = where[2] + places[n],
               .rbp = HERE(page) + places[n], .cs = pass_cs);
            OK("call r14; call r15; mov [r13 + 2], r12; jmp 1f; 1: xor eax, eax; cpuid; call r14; "
               "mov r8, rax; call r15; mov r9, rax; call rbp; mov "
               "r10, rax; call r13");
            CHECK(out.r8, in.r12, "read-only alias", n);
            CHECK(out.r9, in.r12, "alias", n);
            CHECK(out.r10, in.r12, "where it is linked", n);
            CHECK(out.rax, in.r12, "where it was written", n);
        }
    }
    /* As Linux patches its text: through the direct map, INT3 first, then the rest, then the first
     * byte. */
    if (pass_cs == UCODE)
        return;
    uint8_t *f = page + 4096 - 5;
    for (uint32_t i = 0; i < 40; i++) {
        constant(f, i);
        IN(.rsi = HERE(f), .rdi = addr(f) + DIRECT, .rbx = 1000 + i);
        OK("call rsi; mov r8, rax; mov byte ptr [rdi], 0xcc; xor eax, eax; cpuid; mov rax, [rsp]; "
           "mov ebx, 0x90; add rdi, 1; mov byte ptr [rdi], 0xb8; mov "
           "dword ptr [rdi + 1], 0x12345678; mov byte ptr [rdi + 9], 0xc3; xor eax, eax; cpuid; "
           "mov byte ptr [rdi - 1], 0x48; xor eax, eax; cpuid; call "
           "rsi; mov r9, rax");
        EQ(out.r8, i);
        EQ(out.r9 & 0xffffffff, 0x12345678);
        IN(.rsi = HERE(f), .rdi = addr(f) + DIRECT);
        RUN("call rsi; mov byte ptr [rdi], 0xcc; xor eax, eax; cpuid; call rsi");
        EQ(out.vector, BP);
        EQ(out.rip, HERE(f) + 1);
    }
}

/* Data and code share a page: writes to the data leave the code alone, and it stays right. */
static void mixed_page(void)
{
    uint8_t *f = page + 256;
    constant(f, 0x1234);
    IN(.rcx = 3000, .r12 = HERE(page), .rdi = HERE(f), .cs = pass_cs);
    OK("1: mov [r12 + 0x800], rcx; inc dword ptr [r12 + 0x808]; call rdi; add rbx, rax; add [r12 + "
       "0xf0], rax; dec rcx; jnz 1b");
    EQ(out.rbx, 3000 * 0x1234);
    /* Next to the code, touching its first and last byte's neighbours; then the code itself,
     * rarely. */
    IN(.rcx = 4000, .rsi = HERE(f), .cs = pass_cs);
    OK("1: mov byte ptr [rsi - 1], cl; mov byte ptr [rsi + 11], cl; call rsi; add rbx, rax; test "
       "ecx, 1023; jnz 2f; inc qword ptr [rsi + 2]; 2: dec rcx; "
       "jnz 1b");
    uint64_t want = 0, value = 0x1234;
    for (uint32_t c = 4000; c; c--) {
        want += value;
        value += c % 1024 == 0;
    }
    EQ(out.rbx, want);
    /* The stack in a page of code. */
    constant(f, 3);
    IN(.rcx = 3000, .rsi = HERE(f), .rbx = HERE(page) + 2048, .cs = pass_cs);
    OK("mov rbp, rsp; mov rsp, rbx; 1: push rcx; call rsi; pop rdx; add rdi, rax; dec rcx; jnz 1b; "
       "mov rsp, rbp");
    EQ(out.rdi, 9000);
    EQ(out.rdx, 1);
    /* RIP-relative data between the instructions of a loop. */
    IN(.rcx = 3000, .cs = pass_cs);
    OK("1: inc qword ptr [rip + 3f]; mov rax, [rip + 3f]; jmp 2f; 3: .quad 0; 2: add rbx, rax; "
       "loop 1b; mov qword ptr [rip + 3b], 0");
    EQ(out.rbx, 3000 * 3001 / 2);
}

/* What a return, a call or a jump on the way leads to is changed before it is reached. */
static void branch_targets(void)
{
    for (uint32_t i = 0; i < 30; i++) {
        IN(.rbx = i, .cs = pass_cs);
        OK("call 2f; 1: mov eax, 0; jmp 3f; 2: mov [rip + 1b + 1], ebx; ret; 3:");
        EQ(out.rax, i);
        OK("call 2f; jmp 4f; 2: call 3f; 1: mov ecx, 0; ret; 3: mov rdx, [rsp]; mov [rdx + 1], "
           "ebx; ret; 4:");
        EQ(out.rcx, i);
        in.rdx = i & 1 ? 0xc1 : 0xc2; /* INC ECX or INC EDX */
        OK("mov ecx, 0; lea r14, [rip + 1f]; mov [r14 + 1], dl; mov dl, 0; jmp r14; ud2; 1: inc "
           "ecx; mov eax, ecx");
        EQ(out.rax, i & 1);
        in.rdx = i & 1 ? 6 : 0; /* a call's displacement */
        OK("mov ecx, 3; 3: mov [rip + 1f + 1], edx; jmp 1f; 1: call 2f; 2: jmp 4f; nop; nop; nop; "
           "nop; 5: mov eax, 2; add rsp, 8; jmp 6f; 4: mov eax, 1; test edx, "
           "edx; lea rsp, [rsp + 8]; 6: loop 3b");
        EQ(out.rax, i & 1 ? 2 : 1);
        /* The target of an indirect jump by memory, and the code that it leads to. */
        OK("mov r9d, 20; lea r8, [rip + 2f]; 1: mov [rip + 5f], r8; jmp [rip + 5f]; 5: .quad 0; 2: "
           "inc r10; lea r8, [rip + 3f]; jmp 4f; 3: inc r11; lea r8, [rip + 2b]; 4: "
           "dec r9d; jnz 1b");
        EQ(out.r10, 10);
        EQ(out.r11, 10);
    }
}

/* Many versions in many pages, round robin: eviction and re-translation. */
static void versions(void)
{
    for (uint32_t round = 0; round < 40; round++)
        for (uint32_t i = 0; i < 5; i++) {
            constant(page + i * 4096 + 16 * round, round * 8 + i + 0x700000000);
            IN(.rsi = HERE(page) + i * 4096 + 16 * round, .rdi = HERE(page) + i * 4096,
               .cs = pass_cs);
            OK("call rsi; mov rcx, rax; call rdi");
            EQ(out.rcx, round * 8 + i + 0x700000000);
            EQ(out.rax, i + 0x700000000);
        }
}

void guest_main(void)
{
    GROUP(own_block);
    GROUP(into_faults);
    GROUP(loop_immediate);
    GROUP(other_blocks);
    GROUP(by_string);
    GROUP(by_alias);
    GROUP(mixed_page);
    GROUP(branch_targets);
    GROUP(versions);
}
