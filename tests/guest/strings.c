/* strings.c - string instructions: results, registers, flags and the state at a fault.
 *
 * SDM 2: MOVS, STOS, LODS, SCAS, CMPS, REP/REPE/REPNE; SDM 1 7.3.9; SDM 3A 6.5 (restart of a
 * faulting iteration). model() executes the manual's "Operation" on a shadow of the arena; the CPU
 * runs the same on the arena itself; registers, flags and all bytes must agree. Faults in the
 * middle: the registers must name the iteration that faulted, and going on must finish the job. */
#include "guest.h"

const char guest_name[] = "strings";

enum { SIZE = 3 * 4096 };
enum op { MOVS, STOS, LODS, SCAS, CMPS };

static uint8_t arena[SIZE] USER __attribute__((aligned(4096)));
static uint8_t shadow[SIZE];
static uint8_t code[4096] USER_CODE;
static const uint8_t opcode[] = {0xa4, 0xaa, 0xac, 0xae, 0xa6};

static void fill(uint32_t pattern)
{
    for (uint32_t i = 0; i < SIZE; i++)
        arena[i] = (uint8_t)(pattern == 0 ? i * 7 + (i >> 8) : pattern == 1 ? 0x5a : i / 24);
    memcpy(shadow, arena, SIZE);
}

static uint32_t get(const uint8_t *memory, uint32_t address, uint32_t size)
{
    uint32_t value = 0;
    memcpy(&value, memory + (address - addr(arena)), size);
    return value;
}

static void put(uint8_t *memory, uint32_t address, uint32_t value, uint32_t size)
{
    memcpy(memory + (address - addr(arena)), &value, size);
}

static uint32_t compare_flags(uint32_t a, uint32_t b, uint32_t size)
{
    uint32_t width = size * 8, mask = size == 4 ? 0xffffffff : (1u << width) - 1;
    uint32_t r = (a - b) & mask, parity = r & 0xff, borrows = (~a & b) | ((~a | b) & r);
    parity ^= parity >> 4;
    parity = 0x9669 >> (parity & 15) & 1;
    return (parity ? PFL : 0u) | (r ? 0u : ZF) | (r >> (width - 1) ? SF : 0u) | ((a ^ b ^ r) & AF) |
           (borrows >> (width - 1) & 1) | (((a ^ b) & (a ^ r)) >> (width - 1) & 1 ? OFL : 0u);
}

/* The manual's operation, on shadow. rep: 0 none, F3h, F2h. */
static void model(struct state *s, enum op op, uint32_t size, uint32_t prefix)
{
    uint32_t step = s->eflags & DFL ? 0 - size : size,
             mask = size == 4 ? ~0u : (1u << size * 8) - 1;
    while (!prefix || s->ecx) {
        uint32_t a;
        switch (op) {
        case MOVS:
            put(shadow, s->edi, get(shadow, s->esi, size), size);
            break;
        case STOS:
            put(shadow, s->edi, s->eax, size);
            break;
        case LODS:
            s->eax = (s->eax & ~mask) | get(shadow, s->esi, size);
            break;
        default:
            a = op == SCAS ? s->eax & mask : get(shadow, s->esi, size);
            s->eflags = (s->eflags & ~ARITH) | compare_flags(a, get(shadow, s->edi, size), size);
        }
        if (op != STOS && op != SCAS)
            s->esi += step;
        if (op != LODS)
            s->edi += step;
        if (!prefix)
            return;
        s->ecx--;
        if (op >= SCAS && !(s->eflags & ZF) != (prefix == 0xf2))
            return;
    }
}

static uint32_t emit(enum op op, uint32_t size, uint32_t prefix)
{
    uint8_t *p = code + (op * 9 + (size / 2) * 3 + (prefix ? prefix & 3 : 0)) * 16, *first = p;
    if (size == 2)
        *p++ = 0x66;
    if (prefix)
        *p++ = (uint8_t)prefix;
    *p++ = (uint8_t)(opcode[op] | (size > 1));
    memcpy(p, (const uint8_t[]){0xcd, DONE}, 2);
    return addr(first);
}

static void compare(const struct state *want, uint32_t n)
{
    CHECK(out.vector, DONE, "string", n);
    CHECK(out.eax, want->eax, "eax", n);
    CHECK(out.ecx, want->ecx, "ecx", n);
    CHECK(out.esi, want->esi, "esi", n);
    CHECK(out.edi, want->edi, "edi", n);
    CHECK(out.eflags, want->eflags | 2, "eflags", n);
    uint32_t differ = 0;
    for (uint32_t i = 0; i < SIZE; i++)
        differ += arena[i] != shadow[i];
    CHECK(differ, 0, "bytes that differ", n);
}

/* Distances from source to destination, also overlapping ones, and across pages. */
static void all_forms(void)
{
    static const uint32_t counts[] = {0, 1, 2, 5, 64, 65, 700};
    static const uint32_t distance[] = {4096, 1, -1u, 2, -2u, 4, 3000, -3u, 64};
    static const uint32_t prefixes[] = {0, 0xf3, 0xf2};
    uint32_t n = 0;
    for (enum op op = MOVS; op <= CMPS; op++)
        for (uint32_t size = 1; size <= 4; size *= 2)
            for (uint32_t p = 0; p < 3; p++)
                for (uint32_t c = 0; c < COUNT(counts); c++)
                    for (uint32_t backward = 0; backward < 2; backward++) {
                        if (op < SCAS && prefixes[p] == 0xf2)
                            continue;
                        fill(n % 3);
                        uint32_t d = distance[n++ % COUNT(distance)];
                        uint32_t start = addr(arena) + (backward ? 4090 + 2800 : 4093) + n % 4;
                        IN(.eax = 0x5a5a5a5a, .ecx = counts[c], .esi = start, .edi = start + d,
                           .eflags = (backward ? DFL : 0u) | (n & 1 ? ARITH : 0u), .cs = UCODE,
                           .eip = emit(op, size, prefixes[p]));
                        struct state want = in;
                        model(&want, op, size, prefixes[p]);
                        go(CODE("nop"));
                        compare(&want, op * 1000 + size * 100 + p * 10 + backward);
                    }
}

static void overrides(void)
{
    fill(0);
    gdt_set(FREE, addr(arena) - 0x2000, 0xfffff, 0xcf3);
    gdt_set(FREE + 8, addr(arena) + 0x100, 0xfffff, 0xcf3);
    IN(.cs = UCODE, .fs = FREE | 3, .es = (FREE + 8) | 3, .esi = 0x2010, .edi = 0xffffff80,
       .ecx = 20);
    OK("cld; mov eax, 7; rep movsb es:[edi], fs:[esi]; lodsb al, fs:[esi]");
    for (uint32_t i = 0; i < 20; i++)
        EQ(arena[0x80 + i], shadow[0x10 + i]);
    EQ(out.eax, shadow[0x24]);
    EQ(out.esi, 0x2025);
    EQ(out.edi, 0xffffff94);
    in.ecx = 3, in.eax = 0x01020304;
    OK("rep stosd es:[edi], eax; repe cmpsb fs:[esi], es:[edi]; scasw ax, es:[edi]");
    EQ(*(uint32_t *)(arena + 0x88), 0x01020304);
    EQ(out.edi, 0xffffff80 + 12 + 2);
    EQ(out.ecx, 0);
    in.ecx = 3;
    OK("repe cmpsb ss:[esi], es:[edi]; lea ecx, [ecx + 5]; mov al, fs:[0x2010]; mov al, fs:[esi]; "
       "movsw es:[edi], fs:[esi]");
    /* ES through a large base: the sum wraps at 4 GiB to the same bytes. */
    gdt_set(FREE, 0xfffff000, 0xfffff, 0xcf3);
    IN(.cs = UCODE, .es = FREE | 3, .esi = addr(arena), .edi = addr(arena) + 0x1000 + 0x1000,
       .ecx = 9);
    OK("rep movsd");
    for (uint32_t i = 0; i < 36; i++)
        EQ(arena[0x1000 + i], arena[i]);
}

/* Address size 16: SI, DI and CX count, their upper halves stay, offsets wrap at 64 KiB. */
static void address_16(void)
{
    uint8_t *low = (uint8_t *)0x10000;
    gdt_set(FREE, 0x10000, 0xfffff, 0xcf3);
    for (uint32_t i = 0; i < 0x10000; i++)
        low[i] = (uint8_t)(i * 13 ^ i >> 8);
    IN(.cs = UCODE, .ds = FREE | 3, .es = FREE | 3, .esi = 0xabcdfff8, .edi = 0x1234fff0,
       .ecx = 0x77770014);
    OK(".byte 0x67; rep movsb");
    EQ(out.esi, 0xabcd000c);
    EQ(out.edi, 0x12340004);
    EQ(out.ecx, 0x77770000);
    EQ(low[0xfff0], (0xfff8 * 13 ^ 0xff) & 0xff);
    EQ(low[0], 8 * 13);
    EQ(low[3], 11 * 13);
    IN(.cs = UCODE, .ds = FREE | 3, .es = FREE | 3, .esi = 0xabcd0002, .edi = 0x56780004,
       .ecx = 0x99990004, .eax = 0xdeadbeef);
    OK("std; .byte 0x67; rep stosd; cld; .byte 0x67; lodsw");
    EQ(out.edi, 0x5678fff4);
    EQ(out.ecx, 0x99990000);
    EQ(out.eax, 0xdeaddead);
    EQ(out.esi, 0xabcd0004);
    for (uint32_t i = 0; i < 4; i++)
        EQ(*(uint32_t *)(low + ((4 - 4 * i) & 0xffff)), 0xdeadbeef);
    IN(.cs = UCODE, .ds = FREE | 3, .es = FREE | 3, .ecx = 0xffff0000, .eflags = ARITH);
    OK(".byte 0x67; rep movsb; .byte 0x67; repne scasb; .byte 0x67; rep lodsd");
    EQ(out.eflags, ARITH | 2);
    EQ(out.ecx, 0xffff0000);
    IN(.cs = UCODE, .ds = FREE | 3, .es = FREE | 3, .edi = 0x0000fffe, .ecx = 100, .eax = 0xad);
    OK(".byte 0x67; repne scasb; setz al");
    EQ(out.eax, 1);
}

/* Pages 0 and 2 of a window are there, page 1 is not; the handler maps it, or the case ends. */
enum { WINDOW = 0x40000000 };
static uint32_t *directory;
static uint32_t faults;

static bool map_on_fault(struct frame *frame)
{
    if (frame->vector != PF)
        return false;
    faults++;
    uint32_t page = read_cr2() & ~0xfffu;
    pd_map(directory, page, addr(arena) + (page & 0x3000), P | W | U);
    return true;
}

static void window(uint32_t pages)
{
    for (uint32_t i = 0; i < 3; i++) {
        pd_map(directory, WINDOW + i * 4096, addr(arena) + i * 4096,
               pages >> i & 1 ? P | W | U : 0u);
        invlpg(WINDOW + i * 4096);
    }
}

static void faults_midway(void)
{
    frames_reset();
    directory = pd_new(0);
    for (uint32_t i = 0; i < SIZE; i += 4096) {
        pd_map(directory, addr(arena) + i, addr(arena) + i, P | W | U);
    }
    paging_on(directory, 0);
    static const uint32_t sizes[] = {1, 2, 4};
    for (uint32_t s = 0; s < 3; s++) {
        uint32_t size = sizes[s], n = 40;
        for (enum op op = MOVS; op <= CMPS; op++) {
            for (uint32_t backward = 0; backward < 2; backward++) {
                bool to = op == STOS || op == SCAS;
                window(5);
                fill(op == SCAS || op == CMPS ? 1 : 0);
                /* Ten iterations fit before the hole; elements are aligned. */
                uint32_t edge = backward ? WINDOW + 8192 + 9 * size : WINDOW + 4096 - 10 * size;
                uint32_t other = addr(arena) + 4096 + 2048;
                uint32_t step = backward ? 0 - size : size;
                IN(.eax = 0x5a5a5a5a, .ecx = n, .esi = to ? other : edge, .edi = to ? edge : other,
                   .eflags = backward ? DFL : 0u, .cs = UCODE, .eip = emit(op, size, 0xf3));
                uint32_t code_at = in.eip;
                go(CODE("nop"));
                CHECK(out.vector, PF, "fault midway", op);
                CHECK(out.error, to && op == STOS ? 6 : 4, "error", op);
                CHECK(out.cr2, edge + 10 * step, "cr2", op);
                CHECK(out.ecx, n - 10, "ecx at the fault", op);
                CHECK(out.eip, code_at, "eip at the fault", op);
                if (op != STOS && op != SCAS)
                    CHECK(out.esi, in.esi + 10 * step, "esi at the fault", op);
                if (op != LODS)
                    CHECK(out.edi, in.edi + 10 * step, "edi at the fault", op);
                /* And again with the page coming in on the fault: must run to the end. */
                window(5);
                faults = 0;
                trap_hook = map_on_fault;
                go(CODE("nop"));
                trap_hook = NULL;
                CHECK(out.vector, DONE, "continued", op);
                CHECK(faults, 1, "faults", op);
                CHECK(out.ecx, 0, "ecx at the end", op);
                if (op != STOS && op != SCAS)
                    CHECK(out.esi, in.esi + n * step, "esi at the end", op);
                if (op != LODS)
                    CHECK(out.edi, in.edi + n * step, "edi at the end", op);
            }
        }
    }
    /* An element that crosses into the hole faults whole: no byte is written. */
    window(5);
    fill(0);
    IN(.ecx = 4, .edi = WINDOW + 4096 - 6, .eax = 0xffffffff, .cs = UCODE);
    RUN("rep stosd");
    EQ(out.vector, PF);
    EQ(out.cr2, WINDOW + 4096);
    EQ(out.error, 6);
    EQ(out.ecx, 3);
    EQ(out.edi, WINDOW + 4096 - 2);
    EQ(arena[4096 - 1], shadow[4096 - 1]);
    EQ(arena[4096 - 3], 0xff);
    /* The source of MOVS faults before the destination; the destination needs write access. */
    window(4);
    IN(.ecx = 4, .esi = WINDOW + 4096, .edi = WINDOW, .cs = UCODE);
    FAULT("rep movsb", PF, 4);
    EQ(out.cr2, WINDOW + 4096);
    pd_map(directory, WINDOW, addr(arena), P | U);
    invlpg(WINDOW);
    IN(.ecx = 4, .esi = WINDOW + 8192, .edi = WINDOW + 16, .cs = UCODE);
    FAULT("rep movsb", PF, 7);
    EQ(out.cr2, WINDOW + 16);
    FAULT("cld;" AT "rep stosb", PF, 7);
    /* A count of 0 touches nothing, whatever the pointers are. */
    IN(.ecx = 0, .esi = 0xdeadbeef, .edi = 0xcafebabe, .cs = UCODE);
    OK("rep movsd; rep stosb; rep lodsd; repe cmpsb; repne scasw");
    EQ(out.esi, 0xdeadbeef);
    EQ(out.edi, 0xcafebabe);
    paging_off();
}

/* Bytes below 4 GiB are followed by those at 0. */
static void wrap_4g(void)
{
    frames_reset();
    directory = pd_new(U);
    pd_map(directory, 0xfffff000, addr(arena), P | W | U);
    pd_map(directory, 0, addr(arena) + 4096, P | W | U);
    fill(0);
    paging_on(directory, 0);
    IN(.ecx = 64, .esi = 0xffffffe0, .edi = addr(arena) + 8192, .cs = UCODE);
    OK("rep movsb");
    EQ(out.esi, 0x20);
    for (uint32_t i = 0; i < 64; i++)
        EQ(arena[8192 + i], shadow[4096 - 32 + i]);
    IN(.ecx = 16, .edi = 0xfffffff0, .eax = 0x01020304, .cs = UCODE);
    OK("rep stosd");
    EQ(out.edi, 0x30);
    EQ(*(uint32_t *)(arena + 4092), 0x01020304);
    EQ(*(uint32_t *)(arena + 4096 + 0x2c), 0x01020304);
    EQ(arena[4096 + 0x30], shadow[4096 + 0x30]);
    IN(.ecx = 16, .edi = 0x1f, .eax = 0x7f, .cs = UCODE, .eflags = DFL);
    OK("mov ecx, 64; rep stosb");
    EQ(out.edi, 0xffffffdf);
    EQ(arena[4096], 0x7f);
    EQ(arena[4096 - 32], 0x7f);
    EQ(arena[4096 - 33], shadow[4096 - 33]);
    paging_off();
}

/* Large and hot: two page-sized copies in a loop, with a checksum. */
static void hot_copies(void)
{
    fill(0);
    IN(.eax = 300, .esi = addr(arena), .edi = addr(arena) + 4096, .cs = UCODE);
    OK("1: push esi; push edi; mov ecx, 1024; rep movsd; pop edi; pop esi; push esi; push edi; mov "
       "ecx, 4096; repe cmpsb; setz dl; "
       "sete dh; pop edi; pop esi; inc byte ptr [esi + 17]; add ebx, edx; dec eax; jnz 1b; mov "
       "ecx, [edi + 16]");
    EQ(out.ebx, 0x101 * 300);
    EQ(out.ecx >> 8 & 0xff, (shadow[17] + 299) & 0xff);
}

void guest_main(void)
{
    GROUP(all_forms);
    GROUP(overrides);
    GROUP(address_16);
    GROUP(faults_midway);
    GROUP(wrap_4g);
    GROUP(hot_copies);
}
