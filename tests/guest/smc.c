/* smc.c - self-modifying code: an instruction that was written is the one that runs.
 *
 * SDM 3A 8.1.3 asks the program for a jump or a serializing instruction between the store and the
 * use; every processor since the P6 goes further and snoops its pipeline (SDM 3A 11.6), so that the
 * very next instruction is the new one. Both are required here, through the same linear address.
 * Writing through an alias of the page is followed by a jump (8.1.3's cross-modifying rule is met
 * by CPUID or IRET, which the snippet entry is).
 *
 * Code is generated into `page`, run, changed, and run again, many times, so that it was translated
 * and chained before it is changed. */
#include "guest.h"

const char guest_name[] = "smc";

static uint8_t page[5 * 4096] USER_CODE;

static uint8_t *emit(uint8_t *p, const void *bytes, uint32_t n)
{
    memcpy(p, bytes, n);
    return p + n;
}

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

/* mov eax, value; ret */
static void constant(uint8_t *at, uint32_t value)
{
    *at = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

/* The store's own block: the instruction right behind, one later, and the store's own successor in
 * a loop. */
static void own_block(void)
{
    for (uint32_t i = 0; i < 20; i++) {
        IN(.ebx = 0x40 + (i & 7), .esi = i);
        OK("mov byte ptr [1f], bl; 1: inc eax"); /* 40h+r: INC r32 */
        uint32_t *after = &out.edi;
        static const int slot[] = {7, 6, 5, 4, 3, 2, 1, 0};
        if ((i & 7) != 4) {
            uint32_t was = (i & 7) == 3 ? in.ebx : (i & 7) == 6 ? i : 0;
            EQ(after[slot[i & 7]], was + 1);
        } else {
            EQ(out.esp, addr(kernel_stack_top) + 1);
        }
        IN(.eax = i * 0x01010101);
        OK("mov dword ptr [1f + 1], eax; 1: mov ecx, 0; mov dword ptr [2f + 1], ecx; nop; nop; 2: "
           "mov edx, 0");
        EQ(out.ecx, i * 0x01010101);
        EQ(out.edx, i * 0x01010101);
        OK("mov dword ptr [1f + 2], eax; lea ebx, [eax + eax]; 1: lea edx, [ebx + 0x12345678]; 2: "
           "jmp 3f; 3:");
        EQ(out.edx, i * 0x03030303);
        in.ebx = i & 1 ? 0x75 : 0x74, in.eflags = ZF; /* JNE or JE */
        OK("mov byte ptr [1f], bl; 1: je 2f; mov ecx, 1; jmp 3f; 2: mov ecx, 2; 3:");
        EQ(out.ecx, i & 1 ? 1 : 2);
        in.ebx = i & 1 ? 0 : 5; /* the displacement of a jump that was already taken */
        OK("mov byte ptr [1f + 1], bl; 1: jmp 2f; 2: mov ecx, 7; mov edx, 8");
        EQ(out.ecx, i & 1 ? 7 : 0);
        EQ(out.edx, 8);
    }
}

/* A store that turns itself or what is behind it into something that faults, with the precise EIP.
 */
static void into_faults(void)
{
    IN();
    FAULT("mov word ptr [1f], 0x0b0f; nop;" AT "1: mov eax, 1; mov ecx, 2", UD, 0);
    FAULT("xor ebx, ebx; mov word ptr [1f], 0xf3f7;" AT "1: inc eax; inc eax", DE, 0); /* DIV EBX */
    OK("mov eax, [1f]; mov ebx, 0x90909090; mov [1f], ebx; mov [1f], eax; 1: mov ecx, 5"); /* and
                                                                                              back
                                                                                            */
    EQ(out.ecx, 5);
    /* The second half of a store across the end of the code before it is executed. */
    FAULT("mov eax, 0x0b0f9090; mov [1f - 2], eax; nop; nop;" AT "1: mov eax, ebx", UD, 0);
}

/* An immediate in a loop's body changes at every iteration. */
static void loop_immediate(void)
{
    IN(.ecx = 10000);
    OK("xor edx, edx; 1: add edx, 1; .byte 0xb8; 2: .long 0; add ebx, eax; mov [2b], edx; loop 1b; "
       "mov dword ptr [2b], 0");
    EQ(out.ebx, 9999 * 10000 / 2);
    IN(.ecx = 10000);
    OK("xor edx, edx; 1: lea edx, [edx + 1]; mov [2f + 1], edx; jmp 2f; 2: mov eax, 0; add ebx, "
       "eax; dec ecx; jnz 1b");
    EQ(out.ebx, 10000 * 10001 / 2);
    IN(.ecx = 3000); /* the loop's back edge changes its own condition: JNZ and JNZ with a hint */
    OK("1: inc eax; mov byte ptr [2f], 0x75; dec ecx; 2: jnz 1b");
    EQ(out.eax, 3000);
}

/* Functions in the same page as the writer, in another page, across a page boundary. */
static void other_blocks(void)
{
    static const uint32_t places[] = {64,       4096 + 64, 4096 - 1, 4096 - 2,
                                      4096 - 3, 4096 - 4,  4096 - 5, 2 * 4096 - 6};
    for (uint32_t n = 0; n < COUNT(places); n++) {
        uint8_t *f = page + places[n];
        constant(f, 1);
        /* Writer: store the immediate, call the function, sum up; then the opcode; all from `page`.
         */
        uint32_t rel = addr(f) - (addr(page) + 3 + 5);
        uint8_t *p = emit(page, BYTES(0x89, 0x46, 0x01, 0xe8)),
                *first = page; /* mov [esi + 1], eax; call f */
        p = emit(p, &rel, 4);
        p = emit(p, BYTES(0x01, 0xc3, 0x8d, 0x41, 0x11,
                          0xe2)); /* add ebx, eax; lea eax, [ecx + 17]; loop */
        *p = (uint8_t)(addr(first) - (addr(p) + 1));
        emit(p + 1, BYTES(0xcd, DONE));
        for (uint32_t times = 1; times < 200; times += 66) {
            IN(.eax = 1000, .ecx = times, .esi = addr(f), .eip = addr(page));
            go(CODE("nop"));
            uint32_t want = 1000;
            for (uint32_t c = times; c > 1; c--)
                want += c + 17;
            CHECK(out.ebx, want, "sum of patched results", n);
            CHECK(out.vector, DONE, "other block", n);
        }
        /* From C, by bytes: each byte of the immediate and the opcode (MOV EAX to MOV ECX). */
        for (uint32_t i = 0; i < 24; i++) {
            constant(f, 0x11111111 * (i & 7));
            f[1 + (i & 3)] = (uint8_t)i;
            f[0] = i & 8 ? 0xb9 : 0xb8;
            uint32_t value, want = 0x11111111 * (i & 7);
            memcpy(&value, f + 1, 4);
            want = (want & ~(0xffu << 8 * (i & 3))) | i << 8 * (i & 3);
            IN(.esi = addr(f));
            OK("call esi; call esi; mov edx, 1; call esi");
            CHECK(i & 8 ? out.ecx : out.eax, want, "patched byte", n);
            CHECK(i & 8 ? out.eax : out.ecx, 0, "patched opcode", n);
        }
    }
}

/* A copy of a function comes in by REP MOVS or is erased by REP STOS over a hot function. */
static void by_string(void)
{
    static uint8_t versions[3][64] USER;
    for (uint32_t v = 0; v < 3; v++) {
        memset(versions[v], 0x90, 64);
        constant(versions[v] + 20 + v * 3, v + 1);
    }
    for (uint32_t i = 0; i < 30; i++) {
        IN(.esi = addr(versions[i % 3]), .edi = addr(page) + 4096 - 32, .ecx = 64,
           .edx = addr(page) + 4096 - 32);
        if (i & 1)
            OK("rep movsb; call edx; call edx");
        else
            OK("mov ecx, 16; rep movsd; call edx");
        EQ(out.eax, i % 3 + 1);
        IN(.eax = 0x40, .ecx = 40, .edi = addr(page) + 4096 - 32, .edx = addr(page) + 4096 - 32,
           .ebx = i);
        /* 40 times INC EAX in place of the prefix: the constant at the end still decides ecx's
         * caller. */
        OK("rep stosb; mov byte ptr [edi], 0xc3; xor eax, eax; call edx; mov [edx], ebx");
        EQ(out.eax, 40);
    }
    /* REP MOVS over itself: the remaining iterations run, then the new code behind it. */
    uint8_t *p = page + 128;
    uint8_t image[16] = {0xf3, 0xa4, 0x41, 0x41, 0x41, 0x41, 0xcd, DONE};
    emit(p, BYTES(0xf3, 0xa4, 0x40, 0x40, 0x40, 0x40, 0xcd, DONE));
    IN(.esi = addr(image), .edi = addr(p), .ecx = 8, .eip = addr(p));
    go(CODE("nop"));
    EQ(out.ecx, 4);
    EQ(out.eax, 0);
    EQ(out.edi, addr(p) + 8);
}

/* The same frame at two linear addresses: run at one, written at the other. */
static void by_alias(void)
{
    frames_reset();
    uint32_t *pd = pd_new(U);
    for (uint32_t i = 0; i < 2 * 4096; i += 4096) {
        pd_map(pd, 0x50000000 + i, addr(page) + i, P | W | U);
        pd_map(pd, 0x60000000 + i, addr(page) + i, P | U);
    }
    paging_on(pd, 0);
    static const uint32_t places[] = {0, 100, 4090, 4093};
    for (uint32_t n = 0; n < COUNT(places); n++) {
        constant(page + places[n], 0);
        for (uint32_t i = 1; i < 40; i++) {
            IN(.ebx = i, .esi = 0x50000000 + places[n], .edi = 0x60000000 + places[n], .cs = UCODE,
               .ebp = addr(page) + places[n]);
            OK("call edi; mov [esi + 1], ebx; jmp 1f; 1: call edi; mov ecx, eax; call ebp; mov "
               "edx, eax; call esi");
            EQ(out.eax, i);
            EQ(out.ecx, i);
            EQ(out.edx, i);
        }
    }
    paging_off();
}

/* Data and code share a page: constant writes to the data leave the code alone, and it stays right.
 */
static void mixed_page(void)
{
    uint8_t *f = page + 256;
    constant(f, 0x1234);
    IN(.ecx = 20000, .esi = addr(page), .edi = addr(f));
    OK("1: mov [esi + 0x800], ecx; inc dword ptr [esi + 0x804]; call edi; add ebx, eax; add [esi + "
       "0xf0], eax; dec ecx; jnz 1b");
    EQ(out.ebx, 20000 * 0x1234);
    /* Next to the code, touching its first and last byte's neighbours; then the code itself,
     * rarely. */
    IN(.ecx = 4000, .esi = addr(f), .ebp = 0);
    OK("1: mov byte ptr [esi - 1], cl; mov byte ptr [esi + 6], cl; call esi; add ebx, eax; test "
       "ecx, 1023; jnz 2f; "
       "inc dword ptr [esi + 1]; 2: dec ecx; jnz 1b");
    uint32_t want = 0, value = 0x1234;
    for (uint32_t c = 4000; c; c--) {
        want += value;
        value += c % 1024 == 0;
    }
    EQ(out.ebx, want);
    /* The stack in a page of code. */
    constant(f, 3);
    IN(.ecx = 3000, .esp = addr(page) + 4096, .esi = addr(f), .ebx = addr(page) + 2048);
    OK("mov ebp, esp; mov esp, ebx; 1: push ecx; call esi; pop edx; add edi, eax; dec ecx; jnz 1b; "
       "mov esp, ebp");
    EQ(out.edi, 9000);
    EQ(out.edx, 1);
}

/* What a return, a call or a jump on the way leads to is changed before it is reached. */
static void branch_targets(void)
{
    for (uint32_t i = 0; i < 50; i++) {
        IN(.ebx = i);
        OK("call 2f; 1: mov eax, 0; jmp 3f; 2: mov [1b + 1], ebx; ret; 3:");
        EQ(out.eax, i);
        OK("call 2f; jmp 4f; 2: call 3f; 1: mov ecx, 0; ret; 3: mov edx, [esp]; mov [edx + 1], "
           "ebx; ret; 4:");
        EQ(out.ecx, i);
        in.edx = i & 1 ? 0x41 : 0x42;
        OK("mov ecx, 0; lea esi, 1f; mov [esi], dl; mov dl, 0; jmp esi; ud2; 1: inc ecx; mov eax, "
           "ecx");
        EQ(out.eax, i & 1);
        /* A call's target changes: the displacement of a chained call. */
        in.edx = i & 1 ? 8 : 2;
        OK("mov ecx, 3; 3: mov [1f + 1], edx; jmp 1f; 1: call 2f; jmp 9f; 2: mov eax, 1; ret; mov "
           "eax, 2; ret; 9: loop 3b");
        EQ(out.eax, i & 1 ? 2 : 1);
    }
}

/* Many versions in many pages, round robin: eviction and re-translation. */
static void versions(void)
{
    for (uint32_t round = 0; round < 50; round++)
        for (uint32_t i = 0; i < 5; i++) {
            constant(page + i * 4096 + 8 * round, round * 8 + i);
            IN(.esi = addr(page) + i * 4096 + 8 * round, .edi = addr(page) + i * 4096);
            OK("call esi; mov ecx, eax; call edi");
            EQ(out.ecx, round * 8 + i);
            EQ(out.eax, i);
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
